package runtime

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const idBase = 0x20000000

// inUserNamespace puts a container into a user namespace of its own, with a root file
// system whose owners are mapped by it.
func (r *rootfs) inUserNamespace(t testing.TB, s *specs.Spec) func(*Config) {
	t.Helper()
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: idBase, Size: 65536}}
	user, network, err := NewUserAndNetwork(ids, ids)
	check(t, err)
	net, err := network()
	check(t, err)
	t.Cleanup(func() { user.Close(); net.Close() })
	for i, n := range s.Linux.Namespaces {
		if n.Type == specs.NetworkNamespace {
			s.Linux.Namespaces[i].Path = fmt.Sprintf("/proc/self/fd/%d", fdOf(net))
		}
	}
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace, Path: fmt.Sprintf("/proc/self/fd/%d", fdOf(user))})
	s.Linux.UIDMappings, s.Linux.GIDMappings = ids, ids
	return func(c *Config) {
		tree, err := openTree(r.lower, false)
		check(t, err)
		t.Cleanup(func() { tree.Close() })
		err = unix.MountSetattr(fdOf(tree), "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(fdOf(user))})
		check(t, err)
		c.RootFS = tree
	}
}

func TestUserNamespace(t *testing.T) {
	r := newRootfs(t)
	s := testSpec("sh", "-c", `
cat /proc/self/uid_map | tr -s ' '
`+status("Uid", "CapEff")+`
touch /made && chown 1000:1000 /made && stat -c '%u %g' /made /bin
ps -o pid,comm | head -2; hostname
mount -t tmpfs x /tmp 2>/dev/null || echo mount refused
echo x > /dev/null; echo reopened > /dev/stdout
ls /sys/class/net
`)
	out, st := r.output(t, s, r.inUserNamespace(t, s))
	if st.Code != 0 {
		t.Errorf("exit code %d", st.Code)
	}
	expect(t, out, ` 0 536870912 65536
Uid: 0 0 0 0
CapEff: 00000000a80425fb
1000 1000
0 0
PID   COMMAND
    1 sh
testbox
mount refused
reopened
lo
`)
	var made unix.Stat_t
	check(t, unix.Lstat(filepath.Join(r.lower, "made"), &made))
	if made.Uid != 1000 || made.Gid != 1000 {
		t.Errorf("the file belongs to %d:%d below the mapping, want 1000:1000", made.Uid, made.Gid)
	}
	noZombies(t)
}

func TestUserNamespaceIsNobodyOnTheHost(t *testing.T) {
	r := newRootfs(t)
	s := testSpec("sleep", "1000")
	s.Process.User = specs.User{UID: 70, GID: 70}
	c := r.start(t, s, r.inUserNamespace(t, s))
	status, err := readProc(c.PID, "status")
	check(t, err)
	if uid := lineOf(string(status), "Uid:"); uid != fmt.Sprintf("Uid:\t%d\t%[1]d\t%[1]d\t%[1]d", idBase+70) {
		t.Errorf("the process is %q on the host", uid)
	}
	stat, err := ReadStat(c.PID)
	check(t, err)
	if stat.PPID != os.Getpid() {
		t.Errorf("its parent is %d, want %d", stat.PPID, os.Getpid())
	}
	ids, err := UserIDs(c.PID)
	check(t, err)
	if host, ok := ids.Host(70); !ok || host != idBase+70 {
		t.Errorf("its user 70 is %d on the host", host)
	}
	cfg := execConfig(c, "sh", "-c", "id -u; grep CapEff /proc/self/status | tr '\\t' ' '; tty 2>&1; kill -0 1 && echo fine")
	cfg.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 64, Hard: 128}}
	out, _ := execOutput(t, cfg)
	expect(t, out, "0\nCapEff: 00000000a80425fb\nnot a tty\nfine\n")
}

func TestUserNamespaceTerminal(t *testing.T) {
	r := newRootfs(t)
	s := testSpec("sh", "-c", "stat -c '%u %g' $(tty); sleep 1000")
	s.Process.Terminal = true
	s.Process.User = specs.User{UID: 70, GID: 70}
	p := r.start(t, s, r.inUserNamespace(t, s))
	defer p.Console.Close()
	buf := make([]byte, 64)
	n, err := p.Console.Read(buf)
	check(t, err)
	expect(t, string(buf[:n]), "70 5\r\n")

	cfg := execConfig(p, "sh", "-c", "stat -c %u $(tty)")
	cfg.Process.Terminal = true
	cfg.Process.User = specs.User{UID: 71, GID: 71}
	x, err := Exec(t.Context(), cfg)
	check(t, err)
	defer x.Close()
	defer x.Console.Close()
	n, err = x.Console.Read(buf)
	check(t, err)
	expect(t, string(buf[:n]), "71\r\n")
	x.Wait()
}

func TestUserNamespaceOfANetworkThatIsNotItsOwn(t *testing.T) {
	r := newRootfs(t)
	s := testSpec("sh", "-c", "ls /sys/class | grep -c net; mkdir /sys/x || echo refused")
	change := r.inUserNamespace(t, s)
	joinNetns(s, pinNetns(t, r))
	out, _ := r.output(t, s, change)
	expect(t, withoutDiagnostics(out), "1\nrefused\n")
}

func TestUserNamespaceErrors(t *testing.T) {
	r := newRootfs(t)
	plain := r.start(t, testSpec("sleep", "1000"))
	s := testSpec("true")
	change := r.inUserNamespace(t, s)
	for i, n := range s.Linux.Namespaces {
		if n.Type == specs.PIDNamespace {
			s.Linux.Namespaces[i].Path = fmt.Sprintf("/proc/%d/ns/pid", plain.PID)
		}
	}
	err := r.fails(t, s, change)
	expect(t, err.Error(), "cannot join the pid namespace: it belongs to another user namespace; give both containers the same userns_mode, and share pid and ipc of one container only")

	s = testSpec("nothing-there")
	err = r.fails(t, s, r.inUserNamespace(t, s))
	expect(t, err.Error(), `exec: "nothing-there": executable file not found in $PATH`)

	s = testSpec("true")
	s.Process.User.UID = 70000
	err = r.fails(t, s, r.inUserNamespace(t, s))
	expect(t, err.Error(), "cannot start the process as user 70000: the container's user namespace has no such user")
	noZombies(t)
}

func lineOf(text, prefix string) string {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, prefix) {
			return strings.TrimRight(line, "\n")
		}
	}
	return ""
}
