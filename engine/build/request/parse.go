package request

import (
	"encoding/csv"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// fields reads "key=value,key=value" as Docker does: one record of CSV. A field
// without "=" has an empty value and ok false.
func fields(s string) ([]field, error) {
	r := csv.NewReader(strings.NewReader(s))
	record, err := r.Read()
	if err != nil {
		return nil, fmt.Errorf("cannot read %q as KEY=VALUE,…: %w", s, err)
	}
	var out []field
	for _, f := range record {
		key, value, ok := strings.Cut(f, "=")
		out = append(out, field{strings.TrimSpace(strings.ToLower(key)), value, ok, f})
	}
	return out, nil
}

type field struct {
	key, value string
	ok         bool
	whole      string
}

// ParseSecret reads "id=NAME[,src=FILE|,env=VARIABLE][,type=file|env]".
func ParseSecret(s string) (Secret, error) {
	var out Secret
	kind, src := "", ""
	fs, err := fields(s)
	if err != nil {
		return out, err
	}
	for _, f := range fs {
		switch {
		case !f.ok:
			return out, fmt.Errorf("cannot read the secret %q: the field %q is not KEY=VALUE", s, f.whole)
		case f.key == "id":
			out.ID = f.value
		case f.key == "src" || f.key == "source":
			src = f.value
		case f.key == "env":
			out.Env = f.value
		case f.key == "type" && (f.value == "file" || f.value == "env"):
			kind = f.value
		default:
			return out, fmt.Errorf("cannot read the secret %q: unexpected %q; write id=NAME[,src=FILE|,env=VARIABLE]", s, f.whole)
		}
	}
	if out.ID == "" {
		return out, fmt.Errorf("cannot read the secret %q: there is no id; write id=NAME[,src=FILE|,env=VARIABLE]", s)
	}
	if kind == "env" && out.Env == "" {
		out.Env, src = src, ""
	}
	if out.Env == "" && src == "" {
		// Docker's rule: a variable of that name, else a file.
		if _, set := os.LookupEnv(out.ID); set || kind == "env" {
			out.Env = out.ID
		} else {
			src = out.ID
		}
	}
	if src != "" {
		if out.File, err = filepath.Abs(src); err != nil {
			return out, err
		}
	}
	return out, nil
}

// ParseSSH reads "ID[=SOCKET|KEY[,KEY…]]".
func ParseSSH(s string) (SSH, error) {
	id, paths, given := strings.Cut(s, "=")
	if id == "" {
		return SSH{}, fmt.Errorf("cannot read the SSH agent %q; write default or ID=SOCKET or ID=KEY", s)
	}
	out := SSH{ID: id}
	if given && paths != "" {
		out.Paths = strings.Split(paths, ",")
	}
	return out, nil
}

// ParseCache reads a cache: "type=TYPE,…" or the reference of an image. Relative
// paths are below dir, or below the working directory where that is empty.
func ParseCache(s string, export bool, dir string) (Entry, error) {
	fs, err := fields(s)
	if err != nil {
		return Entry{}, err
	}
	if len(fs) == 1 && !fs[0].ok {
		return Entry{Type: "registry", Attrs: map[string]string{"ref": s}}, nil
	}
	e, err := entry(s, fs)
	if err != nil {
		return Entry{}, err
	}
	key, needed := "", map[string]string{"registry": "ref", "local": "src"}[e.Type]
	if export && e.Type == "local" {
		needed = "dest"
	}
	switch e.Type {
	case "local":
		key = needed
	case "registry", "inline":
	case "gha", "s3", "azblob":
		return Entry{}, fmt.Errorf("cannot use the cache %q: the builder has no cache of type %s; use registry, local or inline", s, e.Type)
	default:
		return Entry{}, fmt.Errorf("cannot use the cache %q: unknown type %q; use registry, local or inline", s, e.Type)
	}
	if needed != "" && e.Attrs[needed] == "" {
		return Entry{}, fmt.Errorf("cannot use the cache %q: type=%s needs %s=", s, e.Type, needed)
	}
	if key != "" {
		if !filepath.IsAbs(e.Attrs[key]) {
			e.Attrs[key] = filepath.Join(dir, e.Attrs[key])
		}
		if e.Attrs[key], err = filepath.Abs(e.Attrs[key]); err != nil {
			return Entry{}, err
		}
	}
	return e, nil
}

// ParseOutput reads "type=TYPE,dest=PATH,…", or a directory, or "-" for a tar
// archive on the standard output.
func ParseOutput(s string) (Entry, error) {
	if s == "-" {
		return Entry{Type: "tar", Attrs: map[string]string{"dest": "-"}}, nil
	}
	fs, err := fields(s)
	if err != nil {
		return Entry{}, err
	}
	if len(fs) == 1 && !fs[0].ok {
		dir, err := filepath.Abs(s)
		return Entry{Type: "local", Attrs: map[string]string{"dest": dir}}, err
	}
	e, err := entry(s, fs)
	if err != nil {
		return Entry{}, err
	}
	if e.Type == "registry" {
		e.Type, e.Attrs["push"] = "image", "true"
	}
	dest := e.Attrs["dest"]
	switch e.Type {
	case "image", "cacheonly":
	case "local":
		if dest == "" || dest == "-" {
			return Entry{}, fmt.Errorf("cannot use the output %q: type=local needs a directory, dest=PATH", s)
		}
	case "tar", "oci":
		if dest == "" && e.Type == "oci" && e.IsDirectory() {
			return Entry{}, fmt.Errorf("cannot use the output %q: tar=false needs a directory, dest=PATH", s)
		}
		if dest == "" {
			e.Attrs["dest"] = "-"
		}
	case "docker":
		// Without a place it is the engine's own store, as for docker.
		if dest == "" {
			e.Type = "image"
		}
	default:
		return Entry{}, fmt.Errorf("cannot use the output %q: unknown type %q; use image, local, tar, oci, docker or cacheonly", s, e.Type)
	}
	if dest == "-" && e.IsDirectory() {
		return Entry{}, fmt.Errorf("cannot use the output %q: tar=false makes a directory, which the standard output is not", s)
	}
	if dest != "" && dest != "-" {
		if e.Attrs["dest"], err = filepath.Abs(dest); err != nil {
			return Entry{}, err
		}
	}
	return e, nil
}

// IsDirectory tells whether an output that is an archive otherwise, an OCI layout,
// is wanted as a directory.
func (e Entry) IsDirectory() bool {
	tar, err := strconv.ParseBool(e.Attrs["tar"])
	return (e.Type == "oci" || e.Type == "docker") && err == nil && !tar
}

func entry(s string, fs []field) (Entry, error) {
	e := Entry{Attrs: map[string]string{}}
	for _, f := range fs {
		if !f.ok {
			return e, fmt.Errorf("cannot read %q: the field %q is not KEY=VALUE", s, f.whole)
		}
		if f.key == "type" {
			e.Type = f.value
		} else {
			e.Attrs[f.key] = f.value
		}
	}
	if e.Type == "" {
		return e, fmt.Errorf("cannot read %q: there is no type=", s)
	}
	return e, nil
}

// CheckNetwork says what is wrong with a network for RUN; "" is the default.
func CheckNetwork(mode string) error {
	switch mode {
	case "", "default", "none", "host":
		return nil
	}
	return fmt.Errorf("a build cannot join the network %q; use default, none or host", mode)
}

// ParseHost reads "NAME:ADDRESS" or "NAME=ADDRESS".
func ParseHost(s string) (Host, error) {
	name, address, ok := strings.Cut(s, "=")
	if !ok {
		name, address, ok = strings.Cut(s, ":")
	}
	if !ok || name == "" || address == "" {
		return Host{}, fmt.Errorf("cannot read the host %q; write NAME:ADDRESS", s)
	}
	return Host{name, strings.Trim(address, "[]")}, nil
}

// ParseUlimit reads "NAME=SOFT[:HARD]".
func ParseUlimit(s string) (Ulimit, error) {
	name, values, ok := strings.Cut(s, "=")
	soft, hard, both := strings.Cut(values, ":")
	if !both {
		hard = soft
	}
	u := Ulimit{Name: name}
	var err1, err2 error
	u.Soft, err1 = strconv.ParseInt(soft, 10, 64)
	u.Hard, err2 = strconv.ParseInt(hard, 10, 64)
	switch {
	case !ok || name == "" || err1 != nil || err2 != nil:
		return u, fmt.Errorf("cannot read the ulimit %q; write NAME=SOFT[:HARD], such as nofile=1024:2048", s)
	case !slices.Contains(limitNames, name):
		return u, fmt.Errorf("cannot use the ulimit %q: there is no limit of the name %s; there are %s", s, name, strings.Join(limitNames, ", "))
	case u.Hard != -1 && (u.Soft > u.Hard || u.Soft == -1):
		return u, fmt.Errorf("cannot use the ulimit %q: the soft limit is above the hard one", s)
	}
	return u, nil
}

// limitNames are those of getrlimit(2).
var limitNames = []string{
	"core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice",
	"nofile", "nproc", "rss", "rtprio", "rttime", "sigpending", "stack",
}

// ParseAttest reads "type=provenance|sbom,…" into the type and the parameters
// that BuildKit wants, on false where the attestation is turned off.
func ParseAttest(s string) (kind, params string, on bool, err error) {
	fs, err := fields(s)
	if err != nil {
		return "", "", false, err
	}
	on = true
	var rest []string
	for _, f := range fs {
		switch f.key {
		case "type":
			kind = f.value
		case "disabled":
			off, err := strconv.ParseBool(f.value)
			if err != nil {
				return "", "", false, fmt.Errorf("cannot read the attestation %q: %w", s, err)
			}
			on = !off
		default:
			rest = append(rest, f.whole)
		}
	}
	if kind != "provenance" && kind != "sbom" {
		return "", "", false, fmt.Errorf("cannot read the attestation %q; write type=provenance or type=sbom, with its parameters", s)
	}
	return kind, strings.Join(rest, ","), on, nil
}

// ShortAttest turns the value of --provenance and --sbom, and of the compose
// attributes of that name, into an attestation: a boolean or parameters.
func ShortAttest(kind, value string) (params string, on bool, err error) {
	if b, err := strconv.ParseBool(value); err == nil {
		return "", b, nil
	}
	if !strings.Contains(value, "=") && kind == "provenance" {
		value = "mode=" + value
	}
	_, params, on, err = ParseAttest("type=" + kind + "," + value)
	return params, on, err
}
