package volumes

import (
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// arrange is the pure part of Resolve: it checks mounts, adds the anonymous
// volumes the image asks for, and puts parents before what lies in them.
func arrange(mounts []Mount, imageVolumes []string) ([]Mount, error) {
	out := make([]Mount, 0, len(mounts)+len(imageVolumes))
	at := map[string]Mount{}
	for _, m := range mounts {
		if !path.IsAbs(m.Target) {
			return nil, refuse(m, nil, "mount target %q is not an absolute path in the container", m.Target)
		}
		m.Target = path.Clean(m.Target)
		if m.Target == "/" {
			return nil, refuse(m, nil, "cannot mount over the container's root directory; name a directory in it")
		}
		if err := checkProc(m); err != nil {
			return nil, err
		}
		if m.Subpath != "" && !filepath.IsLocal(m.Subpath) {
			return nil, refuse(m, nil, "cannot mount %q of %s: a subpath is a path below the volume's root, such as \"data/db\", without .. and / at its beginning", m.Subpath, describe(m))
		}
		if first, ok := at[m.Target]; ok {
			also := ""
			if first.Origin != "" {
				also = " (also " + first.Origin + ")"
			}
			return nil, refuse(m, nil, "duplicate mount point: %s%s; remove one of the two", m.Target, also)
		}
		at[m.Target] = m
		out = append(out, m)
	}
	for _, target := range imageVolumes {
		m := Mount{Type: TypeVolume, Target: path.Clean("/" + target)}
		if _, covered := at[m.Target]; covered || m.Target == "/" {
			continue
		}
		at[m.Target] = m
		out = append(out, m)
	}
	slices.SortStableFunc(out, func(a, b Mount) int { return depth(a.Target) - depth(b.Target) })
	return out, nil
}

func depth(target string) int { return strings.Count(target, "/") }

// checkProc refuses mounts that would replace parts of /proc, which the kernel
// and programs trust for security (CVE-2019-16884); the exceptions are runc's,
// files with statistics that lxcfs and the like provide.
func checkProc(m Mount) error {
	rest, in := strings.CutPrefix(m.Target, "/proc/")
	if m.Target != "/proc" && !in {
		return nil
	}
	switch rest {
	case "cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg", "slabinfo", "net/dev", "sys/kernel/ns_last_pid", "sys/crypto/fips_enabled":
		if in {
			return nil
		}
	}
	if m.Type == TypeBind && m.Target == "/proc" && path.Clean(m.Source) == "/proc" {
		return nil
	}
	return refuse(m, nil, "cannot mount over %s: the container's own /proc must be there; choose a target such as /host%s", m.Target, m.Target)
}

// Inherit adds to a container's own mounts those of another container
// (volumes_from). Its own win. readOnly makes the inherited ones read-only.
func Inherit(own, from []Mount, readOnly bool) []Mount {
	out := slices.Clone(own)
	for _, m := range from {
		if slices.ContainsFunc(own, func(o Mount) bool { return path.Clean(o.Target) == path.Clean(m.Target) }) {
			continue
		}
		m.ReadOnly = m.ReadOnly || readOnly
		out = append(out, m)
	}
	return out
}

// fileLike says that a name is one people give to files, so that a directory of
// that name is almost surely not what they want.
func fileLike(source string) bool {
	base := path.Base(source)
	switch base {
	case ".env", ".npmrc", ".netrc", ".pgpass", ".htpasswd", ".htaccess", ".gitconfig", ".bashrc", ".profile", ".dockerignore",
		"Dockerfile", "Caddyfile", "Makefile", "Procfile", "Gemfile", "Pipfile", "hosts", "passwd", "shadow", "crontab", "id_rsa", "id_ed25519":
		return true
	}
	ext := path.Ext(base)
	if ext == base { // ".cache"
		return false
	}
	switch strings.ToLower(strings.TrimPrefix(ext, ".")) {
	case "conf", "cfg", "cnf", "cf", "ini", "json", "json5", "yaml", "yml", "toml", "xml", "env", "properties", "config", "hcl", "rules", "list",
		"sh", "bash", "sql", "js", "mjs", "cjs", "ts", "py", "rb", "php", "pl", "lua", "go", "jar", "war", "tf",
		"html", "htm", "css", "txt", "md", "csv", "log", "lock", "sock", "pid", "db", "sqlite", "sqlite3",
		"pem", "key", "crt", "cer", "cert", "csr", "p12", "pfx", "jks", "pub", "secret", "passwd", "htpasswd", "license",
		"tmpl", "template", "tpl", "j2", "gz", "tgz", "xz", "zst", "zip", "tar", "service", "timer", "png", "jpg", "jpeg", "svg", "ico", "pdf", "iso", "img":
		return true
	}
	return false
}

// describe names a mount for errors.
func describe(m Mount) string {
	switch m.Type {
	case TypeVolume:
		if m.Source == "" {
			return "anonymous volume at " + m.Target
		}
		return fmt.Sprintf("volume %q at %s", m.Source, m.Target)
	case TypeBind:
		return fmt.Sprintf("%q at %s", m.Source, m.Target)
	case TypeImage:
		return fmt.Sprintf("image %q at %s", m.Source, m.Target)
	}
	return fmt.Sprintf("%s at %s", m.Type, m.Target)
}
