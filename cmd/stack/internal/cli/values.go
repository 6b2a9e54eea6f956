package cli

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/stack-run/stack/cmd/stack/internal/terminal"
)

// Environment merges -e KEY=VALUE, -e KEY (the value is our own) and
// --env-file, of which the flags win.
func (a *App) Environment(flags, files []string) ([]string, error) {
	var out []string
	for _, name := range files {
		lines, err := a.ReadKeyValues(name)
		if err != nil {
			return nil, err
		}
		out = append(out, lines...)
	}
	for _, e := range flags {
		key, _, ok := strings.Cut(e, "=")
		if key == "" {
			return nil, fmt.Errorf("invalid environment variable: %q", e)
		}
		if !ok {
			value, set := a.Env(key)
			if !set {
				continue
			}
			e = key + "=" + value
		}
		out = append(out, e)
	}
	return out, nil
}

// ReadKeyValues reads docker's --env-file and --label-file format: KEY=VALUE
// or KEY lines, no quotes, # begins a comment line.
func (a *App) ReadKeyValues(name string) ([]string, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("cannot read the environment file: %w", err)
	}
	var out []string
	for i, line := range strings.Split(strings.TrimPrefix(string(data), "\ufeff"), "\n") {
		line = strings.TrimLeft(strings.TrimSuffix(line, "\r"), " \t")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, _, ok := strings.Cut(line, "=")
		if key == "" || strings.ContainsAny(key, " \t") {
			return nil, fmt.Errorf("cannot read %s:%d: the variable name %q has white space or is empty", name, i+1, key)
		}
		if !ok {
			value, set := a.Env(key)
			if !set {
				continue
			}
			line = key + "=" + value
		}
		out = append(out, line)
	}
	return out, nil
}

// SplitName splits a name such as "registry:5000/nginx:1.27" before the tag.
func SplitName(name string) (repository, tag string) {
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		return name[:i], name[i+1:]
	}
	return name, "<none>"
}

// WriteOutput writes to a file, which appears complete or not at all, or to
// stdout if that is no terminal.
func (a *App) WriteOutput(name, what string, write func(io.Writer) error) error {
	return a.writeOutput(name, what, 0o644, write)
}

// WritePrivateOutput is WriteOutput of what is not for everybody.
func (a *App) WritePrivateOutput(name, what string, write func(io.Writer) error) error {
	return a.writeOutput(name, what, 0o600, write)
}

func (a *App) writeOutput(name, what string, mode os.FileMode, write func(io.Writer) error) error {
	if name == "" || name == "-" {
		if terminal.Is(a.Out) {
			return fmt.Errorf("cannot write %s to a terminal; use -o FILE or redirect stdout", what)
		}
		return write(a.Out)
	}
	// A device or a pipe is written to; a file would take its place.
	if i, err := os.Stat(name); err == nil && !i.Mode().IsRegular() {
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			return fmt.Errorf("cannot write %s: %w", what, err)
		}
		return errors.Join(write(f), f.Close())
	}
	f, err := os.CreateTemp(path.Dir(name), "."+path.Base(name)+".*")
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", what, err)
	}
	defer os.Remove(f.Name())
	if err := errors.Join(write(f), f.Chmod(mode), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// ReadInput opens a file, or stdin for "-" and "", if that is no terminal.
func (a *App) ReadInput(name, what string) (io.ReadCloser, error) {
	if name != "" && name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("cannot read %s: %w", what, err)
		}
		return f, nil
	}
	if terminal.Is(a.In) {
		return nil, fmt.Errorf("cannot read %s: stdin is a terminal; name a file or redirect stdin", what)
	}
	return io.NopCloser(a.In), nil
}

// KeyValues reads KEY=VALUE options; where a value is not needed KEY will do.
func KeyValues(flag string, list []string, value bool) (map[string]string, error) {
	var out map[string]string
	for _, item := range list {
		key, v, ok := strings.Cut(item, "=")
		if key == "" || value && !ok {
			return nil, fmt.Errorf("invalid %s %q; write KEY=VALUE", flag, item)
		}
		if out == nil {
			out = map[string]string{}
		}
		out[key] = v
	}
	return out, nil
}

func JoinLabels(labels map[string]string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		out = append(out, k+"="+labels[k])
	}
	return strings.Join(out, ",")
}
