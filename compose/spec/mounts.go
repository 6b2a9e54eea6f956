package spec

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/docker/go-units"
	"github.com/stack-run/stack/compose/desired"
	"github.com/stack-run/stack/volumes"
)

func (b *builder) volume(d *Desired, key string, v types.VolumeConfig) {
	if v.External {
		d.Volumes[key] = &Volume{External: true, Spec: volumes.Spec{Name: v.Name, Key: key}}
		return
	}
	spec := volumes.Spec{
		Name:       v.Name,
		Project:    b.project.Name,
		Key:        key,
		Driver:     v.Driver,
		DriverOpts: maps.Clone(map[string]string(v.DriverOpts)),
		Labels:     b.resourceLabels(v.Labels, LabelVolume, key),
	}
	switch v.Driver {
	case "", "local":
		spec.Driver = "local"
	default:
		b.fail("volumes."+key+".driver", "volume driver %q is not supported; use local, whose driver_opts can mount nfs, cifs, tmpfs and directories", v.Driver)
	}
	d.Volumes[key] = &Volume{Spec: spec}
}

// mounts are a service's volumes, tmpfs, configs and secrets, in this order; of
// two with one target the first wins, as in Docker Compose.
func (b *builder) mounts(s types.ServiceConfig) []volumes.Mount {
	at := "services." + s.Name
	var out []volumes.Mount
	taken := map[string]string{}
	add := func(where string, m volumes.Mount) {
		if m.Target = path.Clean(m.Target); !path.IsAbs(m.Target) {
			b.fail(where, "mount target %q is not an absolute path in the container; begin it with /", m.Target)
			return
		}
		if m.Target == "/" {
			b.fail(where, "cannot mount over / of the container; give a directory below it")
			return
		}
		if other, ok := taken[m.Target]; ok {
			b.fail(where, "target %s is already mounted by %s; keep one", m.Target, other)
			return
		}
		taken[m.Target] = where
		where = b.placed(where)
		m.Origin = where
		if place := b.where(where); place != "" {
			m.Origin = place + ": " + where
		}
		out = append(out, m)
	}
	for i, v := range s.Volumes {
		where := fmt.Sprintf("%s.volumes[%d]", at, i)
		if m, ok := b.mount(where, v); ok {
			add(where, m)
		}
	}
	for i, t := range s.Tmpfs {
		where := fmt.Sprintf("%s.tmpfs[%d]", at, i)
		if m, ok := b.tmpfs(where, t); ok {
			add(where, m)
		}
	}
	for i, ref := range s.Configs {
		where := fmt.Sprintf("%s.configs[%d]", at, i)
		obj := types.FileObjectConfig(b.project.Configs[ref.Source])
		if m, ok := b.file(where, "config", "configs."+ref.Source, obj, types.FileReferenceConfig(ref), "/"); ok {
			add(where, m)
		}
	}
	for i, ref := range s.Secrets {
		where := fmt.Sprintf("%s.secrets[%d]", at, i)
		obj := types.FileObjectConfig(b.project.Secrets[ref.Source])
		if m, ok := b.file(where, "secret", "secrets."+ref.Source, obj, types.FileReferenceConfig(ref), "/run/secrets/"); ok {
			m.Secret = m.Type == volumes.TypeFile
			add(where, m)
		}
	}
	return out
}

func (b *builder) mount(where string, v types.ServiceVolumeConfig) (volumes.Mount, bool) {
	m := volumes.Mount{Target: v.Target, ReadOnly: v.ReadOnly}
	switch v.Type {
	case types.VolumeTypeBind:
		m.Type = volumes.TypeBind
		m.Source = b.relative(v.Source)
		m.CreateHostPath = true
		if v.Bind != nil {
			m.CreateHostPath = bool(v.Bind.CreateHostPath)
			m.Propagation = v.Bind.Propagation
			if known := []string{"private", "rprivate", "shared", "rshared", "slave", "rslave"}; m.Propagation != "" && !slices.Contains(known, m.Propagation) {
				b.fail(where+".bind.propagation", "unknown propagation %q; use one of %s%s", m.Propagation, strings.Join(known, ", "), didYouMean(m.Propagation, known))
			}
			m.Recursive = v.Bind.Recursive
			m.SELinux = v.Bind.SELinux
		}
	case types.VolumeTypeVolume, "":
		m.Type = volumes.TypeVolume
		m.Source = v.Source
		if pv, ok := b.project.Volumes[v.Source]; ok {
			m.Source = pv.Name
		}
		if v.Volume != nil {
			m.NoCopy = v.Volume.NoCopy
			m.Subpath = v.Volume.Subpath
			m.Labels = maps.Clone(map[string]string(v.Volume.Labels))
		}
		if m.Subpath != "" && m.Source == "" {
			b.fail(where+".volume.subpath", "an anonymous volume has no subpath; name the volume with source")
		}
		b.checkSubpath(where+".volume.subpath", m.Subpath)
	case types.VolumeTypeTmpfs:
		m.Type = volumes.TypeTmpfs
		if v.Source != "" {
			b.fail(where+".source", "a tmpfs mount has no source; remove it")
		}
		if v.Tmpfs != nil {
			m.Size = int64(v.Tmpfs.Size)
			m.Mode = v.Tmpfs.Mode
		}
	case types.VolumeTypeImage:
		m.Type = volumes.TypeImage
		m.Source = v.Source
		m.ReadOnly = true
		if v.Image != nil {
			m.Subpath = v.Image.SubPath
		}
		b.checkSubpath(where+".image.subpath", m.Subpath)
	default:
		b.fail(where+".type", "mount type %q is not supported on Linux without a cluster; use bind, volume, tmpfs or image", v.Type)
		return m, false
	}
	for _, unused := range []struct {
		kind string
		set  bool
	}{
		{types.VolumeTypeBind, v.Bind != nil && (v.Bind.Propagation != "" || v.Bind.Recursive != "" || v.Bind.SELinux != "")},
		{types.VolumeTypeVolume, v.Volume != nil && (v.Volume.NoCopy || v.Volume.Subpath != "" || len(v.Volume.Labels) > 0)},
		{types.VolumeTypeTmpfs, v.Tmpfs != nil && (v.Tmpfs.Size != 0 || v.Tmpfs.Mode != 0)},
		{types.VolumeTypeImage, v.Image != nil && v.Image.SubPath != ""},
	} {
		if unused.set && unused.kind != string(m.Type) {
			b.warn(where+"."+unused.kind, "the mount is of type %s: its %s options are not used", m.Type, unused.kind)
		}
	}
	return m, true
}

func (b *builder) checkSubpath(where, subpath string) {
	if subpath != "" && !filepath.IsLocal(subpath) {
		b.fail(where, "%q leads out of what is mounted; give a path below its root, such as data/www", subpath)
	}
}

// tmpfs reads the short form PATH[:OPTION,…], whose options are those of
// mount(8) for tmpfs.
func (b *builder) tmpfs(where, text string) (volumes.Mount, bool) {
	target, options, _ := strings.Cut(text, ":")
	m := volumes.Mount{Type: volumes.TypeTmpfs, Target: target}
	for opt := range strings.SplitSeq(options, ",") {
		key, value, _ := strings.Cut(opt, "=")
		switch key {
		case "":
		case "ro":
			m.ReadOnly = true
		case "rw":
			m.ReadOnly = false
		case "size":
			size, err := units.RAMInBytes(value)
			if err != nil && strings.HasSuffix(value, "%") {
				m.Options = append(m.Options, opt) // a part of the memory: the kernel computes it
				continue
			}
			if err != nil {
				b.fail(where, "tmpfs size %q is no size; write it like 64m", value)
				return m, false
			}
			m.Size = size
		case "mode":
			mode, err := strconv.ParseUint(value, 8, 32)
			if err != nil || mode > 0o7777 {
				b.fail(where, "tmpfs mode %q is no octal mode; write it like 1777", value)
				return m, false
			}
			m.Mode = uint32(mode)
		case "uid", "gid", "nr_inodes", "nr_blocks", "huge", "mpol",
			"exec", "noexec", "suid", "nosuid", "dev", "nodev", "sync", "async", "atime", "noatime",
			"relatime", "norelatime", "strictatime", "nostrictatime", "diratime", "nodiratime",
			"private", "rprivate", "slave", "rslave", "shared", "rshared", "remount", "bind", "rbind":
			m.Options = append(m.Options, opt)
		default:
			b.fail(where, "unknown tmpfs option %q%s", opt, didYouMean(key, []string{"size", "mode", "uid", "gid", "noexec", "exec", "nosuid", "nodev", "nr_inodes", "noatime"}))
			return m, false
		}
	}
	return m, true
}

// file is a config or secret in a container.
func (b *builder) file(where, kind, objectPath string, obj types.FileObjectConfig, ref types.FileReferenceConfig, base string) (volumes.Mount, bool) {
	switch {
	case obj.Driver != "":
		b.fail(objectPath+".driver", "%s drivers are not supported; use file, environment or external", kind)
		return volumes.Mount{}, false
	case obj.TemplateDriver != "":
		b.fail(objectPath+".template_driver", "%s templates are not supported; write the final content", kind)
		return volumes.Mount{}, false
	}
	m := volumes.Mount{Type: volumes.TypeFile, ReadOnly: true, Target: ref.Target, UID: ref.UID, GID: ref.GID, Mode: 0o444}
	if m.Target == "" {
		m.Target = ref.Source
	}
	if !path.IsAbs(m.Target) {
		m.Target = base + m.Target
	}
	if ref.Mode != nil {
		// A config or secret cannot be written to: the spec has writable bits ignored.
		m.Mode = uint32(*ref.Mode) & 0o7555
	}
	for attribute, id := range map[string]string{"uid": ref.UID, "gid": ref.GID} {
		if _, err := strconv.ParseUint(id, 10, 32); id != "" && err != nil {
			b.fail(where+"."+attribute, "%q is no number; give the numeric ID, such as 1000", id)
		}
	}
	if bool(obj.External) {
		object, err := b.readStored(kind, obj.Name)
		if err != nil {
			b.fail(objectPath+".external", "%w", err)
			return volumes.Mount{}, false
		}
		m.Content, m.ContentDigest, m.ContentFrom = object.content, object.digest, volumes.StoreSource(kind, obj.Name)
		return m, true
	}
	content, from, err := b.objectContent(obj)
	if errors.Is(err, errDirectory) {
		// Docker Compose binds whatever the path is; a directory stays a bind.
		if ref.UID != "" || ref.GID != "" || ref.Mode != nil {
			b.warn(where, "%s is a directory, which is mounted as it is: uid, gid and mode have no effect; change them there, or name single files", b.relative(obj.File))
		}
		return volumes.Mount{Type: volumes.TypeBind, Source: b.relative(obj.File), Target: m.Target, ReadOnly: true}, true
	}
	if err != nil {
		attribute := "file"
		if obj.Environment != "" {
			attribute = "environment"
		}
		b.fail(objectPath+"."+attribute, "cannot read %s %q: %w", kind, ref.Source, err)
		return volumes.Mount{}, false
	}
	m.Content = content
	m.ContentFrom = from
	m.ContentDigest = desired.Digest(content)
	if kind == "secret" && b.host.KeyDigest != nil {
		if m.ContentDigest, err = b.host.KeyDigest(m.ContentDigest); err != nil {
			b.fail(objectPath, "cannot compare secret %q with what containers have: %w", ref.Source, err)
			return volumes.Mount{}, false
		}
	}
	return m, true
}

var errDirectory = errors.New("is a directory")

func (b *builder) objectContent(obj types.FileObjectConfig) (content []byte, from string, err error) {
	switch {
	case obj.Environment != "":
		value, ok := b.project.Environment[obj.Environment]
		if obj.Content != "" {
			value, ok = obj.Content, true // resolved by the loader, in the environment of an included file
		}
		if !ok {
			return nil, "", fmt.Errorf("environment variable %s is not set; set it, or use file", obj.Environment)
		}
		return []byte(value), "environment:" + obj.Environment, nil
	case obj.Content != "":
		return []byte(obj.Content), "", nil
	case obj.File == "":
		return []byte{}, "", nil
	}
	name := b.relative(obj.File)
	if b.host.ReadFile == nil {
		if info, err := os.Stat(name); err == nil && info.IsDir() {
			return nil, "", errDirectory
		}
	}
	content, err = b.readFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", fmt.Errorf("file %s does not exist; create it, or correct the path", name)
	}
	return content, "file:" + name, err
}

func (b *builder) volumesFrom(s types.ServiceConfig) []string {
	var out []string
	for i, text := range s.VolumesFrom {
		at := fmt.Sprintf("services.%s.volumes_from[%d]", s.Name, i)
		kind := types.ServicePrefix
		rest, external := strings.CutPrefix(text, types.ContainerPrefix)
		if external {
			kind = types.ContainerPrefix
		}
		name, mode, ok := strings.Cut(rest, ":")
		if !ok {
			mode = "rw"
		}
		if mode != "rw" && mode != "ro" {
			b.fail(at, "unknown mode %q; use ro or rw", mode)
		}
		if !external {
			if _, known := b.project.Services[name]; !known {
				b.fail(at, "no such service %q%s", name, didYouMean(name, b.project.ServiceNames()))
			}
		}
		out = append(out, kind+name+":"+mode)
	}
	return slices.Clip(out)
}
