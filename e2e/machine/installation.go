package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// An Installation is a stack of its own: a data root and a run root in one directory.
type Installation struct {
	Root string
}

// DataRoot is where the installation keeps what survives a reboot.
func (i Installation) DataRoot() string { return filepath.Join(i.Root, "data") }

// RunRoot is where the installation keeps what does not.
func (i Installation) RunRoot() string { return filepath.Join(i.Root, "run") }

// Environ is the environment of the installation's commands.
func (i Installation) Environ() []string {
	env := []string{
		"STACK_DATA_ROOT=" + i.DataRoot(), "STACK_RUN_ROOT=" + i.RunRoot(),
		"HOME=" + i.Root, "LANG=C.UTF-8", "NO_COLOR=1",
	}
	for _, k := range []string{"PATH", "GOFLAGS", "GOPROXY", "GOTOOLCHAIN", "GORACE"} {
		if v, ok := os.LookupEnv(k); ok {
			env = append(env, k+"="+v)
		}
	}
	return env
}

// Take looks at the kernel and at the installation's directories.
func (i Installation) Take() (*Snapshot, error) { return Take(append(Kernel(), i.Files)...) }

// Files lists the run root, and the containers, volumes and networks of the
// data root. Images stay, and so do empty directories that hold kinds of things.
func (i Installation) Files(add func(string, ...any)) error {
	for _, root := range []string{i.RunRoot(), i.DataRoot()} {
		err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			rel := strings.TrimPrefix(p, i.Root+"/")
			if d.IsDir() {
				if ImageStore(rel) {
					return fs.SkipDir
				}
				return nil
			}
			add("file %s", rel)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// ImageStore reports whether a directory of the data root belongs to images.
func ImageStore(rel string) bool {
	switch rel {
	case "data/images", "data/content", "data/layers", "data/snapshots", "data/blobs":
		return true
	}
	return false
}

// Clear takes away what was not there before, and leaves the directories: what a
// power failure takes, but for the run root.
func (i Installation) Clear(before *Snapshot) error {
	return errors.Join(killSince(before), unmountBelow(i.Root), deleteNetwork(before), deleteCgroups(before))
}

// killSince kills every process that was not there before. The pid namespace is
// the tests' own, so they all belong to the installation.
func killSince(before *Snapshot) error {
	deadline := time.Now().Add(5 * time.Second)
	pause := time.NewTicker(10 * time.Millisecond)
	defer pause.Stop()
	for {
		pids, err := PIDs()
		if err != nil {
			return err
		}
		left := ""
		for _, pid := range pids {
			p, err := ReadProc(pid)
			if err != nil || p.Ours() || before.Has(p.Line()) {
				continue
			}
			left = p.Line()
			unix.Kill(pid, unix.SIGKILL) // may have ended by itself
		}
		if left == "" {
			return nil
		}
		if time.Now().After(deadline) {
			return errors.New("cannot end " + left)
		}
		<-pause.C
	}
}

// deleteCgroups removes control groups that were not there before, inner ones first.
func deleteCgroups(before *Snapshot) error {
	now, err := Take(Cgroups)
	if err != nil {
		return err
	}
	for _, l := range slices.Backward(now.Since(before)) {
		os.Remove(CgroupRoot + strings.TrimPrefix(l, "cgroup "))
	}
	return nil
}

func unmountBelow(root string) error {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range slices.Backward(strings.Split(string(b), "\n")) {
		if f := strings.Fields(l); len(f) > 4 && strings.HasPrefix(f[4], root+"/") {
			if err := unix.Unmount(f[4], unix.MNT_DETACH); err != nil {
				errs = append(errs, fmt.Errorf("cannot unmount %s: %w", f[4], err))
			}
		}
	}
	return errors.Join(errs...)
}

// deleteNetwork removes links and tables that were not there before.
func deleteNetwork(before *Snapshot) error {
	list, err := netlink.LinkList()
	if err != nil {
		return err
	}
	for _, l := range list {
		if !before.Has(fmt.Sprintf("link %s (%s)", l.Attrs().Name, l.Type())) {
			netlink.LinkDel(l) // a veth is gone with its peer
		}
	}
	c, err := nftables.New()
	if err != nil {
		return err
	}
	all, err := c.ListTables()
	if err != nil {
		return err
	}
	for _, tab := range all {
		if !before.Has(fmt.Sprintf("nft table %s (family %d)", tab.Name, tab.Family)) {
			c.DelTable(tab)
		}
	}
	return c.Flush()
}
