package load

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/compose-spec/compose-go/v2/template"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"go.yaml.in/yaml/v4"

	"github.com/stack-run/stack/compose/spec"
)

// ConfigOptions are those of "stack config" that are not Options.
type ConfigOptions struct {
	Format string // "yaml" (default) or "json"
	// ResolveDigest, if set, finds the digest of an image reference, with which
	// images are pinned.
	ResolveDigest func(ctx context.Context, ref string) (string, error)
	// LockImageDigests renders an override file with nothing but pinned images.
	LockImageDigests bool
}

// Config renders the project in canonical form, as "stack config" prints it.
// Options.DiscardEnvFiles is implied, as env files are part of environment then.
func Config(ctx context.Context, o Options, c ConfigOptions) ([]byte, []Warning, error) {
	if c.Format == "" {
		c.Format = "yaml"
	}
	if c.Format != "yaml" && c.Format != "json" {
		return nil, nil, fmt.Errorf("unknown format %q; use yaml or json", c.Format)
	}
	if o.NoInterpolate {
		model, warnings, err := Model(ctx, o)
		if err != nil {
			return nil, nil, err
		}
		if err := pinModel(ctx, model, c); err != nil {
			return nil, nil, err
		}
		out, err := render(model, c.Format)
		return out, warnings, err
	}
	o.DiscardEnvFiles = true
	o.OnlyServices = len(o.Services) > 0
	l, err := Load(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	p := l.Project
	for name, j := range p.Jobs {
		j.Name = "" // it is the key
		p.Jobs[name] = j
	}
	if c.ResolveDigest != nil || c.LockImageDigests {
		if p, err = pin(ctx, p, c.ResolveDigest); err != nil {
			return nil, nil, err
		}
	}
	var out []byte
	switch {
	case c.LockImageDigests:
		out, err = render(lock(p), c.Format)
	case c.Format == "json":
		if out, err = p.MarshalJSON(); err == nil {
			out = append(out, '\n')
		}
	default:
		out, err = p.MarshalYAML()
	}
	if err != nil {
		return nil, nil, fmt.Errorf("cannot render the project: %w", err)
	}
	// What is printed must load again to the same: a "$" that is left is meant.
	return bytes.ReplaceAll(out, []byte("$"), []byte("$$")), l.Warnings, nil
}

// Model is the merged tree of a project, before it is bound to types. With
// NoInterpolate it still has its variables.
func Model(ctx context.Context, o Options) (map[string]any, []Warning, error) {
	logs, release := silenceCompose()
	defer release()
	d := &diagnostics{}
	s, in, err := prepare(ctx, o, d)
	if err != nil {
		return nil, nil, err
	}
	name, err := s.projectName(o, last(in.names))
	if err != nil {
		return nil, nil, err
	}
	c := &composer{options: o, source: s, inspector: in, report: d, name: name}
	model, err := c.model(ctx)
	if err != nil {
		return nil, nil, c.decorate(err)
	}
	c.composeWarnings(logs())
	return model, unique(d.warnings), nil
}

func pin(ctx context.Context, p *types.Project, resolve func(context.Context, string) (string, error)) (*types.Project, error) {
	if resolve == nil {
		return nil, fmt.Errorf("cannot pin images: no registry is available")
	}
	jobs := p.AllJobs()
	pinned, err := spec.WithJobs(p).WithImagesResolved(func(named reference.Named) (digest.Digest, error) {
		found, err := resolve(ctx, named.String())
		if err != nil {
			return "", err
		}
		return digest.Parse(found)
	})
	if err != nil {
		return nil, fmt.Errorf("cannot pin images: %w", err)
	}
	return spec.WithoutJobs(pinned, jobs), nil
}

// lock is a project of nothing but images.
func lock(p *types.Project) map[string]any {
	services, jobs := map[string]any{}, map[string]any{}
	for name, s := range p.Services {
		services[name] = map[string]any{"image": s.Image}
	}
	for name, j := range p.Jobs {
		jobs[name] = map[string]any{"image": j.Image}
	}
	out := map[string]any{"services": services}
	if len(jobs) > 0 {
		out["jobs"] = jobs
	}
	return out
}

// pinModel pins the images of a tree that may still have variables in it.
func pinModel(ctx context.Context, model map[string]any, c ConfigOptions) error {
	if c.ResolveDigest == nil {
		return nil
	}
	services, _ := model["services"].(map[string]any)
	jobs, _ := model["jobs"].(map[string]any)
	all := maps.Clone(services)
	if all == nil {
		all = map[string]any{}
	}
	maps.Copy(all, jobs)
	for name, s := range all {
		service, _ := s.(map[string]any)
		image, _ := service["image"].(string)
		if image == "" {
			continue
		}
		p, err := pin(ctx, &types.Project{Services: types.Services{name: {Name: name, ContainerSpec: types.ContainerSpec{Image: image}}}}, c.ResolveDigest)
		if err != nil {
			return err
		}
		service["image"] = p.Services[name].Image
	}
	return nil
}

func render(model map[string]any, format string) ([]byte, error) {
	if format == "json" {
		out, err := json.MarshalIndent(model, "", "  ")
		return append(out, '\n'), err
	}
	var b bytes.Buffer
	encoder := yaml.NewEncoder(&b)
	encoder.SetIndent(2)
	err := encoder.Encode(model)
	return b.Bytes(), err
}

// ProfileNames are the profiles that the project's services are part of, for
// "config --profiles".
func ProfileNames(p *types.Project) []string {
	set := map[string]bool{}
	for _, s := range p.AllServices() {
		for _, profile := range s.Profiles {
			set[profile] = true
		}
	}
	return slices.Sorted(maps.Keys(set))
}

// EnvironmentLines are the variables that interpolation sees, for
// "config --environment".
func EnvironmentLines(p *types.Project) []string { return p.Environment.Values() }

// Variable is a variable that the files use, for "config --variables".
type Variable struct {
	Name      string `json:"name" yaml:"name"`
	Required  bool   `json:"required" yaml:"required"`
	Default   string `json:"default_value" yaml:"default_value"`
	Alternate string `json:"presence_value" yaml:"presence_value"`
}

// Variables lists the variables that the files use, by name.
func Variables(ctx context.Context, o Options) ([]Variable, error) {
	o.NoInterpolate = true
	model, _, err := Model(ctx, o)
	if err != nil {
		return nil, err
	}
	found := template.ExtractVariables(model, template.DefaultPattern)
	out := make([]Variable, 0, len(found))
	for _, name := range slices.Sorted(maps.Keys(found)) {
		v := found[name]
		out = append(out, Variable{Name: name, Required: v.Required, Default: v.DefaultValue, Alternate: v.PresenceValue})
	}
	return out, nil
}
