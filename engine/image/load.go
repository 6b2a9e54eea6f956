package image

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/stack-run/stack/engine/content"
	"github.com/stack-run/stack/engine/content/compression"
)

// maxMetadata bounds what an archive's JSON files and the names of its files may
// take in memory, together.
const maxMetadata = 64 << 20

// LoadOptions say how Load works.
type LoadOptions struct {
	// Platforms, if any, are those that are loaded; each image must be there for
	// all of them.
	Platforms []string
	// Ready is as in AddOptions.
	Ready func(context.Context, Image) error
}

// Loaded is one image that came out of an archive. Names are those the archive
// gave it, as Docker shows them.
type Loaded struct {
	Names []string
	Image Image
}

// Load adds the images of an archive made by "docker save", "podman save",
// "skopeo copy", buildx and the like: Docker's format, with manifest.json or the
// older repositories file, or an OCI image layout, whose indexes may have
// several platforms. The archive may be compressed, and is read once from start
// to end.
func (s *Store) Load(ctx context.Context, r io.Reader, opts LoadOptions) ([]Loaded, error) {
	lease, err := s.content.Lease(ctx)
	if err != nil {
		return nil, err
	}
	images, err := s.load(ctx, lease, r, opts)
	blobs := lease.Digests()
	if err := s.release(ctx, lease, err); err != nil {
		return nil, fmt.Errorf("cannot load images: %w", err)
	}
	if len(opts.Platforms) > 0 {
		s.discard(ctx, blobs) // those of other platforms
	}
	return images, nil
}

func (s *Store) load(ctx context.Context, lease *content.Lease, r io.Reader, opts LoadOptions) ([]Loaded, error) {
	raw, _, err := compression.NewReader(ctxReader{ctx, r})
	if err != nil {
		return nil, err
	}
	defer raw.Close()
	a := &archive{s: s, lease: lease, files: make(map[string][]byte), links: make(map[string]string), layers: make(map[string]archiveLayer)}
	if err := a.read(ctx, raw); err != nil {
		return nil, err
	}
	switch {
	case a.files["index.json"] != nil && (a.files["oci-layout"] != nil || a.files["manifest.json"] == nil):
		return a.addLayout(ctx, opts)
	case a.files["manifest.json"] != nil:
		return a.addDocker(ctx, opts)
	case a.files["repositories"] != nil:
		return a.addLegacy(ctx, opts)
	}
	return nil, errors.New("this is not an image archive: it has no index.json, manifest.json or repositories; a root file system is added with \"stack image import\"")
}

// archive is an image archive whose blobs were stored while it was read.
type archive struct {
	s        *Store
	lease    *content.Lease
	files    map[string][]byte       // small files by path
	metadata int64                   // bytes in files, and in names
	links    map[string]string       // path → path of what it is a link to
	layers   map[string]archiveLayer // tar archives in the archive
}

type archiveLayer struct {
	content.Layer
	err error // why it could not be stored, if it could not
}

// read reads the whole archive. The order of its entries is not known, and the
// files that say what the others are often come last, so all that may be a
// layer is stored.
func (a *archive) read(ctx context.Context, r io.Reader) error {
	var tail tailWriter
	archive := tar.NewReader(io.TeeReader(r, &tail))
	for entries := 0; ; entries++ {
		h, err := archive.Next()
		if err == io.EOF && !tail.zero() {
			err = io.ErrUnexpectedEOF // no end-of-archive marker
		}
		if err == io.EOF {
			return nil
		}
		if errors.Is(err, tar.ErrHeader) && entries == 0 {
			return errors.New("this is not a tar archive")
		}
		if err == nil {
			err = a.entry(ctx, h, archive)
		}
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("the archive is truncated, after %d entries", entries)
		}
		if err != nil {
			return err
		}
	}
}

func (a *archive) entry(ctx context.Context, h *tar.Header, r io.Reader) error {
	name := path.Clean("/" + h.Name)[1:]
	if a.metadata += int64(len(h.Name) + len(h.Linkname)); a.metadata > maxMetadata {
		return fmt.Errorf("the names of its files have more than %d MiB", maxMetadata>>20)
	}
	switch h.Typeflag {
	case tar.TypeSymlink:
		a.links[name] = path.Join("/", path.Dir(name), h.Linkname)[1:]
		return nil
	case tar.TypeLink:
		a.links[name] = path.Clean("/" + h.Linkname)[1:]
		return nil
	case tar.TypeReg:
	default:
		return nil
	}
	if d, ok := blobName(name); ok {
		return a.storeBlob(ctx, d, h.Size, r)
	}
	br := bufio.NewReaderSize(r, 4096)
	head, err := br.Peek(512)
	if err != nil && err != io.EOF {
		return err
	}
	if isTar(head) || compression.Detect(head) != compression.None {
		layer, err := a.s.storeLayer(ctx, a.lease, br, false)
		if ctx.Err() != nil || errors.Is(err, io.ErrUnexpectedEOF) {
			return err
		}
		a.layers[name] = archiveLayer{Layer: layer, err: err}
		return nil
	}
	if len(head) == 0 || head[0] != '{' && head[0] != '[' {
		return nil // VERSION and the like
	}
	if a.metadata += h.Size; h.Size > maxManifest || a.metadata > maxMetadata {
		return fmt.Errorf("%s is too long for a description of an image", inWords(name))
	}
	data, err := io.ReadAll(br)
	a.files[name] = data
	return err
}

// storeBlob stores a blob of an OCI layout under the digest that its path says.
func (a *archive) storeBlob(ctx context.Context, d digest.Digest, size int64, r io.Reader) error {
	if size == 0 {
		return nil
	}
	w, err := a.s.content.Ingest(ctx, a.lease, "", content.Want{Digest: d, Size: size})
	if errors.Is(err, content.ErrExists) {
		return nil
	}
	if err != nil {
		return err
	}
	defer w.Abort()
	if err := w.Reset(); err != nil {
		return err
	}
	if _, err := io.CopyBuffer(struct{ io.Writer }{w}, r, make([]byte, 256<<10)); err != nil {
		return err
	}
	_, err = w.Commit(ctx)
	return err
}

// blobName reads "blobs/ALGORITHM/HEX".
func blobName(name string) (digest.Digest, bool) {
	rest, ok := strings.CutPrefix(name, "blobs/")
	if !ok {
		return "", false
	}
	alg, hex, _ := strings.Cut(rest, "/")
	d := digest.NewDigestFromEncoded(digest.Algorithm(alg), hex)
	return d, d.Validate() == nil
}

// isTar tells whether head starts a tar archive: a POSIX or GNU one by its
// magic, an empty one by its zeros.
func isTar(head []byte) bool {
	if len(head) < 512 {
		return false
	}
	return string(head[257:262]) == "ustar" || strings.Trim(string(head), "\x00") == ""
}

// file returns a small file of the archive, following links.
func (a *archive) file(name string) ([]byte, error) {
	name = a.follow(name)
	if data, ok := a.files[name]; ok {
		return data, nil
	}
	if d, ok := blobName(name); ok {
		return a.s.content.ReadAll(d, maxManifest)
	}
	return nil, fmt.Errorf("the archive does not contain %s, which it refers to", name)
}

// layer returns a layer of the archive, following links.
func (a *archive) layer(ctx context.Context, name string) (content.Layer, error) {
	name = a.follow(name)
	l, ok := a.layers[name]
	if !ok {
		d, isBlob := blobName(name)
		if !isBlob {
			return content.Layer{}, fmt.Errorf("the archive does not contain layer %s, which it refers to", name)
		}
		// A layer that Docker's manifest refers to by its blob: read it again,
		// to learn its diff ID.
		blob, err := a.s.content.Reader(d)
		if err != nil {
			return content.Layer{}, err
		}
		defer blob.Close()
		l.Layer, l.err = a.s.storeLayer(ctx, a.lease, blob, false)
		a.layers[name] = l
	}
	if l.err != nil {
		return content.Layer{}, fmt.Errorf("layer %s: %w", name, l.err)
	}
	return l.Layer, nil
}

func (a *archive) follow(name string) string {
	name = path.Clean("/" + name)[1:]
	for range 10 {
		to, ok := a.links[name]
		if !ok {
			break
		}
		name = to
	}
	return name
}

// loaded describes images that the archive gave names.
func loaded(images []Image, given []string) []Loaded {
	var names []string
	for _, name := range given {
		if c, err := canonicalName(name); err == nil {
			names = append(names, familiar(c))
		}
	}
	var all []Loaded
	for _, img := range images {
		all = append(all, Loaded{Names: names, Image: img})
	}
	return all
}
