package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/stack-run/stack/engine/content"
)

// dockerItem is one image of manifest.json (moby, image/spec/v1.2.md).
type dockerItem struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func (a *archive) dockerItems() ([]dockerItem, error) {
	var items []dockerItem
	if err := json.Unmarshal(a.files["manifest.json"], &items); err != nil {
		return nil, fmt.Errorf("manifest.json: %w", err)
	}
	if len(items) == 0 {
		return nil, errors.New("the archive contains no image: manifest.json is empty")
	}
	if len(items) > maxIndexMembers {
		return nil, fmt.Errorf("manifest.json lists %d images, more than %d", len(items), maxIndexMembers)
	}
	return items, nil
}

// addDocker adds the images that manifest.json lists.
func (a *archive) addDocker(ctx context.Context, opts LoadOptions) ([]Loaded, error) {
	items, err := a.dockerItems()
	if err != nil {
		return nil, err
	}
	var all []Loaded
	for _, item := range items {
		raw, err := a.file(item.Config)
		if err != nil {
			return nil, err
		}
		var config Config
		if err := json.Unmarshal(raw, &config); err != nil {
			return nil, fmt.Errorf("config %s: %w", item.Config, err)
		}
		if len(config.RootFS.DiffIDs) != len(item.Layers) {
			return nil, fmt.Errorf("config %s has %d layers and manifest.json %d", item.Config, len(config.RootFS.DiffIDs), len(item.Layers))
		}
		var layers []content.Layer
		for i, name := range item.Layers {
			layer, err := a.layer(ctx, name)
			if err != nil {
				return nil, err
			}
			if layer.DiffID != config.RootFS.DiffIDs[i] {
				return nil, fmt.Errorf("layer %s has diff ID %s, but the config says %s; the archive is damaged", name, layer.DiffID, config.RootFS.DiffIDs[i])
			}
			layers = append(layers, layer)
		}
		images, err := a.s.addLayers(ctx, a.lease, raw, layers, AddOptions{Names: item.RepoTags, Platforms: opts.Platforms, Ready: opts.Ready})
		if err != nil {
			return nil, err
		}
		all = append(all, loaded(images, item.RepoTags)...)
	}
	return all, nil
}

// legacyLayer is the file ID/json of the format before manifest.json (moby,
// image/spec/v1.md).
type legacyLayer struct {
	ID           string           `json:"id"`
	Parent       string           `json:"parent"`
	Comment      string           `json:"comment"`
	Created      *time.Time       `json:"created"`
	Author       string           `json:"author"`
	Architecture string           `json:"architecture"`
	OS           string           `json:"os"`
	Config       *ContainerConfig `json:"config"`
	Container    struct {
		Cmd []string
	} `json:"container_config"`
}

// addLegacy adds the images that the repositories file lists, each a chain of
// layers from the one it names to the one without a parent.
func (a *archive) addLegacy(ctx context.Context, opts LoadOptions) ([]Loaded, error) {
	var repositories map[string]map[string]string
	if err := json.Unmarshal(a.files["repositories"], &repositories); err != nil {
		return nil, fmt.Errorf("repositories: %w", err)
	}
	names := make(map[string][]string) // by layer ID
	for _, repo := range slices.Sorted(maps.Keys(repositories)) {
		for _, tag := range slices.Sorted(maps.Keys(repositories[repo])) {
			id := repositories[repo][tag]
			names[id] = append(names[id], repo+":"+tag)
		}
	}
	if len(names) > maxIndexMembers {
		return nil, fmt.Errorf("repositories lists %d images, more than %d", len(names), maxIndexMembers)
	}
	var all []Loaded
	for _, id := range slices.Sorted(maps.Keys(names)) {
		if id == "" {
			return nil, fmt.Errorf("repositories: %s has no layer", names[id][0])
		}
		config, layers, err := a.legacyImage(ctx, id)
		if err != nil {
			return nil, err
		}
		img, err := a.s.AddLayers(ctx, a.lease, config, layers, AddOptions{Names: names[id], Platforms: opts.Platforms, Ready: opts.Ready})
		if err != nil {
			return nil, err
		}
		all = append(all, loaded([]Image{img}, names[id])...)
	}
	if len(all) == 0 {
		return nil, errors.New("the archive contains no image: repositories is empty")
	}
	return all, nil
}

// legacyImage follows the chain that ends with the layer id.
func (a *archive) legacyImage(ctx context.Context, id string) (Config, []content.Layer, error) {
	var chain []legacyLayer // uppermost first
	seen := map[string]bool{}
	for next := id; next != ""; {
		data, err := a.file(path.Join(next, "json"))
		if err != nil {
			return Config{}, nil, err
		}
		var l legacyLayer
		if err := json.Unmarshal(data, &l); err != nil {
			return Config{}, nil, fmt.Errorf("%s/json: %w", next, err)
		}
		if seen[next] {
			return Config{}, nil, fmt.Errorf("the layers of %s never end", id)
		}
		seen[next] = true
		l.ID, next = next, l.Parent
		chain = append(chain, l)
	}
	top := chain[0]
	host := hostPlatform()
	config := Config{Created: top.Created, Author: top.Author, OS: top.OS, Architecture: top.Architecture}
	if config.OS == "" {
		config.OS = host.OS
	}
	if config.Architecture == "" {
		config.Architecture = host.Architecture
	}
	if top.Config != nil {
		config.Config = *top.Config
	}
	var layers []content.Layer
	for _, l := range slices.Backward(chain) {
		layer, err := a.layer(ctx, path.Join(l.ID, "layer.tar"))
		if err != nil {
			return Config{}, nil, err
		}
		layers = append(layers, layer)
		h := History{Created: l.Created, Author: l.Author, Comment: l.Comment}
		if len(l.Container.Cmd) > 0 {
			h.CreatedBy = l.Container.Cmd[len(l.Container.Cmd)-1]
		}
		config.History = append(config.History, h)
	}
	config.RootFS = RootFS{Type: "layers", DiffIDs: []digest.Digest{}}
	return config, layers, nil
}
