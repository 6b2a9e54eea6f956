package client

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	bk "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/session/filesync"

	"github.com/stack-run/stack/engine/build/request"
)

// surroundings are what a target's options depend on besides the target.
type surroundings struct {
	in      io.Reader
	out     io.Writer
	gateway string
	images  map[string]string // the images of targets that are built, by name
	config  string
}

// solve is a target in BuildKit's terms.
type solve struct {
	options bk.SolveOpt
}

// frontend is the name of the daemon's own Dockerfile frontend.
const frontend = "dockerfile.v0"

// prepare translates a target and opens what it reads.
func prepare(ctx context.Context, t *request.Target, around surroundings) (*solve, error) {
	s := &solve{options: bk.SolveOpt{
		Frontend:            frontend,
		FrontendAttrs:       attributes(t),
		AllowedEntitlements: entitlements(t),
		CacheImports:        caches(t.CacheFrom),
		CacheExports:        caches(t.CacheTo),
	}}
	if err := s.hosts(t, around.gateway); err != nil {
		return s, err
	}
	if err := s.context(t, around.in); err != nil {
		return s, err
	}
	if err := s.contexts(t, around.images); err != nil {
		return s, err
	}
	if err := s.outputs(t, around.out); err != nil {
		return s, err
	}
	return s, s.session(ctx, t, around)
}

// attributes are the options of the Dockerfile frontend that need no look at the
// file system.
func attributes(t *request.Target) map[string]string {
	a := map[string]string{}
	set := func(key, value string) {
		if value != "" {
			a[key] = value
		}
	}
	for k, v := range t.Args {
		a["build-arg:"+k] = v
	}
	for k, v := range t.Labels {
		a["label:"+k] = v
	}
	for kind, params := range t.Attestations {
		a["attest:"+kind] = params
	}
	set("target", t.Stage)
	set("platform", strings.Join(t.Platforms, ","))
	set("cgroup-parent", t.CgroupParent)
	if t.Network != "default" {
		set("force-network-mode", t.Network)
	}
	if t.ShmSize > 0 {
		a["shm-size"] = strconv.FormatInt(t.ShmSize, 10)
	}
	var limits []string
	for _, u := range t.Ulimits {
		limits = append(limits, fmt.Sprintf("%s=%d:%d", u.Name, u.Soft, u.Hard))
	}
	set("ulimit", strings.Join(limits, ","))
	// What is here is used without asking a registry, as Docker does.
	a["image-resolve-mode"] = "local"
	if t.Pull {
		a["image-resolve-mode"] = "pull"
	}
	switch {
	case t.NoCache:
		a["no-cache"] = ""
	case len(t.NoCacheStages) > 0:
		a["no-cache"] = strings.Join(t.NoCacheStages, ",")
	}
	return a
}

// entitlements adds to those asked for what the network needs.
func entitlements(t *request.Target) []string {
	out := slices.Clone(t.Entitlements)
	if t.Network == "host" {
		out = append(out, "network.host")
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func caches(entries []request.Entry) []bk.CacheOptionsEntry {
	var out []bk.CacheOptionsEntry
	for _, e := range entries {
		out = append(out, bk.CacheOptionsEntry{Type: e.Type, Attrs: maps.Clone(e.Attrs)})
	}
	return out
}

func (s *solve) hosts(t *request.Target, gateway string) error {
	var out []string
	for _, h := range t.ExtraHosts {
		address := h.Address
		if address == "host-gateway" {
			if gateway == "" {
				return fmt.Errorf("the builder does not know the address of host-gateway, which host %s has; write the address itself", h.Name)
			}
			address = gateway
		}
		out = append(out, h.Name+"="+address)
	}
	if len(out) > 0 {
		s.options.FrontendAttrs["add-hosts"] = strings.Join(out, ",")
	}
	return nil
}

// outputs translates where the result goes: without any, into the image store.
func (s *solve) outputs(t *request.Target, out io.Writer) error {
	entries := t.Outputs
	if len(entries) == 0 {
		entries = []request.Entry{{Type: bk.ExporterImage}}
	}
	for _, e := range entries {
		if e.Type == "cacheonly" {
			continue
		}
		x := bk.ExportEntry{Type: e.Type, Attrs: map[string]string{}}
		maps.Copy(x.Attrs, e.Attrs)
		dest := x.Attrs["dest"]
		delete(x.Attrs, "dest")
		switch {
		case e.Type == bk.ExporterLocal, e.IsDirectory():
			x.OutputDir = dest
		case e.Type == bk.ExporterTar, e.Type == bk.ExporterOCI, e.Type == bk.ExporterDocker:
			x.Output = writeTo(dest, out)
		}
		if e.Type != bk.ExporterLocal && e.Type != bk.ExporterTar {
			if x.Attrs["name"] == "" && len(t.Names) > 0 {
				x.Attrs["name"] = strings.Join(t.Names, ",")
			}
			for _, a := range t.Annotations {
				key, value, err := annotation(a)
				if err != nil {
					return err
				}
				x.Attrs[key] = value
			}
		}
		s.options.Exports = append(s.options.Exports, x)
	}
	return nil
}

func writeTo(dest string, out io.Writer) filesync.FileOutputFunc {
	return func(map[string]string) (io.WriteCloser, error) {
		if dest == "" || dest == "-" {
			return keptOpen{out}, nil
		}
		return os.Create(dest)
	}
}

// keptOpen is a stream that is not ours to close.
type keptOpen struct{ io.Writer }

func (keptOpen) Close() error { return nil }

// annotation reads "[LEVEL:]KEY=VALUE" into BuildKit's attribute.
func annotation(s string) (key, value string, err error) {
	key, value, ok := strings.Cut(s, "=")
	if !ok || key == "" {
		return "", "", fmt.Errorf("cannot read the annotation %q; write [manifest|index:]KEY=VALUE", s)
	}
	level := exptypes.AnnotationManifest
	if l, rest, ok := strings.Cut(key, ":"); ok {
		switch l {
		case "manifest", "index", "manifest-descriptor", "index-descriptor":
			level, key = l, rest
		}
	}
	return exptypes.AnnotationKey{Type: level, Key: key}.String(), value, nil
}

// sharedKey makes BuildKit recognise a directory that it was sent before, so
// that only what changed is sent again.
func sharedKey(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	return hex.EncodeToString(sum[:8])
}

// outcome reads the exporters' answer.
func outcome(t *request.Target, answer map[string]string) request.Built {
	b := request.Built{
		Name:    t.Name,
		Names:   t.Names,
		ImageID: answer[exptypes.ExporterImageConfigDigestKey],
		Digest:  answer[exptypes.ExporterImageDigestKey],
	}
	if len(answer) > 0 {
		b.Metadata = map[string]any{}
	}
	for k, v := range answer {
		b.Metadata[k] = decoded(v)
	}
	return b
}

// decoded is a metadata value as --metadata-file shows it: JSON where it is an
// object, which BuildKit sends in base64 or plainly, else the text itself.
func decoded(v string) any {
	var object map[string]any
	for _, data := range [][]byte{fromBase64(v), []byte(v)} {
		if json.Unmarshal(data, &object) == nil && object != nil {
			return object
		}
	}
	return v
}

// missing turns the error of a missing directory into a sentence.
func missing(what, dir string, err error) error {
	if os.IsNotExist(err) {
		return fmt.Errorf("%s %s does not exist", what, dir)
	}
	return fmt.Errorf("cannot read %s %s: %w", what, dir, err)
}

// directory checks that a context is one.
func directory(what, dir string) error {
	info, err := os.Stat(dir)
	switch {
	case err != nil:
		return missing(what, dir, err)
	case !info.IsDir():
		return fmt.Errorf("%s %s is not a directory", what, dir)
	}
	_, err = os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		return missing(what, dir, err)
	}
	return nil
}

// regular checks that there is a Dockerfile.
func regular(path string) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return missing("the Dockerfile", path, err)
	case info.IsDir():
		return fmt.Errorf("the Dockerfile %s is a directory", path)
	case info.Mode()&fs.ModeType&^fs.ModeSymlink != 0 && info.Mode()&fs.ModeNamedPipe == 0:
		return fmt.Errorf("the Dockerfile %s is no regular file", path)
	}
	return nil
}

// within tells whether path is dir or below it.
func within(dir, path string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}
