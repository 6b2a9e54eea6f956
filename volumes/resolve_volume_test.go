package volumes

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/volumes/copytree"
)

func TestANamedVolumeIsFilledFromTheImageOnce(t *testing.T) {
	needRoot(t)
	s := openStore(t)
	image := func() *os.File {
		root := rootFS(t, "data/sub/", "data/a=image", "data/sub/b=deep")
		data := filepath.Join(mountPath(root), "data")
		for path, id := range map[string]int{data: 70, data + "/a": 71} {
			if err := os.Chown(path, id, id+1); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(unix.Chmod(data, 0o1750), os.Symlink("a", data+"/l"), os.Link(data+"/a", data+"/h"),
			unix.Mkfifo(data+"/p", 0o640), unix.Chmod(data+"/a", 0o4755)); err != nil {
			t.Fatal(err)
		}
		return root
	}
	create(t, s, Spec{Name: "db"})
	req := Request{Mounts: []Mount{{Type: TypeVolume, Source: "db", Target: "/data"}}, RootFS: image()}
	inContainer(t, req.RootFS, resolve(t, s, req), func(root string) {
		data := root + "/data"
		if got := perms(t, data); got != "1750 70:71" {
			t.Errorf("volume root is %s", got)
		}
		if got := perms(t, data+"/a"); got != "4755 71:72" {
			t.Errorf("a is %s", got)
		}
		if read(t, data+"/l") != "image" || read(t, data+"/sub/b") != "deep" {
			t.Error("content differs")
		}
		a, _ := os.Stat(data + "/a")
		h, _ := os.Stat(data + "/h")
		if !os.SameFile(a, h) {
			t.Error("the hard link was not kept")
		}
		if err := os.Remove(data + "/a"); err != nil {
			t.Error(err)
		}
		write(t, data+"/mine", "kept")
	})
	v, _ := s.Get("db")
	if !v.Seeded || v.Seeding {
		t.Errorf("after the copy: %+v", v)
	}
	req.RootFS = image()
	inContainer(t, req.RootFS, resolve(t, s, req), func(root string) {
		if read(t, root+"/data/mine") != "kept" {
			t.Error("data is lost")
		}
		if _, err := os.Stat(root + "/data/a"); err == nil {
			t.Error("a seeded volume was filled again")
		}
	})
}

func TestAnEmptiedVolumeIsNotFilledAgainAndAFilledOneNotAtAll(t *testing.T) {
	needRoot(t)
	s := openStore(t)
	filled := create(t, s, Spec{Name: "filled"})
	write(t, filled.Mountpoint+"/own", "x")
	root := rootFS(t, "data/a=image")
	for _, m := range []Mount{
		{Type: TypeVolume, Source: "filled", Target: "/data"},
		{Type: TypeVolume, Source: "nocopy", Target: "/data", NoCopy: true},
		{Type: TypeVolume, Source: "elsewhere", Target: "/none"},
	} {
		resolve(t, s, Request{Mounts: []Mount{m}, RootFS: root})
		v, err := s.Get(m.Source)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(v.Mountpoint + "/a"); err == nil || v.Seeded {
			t.Errorf("%s was filled: %+v", m.Source, v)
		}
	}
}

func TestAnInterruptedCopyIsDoneAgain(t *testing.T) {
	needRoot(t)
	s := openStore(t)
	calls := 0
	s.opts.CopyUp = func(ctx context.Context, src *os.File, dst string) error {
		if calls++; calls == 1 {
			write(t, dst+"/a", "ha") // half of it
			if err := os.Mkdir(dst+"/sub", 0o700); err != nil {
				return err
			}
			return errors.New("no space left on device")
		}
		return copytree.Copy(ctx, src, dst)
	}
	req := Request{Mounts: []Mount{{Type: TypeVolume, Source: "db", Target: "/data", Origin: "compose.yaml:9"}}, RootFS: rootFS(t, "data/a=half", "data/sub/b=x")}
	_, err := s.Resolve(t.Context(), req)
	if err == nil || !strings.Contains(err.Error(), "no space left") || !strings.HasPrefix(err.Error(), "compose.yaml:9: ") {
		t.Fatalf("first: %v", err)
	}
	resolve(t, s, req)
	v, _ := s.Get("db")
	if got := read(t, v.Mountpoint+"/a"); got != "half" || !v.Seeded || v.Seeding {
		t.Errorf("a = %q, %+v", got, v)
	}
}

func TestAnonymousVolumes(t *testing.T) {
	needRoot(t)
	s := openStore(t)
	root := rootFS(t, "cache/x=1")
	req := Request{Project: "shop", Mounts: []Mount{{Type: TypeVolume, Target: "/a", Labels: map[string]string{"tier": "cache"}}}, ImageVolumes: []string{"/cache", "/a"}, RootFS: root}
	first := resolve(t, s, req)
	if len(first.Anonymous) != 2 || len(first.Mounts) != 2 {
		t.Fatalf("%+v", first)
	}
	v, err := s.Get(first.Anonymous["/cache"])
	if err != nil || !v.Anonymous || v.Project != "shop" || len(v.Name) != 64 || read(t, v.Mountpoint+"/x") != "1" {
		t.Errorf("%+v %v", v, err)
	}
	if a, err := s.Get(first.Anonymous["/a"]); err != nil || a.Labels["tier"] != "cache" || !hasKey(a.Labels, AnonymousLabel) {
		t.Errorf("%+v %v", a, err)
	}
	req.Anonymous = first.Anonymous
	if again := resolve(t, s, req); again.Anonymous["/cache"] != first.Anonymous["/cache"] {
		t.Errorf("the volume was not used again: %v", again.Anonymous)
	}
	// A failure takes back what it made, and only that.
	req.Anonymous = nil
	req.Mounts = append(req.Mounts, Mount{Type: TypeBind, Source: "/nonexistent/x", Target: "/b/b"})
	if _, err := s.Resolve(t.Context(), req); err == nil {
		t.Fatal("no error")
	}
	if list, _ := s.List(); len(list) != 2 {
		t.Errorf("%d volumes, want 2", len(list))
	}
}

func hasKey(m map[string]string, key string) bool { _, ok := m[key]; return ok }

func TestSubpathStaysInsideTheVolume(t *testing.T) {
	needRoot(t)
	s := openStore(t)
	v := create(t, s, Spec{Name: "v"})
	if err := errors.Join(os.MkdirAll(v.Mountpoint+"/a/b", 0o755), os.Symlink("/etc", v.Mountpoint+"/etc"), os.Symlink("/a/b", v.Mountpoint+"/link")); err != nil {
		t.Fatal(err)
	}
	write(t, v.Mountpoint+"/a/b/f", "sub")
	mount := func(subpath, target string) Request {
		return Request{Mounts: []Mount{{Type: TypeVolume, Source: "v", Target: target, Subpath: subpath, ReadOnly: true}}, RootFS: rootFS(t)}
	}
	for _, subpath := range []string{"a/b", "link", "./a/../a/b/"} {
		req := mount(subpath, "/x")
		inContainer(t, req.RootFS, resolve(t, s, req), func(root string) {
			if read(t, root+"/x/f") != "sub" || mountFlags(t, root+"/x") != "ro" {
				t.Errorf("%s: wrong mount", subpath)
			}
		})
	}
	req := mount("a/b/f", "/x/f")
	if r := resolve(t, s, req); !r.Mounts[0].IsFile {
		t.Error("the file is not known to be one")
	}
	for _, subpath := range []string{"etc", "none", "a/b/f/g", "..", "../../a/b", "a/../..", "/", "/a/b"} {
		if _, err := s.Resolve(t.Context(), mount(subpath, "/x")); err == nil {
			t.Errorf("%s was mounted", subpath)
		}
	}
}

func TestDriverOptions(t *testing.T) {
	needRoot(t)
	s := openStore(t)
	host := t.TempDir()
	write(t, host+"/f", "host")
	create(t, s, Spec{Name: "bound", DriverOpts: map[string]string{"type": "none", "o": "bind,ro", "device": host}})
	create(t, s, Spec{Name: "mem", DriverOpts: map[string]string{"type": "tmpfs", "device": "tmpfs", "o": "size=1m,uid=7,nodev"}})
	create(t, s, Spec{Name: "bad", DriverOpts: map[string]string{"type": "tmpfs", "device": "tmpfs", "o": "size=much"}})
	create(t, s, Spec{Name: "nofs", DriverOpts: map[string]string{"type": "zfs9", "device": "pool/x"}})
	create(t, s, Spec{Name: "gone", DriverOpts: map[string]string{"o": "bind", "device": "/nonexistent/dir"}})
	mount := func(name string) Request {
		return Request{Mounts: []Mount{{Type: TypeVolume, Source: name, Target: "/m"}}, RootFS: rootFS(t, "m/seed=image")}
	}
	req := mount("bound")
	inContainer(t, req.RootFS, resolve(t, s, req), func(root string) {
		if read(t, root+"/m/f") != "host" || mountFlags(t, root+"/m") != "ro" {
			t.Error("bind volume is wrong")
		}
	})
	first, second := mount("mem"), mount("mem")
	a, b := resolve(t, s, first), resolve(t, s, second)
	inContainer(t, first.RootFS, a, func(root string) {
		if read(t, root+"/m/seed") != "image" || mountFlags(t, root+"/m") != "nodev" {
			t.Errorf("tmpfs volume is wrong: %s", mountFlags(t, root+"/m"))
		}
		write(t, root+"/m/shared", "yes")
	})
	inContainer(t, second.RootFS, b, func(root string) {
		if read(t, root+"/m/shared") != "yes" {
			t.Error("two users of one tmpfs volume do not see the same files")
		}
	})
	if err := s.Release(t.Context(), func(name string) bool { return name == "mem" }); err != nil {
		t.Fatal(err)
	}
	if on, _ := isMountRoot(s.pinPath("mem")); !on {
		t.Error("a used volume was released")
	}
	if err := s.Release(t.Context(), func(string) bool { return false }); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(s.pinRoot()); !os.IsNotExist(err) {
		t.Errorf("left behind: %v", err)
	}
	// Once more, removed while pinned.
	resolve(t, s, mount("mem"))
	if err := s.Remove(t.Context(), "mem", nil); err != nil {
		t.Fatal(err)
	}
	if on, _ := isMountRoot(s.pinPath("mem")); on {
		t.Error("a removed volume is still mounted")
	}
	for name, want := range map[string]string{"bad": "size", "nofs": `no filesystem "zfs9"`, "gone": `"/nonexistent/dir" does not exist`} {
		if _, err := s.Resolve(t.Context(), mount(name)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAVolumeBeingFilledCannotBeRemoved(t *testing.T) {
	needRoot(t)
	s := openStore(t)
	s.opts.CopyUp = func(ctx context.Context, src *os.File, dst string) error {
		var used *InUseError
		if err := s.Remove(ctx, "v", nil); !errors.As(err, &used) {
			t.Errorf("remove during the copy: %v", err)
		}
		return copytree.Copy(ctx, src, dst)
	}
	resolve(t, s, Request{RootFS: rootFS(t, "d/f=x"), Mounts: []Mount{{Type: TypeVolume, Source: "v", Target: "/d"}}})
	if err := s.Remove(t.Context(), "v", nil); err != nil {
		t.Error(err)
	}
}

func TestRemoveLeavesForeignMountsAlone(t *testing.T) {
	needRoot(t)
	s := openStore(t)
	v := create(t, s, Spec{Name: "v"})
	precious := rootFS(t, "f=precious")
	if err := os.Mkdir(v.Mountpoint+"/m", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.MoveMount(int(precious.Fd()), "", unix.AT_FDCWD, v.Mountpoint+"/m", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		t.Fatal(err)
	}
	err := s.Remove(t.Context(), "v", nil)
	if err == nil || !strings.Contains(err.Error(), "something is mounted at") {
		t.Errorf("remove: %v", err)
	}
	if read(t, mountPath(precious)+"/f") != "precious" {
		t.Error("a mounted filesystem was emptied")
	}
	if _, err := s.Get("v"); err != nil {
		t.Errorf("the volume is gone: %v", err)
	}
	if err := unix.Unmount(v.Mountpoint+"/m", unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(t.Context(), "v", nil); err != nil {
		t.Error(err)
	}
}
