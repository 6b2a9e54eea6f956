package runtime

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"strconv"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// NewUserNamespace makes a user namespace in which these IDs are known. It lives as long
// as somebody holds it.
//
// It needs a process to be made by, for a program with threads cannot enter a user
// namespace, user_namespaces(7). It is a child that waits until its namespaces are
// opened, and runs nothing else.
func NewUserNamespace(uids, gids IDs) (*os.File, error) {
	user, child, err := newUserNamespace(uids, gids, false)
	if err != nil {
		return nil, err
	}
	if err := child.end(); err != nil {
		user.Close()
		return nil, fmt.Errorf("cannot make a user namespace: %w", err)
	}
	return user, nil
}

// NewUserAndNetwork is NewUserNamespace with a network namespace that belongs to it, and
// that is made while the caller goes on. Network waits for it. It is to be called: who has
// no use for what it returns closes that.
func NewUserAndNetwork(uids, gids IDs) (user *os.File, network func() (*os.File, error), err error) {
	user, child, err := newUserNamespace(uids, gids, true)
	if err != nil {
		return nil, nil, err
	}
	return user, child.network, nil
}

func newUserNamespace(uids, gids IDs, network bool) (user *os.File, child *holder, err error) {
	p := &program{flags: unix.CLONE_NEWUSER}
	p.call("close inherited descriptors", callCloseOthers).with(optional)
	p.stage()
	if network {
		p.makeNetwork()
	}
	if child, err = hold(p, nil); err == nil {
		err = child.reached(func(dir string) (err error) {
			for file, ids := range map[string]IDs{"/uid_map": uids, "/gid_map": gids} {
				if err := os.WriteFile(dir+file, []byte(ids.String()), 0); err != nil {
					return fmt.Errorf("cannot map the IDs of a user namespace: %w", err)
				}
			}
			if user, err = os.Open(dir + "/ns/user"); err == nil && network {
				_, err = child.release.Write([]byte{0})
			}
			return err
		})
	}
	if err != nil {
		closeAll(user)
		return nil, nil, fmt.Errorf("cannot make a user namespace: %w%s", err, userNamespaceHint(err))
	}
	return user, child, nil
}

// NewNetworkNamespace makes a network namespace that belongs to a user namespace.
func NewNetworkNamespace(user *os.File) (*os.File, error) {
	p := &program{}
	p.call("close inherited descriptors", callCloseOthers).with(optional)
	p.call("enter the user namespace", unix.SYS_SETNS, p.fd("user"), named(unix.CLONE_NEWUSER, "CLONE_NEWUSER"))
	p.makeNetwork()
	child, err := hold(p, map[string]int{"user": fdOf(user)})
	if err != nil {
		return nil, fmt.Errorf("cannot make a network namespace: %w", err)
	}
	return child.network()
}

func (p *program) makeNetwork() {
	p.call("make a network namespace", unix.SYS_UNSHARE, named(unix.CLONE_NEWNET, "CLONE_NEWNET"))
	p.stage()
}

// stage has a held child say that it has come so far, and wait until it may go on.
func (p *program) stage() {
	p.call("say so", callReady)
	p.call("wait", unix.SYS_READ, p.fd("release"), p.blob([]byte{0}, "buffer"), imm(1)).with(full)
}

// holder is a child that runs a program with stages, and then is of no more use.
type holder struct {
	program         *program
	region          []byte // in which the child runs
	report, release *os.File
	process         *Process
}

// hold starts a program in a child. The child becomes nothing else, and so it runs in
// this process' memory: copying that, and what either writes to afterwards, takes the
// kernel a millisecond.
func hold(p *program, fds map[string]int) (_ *holder, err error) {
	report, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer w.Close() // so that the report ends with the child
	var pipe [2]int // not os.Pipe's, which does not block
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		report.Close()
		return nil, err
	}
	release := os.NewFile(uintptr(pipe[1]), "release")
	defer unix.Close(pipe[0])
	defer func() {
		if err != nil {
			closeAll(report, release)
		}
	}()
	all := map[string]int{"release": pipe[0]}
	maps.Copy(all, fds)
	p.flags |= unix.CLONE_VM
	region, err := p.link(all, fdOf(w))
	if err != nil {
		return nil, err
	}
	pid, pidfd, err := fork(region, -1)
	if err != nil {
		unix.Munmap(region)
		return nil, err
	}
	return &holder{program: p, region: region, report: report, release: release, process: &Process{PID: pid, PidFD: pidfd}}, nil
}

// reached waits until the child has come to its next stage, and calls look with its
// directory in /proc. After an error the child is no more.
func (h *holder) reached(look func(dir string) error) error {
	var buf [recordSize]byte
	h.report.SetReadDeadline(time.Now().Add(killBound))
	_, err := io.ReadFull(h.report, buf[:])
	if err == nil {
		o := outcome{program: h.program}
		if o.add(decodeRecord(buf)); !o.ready {
			err = o.err()
		} else {
			err = look("/proc/" + strconv.Itoa(h.process.PID))
		}
	}
	if err != nil {
		return errors.Join(err, h.end())
	}
	return nil
}

// network waits for the network namespace that is made at the child's last stage, and
// ends the child.
func (h *holder) network() (net *os.File, err error) {
	if err = h.reached(func(dir string) (err error) {
		net, err = os.Open(dir + "/ns/net")
		return err
	}); err == nil {
		err = h.end()
	}
	if err != nil {
		closeAll(net)
		return nil, fmt.Errorf("cannot make a network namespace: %w", err)
	}
	return net, nil
}

// end ends the child, wherever it is.
func (h *holder) end() error {
	err := h.process.End(killBound)
	if err == nil { // else it may still run there
		err = unix.Munmap(h.region)
	}
	closeAll(h.report, h.release)
	h.process.Close()
	return err
}

func userNamespaceHint(err error) string {
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EUSERS):
		return "; the limit is /proc/sys/user/max_user_namespaces"
	case errors.Is(err, unix.EINVAL):
		return "; the kernel is built without user namespaces (CONFIG_USER_NS)"
	}
	return forkHint(err)
}

func closeAll(files ...*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

// OwnerOf opens the user namespace that a namespace belongs to, ioctl_ns(2).
func OwnerOf(namespace *os.File) (*os.File, error) {
	fd, err := ownerOf(fdOf(namespace))
	if err != nil {
		return nil, fmt.Errorf("cannot find the user namespace that %s belongs to: %w", namespace.Name(), err)
	}
	return os.NewFile(uintptr(fd), "user namespace"), nil
}

func ownerOf(namespace int) (int, error) {
	fd, err := unix.IoctlRetInt(namespace, unix.NS_GET_USERNS)
	if err == nil {
		unix.CloseOnExec(fd)
	}
	return fd, err
}

// ownedBy tells whether a namespace belongs to the user namespace user.
func ownedBy(namespace, user int) bool {
	owner, err := ownerOf(namespace)
	if err != nil {
		return false
	}
	defer unix.Close(owner)
	return sameInode(owner, user)
}

func sameInode(a, b int) bool {
	var x, y unix.Stat_t
	return unix.Fstat(a, &x) == nil && unix.Fstat(b, &y) == nil && x.Dev == y.Dev && x.Ino == y.Ino
}

// InitialUserNamespace tells whether a file is the user namespace of this process.
func InitialUserNamespace(f *os.File) bool {
	own, err := os.Open("/proc/self/ns/user")
	if err != nil {
		return false
	}
	defer own.Close()
	return sameInode(fdOf(f), fdOf(own))
}

// IDs are what the user IDs, or the group IDs, of a container are on the host.
type IDs []specs.LinuxIDMapping

// String is how the kernel reads them, user_namespaces(7).
func (ids IDs) String() string {
	var text strings.Builder
	for _, m := range ids {
		fmt.Fprintf(&text, "%d %d %d\n", m.ContainerID, m.HostID, m.Size)
	}
	return text.String()
}

// Host is the ID on the host; without mappings an ID is itself.
func (ids IDs) Host(id uint32) (uint32, bool) {
	for _, m := range ids {
		if id >= m.ContainerID && id-m.ContainerID < m.Size {
			return m.HostID + (id - m.ContainerID), true
		}
	}
	return id, len(ids) == 0
}

// Container is the ID in the container; without mappings an ID is itself.
func (ids IDs) Container(id uint32) (uint32, bool) {
	for _, m := range ids {
		if id >= m.HostID && id-m.HostID < m.Size {
			return m.ContainerID + (id - m.HostID), true
		}
	}
	return id, len(ids) == 0
}

// UserIDs are the mappings of a process's user namespace, none where it is this
// process's own.
func UserIDs(pid int) (IDs, error) {
	other, err := differentUserNamespace(pid)
	if err != nil || !other {
		return nil, err
	}
	b, err := readProc(pid, "uid_map")
	if err != nil {
		return nil, err
	}
	return parseIDMap(string(b))
}

// parseIDMap reads lines like "0 100000 65536", user_namespaces(7).
func parseIDMap(text string) (IDs, error) {
	var ids IDs
	for line := range strings.Lines(text) {
		var m specs.LinuxIDMapping
		if _, err := fmt.Sscan(line, &m.ContainerID, &m.HostID, &m.Size); err != nil {
			return nil, fmt.Errorf("cannot parse %q as a line of /proc/PID/uid_map: %w", line, err)
		}
		ids = append(ids, m)
	}
	return ids, nil
}

// IDsInUse are the mappings of all processes in sight.
func IDsInUse() map[specs.LinuxIDMapping]bool {
	all := map[specs.LinuxIDMapping]bool{}
	entries, _ := os.ReadDir("/proc") // without it none is in sight
	seen := map[string]bool{}         // user namespaces, of which many processes have one
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if ns, err := os.Readlink("/proc/" + entry.Name() + "/ns/user"); err != nil || seen[ns] {
			continue // it has ended
		} else {
			seen[ns] = true
		}
		for _, file := range []string{"uid_map", "gid_map"} {
			text, _ := readProc(pid, file) // of one that has ended there is none
			ids, _ := parseIDMap(string(text))
			for _, m := range ids {
				all[m] = true
			}
		}
	}
	return all
}

// handOver gives stdio and terminal to the user of a process in a user namespace. The
// child cannot: their owners are nobody there.
func (l *launch) handOver(f *processFacts, uid uint32) {
	if f.terminal {
		unix.Fchown(l.fds["terminal"], int(uid), -1)
		return
	}
	for i := range f.stdio {
		if f.stdio[i].chown {
			unix.Fchown(l.fds[stdioNames[i]], int(uid), -1)
			f.stdio[i].chown = false
		}
	}
}

// raise lifts hard limits while the process may: in a user namespace nobody can,
// getrlimit(2). They are set to what they should be when all else is done.
func (c *compiler) raise(p *specs.Process, f processFacts) {
	for _, l := range p.Rlimits {
		n, ok := rlimitNumbers[l.Type]
		if !ok {
			continue // said where they are set
		}
		now := f.limits(n)
		if l.Hard <= now.Max {
			continue
		}
		what := fmt.Sprintf("raise %s to %s", l.Type, limitText(l.Hard))
		c.call(what, unix.SYS_PRLIMIT64, imm(0), named(uint64(n), l.Type),
			c.words(fmt.Sprintf("{%s, %s}", limitText(now.Cur), limitText(l.Hard)), now.Cur, l.Hard), null).with(optional)
	}
}
