package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Artifact is what a registry keeps that is no image: a type and some documents.
type Artifact struct {
	Type string
	// ConfigType says what it is to registries that know no types of artifacts (OCI
	// 1.0). Empty is OCI 1.1.
	ConfigType string
	Documents  []Document
}

// Document is a part of an artifact.
type Document struct {
	MediaType   string
	Annotations map[string]string
	Data        []byte
}

// PushArtifact sends an artifact under a name.
func (c *Client) PushArtifact(ctx context.Context, from Target, name string, a Artifact) (digest.Digest, error) {
	ref, err := ParseName(name)
	if err != nil {
		return "", err
	}
	sum, err := c.pushArtifact(ctx, from, ref, a)
	if err != nil {
		return "", fmt.Errorf("cannot push %s: %w", reference.FamiliarString(ref), err)
	}
	return sum, nil
}

func (c *Client) pushArtifact(ctx context.Context, from Target, ref reference.Named, a Artifact) (digest.Digest, error) {
	tagged, ok := ref.(reference.NamedTagged)
	if !ok {
		return "", errors.New("an artifact is pushed by a tag, not by a digest")
	}
	endpoints, err := c.endpoints(ctx, reference.Domain(ref), false)
	if err != nil {
		return "", err
	}
	store := from.Images.Content()
	lease, err := store.Lease(ctx)
	if err != nil {
		return "", err
	}
	defer lease.Close()
	put := func(kind string, data []byte) (ocispec.Descriptor, error) {
		_, err := store.Put(ctx, lease, data)
		return ocispec.Descriptor{MediaType: kind, Digest: digest.FromBytes(data), Size: int64(len(data))}, err
	}
	manifest := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: a.Type,
	}
	config := ocispec.MediaTypeEmptyJSON
	if a.ConfigType != "" {
		config, manifest.ArtifactType = a.ConfigType, ""
	}
	if manifest.Config, err = put(config, ocispec.DescriptorEmptyJSON.Data); err != nil {
		return "", err
	}
	for _, doc := range a.Documents {
		d, err := put(doc.MediaType, doc.Data)
		if err != nil {
			return "", err
		}
		d.Annotations = doc.Annotations
		manifest.Layers = append(manifest.Layers, d)
	}
	p := &push{c: c, e: endpoints[0], repo: reference.Path(ref), blobs: store, o: PushOptions{Event: func(Event) {}}}
	if err := p.all(ctx, append(manifest.Layers, manifest.Config)); err != nil {
		return "", err
	}
	data, err := json.Marshal(manifest)
	if err != nil {
		return "", err
	}
	d, err := put(manifest.MediaType, data)
	if err != nil {
		return "", err
	}
	return d.Digest, p.manifest(ctx, d, tagged.Tag())
}

// PullArtifact brings an artifact of a type, and the digest of its manifest. What the
// registry sends is verified.
func (c *Client) PullArtifact(ctx context.Context, name, kind string) (Artifact, digest.Digest, error) {
	ref, err := ParseName(name)
	if err != nil {
		return Artifact{}, "", err
	}
	a, sum, err := c.pullArtifact(ctx, ref, kind)
	if err != nil {
		return Artifact{}, "", fmt.Errorf("cannot pull %s: %w", reference.FamiliarString(ref), err)
	}
	return a, sum, nil
}

func (c *Client) pullArtifact(ctx context.Context, ref reference.Named, kind string) (Artifact, digest.Digest, error) {
	endpoints, err := c.endpoints(ctx, reference.Domain(ref), false)
	if err != nil {
		return Artifact{}, "", err
	}
	r := repository{c: c, name: reference.Path(ref), endpoints: endpoints}
	var want digest.Digest
	what := ""
	if d, ok := ref.(reference.Digested); ok {
		want, what = d.Digest(), d.Digest().String()
		if want.Algorithm() != digest.SHA256 {
			return Artifact{}, "", fmt.Errorf("%s is not a sha256 digest", want)
		}
	} else {
		what = ref.(reference.Tagged).Tag()
	}
	get := func(path string, want digest.Digest) ([]byte, error) {
		data, _, err := r.document(ctx, endpoints[0], call{
			method: http.MethodGet, path: "/v2/" + r.name + path, scope: r.pullScope(), ok: []int{http.StatusOK},
			header: http.Header{"Accept": {ocispec.MediaTypeImageManifest, "*/*"}},
		}, want)
		return data, err
	}
	data, err := get("/manifests/"+what, want)
	if err != nil {
		return Artifact{}, "", err
	}
	var manifest ocispec.Manifest
	if err := json.Unmarshal(data, &manifest); err != nil {
		return Artifact{}, "", fmt.Errorf("registry %s sends what is no manifest: %w", endpoints[0], err)
	}
	a := Artifact{Type: manifest.ArtifactType, ConfigType: manifest.Config.MediaType}
	if a.Type != kind && a.ConfigType != kind {
		return Artifact{}, "", fmt.Errorf("it is no %s but %q; name one that was published as such", kind, a.Type)
	}
	for _, layer := range manifest.Layers {
		if err := layer.Digest.Validate(); err != nil || layer.Digest.Algorithm() != digest.SHA256 {
			return Artifact{}, "", fmt.Errorf("registry %s sends a manifest with %q, which is not a sha256 digest", endpoints[0], printable(layer.Digest.String()))
		}
		text, err := get("/blobs/"+layer.Digest.String(), layer.Digest)
		if err != nil {
			return Artifact{}, "", err
		}
		a.Documents = append(a.Documents, Document{MediaType: layer.MediaType, Annotations: layer.Annotations, Data: text})
	}
	return a, digest.FromBytes(data), nil
}
