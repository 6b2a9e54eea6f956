package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/engine/cdi"
	"github.com/stack-run/stack/engine/cgroup"
	"github.com/stack-run/stack/engine/image"
	"github.com/stack-run/stack/engine/runtime"
	"github.com/stack-run/stack/engine/sealed"
	"github.com/stack-run/stack/engine/seccomp"
	"github.com/stack-run/stack/engine/snapshot"
	"github.com/stack-run/stack/internal/lock"
	"github.com/stack-run/stack/netns"
	"github.com/stack-run/stack/volumes"
)

// FDs keeps descriptors that must survive the supervisor. A nil FDs keeps none.
type FDs interface {
	Get(name string) *os.File
	Hold(name string, f *os.File) error
	Drop(name string) error
	Names(prefix string) []string
}

// HeldName is the name under which a container's descriptor is held; what is
// "tty", "stdin", or a socket's key.
func HeldName(id, what string) string { return id + ":" + what }

// HeldBy is the container that a held name belongs to, "" for none.
func HeldBy(name string) string {
	id, _, found := strings.Cut(name, ":")
	if !found {
		return ""
	}
	return id
}

// StartExitCode is the exit code that a failed start stands for: 127 for a
// command that was not found, 126 for one that cannot be executed, 125 for all
// else that kept the container from starting.
func StartExitCode(err error) int {
	var e *runtime.CommandError
	if errors.As(err, &e) {
		return e.ExitCode
	}
	return 125
}

// StartOptions are what a start needs of its caller.
type StartOptions struct {
	Keep FDs
	// Attached is called once the container has its network, before its process
	// runs: the moment to begin to answer its DNS queries.
	Attached func(*netns.Endpoint) error
}

// Start runs a created or stopped container. On success c.State is filled in
// (the caller stores it) and the Task is the caller's; on failure nothing is
// left of the attempt.
func (e *Engine) Start(ctx context.Context, c *Container, o StartOptions) (_ *Task, err error) {
	k := o.Keep
	var back undo
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot start container %s: %w", c.Spec.Name, err)
			if undoErr := back.run(); undoErr != nil {
				err = fmt.Errorf("%w (and cleaning up: %w)", err, undoErr)
			}
		}
	}()
	img, err := e.resolve(ctx, c.Spec)
	if err != nil {
		return nil, err
	}
	userNS, err := e.userNamespace(ctx, c)
	if err != nil {
		return nil, err
	}
	defer userNS.close()
	// The network takes longest and needs nothing of the rest.
	type attached struct {
		ep  *netns.Endpoint
		err error
	}
	network := make(chan attached, 1)
	go func() {
		namespace, err := userNS.network()
		if err != nil {
			network <- attached{err: err}
			return
		}
		ep, err := e.attach(ctx, c, namespace, k)
		network <- attached{ep, err}
	}()
	plan, prepErr := e.prepare(ctx, c, img, userNS, k, &back)
	net := <-network
	if net.ep != nil {
		back.add(func() error { return e.detachNet(detached(ctx), c, net.ep, k) })
	}
	if plan != nil {
		defer plan.stdio.close()
	}
	if err := errors.Join(net.err, prepErr); err != nil {
		if net.err != nil {
			return nil, net.err
		}
		return nil, err
	}
	c.State.Endpoint = net.ep
	for _, w := range net.ep.Warnings {
		e.Warnf("container %s: %s", c.Spec.Name, w)
	}
	named := make(chan error, 1)
	if o.Attached != nil {
		go func() { named <- o.Attached(net.ep) }()
	} else {
		named <- nil
	}
	err = e.writeNames(c)
	if err == nil {
		err = e.fillEtc(c, plan.mounts.Mounts)
	}
	if err := errors.Join(<-named, err); err != nil {
		return nil, err
	}
	return e.launch(ctx, c, img, plan, k, &back)
}

// prepared is what a start needs besides the network.
type prepared struct {
	use    *lock.Held // keeps others from mounting the container's files
	root   *os.File
	user   specs.User
	home   string
	mounts *volumes.Resolved
	stdio  *stdio

	edits    *cdi.Edits // of devices
	facts    Facts      // but the network namespace
	mountFDs map[int]*os.File
	filter   *seccomp.Filter
	group    *cgroup.Group
	narrow   *specs.LinuxResources // for the group, before the command runs
}

// prepare mounts the root file system, resolves user and volumes, opens the
// standard streams and makes the control group.
func (e *Engine) prepare(ctx context.Context, c *Container, img image.Image, userNS *userNamespace, k FDs, back *undo) (*prepared, error) {
	layers, err := e.Layers()
	if err != nil {
		return nil, err
	}
	if err := e.prepareLayer(ctx, layers, c, img); err != nil {
		return nil, err
	}
	var opts snapshot.MountOptions
	if userNS != nil {
		root, _ := userNS.ids.Host(0)
		opts.UserNS, opts.Root = userNS.user, int(root)
	}
	use, err := layers.Use(ctx, c.ID, filesOf(c))
	if err != nil {
		return nil, err
	}
	back.add(use.Unlock)
	root, err := layers.Mount(c.ID, opts)
	if err != nil {
		return nil, err
	}
	back.add(root.Close)
	p := &prepared{use: use, root: root}
	if p.edits, err = deviceEdits(c.Spec.Isolation); err != nil {
		return nil, err
	}
	if p.user, p.home, err = resolveUser(root, first(c.Spec.Process.User, img.Config.Config.User), c.Spec.Process.GroupAdd); err != nil {
		return nil, err
	}
	p.user.Umask = c.Spec.Process.Umask
	if err := os.MkdirAll(e.Records.RunDir(c.ID), 0o711); err != nil {
		return nil, err
	}
	own, inherited, err := e.ownMounts(c)
	if err != nil {
		return nil, err
	}
	if err := e.pinImageMounts(ctx, c, layers); err != nil {
		return nil, err
	}
	p.mounts, err = e.resolveMounts(ctx, c, img, append(own, e.etcMounts(c)...), root, userNS, p.user)
	if err != nil {
		return nil, err
	}
	back.add(p.mounts.Close)
	for _, note := range p.mounts.Notes {
		e.Warnf("%s", note)
	}
	if inherited = kept(inherited); !maps.Equal(p.mounts.Anonymous, c.Volumes) || !reflect.DeepEqual(inherited, c.Inherited) {
		c.Volumes, c.Inherited = p.mounts.Anonymous, inherited
		if err := e.Records.SaveConfig(c); err != nil {
			return nil, err
		}
	}
	if p.stdio, err = e.openStdio(c, k, back); err != nil {
		return nil, err
	}
	groups, err := e.Cgroups()
	if err != nil {
		return p, err // for its streams, which are open
	}
	if err := e.gather(c, img, p, groups.Mode == cgroup.V2, back); err != nil {
		return p, err
	}
	if userNS != nil {
		p.facts.UserNS, p.facts.IDs = fmt.Sprintf("/proc/self/fd/%d", userNS.user.Fd()), userNS.ids
	}
	limits, err := resources(c.Spec, p.facts)
	if err != nil {
		return p, err
	}
	p.narrow = widen(limits, p.facts)
	p.group, err = e.createGroup(ctx, c, groups, limits, back)
	return p, err
}

// widen lets a container start that may have one process only: in a user namespace that
// takes two, of which the first has ended when the second runs the command. What it
// returns, if anything, is to be in force by then.
func widen(limits *specs.LinuxResources, f Facts) (narrow *specs.LinuxResources) {
	if f.UserNS == "" || limits.Pids == nil || *limits.Pids.Limit != 1 {
		return nil
	}
	narrow = &specs.LinuxResources{Pids: limits.Pids}
	two := int64(2)
	limits.Pids = &specs.LinuxPids{Limit: &two}
	return narrow
}

// createGroup makes the container's control group with its limits.
func (e *Engine) createGroup(ctx context.Context, c *Container, groups *cgroup.Hierarchy, limits *specs.LinuxResources, back *undo) (*cgroup.Group, error) {
	path := e.cgroupPath(c)
	parentMade, err := e.noteParent(groups, path)
	if err != nil {
		return nil, err
	}
	group, warnings, err := groups.Create(path, limits)
	if err := errors.Join(err, parentMade()); err != nil {
		return nil, err
	}
	back.add(func() error { return errors.Join(group.Delete(detached(ctx)), e.dropParent(path)) })
	for _, w := range warnings {
		e.Warnf("%s", w)
	}
	return group, nil
}

// ownMounts are the container's mounts with those of volumes_from, which are also
// returned, below them.
func (e *Engine) ownMounts(c *Container) (all, inherited []volumes.Mount, err error) {
	all = slices.Clone(c.Spec.Mounts)
	if err := e.fillSecrets(c, all); err != nil {
		return nil, nil, err
	}
	var fillErr error
	inherited, err = e.inherit(c, func(donor *Container, mounts []volumes.Mount) {
		fillErr = errors.Join(fillErr, e.fillSecrets(donor, mounts))
	})
	if fillErr != nil {
		return nil, nil, fillErr
	}
	if err != nil && c.Inherited != nil {
		inherited, err = c.Inherited, nil // whose they were is gone
	}
	return volumes.Inherit(all, inherited, false), inherited, err
}

// resolveMounts makes mounts for a container whose root file system is at root
// and whose processes are user's.
func (e *Engine) resolveMounts(ctx context.Context, c *Container, img image.Image, mounts []volumes.Mount, root *os.File, userNS *userNamespace, user specs.User) (*volumes.Resolved, error) {
	vols, err := e.Volumes()
	if err != nil {
		return nil, err
	}
	uid, gid := userNS.newOwner(user)
	return vols.Resolve(ctx, volumes.Request{
		ContainerID: c.ID, Project: c.Project, Mounts: mounts, ImageVolumes: imageConfig(img).Volumes, RootFS: root,
		Anonymous: c.Volumes, UID: uid, GID: gid, Owners: e.owners(c, userNS, user),
	})
}

// inherit lists the mounts that volumes_from names: "NAME[:ro|:rw]", or
// "service:NAME…" for a sibling. fill, if not nil, completes the mounts of a donor.
func (e *Engine) inherit(c *Container, fill func(donor *Container, mounts []volumes.Mount)) ([]volumes.Mount, error) {
	var out []volumes.Mount
	for _, from := range c.Spec.VolumesFrom {
		ref, readOnly := strings.CutSuffix(from, ":ro")
		ref = strings.TrimSuffix(ref, ":rw")
		donor, err := e.peer(c, ref)
		if err != nil {
			return nil, fmt.Errorf("cannot take volumes from %q: %w", ref, err)
		}
		var theirs []volumes.Mount
		for _, m := range donor.Spec.Mounts {
			if m.Type == volumes.TypeVolume && m.Source == "" {
				m.Source = donor.Volumes[path.Clean(m.Target)]
			}
			theirs = append(theirs, m)
		}
		if fill != nil {
			fill(donor, theirs)
		}
		for _, target := range slices.Sorted(maps.Keys(donor.Volumes)) {
			theirs = volumes.Inherit(theirs, []volumes.Mount{{Type: volumes.TypeVolume, Source: donor.Volumes[target], Target: target}}, false)
		}
		out = volumes.Inherit(out, volumes.Inherit(theirs, donor.Inherited, false), readOnly)
	}
	return out, nil
}

// kept are inherited mounts as they are recorded: without generated files, which
// may be secret.
func kept(inherited []volumes.Mount) []volumes.Mount {
	return slices.DeleteFunc(slices.Clone(inherited), func(m volumes.Mount) bool { return m.Type == volumes.TypeFile })
}

// fillSecrets completes the mounts whose content is not kept in the record: from
// memory, or after a reboot from where it came from.
func (e *Engine) fillSecrets(c *Container, mounts []volumes.Mount) error {
	var kept map[string][]byte
	for i := range mounts {
		m := &mounts[i]
		if m.Type != volumes.TypeFile || !m.Withheld() || m.Content != nil {
			continue
		}
		if kept == nil {
			kept = e.Records.Secrets(c.ID)
		}
		if content, ok := kept[m.Target]; ok {
			m.Content = content
			continue
		}
		if kind, name, ok := m.Stored(); ok {
			content, err := e.stored(c, *m, sealed.Kind(kind), name)
			if err != nil {
				return fmt.Errorf("cannot provide %s: %w", m.Target, err)
			}
			m.Content = content
			continue
		}
		var err error
		if path, ok := strings.CutPrefix(m.ContentFrom, "file:"); ok {
			m.Content, err = os.ReadFile(path)
		} else if name, ok := strings.CutPrefix(m.ContentFrom, "environment:"); ok {
			value, set := os.LookupEnv(name)
			if m.Content = []byte(value); !set {
				err = fmt.Errorf("variable %s is not set", name)
			}
		} else {
			err = errors.New("its source is not known")
		}
		if err != nil {
			return fmt.Errorf("cannot provide secret %s: %w; run \"stack up\" again, which knows it", m.Target, err)
		}
		if !e.isContent(*m) {
			e.Warnf("container %s: the content of secret %s is another one than when the container was made; run \"stack up\" so that the container counts as made with it", c.Spec.Name, m.Target)
		}
	}
	return nil
}

// isContent tells whether a mount's content is what its digest stands for, as far as that
// can be told.
func (e *Engine) isContent(m volumes.Mount) bool {
	plain := digest.FromBytes(m.Content).String()
	if m.ContentDigest == plain {
		return true
	}
	keyed, err := e.Sealed().KeyDigest(context.Background(), plain)
	return err != nil || m.ContentDigest == keyed
}

// peer finds the container that a reference of c's means: "service:NAME" is the
// sibling with the lowest number, "container:REF" or a bare REF any container.
func (e *Engine) peer(c *Container, ref string) (*Container, error) {
	service, isService := strings.CutPrefix(ref, "service:")
	if !isService {
		return e.Records.Find(strings.TrimPrefix(ref, "container:"))
	}
	all, err := e.Records.List()
	if err != nil {
		return nil, err
	}
	for _, other := range all { // ordered by number
		if other.Project == c.Project && other.Service == service && !other.OneOff {
			return other, nil
		}
	}
	return nil, fmt.Errorf("service %s has no container; start it first", service)
}

// launch starts the process.
func (e *Engine) launch(ctx context.Context, c *Container, img image.Image, p *prepared, k FDs, back *undo) (*Task, error) {
	facts := p.facts
	if facts.NetNS = "host"; c.State.Endpoint != nil && c.State.Endpoint.NetNS != "" {
		facts.NetNS = c.State.Endpoint.NetNS
	}
	spec, err := OCI(c.Spec, facts)
	if err != nil {
		return nil, err
	}
	if c.Spec.Process.TTY && c.ConsoleSize[0] > 0 {
		spec.Process.ConsoleSize = &specs.Box{Height: uint(c.ConsoleSize[0]), Width: uint(c.ConsoleSize[1])}
	}
	entry, err := p.group.Entry()
	if err != nil {
		return nil, err
	}
	defer entry.Close()
	if err := e.Records.saveFilter(c.ID, p.filter); err != nil {
		return nil, err
	}
	before := c.State
	c.State.Phase = Running
	c.State.StartedAt, c.State.FinishedAt = time.Now().UTC(), time.Time{}
	c.State.ExitCode, c.State.Error, c.State.OOMKilled = 0, "", false
	c.State.FailingStreak, c.State.HealthLog, c.State.Health, c.State.HealthyAt = 0, nil, "", time.Time{}
	proc, err := runtime.Start(ctx, &runtime.Config{
		Spec: spec, RootFS: p.root, MountFDs: p.mountFDs, CgroupFD: entry.Dir, CgroupProcs: entry.Tasks,
		Stdin: p.stdio.stdin, Stdout: p.stdio.stdout, Stderr: p.stdio.stderr, Init: c.Spec.Init, Seccomp: p.filter,
		Warn:    func(w string) { e.Warnf("%s", w) },
		Program: e.programKeeper(c.ID), DeviceSources: facts.DeviceSources, Prepared: e.hooks(ctx, c, p.edits, spec),
		// Written down before the command runs: a supervisor that is killed
		// right after the start leaves nothing that the next does not find.
		Created: func(process *runtime.Process) error {
			if p.narrow != nil {
				if _, err := p.group.Update(p.narrow); err != nil {
					return err
				}
			}
			c.State.Pid, c.State.StartTicks, c.State.SetUp = process.PID, process.StartTicks, true
			if err := process.Pin(e.pinPath(c.ID)); err != nil && !errors.Is(err, errors.ErrUnsupported) {
				e.Warnf("cannot pin process %d: %v", process.PID, err)
			}
			return e.Records.SaveState(c)
		},
	})
	if err != nil {
		runtime.Unpin(e.pinPath(c.ID))
		c.State = before
		return nil, err
	}
	c.State.SetUp = false
	t := &Task{engine: e, id: c.ID, proc: proc, group: p.group, done: make(chan struct{}), fds: k, pidHost: p.facts.PIDNS != ""}
	if err := e.startPump(c, t, proc.Console, k); err != nil {
		c.State = before
		return nil, errors.Join(err, t.abort())
	}
	closeMounts(p)
	go t.wait()
	return t, nil
}

// keepPrograms is the variable that has the program of each container kept that is
// started, for whoever wants to know what the runtime did.
const keepPrograms = "STACK_KEEP_PROGRAMS"

// programKeeper writes a container's program beside its state, nil where nobody asked.
func (e *Engine) programKeeper(id string) func(text string) {
	if os.Getenv(keepPrograms) == "" {
		return nil
	}
	return func(text string) {
		if err := os.WriteFile(filepath.Join(e.Records.RunDir(id), "program"), []byte(text), 0o600); err != nil {
			e.Warnf("cannot keep the program of container %s: %v", id, err)
		}
	}
}

// pinImageMounts keeps the layers of the images that a container mounts. Nothing
// else does once their names lead to other images.
func (e *Engine) pinImageMounts(ctx context.Context, c *Container, layers *snapshot.Store) error {
	for _, m := range c.Spec.Mounts {
		if m.Type != volumes.TypeImage {
			continue
		}
		img, err := e.resolve(ctx, Spec{Image: m.Source})
		if err != nil {
			continue // resolving the mount says so, and where it is asked for
		}
		if err := e.unpack(ctx, img); err != nil {
			return err
		}
		if err := layers.Pin(ctx, c.ID, diffIDs(img)); err != nil {
			return err
		}
	}
	return nil
}

// closeMounts gives back what the process has now. Its record tells of it, so others
// know where to look for its files.
func closeMounts(p *prepared) {
	p.root.Close()
	p.mounts.Close()
	p.use.Unlock()
}

// pinPath is where the process' pidfd is bound, so that its exit status can be
// read even if all of ours were killed.
func (e *Engine) pinPath(id string) string { return filepath.Join(e.Records.RunDir(id), "pidfd") }

// gather fills in what OCI needs to know about this host and this start, except for
// the network.
func (e *Engine) gather(c *Container, img image.Image, p *prepared, v2 bool, back *undo) (err error) {
	f := &p.facts
	*f = Facts{
		ID: c.ID, Image: imageConfig(img), Hostname: e.hostname(c), User: p.user, Home: p.home,
		CgroupPath: e.cgroupPath(c), CgroupV2: v2, HasCap: hasCapability(), BlkioDevice: deviceNumber,
	}
	if f.PIDNS, err = e.sharedNS(c, c.Spec.Isolation.PIDMode, "pid"); err != nil {
		return err
	}
	var shm *os.File
	if f.IPCNS, err = e.sharedNS(c, c.Spec.Isolation.IPCMode, "ipc"); err != nil {
		return err
	}
	if shm, err = e.sharedShm(c, c.Spec.Isolation.IPCMode); err != nil {
		return err
	}
	if f.Devices, f.DeviceRules, err = devices(c.Spec.Isolation); err != nil {
		return err
	}
	caps, err := capabilities(c.Spec.Isolation.Privileged, c.Spec.Isolation.CapAdd, c.Spec.Isolation.CapDrop, f.HasCap)
	if err != nil {
		return err
	}
	if f.Seccomp, p.filter, err = seccompFilter(c.Spec.Isolation, caps); err != nil {
		return err
	}
	sec, err := parseSecurity(c.Spec.Isolation.SecurityOpt)
	if err != nil {
		return err
	}
	host := thisHost(v2)
	f.AppArmor = host.apparmor
	notes, err := sec.notes(c.Spec.Isolation, host)
	if err != nil {
		return err
	}
	for _, n := range notes {
		e.Warnf("container %s: %s", c.Spec.Name, n)
	}
	fds := map[string]*os.File{}
	for _, m := range p.mounts.Mounts {
		fds[m.Target] = m.FD
		om := specs.Mount{Destination: m.Target, Source: m.Source, Type: "bind"}
		if m.Propagation != "" && m.Propagation != "rprivate" {
			om.Options = []string{m.Propagation}
		}
		f.Mounts = append(f.Mounts, om)
	}
	if shm != nil {
		back.add(shm.Close)
		fds["/dev/shm"] = shm
		f.Mounts = append([]specs.Mount{{Destination: "/dev/shm", Type: "bind"}}, f.Mounts...)
	}
	if err := applyEdits(p.edits, p.user, f); err != nil {
		return err
	}
	// OCI puts the kernel's file systems before ours; count them to find ours.
	all := mounts(c.Spec, *f)
	p.mountFDs = map[int]*os.File{}
	for i, m := range all {
		if fd := fds[m.Destination]; fd != nil && m.Type == "bind" {
			p.mountFDs[i] = fd
		}
	}
	return nil
}

// sharedNS turns "", "host", "container:REF" and "service:NAME" into what Facts
// wants.
func (e *Engine) sharedNS(c *Container, mode, kind string) (string, error) {
	switch {
	case mode == "host":
		return "host", nil
	case !isShared(mode):
		return "", nil
	}
	donor, err := e.peer(c, mode)
	if err != nil {
		return "", fmt.Errorf("cannot join the %s namespace: %w", kind, err)
	}
	if donor.State.Pid == 0 {
		return "", fmt.Errorf("cannot join the %s namespace of container %s: it is not running", kind, donor.Spec.Name)
	}
	if kind == "ipc" && donor.Spec.Isolation.IPCMode != "shareable" {
		return "", fmt.Errorf("cannot join the IPC namespace of container %s: it is private; set ipc: shareable on that one", donor.Spec.Name)
	}
	return fmt.Sprintf("/proc/%d/ns/%s", donor.State.Pid, kind), nil
}

// isShared tells whether a mode names another container.
func isShared(mode string) bool {
	return strings.HasPrefix(mode, "container:") || strings.HasPrefix(mode, "service:")
}

// sharedShm is /dev/shm of the container whose IPC namespace is joined.
func (e *Engine) sharedShm(c *Container, mode string) (*os.File, error) {
	switch {
	case mode == "host":
		return openTree(unix.AT_FDCWD, "/dev/shm")
	case isShared(mode):
		donor, err := e.peer(c, mode)
		if err != nil {
			return nil, err
		}
		var f *os.File
		err = inMountNS(donor.State.Pid, func() (err error) {
			f, err = openTree(unix.AT_FDCWD, "/dev/shm")
			return err
		})
		return f, err
	}
	return nil, nil
}

// openTree clones a mount into a detached one, open_tree(2).
func openTree(dir int, path string) (*os.File, error) {
	fd, err := unix.OpenTree(dir, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("cannot clone the mount at %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}
