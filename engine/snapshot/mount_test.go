package snapshot

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/internal/inode"
	"github.com/stack-run/stack/internal/thread"
)

func TestManyLayers(t *testing.T) {
	needRoot(t)
	s := store(t)
	var archives [][]byte
	for i := range 130 {
		archives = append(archives, archiveOf(t, dir("d", 0), file(fmt.Sprintf("d/%03d", i), fmt.Sprint(i)), file("last", fmt.Sprint(i))))
	}
	layers := unpack(t, s, archives...)
	for _, classic := range []bool{false, true} {
		t.Run(fmt.Sprintf("classic=%v", classic), func(t *testing.T) {
			s.noAppend.Store(classic)
			id := fmt.Sprintf("many-%v", classic)
			root := container(t, s, id, layers)
			if got := strings.Fields(list(t, root+"/d")); len(got) != 130 {
				t.Errorf("%d files of 130", len(got))
			}
			if got := read(t, root+"/last"); got != "129" {
				t.Errorf("last is %s", got)
			}
			if err := os.WriteFile(root+"/d/000", []byte("changed"), 0o644); err != nil {
				t.Fatal(err)
			}
			f, err := s.View(layers, nil)
			view := mounted(t, f, err)
			if got := read(t, view+"/d/000"); got != "0" {
				t.Errorf("the image now has %q", got)
			}
		})
	}
}

func TestMountIsDetachedAndLeavesNothing(t *testing.T) {
	needRoot(t)
	s := store(t)
	layers := unpack(t, s, archiveOf(t, file("f", "f")))
	mounts := func() string { return read(t, "/proc/self/mountinfo") }
	before := mounts()
	for _, classic := range []bool{false, true} {
		s.noAppend.Store(classic)
		id := fmt.Sprintf("c-%v", classic)
		root := container(t, s, id, layers)
		if err := os.WriteFile(root+"/g", nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if got := mounts(); got != before {
			t.Errorf("classic=%v: the mount shows:\n%s", classic, got)
		}
		f, err := s.Mount(id, MountOptions{ReadOnly: true})
		if err != nil {
			t.Fatalf("second mount of one writable layer: %v", err)
		}
		readOnly := mounted(t, f, nil)
		if err := os.WriteFile(readOnly+"/h", nil, 0o644); !errors.Is(err, unix.EROFS) {
			t.Errorf("classic=%v: writing to a read-only mount: %v", classic, err)
		}
		// It can be put where its user wants it.
		at := t.TempDir()
		if err := unix.MoveMount(int(f.Fd()), "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			t.Fatal(err)
		}
		if got := own(t, at); got != "f g" {
			t.Errorf("classic=%v: attached, it contains %q", classic, got)
		}
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}
}

func TestPathsThatOverlayfsMisreads(t *testing.T) {
	needRoot(t)
	root := filepath.Join(t.TempDir(), `a:b,c\d`, strings.Repeat("long", 60))
	if err := os.MkdirAll(root, 0o755); err != nil {
		t.Fatal(err)
	}
	s, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	layers := unpack(t, s, archiveOf(t, file("f", "f")), archiveOf(t, file("g", "g")))
	for _, classic := range []bool{false, true} {
		s.noAppend.Store(classic)
		at := container(t, s, fmt.Sprintf("c-%v", classic), layers)
		if got := own(t, at); got != "f g" {
			t.Errorf("classic=%v: %q", classic, got)
		}
		if err := os.WriteFile(at+"/h", nil, 0o644); err != nil {
			t.Error(err)
		}
	}
}

func TestImageWithoutLayers(t *testing.T) {
	needRoot(t)
	s := store(t)
	root := container(t, s, "c", nil)
	if err := os.WriteFile(root+"/f", []byte("f"), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := s.View(nil, nil)
	if got := list(t, mounted(t, f, err)); got != "" {
		t.Errorf("view contains %q", got)
	}
}

func BenchmarkMount(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("needs root")
	}
	for _, n := range []int{1, 8, 130} {
		b.Run(fmt.Sprintf("layers=%d", n), func(b *testing.B) {
			s := store(b)
			var archives [][]byte
			for i := range n {
				archives = append(archives, archiveOf(b, file(fmt.Sprint(i), "")))
			}
			if err := s.Prepare(b.Context(), "c", unpack(b, s, archives...)); err != nil {
				b.Fatal(err)
			}
			var mounting time.Duration
			for b.Loop() {
				start := time.Now()
				f, err := s.Mount("c", MountOptions{})
				if err != nil {
					b.Fatal(err)
				}
				mounting += time.Since(start)
				f.Close() // unmounting waits for an RCU grace period
			}
			b.ReportMetric(float64(mounting.Nanoseconds())/float64(b.N), "ns/mount")
		})
	}
}

func TestCommonDir(t *testing.T) {
	for _, test := range []struct {
		dirs []string
		want string
	}{
		{[]string{"/a/b"}, "/a/b"},
		{[]string{"/a/b", "/a/b"}, "/a/b"},
		{[]string{"/a/b/c", "/a/b"}, "/a/b"},
		{[]string{"/a/b", "/a/bc"}, "/a"},
		{[]string{"/a/b/c/d", "/a/x", "/a/b/c"}, "/a"},
		{[]string{"/a", "/b"}, "/"},
		{[]string{"/", "/b"}, "/"},
		{[]string{"/b", "/"}, "/"},
	} {
		if got := commonDir(test.dirs); got != test.want {
			t.Errorf("commonDir(%q) = %q, want %q", test.dirs, got, test.want)
		}
	}
}

func TestLacksAppend(t *testing.T) {
	for release, want := range map[string]bool{
		"6.1.0-56-cloud-amd64": true, "5.15.0": true, "6.6.30": true,
		"6.7.0": false, "6.18.44-fc-v657": false, "7.0": false, "": false, "odd": false,
	} {
		if got := lacksAppend(release); got != want {
			t.Errorf("lacksAppend(%q) = %v, want %v", release, got, want)
		}
	}
}

// In a user namespace the owners are what they are on disk, and elsewhere nobody's.
func TestMountForAUserNamespace(t *testing.T) {
	needRoot(t)
	const base = 1 << 29
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: base, Size: 1 << 16}}
	holder := exec.Command("sleep", "infinity")
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { holder.Process.Kill(); holder.Wait() })
	userNS, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", holder.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	defer userNS.Close()
	owner := func(path string) int {
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			t.Fatal(err)
		}
		return int(st.Uid)
	}
	for i, test := range []struct {
		attached, apart bool // mounts of layers; layers on a mount of their own
	}{{}, {attached: true}, {apart: true}, {attached: true, apart: true}} {
		s := store(t)
		s.noDetached.Store(test.attached)
		layers := unpack(t, s, archiveOf(t, file("f", "f")), archiveOf(t, file("g", "g")))
		if test.apart {
			if err := unix.Mount(s.layers, s.layers, "", unix.MS_BIND, ""); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { unix.Unmount(s.layers, unix.MNT_DETACH) })
		}
		id := fmt.Sprint("c", i)
		if err := s.Prepare(t.Context(), id, layers); err != nil {
			t.Fatal(err)
		}
		dir, st, err := s.lower(id)
		if err != nil {
			t.Fatal(err)
		}
		o := s.containerOverlay(st)
		o.upper = dir + "/upper"
		if base := o.base(); (base == "") != test.apart {
			t.Errorf("%+v: all layers are mapped by %q", test, base)
		}
		f, err := s.Mount(id, MountOptions{UserNS: userNS, Root: base})
		root := mounted(t, f, err)
		if got := owner(root + "/f"); got != base {
			t.Errorf("%+v: the file belongs to %d", test, got)
		}
		if err := os.WriteFile(root+"/nobodys", nil, 0o644); !errors.Is(err, unix.EOVERFLOW) {
			t.Errorf("%+v: the host's root made a file: %v", test, err)
		}
		thread.Own(func() {
			if err = inode.MakeFilesOf(base); err == nil {
				err = errors.Join(os.WriteFile(root+"/made", nil, 0o644), os.Remove(root+"/f"), os.Rename(root+"/g", root+"/h"))
			}
		})
		if err != nil {
			t.Errorf("%+v: %v", test, err)
		}
		upper, err := s.upper(id)
		if err != nil {
			t.Fatal(err)
		}
		if got := owner(upper + "/made"); got != 0 {
			t.Errorf("%+v: on disk the file belongs to %d", test, got)
		}
		view, err := s.ViewContainer(id)
		if got := own(t, mounted(t, view, err)); got != "h made" {
			t.Errorf("%+v: without the user namespace there is %q", test, got)
		}
	}
}
