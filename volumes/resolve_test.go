package volumes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestBinds(t *testing.T) {
	needRoot(t)
	s := openStore(t)
	host := t.TempDir()
	if err := os.MkdirAll(host+"/d/sub", 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, host+"/f", "file")
	sub, err := filesystem{kind: "tmpfs", source: "tmpfs"}.mount()
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	if err := unix.MoveMount(int(sub.Fd()), "", unix.AT_FDCWD, host+"/d/sub", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(host+"/d/sub", unix.MNT_DETACH)
	bind := func(target, options string, readOnly bool) Mount {
		return Mount{Type: TypeBind, Source: host + "/d", Target: target, ReadOnly: readOnly, Recursive: options}
	}
	root := rootFS(t, "etc/f=image")
	r := resolve(t, s, Request{RootFS: root, Mounts: []Mount{
		bind("/rw", "", false), bind("/ro", "", true), bind("/writable", "writable", true), bind("/flat", "disabled", false),
		{Type: TypeBind, Source: host + "/f", Target: "/etc/f", ReadOnly: true},
		{Type: TypeBind, Source: host + "/f", Target: "/new/f"},
	}})
	inContainer(t, root, r, func(root string) {
		for path, want := range map[string]string{"/rw": "", "/rw/sub": "", "/ro": "ro", "/ro/sub": "ro", "/writable": "ro", "/writable/sub": "", "/etc/f": "ro", "/new/f": ""} {
			if got := mountFlags(t, root+path); got != want {
				t.Errorf("%s: flags %q, want %q", path, got, want)
			}
		}
		if on, _ := isMountRoot(root + "/flat/sub"); on {
			t.Error("recursive: disabled brought a submount")
		}
		if read(t, root+"/etc/f") != "file" || read(t, root+"/new/f") != "file" {
			t.Error("file binds differ")
		}
		table := read(t, "/proc/thread-self/mountinfo")
		if strings.Contains(table, "shared:") && strings.Contains(table, root+"/rw") && strings.Contains(line(table, root+"/rw"), "shared:") {
			t.Error("a bind is shared by default")
		}
	})
	if flags := mountFlags(t, host+"/d"); flags != "" {
		t.Errorf("the host's mount changed: %s", flags)
	}
}

func line(table, mountpoint string) string {
	for l := range strings.Lines(table) {
		if f := strings.Fields(l); len(f) > 4 && f[4] == mountpoint {
			return l
		}
	}
	return ""
}

func TestPropagation(t *testing.T) {
	needRoot(t)
	s := openStore(t)
	host := t.TempDir()
	base, err := filesystem{kind: "tmpfs", source: "tmpfs"}.mount()
	if err != nil {
		t.Fatal(err)
	}
	defer base.Close()
	if err := unix.MoveMount(int(base.Fd()), "", unix.AT_FDCWD, host, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(host, unix.MNT_DETACH)
	if err := unix.Mount("", host, "", unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	request := func(prop string) Request {
		return Request{RootFS: rootFS(t), Mounts: []Mount{{Type: TypeBind, Source: host, Target: "/m", Propagation: prop}}}
	}
	for _, prop := range []string{"rshared", "rslave"} {
		if _, err := s.Resolve(t.Context(), request(prop)); err == nil || !strings.Contains(err.Error(), "mount --make-shared "+host) {
			t.Errorf("%s of a private mount: %v", prop, err)
		}
	}
	if _, err := s.Resolve(t.Context(), request("both")); err == nil {
		t.Error("an unknown propagation passed")
	}
	if err := unix.Mount("", host, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	for prop, want := range map[string]string{"": "", "private": "", "rslave": "master:", "rshared": "shared:"} {
		req := request(prop)
		inContainer(t, req.RootFS, resolve(t, s, req), func(root string) {
			got := line(read(t, "/proc/thread-self/mountinfo"), root+"/m")
			for _, field := range []string{"shared:", "master:"} {
				if strings.Contains(got, field) != (field == want) {
					t.Errorf("propagation %q: %s", prop, got)
				}
			}
			if want == "" {
				return
			}
			// What the host mounts now is seen in the container.
			inside, err := filesystem{kind: "tmpfs", source: "tmpfs"}.mount()
			if err != nil {
				t.Error(err)
				return
			}
			defer inside.Close()
			done := make(chan error)
			go func() { // another thread: the host's namespace
				err := os.MkdirAll(host+"/in", 0o755)
				done <- errors.Join(err, unix.MoveMount(int(inside.Fd()), "", unix.AT_FDCWD, host+"/in", unix.MOVE_MOUNT_F_EMPTY_PATH))
			}()
			if err := <-done; err != nil {
				t.Error(err)
			}
			if on, _ := isMountRoot(root + "/m/in"); !on {
				t.Errorf("%s: the host's mount did not propagate", prop)
			}
			go func() { done <- unix.Unmount(host+"/in", unix.MNT_DETACH) }()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

func TestBindSources(t *testing.T) {
	needRoot(t)
	s := openStore(t)
	host := t.TempDir()
	if err := errors.Join(os.Chown(host, 1000, 1001), os.Mkdir(host+"/d", 0o755), os.Symlink("nowhere", host+"/dangling")); err != nil {
		t.Fatal(err)
	}
	write(t, host+"/f", "x")
	root := rootFS(t, "etc/conf=1", "srv/")
	at := func(source, target string, createPath bool) Request {
		return Request{RootFS: root, UID: 33, GID: 34, Mounts: []Mount{{Type: TypeBind, Source: source, Target: target, CreateHostPath: createPath, Origin: "compose.yaml:12: services.web.volumes[0]"}}}
	}
	for name, c := range map[string]struct {
		req  Request
		want string
	}{
		"missing":          {at(host+"/x", "/srv", false), `bind source "` + host + `/x" does not exist; create it`},
		"missing file":     {at(host+"/app.conf", "/etc/app.conf", true), `its name is that of a file`},
		"target is a file": {at(host+"/x", "/etc/conf", true), `/etc/conf is a file in the container`},
		"dir on file":      {at(host+"/d", "/etc/conf", false), "the source is a directory, but /etc/conf is a file"},
		"file on dir":      {at(host+"/f", "/srv", false), "the source is a file, but /srv is a directory"},
		"dangling":         {at(host+"/dangling", "/srv", true), `is a symbolic link to "nowhere"`},
		"below a file":     {at(host+"/f/x", "/srv", true), "not a directory"},
		"relative":         {at("x", "/srv", true), "is not an absolute path"},
	} {
		_, err := s.Resolve(t.Context(), c.req)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "compose.yaml:12: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if entries, _ := os.ReadDir(host); len(entries) != 3 {
		t.Errorf("an error left something: %v", entries)
	}
	r := resolve(t, s, at(host+"/new/data", "/srv", true))
	if len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "created host directory") {
		t.Errorf("notes: %v", r.Notes)
	}
	if a, b := perms(t, host+"/new"), perms(t, host+"/new/data"); a != "0755 1000:1001" || b != "0755 33:34" {
		t.Errorf("created directories are %s and %s", a, b)
	}
}

func TestTmpfs(t *testing.T) {
	needRoot(t)
	s := openStore(t)
	root := rootFS(t, "run/", "file=x")
	if err := os.Chmod(mountPath(root)+"/run", 0o750); err != nil {
		t.Fatal(err)
	}
	r := resolve(t, s, Request{RootFS: root, Mounts: []Mount{
		{Type: TypeTmpfs, Target: "/run"}, {Type: TypeTmpfs, Target: "/none"},
		{Type: TypeTmpfs, Target: "/sized", Size: 1 << 20, Mode: 0o700, Options: []string{"uid=5", "gid=6", "exec"}},
	}})
	inContainer(t, root, r, func(root string) {
		for path, want := range map[string]string{"/run": "0750 0:0", "/none": "1777 0:0", "/sized": "0700 5:6"} {
			if got := perms(t, root+path); got != want {
				t.Errorf("%s is %s, want %s", path, got, want)
			}
		}
		if a, b := mountFlags(t, root+"/run"), mountFlags(t, root+"/sized"); a != "nosuid,nodev,noexec" || b != "nosuid,nodev" {
			t.Errorf("flags %q and %q", a, b)
		}
		var st unix.Statfs_t
		if err := unix.Statfs(root+"/sized", &st); err != nil || st.Blocks*uint64(st.Bsize) != 1<<20 {
			t.Errorf("size %d %v", st.Blocks*uint64(st.Bsize), err)
		}
	})
	for _, m := range []Mount{
		{Type: TypeTmpfs, Target: "/file"}, {Type: TypeTmpfs, Target: "/x", Options: []string{"size=lots"}}, {Type: TypeTmpfs, Target: "/x", Options: []string{"colour=red"}},
	} {
		if _, err := s.Resolve(t.Context(), Request{RootFS: rootFS(t, "file=x"), Mounts: []Mount{m}}); err == nil {
			t.Errorf("%+v passed", m)
		} else {
			t.Log(err)
		}
	}
}

func TestFilesAreReadOnlyAndOwnedAsAsked(t *testing.T) {
	needRoot(t)
	s := openStore(t)
	mounts := []Mount{
		{Type: TypeFile, Target: "/run/secrets/key", Content: []byte("s3cret"), UID: "103", GID: "104", Mode: 0o400},
		{Type: TypeFile, Target: "/etc/app.conf", Content: []byte("a=1\n")},
		{Type: TypeFile, Target: "/etc/empty", Content: []byte{}},
	}
	check := func(root string) {
		if got := perms(t, root+"/run/secrets/key"); got != "0400 103:104" {
			t.Errorf("key is %s", got)
		}
		if got := perms(t, root+"/etc/app.conf"); got != "0444 0:0" {
			t.Errorf("app.conf is %s", got)
		}
		if read(t, root+"/run/secrets/key") != "s3cret" || read(t, root+"/etc/app.conf") != "a=1\n" || read(t, root+"/etc/empty") != "" {
			t.Error("content differs")
		}
		if got := mountFlags(t, root+"/etc/app.conf"); got != "ro,nosuid,nodev,noexec" {
			t.Errorf("flags %s", got)
		}
		if err := os.WriteFile(root+"/etc/app.conf", []byte("x"), 0o644); !errors.Is(err, unix.EROFS) {
			t.Errorf("writing: %v", err)
		}
	}
	root := rootFS(t, "etc/app.conf=image")
	inContainer(t, root, resolve(t, s, Request{RootFS: root, Mounts: mounts}), check)

	for name, m := range map[string]Mount{
		"no content": {Type: TypeFile, Target: "/x", ContentDigest: "sha256:00"},
		"user name":  {Type: TypeFile, Target: "/x", Content: []byte("x"), UID: "www"},
		"directory":  {Type: TypeFile, Target: "/etc", Content: []byte("x")},
	} {
		if _, err := s.Resolve(t.Context(), Request{RootFS: rootFS(t, "etc/"), Mounts: []Mount{m}}); err == nil {
			t.Errorf("%s passed", name)
		}
	}
}

// Kernels before 6.15 cannot clone from a detached mount.
func TestCloneOnOlderKernels(t *testing.T) {
	needRoot(t)
	tree := rootFS(t, "a=1", "d/f=2")
	clones, err := cloneAttached(tree, []string{"a", "d"})
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(clones)
	root := rootFS(t)
	inContainer(t, root, &Resolved{Mounts: []ResolvedMount{{Target: "/a", FD: clones[0], IsFile: true}, {Target: "/d", FD: clones[1]}}}, func(root string) {
		if read(t, root+"/a") != "1" || read(t, root+"/d/f") != "2" {
			t.Error("content differs")
		}
	})
}

func TestNestedMountsAndImages(t *testing.T) {
	needRoot(t)
	s := openStore(t)
	s.opts.ImageView = func(_ context.Context, ref string, _ *os.File) (*os.File, error) {
		if ref != "tools:1" {
			return nil, fmt.Errorf("image %q does not exist; pull it first", ref)
		}
		return rootFS(t, "bin/tool=x", "share/doc=y"), nil
	}
	host := t.TempDir()
	write(t, host+"/f", "host")
	v := create(t, s, Spec{Name: "v"})
	if err := os.Mkdir(v.Mountpoint+"/f", 0o755); err != nil {
		t.Fatal(err)
	}
	file := Mount{Type: TypeBind, Source: host + "/f", Target: "/v/f"}
	vol := Mount{Type: TypeVolume, Source: "v", Target: "/v"}
	if _, err := s.Resolve(t.Context(), Request{RootFS: rootFS(t), Mounts: []Mount{file, vol}}); err == nil || !strings.Contains(err.Error(), "/v/f is a directory") {
		t.Errorf("a file over a directory in a volume: %v", err)
	}
	if err := os.Remove(v.Mountpoint + "/f"); err != nil {
		t.Fatal(err)
	}
	root := rootFS(t)
	r := resolve(t, s, Request{RootFS: root, Mounts: []Mount{file, vol,
		{Type: TypeImage, Source: "tools:1", Target: "/opt"}, {Type: TypeImage, Source: "tools:1", Target: "/doc", Subpath: "share"}}})
	var order []string
	for _, m := range r.Mounts {
		order = append(order, m.Target)
	}
	if !slices.Equal(order, []string{"/v", "/opt", "/doc", "/v/f"}) {
		t.Errorf("order %v", order)
	}
	inContainer(t, root, r, func(root string) {
		if read(t, root+"/v/f") != "host" || read(t, root+"/opt/bin/tool") != "x" || read(t, root+"/doc/doc") != "y" {
			t.Error("content differs")
		}
		if mountFlags(t, root+"/opt") != "ro" || mountFlags(t, root+"/doc") != "ro" {
			t.Error("an image is writable")
		}
	})
	_, err := s.Resolve(t.Context(), Request{RootFS: rootFS(t), Mounts: []Mount{{Type: TypeImage, Source: "none", Target: "/x"}}})
	if err == nil || !strings.Contains(err.Error(), "pull it first") {
		t.Errorf("missing image: %v", err)
	}
}
