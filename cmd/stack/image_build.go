package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/docker/go-units"

	"github.com/stack-run/stack/engine/build/request"
)

// target turns the flags of "image build" into a request's target.
func (o *imageBuildOptions) target(a *app) (request.Target, error) {
	t := o.Target
	t.Name, t.Context, t.Dockerfile = "image", o.Context, o.File
	dir, err := a.cwd()
	if err != nil {
		return t, fmt.Errorf("cannot find the working directory: %w", err)
	}
	local := t.Context != "-" && !request.IsRemote(t.Context)
	if local && !filepath.IsAbs(t.Context) {
		t.Context = filepath.Join(dir, t.Context)
	}
	if local && t.Dockerfile != "" && t.Dockerfile != "-" && !filepath.IsAbs(t.Dockerfile) {
		t.Dockerfile = filepath.Join(dir, t.Dockerfile)
	}
	if err := request.CheckNetwork(t.Network); err != nil {
		return t, err
	}
	t.Args = map[string]string{}
	if v, ok := a.env("SOURCE_DATE_EPOCH"); ok {
		t.Args["SOURCE_DATE_EPOCH"] = v
	}
	for _, arg := range o.Args {
		key, value, given := strings.Cut(arg, "=")
		if !given {
			if value, given = a.env(key); !given {
				continue
			}
		}
		t.Args[key] = value
	}
	t.Labels = map[string]string{}
	for _, l := range o.Labels {
		key, value, _ := strings.Cut(l, "=")
		t.Labels[key] = value
	}
	if o.ShmSize != "" {
		if t.ShmSize, err = units.RAMInBytes(o.ShmSize); err != nil {
			return t, fmt.Errorf("cannot use --shm-size %q: %w", o.ShmSize, err)
		}
	}
	t.Contexts = map[string]string{}
	for _, c := range o.Contexts {
		name, value, ok := strings.Cut(c, "=")
		if !ok || name == "" || value == "" {
			return t, fmt.Errorf("cannot read the context %q; write NAME=PATH, such as res=./res", c)
		}
		if !request.HasScheme(value) && !filepath.IsAbs(value) {
			value = filepath.Join(dir, value)
		}
		t.Contexts[name] = value
	}
	return t, o.lists(&t, dir)
}

// lists parses the flags that are given once for each of several things.
func (o *imageBuildOptions) lists(t *request.Target, dir string) error {
	var err error
	if t.Secrets, err = each(o.Secrets, request.ParseSecret); err != nil {
		return err
	}
	if t.SSH, err = each(o.SSH, request.ParseSSH); err != nil {
		return err
	}
	if t.ExtraHosts, err = each(o.Hosts, request.ParseHost); err != nil {
		return err
	}
	if t.Ulimits, err = each(o.Ulimits, request.ParseUlimit); err != nil {
		return err
	}
	if t.Outputs, err = each(o.Outputs, request.ParseOutput); err != nil {
		return err
	}
	if o.Load {
		t.Outputs = append(t.Outputs, request.Entry{Type: "image", Attrs: map[string]string{}})
	}
	cache := func(export bool) func(string) (request.Entry, error) {
		return func(s string) (request.Entry, error) { return request.ParseCache(s, export, dir) }
	}
	if t.CacheFrom, err = each(o.CacheFrom, cache(false)); err != nil {
		return err
	}
	if t.CacheTo, err = each(o.CacheTo, cache(true)); err != nil {
		return err
	}
	return o.attestations(t)
}

func (o *imageBuildOptions) attestations(t *request.Target) error {
	t.Attestations = map[string]string{}
	for _, s := range o.Attest {
		kind, params, on, err := request.ParseAttest(s)
		if err != nil {
			return err
		}
		if on {
			t.Attestations[kind] = params
		}
	}
	for kind, value := range map[string]string{"provenance": o.Provenance, "sbom": o.SBOM} {
		if value == "" {
			continue
		}
		params, on, err := request.ShortAttest(kind, value)
		if err != nil {
			return err
		}
		delete(t.Attestations, kind)
		if on {
			t.Attestations[kind] = params
		}
	}
	return nil
}

func each[T any](list []string, parse func(string) (T, error)) ([]T, error) {
	var out []T
	for _, s := range list {
		v, err := parse(s)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

// finish writes what the flags ask for about a finished build.
func (o *imageBuildOptions) finish(a *app, call string, built request.Built) error {
	if call != "" {
		return nil
	}
	if o.IIDFile != "" {
		if err := os.WriteFile(o.IIDFile, []byte(built.ImageID), 0o644); err != nil {
			return fmt.Errorf("cannot write the image ID: %w", err)
		}
	}
	if o.MetadataFile != "" {
		data, err := json.MarshalIndent(built.Metadata, "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(o.MetadataFile, data, 0o644); err != nil {
			return fmt.Errorf("cannot write the metadata: %w", err)
		}
	}
	if o.Quiet && built.ImageID != "" {
		fmt.Fprintln(a.out, built.ImageID)
	}
	return nil
}
