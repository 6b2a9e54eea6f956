package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/stack-run/stack/engine/content"
	"github.com/stack-run/stack/engine/image"
	"github.com/stack-run/stack/engine/snapshot"
)

// Event is progress of one layer of a pull or push.
type Event struct {
	Layer  string // first twelve digits of its digest
	Status string // Docker's words: "Downloading", "Pull complete"
	// Current and Total count bytes while they move.
	Current, Total int64
	Done           bool // nothing more follows for this layer
}

// Target is where images are pulled to and pushed from.
type Target struct {
	Images *image.Store
	Layers *snapshot.Store
}

// PullOptions say what Pull brings.
type PullOptions struct {
	Platform string // "" for this machine's
	Event    func(Event)
	// Parallel is how many layers come at once, 0 for the default.
	Parallel int
	// Ready, if set, is called once all of the image is here and before it has
	// its name. If it fails, the name stays where it was.
	Ready func(context.Context) error
}

// Pulled is the result of a pull.
type Pulled struct {
	Name   string        // as Docker shows it
	Digest digest.Digest // of the manifest or index that the registry named
	Image  image.Image
	New    bool // the name did not lead to this image before
}

const defaultParallel = 6

// ParseName reads an image name as Docker does; a name without a tag or digest
// gets the tag latest.
func ParseName(name string) (reference.Named, error) {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return nil, fmt.Errorf("cannot read image name %q: %w", name, err)
	}
	return reference.TagNameOnly(ref), nil
}

// Pull brings the image name, and gives it that name once all of it is here,
// verified and unpacked. Until then nothing changes.
func (c *Client) Pull(ctx context.Context, to Target, name string, o PullOptions) (Pulled, error) {
	ref, err := ParseName(name)
	if err != nil {
		return Pulled{}, err
	}
	if o.Event == nil {
		o.Event = func(Event) {}
	}
	got, err := c.pull(ctx, to, ref, o)
	if err != nil {
		return Pulled{}, fmt.Errorf("cannot pull %s: %w", reference.FamiliarString(ref), err)
	}
	return got, nil
}

func (c *Client) pull(ctx context.Context, to Target, ref reference.Named, o PullOptions) (Pulled, error) {
	endpoints, err := c.endpoints(ctx, reference.Domain(ref), true)
	if err != nil {
		return Pulled{}, err
	}
	p := &pull{to: to, o: o, repo: repository{c: c, name: reference.Path(ref), endpoints: endpoints}}
	if p.lease, err = to.Images.Content().Lease(ctx); err != nil {
		return Pulled{}, err
	}
	defer p.lease.Close()
	target, data, err := p.root(ctx, ref)
	if err != nil {
		return Pulled{}, err
	}
	manifest, body := target, data
	if isIndex(target.MediaType) {
		ch := chooser{p: p, seen: map[digest.Digest]bool{}}
		if manifest, body, err = ch.choose(ctx, data, 0); err != nil {
			return Pulled{}, err
		}
	}
	if err := p.image(ctx, manifest, body); err != nil {
		return Pulled{}, err
	}
	names := []string{ref.Name() + "@" + target.Digest.String()}
	if tagged, ok := ref.(reference.Tagged); ok {
		if _, digested := ref.(reference.Digested); !digested {
			names = append(names, ref.Name()+":"+tagged.Tag())
		}
	}
	out := Pulled{Name: reference.FamiliarString(ref), Digest: target.Digest}
	before, beforeErr := to.Images.ResolvePlatform(ctx, ref.String(), o.Platform)
	images, err := to.Images.Add(ctx, p.lease, target, image.AddOptions{Names: names, Ready: func(ctx context.Context, img image.Image) error {
		if img.Manifest.Digest != manifest.Digest {
			return nil // for another platform, and here already
		}
		if err := to.Layers.Unpack(ctx, img.Layers, to.Images.Content()); err != nil || o.Ready == nil {
			return err
		}
		return o.Ready(ctx)
	}})
	if err != nil {
		return Pulled{}, err
	}
	i := slices.IndexFunc(images, func(img image.Image) bool { return img.Manifest.Digest == manifest.Digest })
	if i < 0 {
		return Pulled{}, errors.New("internal error: the image that was pulled is not among those that were added")
	}
	out.Image = images[i]
	out.New = beforeErr != nil || before.ID != out.Image.ID
	return out, nil
}

// pull is one pull at work.
type pull struct {
	to    Target
	o     PullOptions
	repo  repository
	lease *content.Lease
}

// root asks the endpoints, in order, for what ref names, and moves the one that
// has it to the front.
func (p *pull) root(ctx context.Context, ref reference.Named) (ocispec.Descriptor, []byte, error) {
	var want digest.Digest
	what := ""
	if d, ok := ref.(reference.Digested); ok {
		want, what = d.Digest(), d.Digest().String()
	} else {
		what = ref.(reference.Tagged).Tag()
	}
	var errs []error
	for i, e := range p.repo.endpoints {
		desc, data, err := p.manifest(ctx, e, what, want)
		if err == nil {
			p.repo.endpoints = slices.Concat(p.repo.endpoints[i:i+1], p.repo.endpoints[:i], p.repo.endpoints[i+1:])
			return desc, data, nil
		}
		if ctx.Err() != nil {
			return desc, nil, context.Cause(ctx)
		}
		p.repo.c.explain(ctx, e, err)
		errs = append(errs, err)
	}
	return ocispec.Descriptor{}, nil, errors.Join(errs...)
}

func isIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == image.DockerIndex
}

func isManifest(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageManifest || mediaType == image.DockerManifest
}

// manifest asks one endpoint for a manifest or index and puts it into the store.
func (p *pull) manifest(ctx context.Context, e *endpoint, what string, want digest.Digest) (ocispec.Descriptor, []byte, error) {
	q := call{
		method: http.MethodGet, path: "/v2/" + p.repo.name + "/manifests/" + what, scope: p.repo.pullScope(), ok: []int{http.StatusOK},
		header: http.Header{"Accept": {ocispec.MediaTypeImageIndex, image.DockerIndex, ocispec.MediaTypeImageManifest, image.DockerManifest}},
	}
	data, resp, err := p.repo.document(ctx, e, q, want)
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	d := ocispec.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data))}
	if want != "" && want.Algorithm() != digest.SHA256 {
		return d, nil, fmt.Errorf("%s is not a sha256 digest", want)
	}
	if d.MediaType, err = documentType(data, resp.Header.Get("Content-Type")); err != nil {
		return d, nil, fmt.Errorf("registry %s sends what cannot be used: %w", e, err)
	}
	_, err = p.to.Images.Content().Put(ctx, p.lease, data)
	return d, data, err
}

// documentType is the media type of a manifest or index: what it says itself, or
// what the sender says, or what it looks like. Anything else is an error.
func documentType(data []byte, sender string) (string, error) {
	var kind struct {
		MediaType     string            `json:"mediaType"`
		SchemaVersion int               `json:"schemaVersion"`
		Manifests     []json.RawMessage `json:"manifests"`
	}
	if err := json.Unmarshal(data, &kind); err != nil {
		return "", fmt.Errorf("it is no manifest: %w", err)
	}
	header, _, _ := mime.ParseMediaType(sender)
	mediaType := kind.MediaType
	switch {
	case mediaType != "":
	case isIndex(header), isManifest(header):
		mediaType = header
	case kind.Manifests != nil:
		mediaType = ocispec.MediaTypeImageIndex
	default:
		mediaType = ocispec.MediaTypeImageManifest
	}
	if kind.SchemaVersion == 1 {
		return "", errors.New("it is in the format of schema version 1, which is obsolete; push the image again with a current tool")
	}
	if !isIndex(mediaType) && !isManifest(mediaType) {
		return "", fmt.Errorf("it is of type %q and no container image", printable(mediaType))
	}
	return mediaType, nil
}

// image brings the config and the layers of a manifest.
func (p *pull) image(ctx context.Context, desc ocispec.Descriptor, data []byte) error {
	var m ocispec.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return fmt.Errorf("manifest %s cannot be read: %w", desc.Digest, err)
	}
	if err := checkManifest(m); err != nil {
		return fmt.Errorf("manifest %s: %w", desc.Digest, err)
	}
	config, err := p.config(ctx, m.Config)
	if err != nil {
		return err
	}
	if err := image.CheckPlatform(config, p.o.Platform); err != nil {
		return err
	}
	if len(config.RootFS.DiffIDs) != len(m.Layers) {
		return fmt.Errorf("manifest %s has %d layers and its config %d", desc.Digest, len(m.Layers), len(config.RootFS.DiffIDs))
	}
	return p.layers(ctx, m.Layers, config.RootFS.DiffIDs)
}

// config brings an image's config.
func (p *pull) config(ctx context.Context, d ocispec.Descriptor) (image.Config, error) {
	var config image.Config
	blobs := p.to.Images.Content()
	if err := p.lease.Protect(ctx, d.Digest); err != nil {
		return config, err
	}
	raw, err := blobs.ReadAll(d.Digest, maxDocument)
	if err != nil {
		if raw, err = p.repo.small(ctx, d); err != nil {
			return config, err
		}
		if _, err := blobs.Put(ctx, p.lease, raw); err != nil {
			return config, err
		}
	}
	if err := json.Unmarshal(raw, &config); err != nil {
		return config, fmt.Errorf("config %s cannot be read: %w", d.Digest, err)
	}
	return config, nil
}

// maxLayers is how many directories overlayfs stacks (OVL_MAX_STACK in the
// kernel's fs/overlayfs/params.h).
const maxLayers = 500

// checkManifest refuses what cannot be an image before anything large is asked for.
func checkManifest(m ocispec.Manifest) error {
	if m.Config.Digest.Validate() != nil || m.Config.Size <= 0 || m.Config.Size > maxDocument {
		return fmt.Errorf("its config has digest %q and %d bytes, which cannot be", m.Config.Digest, m.Config.Size)
	}
	if len(m.Layers) > maxLayers {
		return fmt.Errorf("it has %d layers, more than the %d that the kernel can stack", len(m.Layers), maxLayers)
	}
	for i, l := range m.Layers {
		if err := l.Digest.Validate(); err != nil || l.Size <= 0 {
			return fmt.Errorf("layer %d has digest %q and %d bytes, which cannot be", i, l.Digest, l.Size)
		}
		if strings.Contains(l.MediaType, "encrypted") {
			return fmt.Errorf("layer %d is encrypted (%s), which is not supported", i, printable(l.MediaType))
		}
		if !image.IsLayer(l.MediaType) {
			return fmt.Errorf("layer %d is of type %q and no file system, so this is no container image", i, printable(l.MediaType))
		}
	}
	return nil
}

func (p *pull) layers(ctx context.Context, layers []ocispec.Descriptor, diffIDs []digest.Digest) error {
	seen := map[digest.Digest]bool{}
	type job struct {
		l      ocispec.Descriptor
		diffID digest.Digest
	}
	var jobs []job
	for i, l := range layers {
		if !seen[l.Digest] {
			seen[l.Digest] = true
			jobs = append(jobs, job{l, diffIDs[i]})
			p.o.Event(Event{Layer: short(l.Digest), Status: "Pulling fs layer", Total: l.Size})
		}
	}
	return inParallel(ctx, p.o.Parallel, jobs, func(ctx context.Context, j job) error {
		if err := p.layer(ctx, j.l, j.diffID); err != nil {
			return fmt.Errorf("layer %s: %w", short(j.l.Digest), err)
		}
		return nil
	})
}

// inParallel does the work for all items, at most limit at once, or the default
// where that is 0. The first failure ends it.
func inParallel[T any](ctx context.Context, limit int, items []T, work func(context.Context, T) error) error {
	if limit <= 0 {
		limit = defaultParallel
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(limit)
	for _, item := range items {
		group.Go(func() error { return work(ctx, item) })
	}
	return group.Wait()
}

func short(d digest.Digest) string { return d.Encoded()[:min(12, len(d.Encoded()))] }

// layerTries is how often a layer is fetched that comes with other content.
const layerTries = 3

func (p *pull) layer(ctx context.Context, l ocispec.Descriptor, diffID digest.Digest) error {
	for try := 1; ; try++ {
		err := p.layerOnce(ctx, l, diffID)
		if !errors.As(err, new(*wrongDigest)) || try == layerTries || ctx.Err() != nil {
			return err
		}
		if err := p.repo.c.pause(ctx, err, try); err != nil {
			return err
		}
	}
}

// layerOnce downloads a layer, and unpacks it meanwhile.
func (p *pull) layerOnce(ctx context.Context, l ocispec.Descriptor, diffID digest.Digest) error {
	blobs := p.to.Images.Content()
	name := short(l.Digest)
	w, err := blobs.Ingest(ctx, p.lease, "", content.Want{Digest: l.Digest, Size: l.Size})
	if errors.Is(err, content.ErrExists) {
		err := p.to.Layers.UnpackLayer(ctx, diffID, func() (io.ReadCloser, error) { return blobs.Reader(l.Digest) })
		if err == nil {
			p.o.Event(Event{Layer: name, Status: "Already exists", Done: true})
		}
		return err
	}
	if err != nil {
		return err
	}
	defer w.Close()
	unpacked := make(chan error, 1)
	behind, err := w.Follow()
	if err != nil {
		return err
	}
	defer behind.Close()
	go func() {
		unpacked <- p.to.Layers.UnpackLayer(ctx, diffID, func() (io.ReadCloser, error) { return behind, nil })
	}()
	meter := meter(p.o.Event, name, "Downloading", w.Offset(), l.Size)
	err = p.repo.blob(ctx, l, w, meter)
	var refusal *Error
	if isForeign(l.MediaType) && errors.As(err, &refusal) && refusal.Status == http.StatusNotFound {
		err = fmt.Errorf("it is not in the registry (%s): its maker wants it fetched from elsewhere, which is not supported", printable(l.MediaType))
	}
	if err == nil {
		p.o.Event(Event{Layer: name, Status: "Download complete"})
		if _, err = w.Commit(ctx); err != nil {
			if errors.Is(err, content.ErrCorrupt) {
				err = &wrongDigest{err.Error()}
			}
		}
	}
	w.Close() // lets the reader behind it end
	if unpackErr := <-unpacked; err == nil {
		err = unpackErr
	}
	if err == nil {
		p.o.Event(Event{Layer: name, Status: "Pull complete", Done: true})
	}
	return err
}

// isForeign tells whether a layer may be kept elsewhere than in the registry.
// Many registries have it all the same.
func isForeign(mediaType string) bool {
	return strings.Contains(mediaType, "foreign") || strings.Contains(mediaType, "nondistributable")
}

// meterStep is the least time between two events about bytes.
const meterStep = 100 * time.Millisecond

// meter returns a function that counts bytes and tells of them now and then.
func meter(tell func(Event), name, status string, start, total int64) func(int64) {
	var last time.Time
	now := start
	return func(more int64) {
		now += more
		if t := time.Now(); t.Sub(last) >= meterStep {
			last = t
			tell(Event{Layer: name, Status: status, Current: now, Total: total})
		}
	}
}
