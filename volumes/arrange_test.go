package volumes

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestArrangePutsParentsFirstAndAddsImageVolumes(t *testing.T) {
	got, err := arrange([]Mount{
		{Type: TypeBind, Source: "/h/c", Target: "/srv/a/b/"},
		{Type: TypeVolume, Source: "data", Target: "/srv"},
		{Type: TypeTmpfs, Target: "/run"},
	}, []string{"/srv/", "var/lib/x", "/run"})
	if err != nil {
		t.Fatal(err)
	}
	var print strings.Builder
	for _, m := range got {
		fmt.Fprintf(&print, "%s %q %s\n", m.Type, m.Source, m.Target)
	}
	want := "volume \"data\" /srv\ntmpfs \"\" /run\nbind \"/h/c\" /srv/a/b\nvolume \"\" /var/lib/x\n"
	if print.String() != want {
		t.Errorf("got\n%swant\n%s", print.String(), want)
	}
}

func TestArrangeRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		mounts []Mount
		want   string
	}{
		"relative": {[]Mount{{Target: "data", Origin: "compose.yaml:3"}}, `compose.yaml:3: mount target "data" is not an absolute path`},
		"root":     {[]Mount{{Target: "/../"}}, "cannot mount over the container's root"},
		"twice": {[]Mount{{Target: "/a", Origin: "compose.yaml:3"}, {Target: "/a/", Origin: "compose.yaml:4"}},
			"compose.yaml:4: duplicate mount point: /a (also compose.yaml:3)"},
		"proc":     {[]Mount{{Type: TypeTmpfs, Target: "/proc/sys"}}, "cannot mount over /proc/sys"},
		"all proc": {[]Mount{{Type: TypeBind, Source: "/x", Target: "/proc"}}, "cannot mount over /proc"},
	} {
		_, err := arrange(c.mounts, nil)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
	for _, m := range []Mount{
		{Type: TypeBind, Source: "/lxcfs/cpuinfo", Target: "/proc/cpuinfo"},
		{Type: TypeBind, Source: "/proc/", Target: "/proc"},
		{Type: TypeBind, Source: "/x", Target: "/process"},
	} {
		if _, err := arrange([]Mount{m}, nil); err != nil {
			t.Errorf("%s: %v", m.Target, err)
		}
	}
}

func TestFileLike(t *testing.T) {
	for name, want := range map[string]bool{
		"/p/app.conf": true, "/p/.env": true, "/p/init.SQL": true, "/p/Caddyfile": true, "/p/a.tar.gz": true,
		"/p/data": false, "/p/conf.d": false, "/p/.cache": false, "/p/v1.2": false, "/p/example.com": false,
	} {
		if got := fileLike(name); got != want {
			t.Errorf("fileLike(%q) = %v", name, got)
		}
	}
}

func TestInherit(t *testing.T) {
	own := []Mount{{Type: TypeVolume, Source: "b", Target: "/b"}}
	from := []Mount{{Type: TypeVolume, Source: "x", Target: "/b/"}, {Type: TypeVolume, Source: "a", Target: "/a"}}
	got := Inherit(own, from, true)
	if len(got) != 2 || got[1].Source != "a" || !got[1].ReadOnly || from[1].ReadOnly {
		t.Errorf("Inherit = %+v", got)
	}
}

func TestAnonymousOf(t *testing.T) {
	old := map[string]string{"/kept": "1", "/named": "2", "/image": "3", "/unasked": "4", "/tmp": "5"}
	mounts := []Mount{{Type: TypeVolume, Target: "/kept/"}, {Type: TypeVolume, Target: "/new"}, {Type: TypeVolume, Source: "n", Target: "/named"}, {Type: TypeTmpfs, Target: "/tmp"}}
	got, err := AnonymousOf(old, mounts, []string{"/image"})
	if len(got["/new"]) != 64 || err != nil {
		t.Errorf("got %v, %v", got, err)
	}
	delete(got, "/new")
	if fmt.Sprint(got) != "map[/image:3 /kept:1]" {
		t.Errorf("got %v", got)
	}
}

func TestParseDriverOpts(t *testing.T) {
	for name, c := range map[string]struct {
		opts map[string]string
		want string // the print, or the error
	}{
		"none":        {nil, "plain"},
		"bind":        {map[string]string{"type": "none", "o": "bind,ro", "device": "/srv/x"}, "bind /srv/x attrs=1"},
		"tmpfs":       {map[string]string{"type": "tmpfs", "device": "tmpfs", "o": "size=1m,uid=5,nosuid"}, "pinned tmpfs tmpfs [size=1m uid=5] attrs=2"},
		"nfs":         {map[string]string{"type": "nfs", "o": "addr=srv,rw,vers=4", "device": ":/x"}, "per use nfs :/x [vers=4] attrs=0 host=srv"},
		"disk":        {map[string]string{"type": "ext4", "o": "ro,noatime", "device": "/dev/sdz"}, "per use ext4 /dev/sdz [ro] attrs=17"},
		"no type":     {map[string]string{"device": "/srv/x"}, "driver_opts.type is missing"},
		"no device":   {map[string]string{"type": "ext4"}, "driver_opts.device is missing"},
		"relative":    {map[string]string{"o": "bind", "device": "./x"}, "must be an absolute path"},
		"unknown":     {map[string]string{"typ": "tmpfs"}, "there is no driver_opts.typ"},
		"size":        {map[string]string{"size": "1g"}, "driver_opts.size is not supported"},
		"bind option": {map[string]string{"o": "bind,size=3", "device": "/x"}, `option "size=3" does not go with bind`},
	} {
		d, err := parseDriverOpts(c.opts)
		var got string
		switch {
		case err != nil:
			got = err.Error()
		case d.empty():
			got = "plain"
		case d.bind:
			got = fmt.Sprintf("bind %s attrs=%d", d.fs.source, d.fs.attrs)
		default:
			got = map[bool]string{true: "per use", false: "pinned"}[d.perUse()] + fmt.Sprintf(" %s %s %v attrs=%d", d.fs.kind, d.fs.source, d.fs.data, d.fs.attrs)
			if d.host != "" {
				got += " host=" + d.host
			}
		}
		if got != c.want && (err == nil || !strings.Contains(got, c.want)) {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

func TestTmpfsOptions(t *testing.T) {
	const dflt = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
	for name, c := range map[string]struct {
		m     Mount
		mode  uint32
		data  string
		attrs int
	}{
		"plain":          {Mount{}, 0, "mode=1777", dflt},
		"over directory": {Mount{}, 0o750, "mode=750", dflt},
		"asked":          {Mount{Mode: 0o700, Size: 4096, Options: []string{"uid=3", "exec"}}, 0o750, "uid=3 size=4096 mode=700", dflt &^ unix.MOUNT_ATTR_NOEXEC},
		"mode option":    {Mount{Options: []string{"mode=1770", "ro"}}, 0o750, "mode=1770", dflt | unix.MOUNT_ATTR_RDONLY},
	} {
		fs, err := tmpfsOptions(c.m, c.mode)
		if got := strings.Join(fs.data, " "); err != nil || got != c.data || fs.attrs != c.attrs {
			t.Errorf("%s: %q %#x %v", name, got, fs.attrs, err)
		}
	}
	if _, err := tmpfsOptions(Mount{Options: []string{"sise=3"}}, 0); err == nil {
		t.Error("an unknown option passed")
	}
}
