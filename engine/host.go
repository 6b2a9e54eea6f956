package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/moby/sys/capability"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/engine/runtime"
	"github.com/stack-run/stack/engine/seccomp"
	"github.com/stack-run/stack/internal/thread"
)

// hasCapability tells which capabilities this process can pass on: those of its
// bounding set. A host that withholds some from root is thus not an error.
func hasCapability() func(string) bool {
	caps := sync.OnceValue(func() map[string]bool {
		out := map[string]bool{}
		self, err := capability.NewPid2(0)
		if err == nil {
			err = self.Load()
		}
		for i, name := range allCapabilities {
			out[name] = err != nil || self.Get(capability.BOUNDING, capability.Cap(i)) && self.Get(capability.PERMITTED, capability.Cap(i))
		}
		return out
	})
	return func(name string) bool { return caps()[name] }
}

// seccompFilter picks the profile, none when privileged or unconfined, the user's
// own, or Docker's default for these capabilities, and compiles it.
func seccompFilter(iso Isolation, caps []string) (*specs.LinuxSeccomp, *seccomp.Filter, error) {
	sec, err := parseSecurity(iso.SecurityOpt)
	if err != nil {
		return nil, nil, err
	}
	switch {
	case sec.seccompUnconfined, iso.Privileged && iso.SeccompProfile == "":
		return nil, nil, nil
	case iso.SeccompProfile != "":
		profile, err := seccomp.Load(iso.SeccompProfile, caps)
		if err != nil {
			return nil, nil, err
		}
		filter, err := seccomp.Compile(profile)
		return profile, filter, err
	}
	return defaultFilter(caps)
}

// WarmUp does beside other work what the first container would wait for: what is the
// same for all of them.
func WarmUp() {
	if caps, err := capabilities(false, nil, nil, hasCapability()); err == nil {
		_, _, _ = defaultFilter(caps)
	}
	var c Container
	if data, err := json.Marshal(&c); err == nil { // encoding/json looks at a type once
		_ = json.Unmarshal(data, &c)
	}
}

// defaultFilters are the default profiles that were compiled, by capabilities.
// Nearly all containers have the same, and compiling it takes half a millisecond.
var defaultFilters sync.Map // string to compiledProfile

type compiledProfile struct {
	profile *specs.LinuxSeccomp
	filter  *seccomp.Filter
}

func defaultFilter(caps []string) (*specs.LinuxSeccomp, *seccomp.Filter, error) {
	key := strings.Join(caps, " ")
	if c, ok := defaultFilters.Load(key); ok {
		c := c.(compiledProfile)
		return c.profile, c.filter, nil
	}
	profile, err := seccomp.Default(caps)
	if err != nil {
		return nil, nil, err
	}
	filter, err := seccomp.Compile(profile)
	if err == nil {
		defaultFilters.Store(key, compiledProfile{profile, filter})
	}
	return profile, filter, err
}

// thisHost looks at the security modules that are enabled.
func thisHost(cgroupV2 bool) host {
	h := host{cgroupV2: cgroupV2, profile: appArmorProfile}
	enabled, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	h.apparmor = err == nil && strings.HasPrefix(string(enabled), "Y")
	_, err = os.Stat("/sys/fs/selinux/enforce")
	h.selinux = err == nil
	return h
}

// appArmorProfile tells whether a profile is loaded: each is a line "NAME (mode)".
func appArmorProfile(name string) bool {
	b, err := os.ReadFile("/sys/kernel/security/apparmor/profiles")
	if err != nil {
		return true // it cannot be known; the kernel will say
	}
	for line := range strings.Lines(string(b)) {
		if i := strings.LastIndex(line, " ("); i >= 0 && line[:i] == name {
			return true
		}
	}
	return false
}

// resolveUser reads the image's passwd and group and finds the user to run as.
func resolveUser(root *os.File, user string, groupAdd []string) (specs.User, string, error) {
	passwd, err := readIn(root, "etc/passwd")
	if err != nil {
		return specs.User{}, "", err
	}
	group, err := readIn(root, "etc/group")
	if err != nil {
		return specs.User{}, "", err
	}
	return runtime.ResolveUser(passwd, group, user, groupAdd)
}

// openIn opens a file below a root that is not trusted: links are followed, but
// never out of it, openat2(2).
func openIn(root *os.File, path string, flags, mode uint64) (*os.File, error) {
	fd, err := unix.Openat2(int(root.Fd()), path, &unix.OpenHow{
		Flags: flags | unix.O_CLOEXEC, Mode: mode, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// readIn reads a file as openIn opens it. A missing file is empty.
func readIn(root *os.File, path string) ([]byte, error) {
	f, err := openIn(root, path, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open /%s of the image: %w", path, err)
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, errors.Join(fmt.Errorf("/%s of the image is no file", path), err)
	}
	const limit = 16 << 20
	return io.ReadAll(io.LimitReader(f, limit))
}

// inMountNS runs f on a thread of its own inside the mount namespace of pid. The
// thread ends with f: nothing else ever runs on it.
func inMountNS(pid int, f func() error) (err error) {
	thread.Own(func() {
		err = func() error {
			// setns(2) to a mount namespace needs file system attributes of one's own.
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return fmt.Errorf("cannot unshare: %w", err)
			}
			ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid))
			if err != nil {
				return err
			}
			defer ns.Close()
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS); err != nil {
				return fmt.Errorf("cannot enter the mount namespace of process %d: %w", pid, err)
			}
			return f()
		}()
	})
	return err
}
