package runspec

import (
	"encoding/csv"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"

	"github.com/stack-run/stack/volumes"
)

// mounts are --volume, --mount and --tmpfs, in this order.
func (b *builder) mounts() []volumes.Mount {
	var out []volumes.Mount
	add := func(flag, text string, m volumes.Mount, err error) {
		switch {
		case err != nil:
			b.fail(flag, text, "%v", err)
			return
		case !path.IsAbs(m.Target):
			b.fail(flag, text, "the target %q is not an absolute path in the container", m.Target)
			return
		case path.Clean(m.Target) == "/":
			b.fail(flag, text, "nothing can be mounted over / of the container")
			return
		}
		m.Target = path.Clean(m.Target)
		if slices.ContainsFunc(out, func(o volumes.Mount) bool { return o.Target == m.Target }) {
			b.fail(flag, text, "there is another mount at %s", m.Target)
			return
		}
		m.Origin = "--" + flag + " " + text
		out = append(out, m)
	}
	for _, text := range b.f.Volume {
		m, err := b.volume(text)
		add("volume", text, m, err)
	}
	for _, text := range b.f.Mount {
		m, err := b.mount(text)
		add("mount", text, m, err)
	}
	for _, text := range b.f.Tmpfs {
		m, err := tmpfs(text)
		add("tmpfs", text, m, err)
	}
	return out
}

// volume reads [SOURCE:]TARGET[:OPTIONS].
func (b *builder) volume(text string) (volumes.Mount, error) {
	m := volumes.Mount{Type: volumes.TypeVolume}
	parts := strings.Split(text, ":")
	switch len(parts) {
	case 1:
		m.Target = parts[0]
		return m, nil
	case 2, 3:
	default:
		return m, fmt.Errorf("write [SOURCE:]TARGET[:OPTIONS]")
	}
	m.Source, m.Target = parts[0], parts[1]
	if m.Source == "" || m.Target == "" {
		return m, fmt.Errorf("write [SOURCE:]TARGET[:OPTIONS]")
	}
	if strings.ContainsRune(m.Source, '/') || m.Source == "." || m.Source == ".." || m.Source[0] == '~' {
		m.Type = volumes.TypeBind
		m.Source = b.abs(m.Source)
		m.CreateHostPath = true
	}
	if len(parts) < 3 {
		return m, nil
	}
	for opt := range strings.SplitSeq(parts[2], ",") {
		switch opt {
		case "ro", "readonly":
			m.ReadOnly = true
		case "rw", "", "consistent", "cached", "delegated", "default":
		case "z", "Z":
			m.SELinux = opt
		case "nocopy":
			m.NoCopy = true
		case "private", "rprivate", "shared", "rshared", "slave", "rslave":
			m.Propagation = opt
		default:
			return m, fmt.Errorf("unknown option %q; there are ro, rw, z, Z, nocopy and the propagations", opt)
		}
	}
	return m, nil
}

// mount reads the comma separated KEY=VALUE pairs of --mount.
func (b *builder) mount(text string) (volumes.Mount, error) {
	m := volumes.Mount{Type: volumes.TypeVolume}
	fields, err := csv.NewReader(strings.NewReader(text)).Read()
	if err != nil {
		return m, err
	}
	for _, field := range fields {
		key, value, hasValue := strings.Cut(field, "=")
		key = strings.ToLower(strings.TrimSpace(key))
		flag := !hasValue
		if hasValue {
			flag, _ = strconv.ParseBool(value)
		}
		switch key {
		case "type":
			m.Type = volumes.MountType(strings.ToLower(value))
		case "source", "src":
			m.Source = value
		case "target", "dst", "destination":
			m.Target = value
		case "readonly", "ro":
			m.ReadOnly = flag
		case "consistency":
		case "bind-propagation":
			m.Propagation = value
		case "bind-recursive":
			m.Recursive = value
		case "bind-nonrecursive":
			if flag {
				m.Recursive = "disabled"
			}
		case "bind-create-src", "bind-create-host-path":
			m.CreateHostPath = flag
		case "volume-nocopy":
			m.NoCopy = flag
		case "volume-subpath", "image-subpath":
			m.Subpath = value
		case "volume-label":
			k, v, _ := strings.Cut(value, "=")
			if m.Labels == nil {
				m.Labels = map[string]string{}
			}
			m.Labels[k] = v
		case "volume-driver":
			if value != "local" && value != "" {
				return m, fmt.Errorf("there is no volume driver %q; use local", value)
			}
		case "volume-opt":
			k, v, ok := strings.Cut(value, "=")
			if !ok {
				return m, fmt.Errorf("volume-opt %q is not KEY=VALUE", value)
			}
			if m.DriverOpts == nil {
				m.DriverOpts = map[string]string{}
			}
			m.DriverOpts[k] = v
		case "tmpfs-size":
			n, err := units.RAMInBytes(value)
			if err != nil {
				return m, fmt.Errorf("tmpfs-size %q is no size", value)
			}
			m.Size = n
		case "tmpfs-mode":
			n, err := strconv.ParseUint(value, 8, 32)
			if err != nil {
				return m, fmt.Errorf("tmpfs-mode %q is no octal mode", value)
			}
			m.Mode = uint32(n)
		case "tmpfs-options":
			m.Options = append(m.Options, strings.Split(value, ",")...)
		default:
			return m, fmt.Errorf("unknown key %q", key)
		}
	}
	switch m.Type {
	case volumes.TypeBind:
		if m.Source == "" {
			return m, fmt.Errorf("a bind mount needs a source")
		}
		m.Source = b.abs(m.Source)
	case volumes.TypeTmpfs:
		if m.Source != "" {
			return m, fmt.Errorf("a tmpfs has no source")
		}
	case volumes.TypeImage:
		m.ReadOnly = true
	case volumes.TypeVolume:
	default:
		return m, fmt.Errorf("unknown type %q; use bind, volume, tmpfs or image", m.Type)
	}
	if m.Target == "" {
		return m, fmt.Errorf("it has no target")
	}
	return m, nil
}

// tmpfs reads TARGET[:OPTIONS], with the options of mount(8).
func tmpfs(text string) (volumes.Mount, error) {
	target, options, _ := strings.Cut(text, ":")
	m := volumes.Mount{Type: volumes.TypeTmpfs, Target: target}
	for opt := range strings.SplitSeq(options, ",") {
		key, value, _ := strings.Cut(opt, "=")
		switch key {
		case "", "rw":
		case "ro":
			m.ReadOnly = true
		case "size":
			n, err := units.RAMInBytes(value)
			switch {
			case err == nil:
				m.Size = n
			case strings.HasSuffix(value, "%"): // the kernel computes it
				m.Options = append(m.Options, opt)
			default:
				return m, fmt.Errorf("size %q is no size; write it like 64m", value)
			}
		case "mode":
			n, err := strconv.ParseUint(value, 8, 32)
			if err != nil || n > 0o7777 {
				return m, fmt.Errorf("mode %q is no octal mode; write it like 1777", value)
			}
			m.Mode = uint32(n)
		default:
			m.Options = append(m.Options, opt)
		}
	}
	return m, nil
}
