package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stack-run/stack/engine/content"
	"github.com/stack-run/stack/engine/image"
)

// PushOptions say what Push sends.
type PushOptions struct {
	Platform string // "" for all that the name stands for
	Event    func(Event)
	Parallel int // layers at once, 0 for the default
}

// Pushed is the result of a push.
type Pushed struct {
	Name   string // as Docker shows it
	Tag    string
	Digest digest.Digest
	Size   int64 // of the manifest, bytes
	// Partial says that only the platform that is here was sent.
	Partial bool
}

// Push sends the image name to its registry: what the registry does not have
// yet, blobs first and in parallel, and last the manifest with the tag.
func (c *Client) Push(ctx context.Context, from Target, name string, o PushOptions) (Pushed, error) {
	ref, err := ParseName(name)
	if err != nil {
		return Pushed{}, err
	}
	if o.Event == nil {
		o.Event = func(Event) {}
	}
	out, err := c.push(ctx, from, ref, o)
	if err != nil {
		return Pushed{}, fmt.Errorf("cannot push %s: %w", reference.FamiliarString(ref), err)
	}
	return out, nil
}

func (c *Client) push(ctx context.Context, from Target, ref reference.Named, o PushOptions) (Pushed, error) {
	tagged, ok := ref.(reference.NamedTagged)
	if !ok {
		return Pushed{}, errors.New("an image is pushed by a tag, not by a digest")
	}
	registry := reference.Domain(ref)
	endpoints, err := c.endpoints(ctx, registry, false)
	if err != nil {
		return Pushed{}, err
	}
	lease, err := from.Images.Content().Lease(ctx)
	if err != nil {
		return Pushed{}, err
	}
	defer lease.Close()
	what, err := from.Images.Outline(ctx, lease, ref.String(), o.Platform)
	if err != nil {
		return Pushed{}, err
	}
	sources, err := from.Images.Repositories(registry)
	if err != nil {
		return Pushed{}, err
	}
	p := &push{c: c, e: endpoints[0], repo: reference.Path(ref), blobs: from.Images.Content(), sources: sources, o: o}
	if err := p.all(ctx, what.Blobs); err != nil {
		return Pushed{}, err
	}
	root := what.Manifests[len(what.Manifests)-1]
	for _, m := range what.Manifests {
		at := m.Digest.String()
		if m.Digest == root.Digest {
			at = tagged.Tag()
		}
		if err := p.manifest(ctx, m, at); err != nil {
			return Pushed{}, err
		}
	}
	if err := from.Images.Pushed(ctx, lease, what.Name, root); err != nil {
		return Pushed{}, err
	}
	return Pushed{Name: reference.FamiliarString(ref), Tag: tagged.Tag(), Digest: root.Digest, Size: root.Size, Partial: what.Partial}, nil
}

// push is one push at work.
type push struct {
	c       *Client
	e       *endpoint
	repo    string
	blobs   *content.Store
	sources map[digest.Digest][]string
	o       PushOptions
}

func (p *push) scope() string { return "repository:" + p.repo + ":pull,push" }

func (p *push) all(ctx context.Context, blobs []ocispec.Descriptor) error {
	return inParallel(ctx, p.o.Parallel, blobs, func(ctx context.Context, b ocispec.Descriptor) error {
		if err := p.blob(ctx, b); err != nil {
			return fmt.Errorf("blob %s: %w", short(b.Digest), err)
		}
		return nil
	})
}

func (p *push) blob(ctx context.Context, b ocispec.Descriptor) error {
	tell := func(e Event) {
		if image.IsLayer(b.MediaType) { // the config is none, and not shown
			e.Layer = short(b.Digest)
			p.o.Event(e)
		}
	}
	tell(Event{Status: "Preparing", Total: b.Size})
	has, err := p.has(ctx, b)
	if err != nil {
		return err
	}
	if has {
		tell(Event{Status: "Layer already exists", Done: true})
		return nil
	}
	for try := 1; ; try++ {
		from, err := p.upload(ctx, b, tell)
		if err == nil {
			status := "Pushed"
			if from != "" {
				status = "Mounted from " + from
			}
			tell(Event{Status: status, Done: true})
			return nil
		}
		if try == attempts || !transient(err) || ctx.Err() != nil {
			return err
		}
		if err := p.c.pause(ctx, err, try); err != nil {
			return err
		}
	}
}

func (p *push) has(ctx context.Context, b ocispec.Descriptor) (bool, error) {
	resp, err := p.c.do(ctx, p.e, call{
		method: http.MethodHead, path: "/v2/" + p.repo + "/blobs/" + b.Digest.String(), scope: p.scope(),
		ok: []int{http.StatusOK, http.StatusNotFound},
	})
	if err != nil {
		return false, err
	}
	drain(resp)
	return resp.StatusCode == http.StatusOK, nil
}

// upload sends a blob, or has the registry take it from another repository,
// which it then returns.
func (p *push) upload(ctx context.Context, b ocispec.Descriptor, tell func(Event)) (from string, err error) {
	begin := call{method: http.MethodPost, path: "/v2/" + p.repo + "/blobs/uploads/", scope: p.scope(), ok: []int{http.StatusAccepted}}
	for _, source := range p.sources[b.Digest] {
		if source != p.repo {
			from = source
			begin.path += "?" + url.Values{"mount": {b.Digest.String()}, "from": {source}}.Encode()
			begin.scope += " repository:" + source + ":pull"
			begin.ok = append(begin.ok, http.StatusCreated)
			break
		}
	}
	resp, err := p.c.do(ctx, p.e, begin)
	if err != nil {
		return "", err
	}
	drain(resp)
	if resp.StatusCode == http.StatusCreated {
		return from, nil
	}
	location, err := resp.Request.URL.Parse(resp.Header.Get("Location"))
	if err != nil || resp.Header.Get("Location") == "" {
		return "", fmt.Errorf("registry %s does not say where to send blobs to", p.e)
	}
	if location.Scheme != resp.Request.URL.Scheme && location.Scheme != "https" {
		return "", fmt.Errorf("registry %s wants blobs sent to %s by plain HTTP, where others could read them", p.e, printable(location.Host))
	}
	q := location.Query()
	q.Set("digest", b.Digest.String())
	location.RawQuery = q.Encode()
	count := meter(tell, "", "Pushing", 0, b.Size)
	resp, err = p.c.do(ctx, p.e, call{
		method: http.MethodPut, path: location.String(), scope: p.scope(), ok: []int{http.StatusCreated, http.StatusNoContent},
		header: http.Header{"Content-Type": {"application/octet-stream"}},
		body: func() (io.ReadCloser, int64, error) {
			blob, err := p.blobs.Reader(b.Digest)
			if err != nil {
				return nil, 0, err
			}
			return &counted{blob, count}, blob.Size(), nil
		},
	})
	if err != nil {
		return "", err
	}
	drain(resp)
	return "", nil
}

// counted tells of the bytes that are read.
type counted struct {
	*content.Blob
	count func(int64)
}

func (r *counted) Read(b []byte) (int, error) {
	n, err := r.Blob.Read(b)
	r.count(int64(n))
	return n, err
}

func (p *push) manifest(ctx context.Context, m ocispec.Descriptor, at string) error {
	data, err := p.blobs.ReadAll(m.Digest, maxDocument)
	if err != nil {
		return err
	}
	resp, err := p.c.do(ctx, p.e, call{
		method: http.MethodPut, path: "/v2/" + p.repo + "/manifests/" + at, scope: p.scope(), ok: []int{http.StatusCreated, http.StatusOK, http.StatusAccepted},
		header: http.Header{"Content-Type": {m.MediaType}},
		body: func() (io.ReadCloser, int64, error) {
			return io.NopCloser(strings.NewReader(string(data))), int64(len(data)), nil
		},
	})
	if err != nil {
		return err
	}
	drain(resp)
	if got := resp.Header.Get("Docker-Content-Digest"); got != "" && got != m.Digest.String() {
		return fmt.Errorf("registry %s took manifest %s for %s", p.e, m.Digest, printable(got))
	}
	return nil
}
