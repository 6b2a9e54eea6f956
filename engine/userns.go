package engine

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/stack-run/stack/engine/runtime"
	"github.com/stack-run/stack/internal/inode"
	"github.com/stack-run/stack/internal/thread"
	"github.com/stack-run/stack/volumes"
)

// How the user IDs of a container are others on the host: values of UserNSMode
// besides "" and "host", and a range "FIRST:SIZE" of the host's.
const (
	// userNSAuto takes a range of its own for each project. Files keep their owners
	// on disk, in volumes and bind mounts, too.
	userNSAuto = "auto"
	// userNSKeepID is auto, but in bind mounts the container's user and the owner
	// of the source are one.
	userNSKeepID = "keep-id"
	// userNSNoMap is auto, but the files of bind mounts belong to nobody.
	userNSNoMap = "nomap"
)

// parseUserNS reads a UserNSMode. kind is "" for the host's user namespace, and ids are
// those of a mode that names them.
func parseUserNS(mode string) (kind string, ids runtime.IDs, err error) {
	switch mode {
	case "", "host":
		return "", nil, nil
	case userNSAuto, userNSKeepID, userNSNoMap:
		return mode, nil, nil
	}
	first, size, found := strings.Cut(mode, ":")
	a, err1 := strconv.ParseUint(first, 10, 32)
	n, err2 := strconv.ParseUint(size, 10, 32)
	switch {
	case !found || err1 != nil || err2 != nil:
		return "", nil, fmt.Errorf("unknown mode %q; use host, auto, keep-id, nomap, or a range of the host's user IDs such as 100000:65536", mode)
	case a == 0:
		return "", nil, fmt.Errorf("the range %s begins with the host's root; use one that nobody has, such as 100000:65536", mode)
	case n == 0 || a+n > math.MaxUint32:
		return "", nil, fmt.Errorf("the range %s is empty or ends above %d", mode, uint32(math.MaxUint32))
	}
	return userNSAuto, runtime.IDs{{HostID: uint32(a), Size: uint32(n)}}, nil
}

// userNSFaults tells what cannot go together with a user namespace: what belongs to
// the host, of which the container's root is nobody.
func userNSFaults(s Spec) error {
	kind, _, err := parseUserNS(s.Isolation.UserNSMode)
	if err != nil || kind == "" {
		return err
	}
	for _, conflict := range []struct {
		has  bool
		what string
	}{
		{s.Isolation.Privileged, "privileged"},
		{s.Network.Mode == "host", "network_mode: host"},
		{s.Isolation.PIDMode == "host", "pid: host"},
		{s.Isolation.IPCMode == "host", "ipc: host"},
		{s.Isolation.CgroupNSMode == "host", "cgroup: host"},
	} {
		if conflict.has {
			return fmt.Errorf("%s cannot be had in a user namespace of its own; leave it out, or set userns_mode: host", conflict.what)
		}
	}
	return nil
}

// userNamespace is what a container starts in that has a user namespace of its own.
type userNamespace struct {
	kind string
	ids  runtime.IDs
	user *os.File
	// net is a network namespace of user's, if the container needs a new one. It may be
	// still in the making.
	net  func() (*os.File, error)
	more []*os.File // those that bind mounts are mapped by
}

func (u *userNamespace) close() {
	if u == nil {
		return
	}
	net, _ := u.network() // who wanted it knows what failed
	for _, f := range append(u.more, u.user, net) {
		if f != nil {
			f.Close()
		}
	}
}

// network is the network namespace to use, nil for any.
func (u *userNamespace) network() (*os.File, error) {
	if u == nil || u.net == nil {
		return nil, nil
	}
	return u.net()
}

// userNamespace makes the user namespace of a container, or finds that of the network
// namespace which it has from its last run or shares; nil where it has the host's.
func (e *Engine) userNamespace(ctx context.Context, c *Container) (_ *userNamespace, err error) {
	kind, ids, err := parseUserNS(c.Spec.Isolation.UserNSMode)
	if err != nil || kind == "" {
		return nil, err
	}
	if ids, err = e.takeRange(ctx, rangeKey(c), c.ID, ids); err != nil {
		return nil, err
	}
	u := &userNamespace{kind: kind, ids: ids}
	defer func() {
		if err != nil {
			u.close()
		}
	}()
	there, err := e.networkThere(c, ids)
	if err != nil {
		return nil, err
	}
	if there != nil {
		defer there.Close()
	}
	if u.user, err = e.userNamespaceShared(c, ids); err != nil {
		return nil, err
	}
	switch {
	case u.user != nil && there == nil:
		u.net = sync.OnceValues(func() (*os.File, error) { return runtime.NewNetworkNamespace(u.user) })
	case u.user != nil:
	case there != nil:
		if u.user, err = runtime.OwnerOf(there); err != nil || !runtime.InitialUserNamespace(u.user) {
			break
		}
		u.user.Close()
		u.user, err = runtime.NewUserNamespace(ids, ids)
	default:
		var made func() (*os.File, error)
		if u.user, made, err = runtime.NewUserAndNetwork(ids, ids); err == nil {
			u.net = sync.OnceValues(made)
		}
	}
	return u, err
}

// userNamespaceShared opens the user namespace of a container with the same IDs whose
// pid or IPC namespace c shares, since these belong to it; nil for none.
func (e *Engine) userNamespaceShared(c *Container, ids runtime.IDs) (*os.File, error) {
	for _, mode := range []string{c.Spec.Isolation.PIDMode, c.Spec.Isolation.IPCMode} {
		if !isShared(mode) {
			continue
		}
		donor, err := e.peer(c, mode)
		if err != nil {
			return nil, fmt.Errorf("cannot share a namespace: %w", err)
		}
		if theirs, err := runtime.UserIDs(donor.State.Pid); err == nil && len(theirs) > 0 && theirs[0] == ids[0] {
			return os.Open(fmt.Sprintf("/proc/%d/ns/user", donor.State.Pid))
		}
	}
	return nil, nil
}

// networkThere opens the network namespace that a container has already, or shares
// with one that has the same IDs; nil for none.
func (e *Engine) networkThere(c *Container, ids runtime.IDs) (*os.File, error) {
	path := ""
	switch {
	case isShared(c.Spec.Network.Mode):
		donor, err := e.peer(c, c.Spec.Network.Mode)
		if err != nil {
			return nil, fmt.Errorf("cannot share a network: %w", err)
		}
		if donor.State.Endpoint != nil {
			path = donor.State.Endpoint.NetNS
		}
		if theirs, err := runtime.UserIDs(donor.State.Pid); err == nil && len(theirs) > 0 && theirs[0] != ids[0] {
			return os.Open("/proc/self/ns/net") // one that is not theirs to own, nor ours
		}
	case c.State.Endpoint != nil:
		path = c.State.Endpoint.NetNS
	}
	if path == "" {
		return nil, nil
	}
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return f, err
}

// owners says how files belong to users for [volumes.Store.Resolve].
func (e *Engine) owners(c *Container, u *userNamespace, user specs.User) *volumes.Owners {
	if u == nil {
		return nil
	}
	return &volumes.Owners{
		UserNS: u.user,
		Host:   func(id uint32) (uint32, error) { return hostID(u.ids, id) },
		Bind: func(uid, gid uint32) (*os.File, error) {
			switch u.kind {
			case userNSNoMap:
				return nil, nil
			case userNSAuto:
				return u.user, nil
			}
			ns, err := runtime.NewUserNamespace(swapped(u.ids[0], uid, user.UID), swapped(u.ids[0], gid, user.GID))
			if err == nil {
				u.more = append(u.more, ns)
			}
			return ns, err
		},
		Content: func() (*os.File, error) {
			layers, err := e.Layers()
			if err != nil {
				return nil, err
			}
			return layers.ViewContainer(c.ID)
		},
	}
}

// newOwner is to whom a directory belongs on disk that is made for a bind mount.
func (u *userNamespace) newOwner(user specs.User) (uid, gid int) {
	switch {
	case u == nil || u.kind == userNSAuto:
		return int(user.UID), int(user.GID)
	case u.kind == userNSKeepID:
		return 0, 0 // the owner of where it is made
	}
	a, _ := u.ids.Host(user.UID)
	b, _ := u.ids.Host(user.GID)
	return int(a), int(b)
}

// swapped maps the IDs of files to those of the host that a container with the range r
// has: each to the same one in the container, but owner and user take each other's place.
// What belongs to the host's root stays out of reach, unless the source does: else a
// container could leave programs with set-user-ID there that are root's.
func swapped(r specs.LinuxIDMapping, owner, user uint32) runtime.IDs {
	at := func(id uint32) uint32 { // in the container
		switch id {
		case owner:
			return user
		case user:
			return owner
		}
		return id
	}
	if user >= r.Size {
		return runtime.IDs{r}
	}
	var out runtime.IDs
	add := func(from, to uint32) { // files' IDs that follow each other
		if from == 0 && owner != 0 {
			from = 1
		}
		if from < to {
			out = append(out, specs.LinuxIDMapping{ContainerID: from, HostID: r.HostID + from, Size: to - from})
		}
	}
	next := uint32(0)
	for _, id := range []uint32{min(owner, user), max(owner, user)} {
		add(next, min(id, r.Size))
		if at(id) < r.Size && (id != 0 || owner == 0) {
			out = append(out, specs.LinuxIDMapping{ContainerID: id, HostID: r.HostID + at(id), Size: 1})
		}
		if next = id + 1; owner == user {
			break
		}
	}
	add(next, r.Size)
	return out
}

// asRoot runs fn so that what it makes belongs to the host ID of the container's root:
// what no ID of the container stands for cannot be put among its files.
func asRoot(ids runtime.IDs, fn func() error) (err error) {
	if len(ids) == 0 {
		return fn()
	}
	root, _ := ids.Host(0)
	thread.Own(func() {
		if err = inode.MakeFilesOf(int(root)); err == nil {
			err = fn()
		}
	})
	return err
}
