// Package runner runs the commands of a build: BuildKit's executor, with the
// engine's runtime, cgroups and networks.
//
// A command gets what a container of the engine's gets: the default capabilities
// and seccomp filter, masked paths, namespaces, a cgroup below the instance's and
// an endpoint on the default network, with names answered at 127.0.0.11.
//
// The runner lives in a mount namespace of its own, see package build: what it
// mounts needs no cleaning up after it was killed. Its cgroups, endpoints and ranges of
// user IDs do; New does that.
//
// Where a build asks for it, its commands run in user namespaces; see package confine.
// All that they see is mounted so that owners are what they are on disk, which is what
// ends up in the image.
package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"github.com/moby/buildkit/executor"
	resourcestypes "github.com/moby/buildkit/executor/resources/types"
	gatewayapi "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/identity"
	"github.com/moby/buildkit/solver/pb"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/engine/build/confine"
	"github.com/stack-run/stack/engine/cgroup"
	"github.com/stack-run/stack/engine/runtime"
)

// Runner runs commands. It implements executor.Executor.
type Runner struct {
	engine *engine.Engine
	dir    string // for bundles; its content is nobody's after a restart
	nets   *networks
	warn   func(string)

	mu      sync.Mutex
	running map[string]*container
	shares  map[string]*share // by the directory that is written to
}

// Options make a Runner.
type Options struct {
	Engine *engine.Engine
	Dir    string // for temporary files and mount points
	Warn   func(string)
}

// New returns a runner, having removed what an earlier one left behind.
func New(ctx context.Context, o Options) (*Runner, error) {
	r := &Runner{engine: o.Engine, dir: o.Dir, warn: o.Warn, running: map[string]*container{}, shares: map[string]*share{}}
	if r.warn == nil {
		r.warn = func(string) {}
	}
	nets, err := o.Engine.Networks()
	if err != nil {
		return nil, err
	}
	r.nets = newNetworks(o.Engine, nets)
	if err := r.sweep(ctx); err != nil {
		return nil, fmt.Errorf("cannot clean up after the last builder: %w", err)
	}
	return r, nil
}

// Close releases what is kept between commands.
func (r *Runner) Close(ctx context.Context) error {
	return errors.Join(r.nets.close(ctx), r.sweep(ctx))
}

// container is a command that runs.
type container struct {
	started chan struct{} // closed when proc is set, or it will not be
	spec    *specs.Spec
	root    string
	group   *cgroup.Group
	proc    *runtime.Process
}

// Run runs a command in a container made of root and mounts, and waits for its
// end.
func (r *Runner) Run(ctx context.Context, id string, root executor.Mount, mounts []executor.Mount, process executor.ProcessInfo, started chan<- struct{}) (_ resourcestypes.Recorder, err error) {
	if id == "" {
		id = identity.NewID()
	}
	if err := executor.ValidContainerID(id); err != nil {
		return nil, err
	}
	c := &container{started: make(chan struct{})}
	if err := r.enter(id, c); err != nil {
		return nil, err
	}
	tell := sync.OnceFunc(func() {
		close(c.started)
		if started != nil {
			close(started)
		}
	})
	defer func() {
		r.leave(id)
		tell()
	}()
	if process.Meta.Proxy != nil {
		return nil, errors.New("cannot run a command with a proxy network: not supported")
	}
	return nil, r.run(ctx, id, c, root, mounts, process, tell)
}

func (r *Runner) enter(id string, c *container) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.running[id] != nil {
		return fmt.Errorf("cannot run container %s: there is one of that name already", id)
	}
	r.running[id] = c
	return nil
}

func (r *Runner) leave(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.running, id)
}

func (r *Runner) run(ctx context.Context, id string, c *container, root executor.Mount, mounts []executor.Mount, process executor.ProcessInfo, tell func()) (err error) {
	meta := process.Meta
	users, err := r.users(ctx, id, meta)
	if err != nil {
		return err
	}
	if users != nil {
		defer func() { err = errors.Join(err, users.Close(ctx)) }()
	}
	// The network takes longest and needs nothing of the rest.
	type attached struct {
		n   *namespace
		err error
	}
	network := make(chan attached, 1)
	go func() {
		n, err := r.nets.attach(ctx, id, meta.NetMode, users)
		network <- attached{n, err}
	}()
	net := sync.OnceValue(func() attached { return <-network })
	defer func() {
		if n := net().n; n != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	b, err := r.bundle(ctx, id, root, users)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	cleanStubs := executor.MountStubsCleaner(context.WithoutCancel(ctx), b.root, mounts, meta.RemoveMountStubsRecursive)
	defer cleanStubs()
	if net().err != nil {
		return net().err
	}
	spec, release, err := r.spec(ctx, id, b, net().n, mounts, meta)
	if err != nil {
		return err
	}
	defer release()
	spec.Root.Readonly = root.Readonly || meta.ReadonlyRootFS
	return r.start(ctx, c, b, spec, process, tell)
}

// users makes the user namespace that a build wants for its commands, nil for the host's.
func (r *Runner) users(ctx context.Context, id string, meta executor.Meta) (*engine.BuildNamespaces, error) {
	c := confine.From(ctx)
	if c.UserNS == "" {
		return nil, nil
	}
	// As with containers.
	what := ""
	switch {
	case meta.NetMode == pb.NetMode_HOST:
		what = "the host's network"
	case meta.SecurityMode == pb.SecurityMode_INSECURE:
		what = "--security=insecure"
	}
	if what != "" {
		return nil, fmt.Errorf("cannot run a command: %s cannot be had in a user namespace of its own; leave it out, or build with userns_mode: host (--userns=host)", what)
	}
	return r.engine.BuildNamespaces(ctx, id, c.Project, c.Build, c.UserNS)
}

// start starts the container's process in a cgroup and waits for its end.
func (r *Runner) start(ctx context.Context, c *container, b *bundle, spec *specs.Spec, process executor.ProcessInfo, tell func()) (err error) {
	groups, err := r.engine.Cgroups()
	if err != nil {
		return err
	}
	group, warnings, err := groups.Create(spec.Linux.CgroupsPath, spec.Linux.Resources)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.endGroup(context.WithoutCancel(ctx), groups, group)) }()
	for _, w := range warnings {
		r.warn(w)
	}
	entry, err := group.Entry()
	if err != nil {
		return err
	}
	defer entry.Close()
	streams, err := openStreams(process)
	if err != nil {
		return err
	}
	defer streams.close()
	rootFS, err := b.detach()
	if err != nil {
		return err
	}
	defer rootFS.Close()
	proc, err := runtime.Start(ctx, &runtime.Config{
		Spec: spec, RootFS: rootFS, CgroupFD: entry.Dir, CgroupProcs: entry.Tasks,
		Stdin: streams.stdin, Stdout: streams.stdout, Stderr: streams.stderr, Warn: r.warn,
	})
	if err != nil {
		return exitError(ctx, process.Meta.ValidExitCodes, startExit(err), err)
	}
	defer proc.Close()
	c.spec, c.root, c.group, c.proc = spec, b.root, group, proc
	tell()
	status, err := r.attend(ctx, proc, group.Kill, process, streams)
	if err != nil {
		return err
	}
	var cause error
	if n, err := group.OOMKills(); err == nil && n > 0 {
		cause = fmt.Errorf("the build ran out of memory: %w", syscall.ENOMEM)
	} else if status.Code != 0 && full(r.engine.DataRoot()) {
		// The command has said so in its own words; nobody else would know.
		cause = fmt.Errorf("exit code: %d, with the disk of the build full: %w", status.Code, syscall.ENOSPC)
	}
	return exitError(ctx, process.Meta.ValidExitCodes, status.Code, cause)
}

// full tells whether hardly anything fits on the disk that path is on.
func full(path string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(path, &fs) == nil && fs.Bavail*uint64(fs.Bsize) < 1<<20
}

// endGroup kills what is left of a container and removes its cgroup.
func (r *Runner) endGroup(ctx context.Context, groups *cgroup.Hierarchy, g *cgroup.Group) error {
	return errors.Join(g.Kill(ctx), g.Delete(ctx))
}

// attend serves a running process until its end. What it wrote has been passed on
// when attend returns.
func (r *Runner) attend(ctx context.Context, proc *runtime.Process, kill func(context.Context) error, process executor.ProcessInfo, streams *streams) (runtime.ExitStatus, error) {
	streams.serve(proc.Console)
	done := make(chan struct{})
	served := make(chan struct{})
	go func() {
		defer close(served)
		r.command(ctx, done, proc, kill, process)
	}()
	status, err := proc.Wait()
	close(done)
	<-served
	streams.drain()
	return status, err
}

// command passes signals and sizes on to a process, and kills it when ctx ends.
func (r *Runner) command(ctx context.Context, done <-chan struct{}, proc *runtime.Process, kill func(context.Context) error, process executor.ProcessInfo) {
	cancelled := ctx.Done()
	for {
		select {
		case <-done:
			return
		case <-cancelled:
			cancelled = nil
			if err := kill(context.WithoutCancel(ctx)); err != nil {
				r.warn(fmt.Sprintf("cannot kill a command: %v", err))
			}
		case sig, ok := <-process.Signal:
			if !ok {
				process.Signal = nil
				continue
			}
			if err := proc.Signal(sig); err != nil && !errors.Is(err, runtime.ErrGone) {
				r.warn(fmt.Sprintf("cannot signal a command: %v", err))
			}
		case size, ok := <-process.Resize:
			if !ok {
				process.Resize = nil
				continue
			}
			if proc.Console != nil {
				if err := proc.Resize(uint(size.Rows), uint(size.Cols)); err != nil {
					r.warn(fmt.Sprintf("cannot resize a terminal: %v", err))
				}
			}
		}
	}
}

// startExit is the exit code that a failed start stands for.
func startExit(err error) int {
	var e *runtime.CommandError
	if errors.As(err, &e) {
		return e.ExitCode
	}
	return gatewayapi.UnknownExitStatus
}

// exitError turns the end of a command into BuildKit's error, nil if the exit
// code is as it should be.
func exitError(ctx context.Context, valid []int, code int, cause error) error {
	if valid == nil {
		valid = []int{0}
	}
	if cause == nil && slices.Contains(valid, code) {
		return nil
	}
	e := &gatewayapi.ExitError{ExitCode: uint32(code), Err: cause}
	if ctx.Err() != nil {
		e.Err = fmt.Errorf("%w: %w", context.Cause(ctx), &gatewayapi.ExitError{ExitCode: uint32(code), Err: cause})
	}
	return e
}

// sweep removes what a killed runner left behind: cgroups, endpoints, user IDs, files.
func (r *Runner) sweep(ctx context.Context) error {
	groups, err := r.engine.Cgroups()
	if err != nil {
		return err
	}
	parent := r.cgroupParent()
	names, err := groups.Groups(parent)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		g, err := groups.Open(filepath.Join(parent, name))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, r.endGroup(ctx, groups, g))
	}
	errs = append(errs, groups.RemoveEmpty(parent), r.nets.sweep(ctx), r.engine.DropBuildRanges(ctx), os.RemoveAll(r.dir), os.MkdirAll(r.dir, 0o700))
	return errors.Join(errs...)
}

// cgroupParent is where the cgroups of build containers are.
func (r *Runner) cgroupParent() string {
	return filepath.Join("/stack-"+r.engine.Instance(), "build")
}
