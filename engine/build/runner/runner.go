// Package runner runs the commands of a build with the engine's runtime. It is
// BuildKit's executor.
package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/containerd/containerd/v2/core/mount"
	ctdoci "github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/continuity/fs"
	"github.com/moby/buildkit/executor"
	"github.com/moby/buildkit/executor/oci"
	resources "github.com/moby/buildkit/executor/resources/types"
	gateway "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/identity"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/network"
	"github.com/moby/buildkit/util/stack"
	"github.com/moby/sys/user"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/stack-run/stack/engine/runtime"
)

// Runner is an executor.Executor.
type Runner struct {
	dir  string // a directory for each command while it runs
	nets map[pb.NetMode]network.Provider

	mu      sync.Mutex
	running map[string]*container
}

// container is a command of a build that others may be run beside.
type container struct {
	process *runtime.Process
	spec    *specs.Spec
}

// New returns a runner that keeps its files below dir.
func New(dir string, nets map[pb.NetMode]network.Provider) (*Runner, error) {
	// What is there is of a daemon that was killed, and its mounts have gone with it.
	if err := os.RemoveAll(dir); err != nil {
		return nil, fmt.Errorf("cannot prepare the builder: %w", err)
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, fmt.Errorf("cannot prepare the builder: %w", err)
	}
	return &Runner{dir: dir, nets: nets, running: map[string]*container{}}, nil
}

// Run runs a command in a root file system of its own, to its end.
func (r *Runner) Run(ctx context.Context, id string, root executor.Mount, mounts []executor.Mount, p executor.ProcessInfo, started chan<- struct{}) (_ resources.Recorder, err error) {
	tell := sync.OnceFunc(func() {
		if started != nil {
			close(started)
		}
	})
	defer tell()
	if id == "" {
		id = identity.NewID()
	}
	if err := executor.ValidContainerID(id); err != nil {
		return nil, err
	}
	provider := r.nets[p.Meta.NetMode]
	if provider == nil {
		return nil, fmt.Errorf("cannot run the command: network mode %s is not supported", p.Meta.NetMode)
	}
	net, err := provider.New(ctx, p.Meta.Hostname, network.NamespaceOptions{})
	if err != nil {
		return nil, err
	}
	defer net.Close()
	spec, clean, err := r.prepare(ctx, id, root, mounts, p.Meta, net)
	defer clean()
	if err != nil {
		return nil, err
	}
	process, copied, err := r.start(ctx, spec, p)
	if err != nil {
		return nil, err
	}
	defer process.Close()
	r.mu.Lock()
	r.running[id] = &container{process, spec}
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.running, id)
		r.mu.Unlock()
	}()
	tell()
	return nil, await(ctx, process, copied, p)
}

// Exec runs a further command beside one that runs.
func (r *Runner) Exec(ctx context.Context, id string, p executor.ProcessInfo) error {
	r.mu.Lock()
	c := r.running[id]
	r.mu.Unlock()
	if c == nil {
		return fmt.Errorf("cannot run a command in container %s: it does not run", id)
	}
	process := *c.spec.Process
	process.Args, process.Terminal = p.Meta.Args, p.Meta.Tty
	if p.Meta.Cwd != "" {
		process.Cwd = p.Meta.Cwd
	}
	if len(p.Meta.Env) > 0 {
		process.Env = p.Meta.Env
	}
	io, err := newStreams(p)
	if err != nil {
		return err
	}
	defer io.close()
	x, err := runtime.Exec(ctx, &runtime.ExecConfig{
		Target: c.process.PID, StartTicks: c.process.StartTicks, Process: &process,
		Stdin: io.stdin, Stdout: io.stdout, Stderr: io.stderr, Profile: c.spec.Linux.Seccomp,
	})
	if err != nil {
		return err
	}
	defer x.Close()
	return await(ctx, x, io.copy(), p)
}

// prepare makes the root file system and the specification of a command. clean
// is to be called in any case.
func (r *Runner) prepare(ctx context.Context, id string, root executor.Mount, mounts []executor.Mount, meta executor.Meta, net network.Namespace) (spec *specs.Spec, clean func(), err error) {
	var undo []func()
	clean = func() {
		for i := len(undo) - 1; i >= 0; i-- {
			undo[i]()
		}
	}
	dir, err := os.OpenRoot(r.dir)
	if err != nil {
		return nil, clean, err
	}
	undo = append(undo, func() { dir.Close() })
	resolv, err := oci.GetResolvConf(ctx, dir, nil, nil, meta.NetMode)
	if err != nil {
		return nil, clean, err
	}
	hosts, cleanHosts, err := oci.GetHostsFile(ctx, dir, meta.ExtraHosts, nil, meta.Hostname)
	if err != nil {
		return nil, clean, err
	}
	if cleanHosts != nil {
		undo = append(undo, cleanHosts)
	}
	rootfs := filepath.Join(r.dir, id, "rootfs")
	if err := os.MkdirAll(rootfs, 0o700); err != nil {
		return nil, clean, err
	}
	undo = append(undo, func() { os.RemoveAll(filepath.Join(r.dir, id)) })
	unmount, err := mountRoot(ctx, root, rootfs)
	if err != nil {
		return nil, clean, err
	}
	undo = append(undo, unmount)
	undo = append(undo, executor.MountStubsCleaner(context.WithoutCancel(ctx), rootfs, mounts, meta.RemoveMountStubsRecursive))
	uid, gid, groups, err := oci.GetUser(rootfs, meta.User)
	if err != nil {
		return nil, clean, fmt.Errorf("cannot find user %q: %w", meta.User, err)
	}
	opts := []ctdoci.SpecOpts{oci.WithUIDGID(uid, gid, groups)}
	if meta.ReadonlyRootFS || root.Readonly {
		opts = append(opts, ctdoci.WithRootFSReadonly())
	}
	spec, cleanSpec, err := oci.GenerateSpec(ctx, meta, mounts, id, filepath.Join(r.dir, resolv), filepath.Join(r.dir, hosts), net,
		"", oci.ProcessSandbox, nil, "", false, "", nil, opts...)
	if err != nil {
		return nil, clean, err
	}
	undo = append(undo, cleanSpec)
	spec.Root.Path = rootfs
	spec.Process.Terminal = meta.Tty
	cwd, err := fs.RootPath(rootfs, meta.Cwd)
	if err != nil {
		return nil, clean, fmt.Errorf("cannot use working directory %s: %w", meta.Cwd, err)
	}
	if _, err := os.Stat(cwd); err != nil {
		if err := user.MkdirAllAndChown(cwd, 0o755, int(uid), int(gid)); err != nil {
			return nil, clean, fmt.Errorf("cannot make working directory %s: %w", meta.Cwd, err)
		}
	}
	return spec, clean, nil
}

// mountRoot mounts a root file system at dir.
func mountRoot(ctx context.Context, root executor.Mount, dir string) (func(), error) {
	ref, err := root.Src.Mount(ctx, false)
	if err != nil {
		return nil, err
	}
	mounts, release, err := ref.Mount()
	if err != nil {
		return nil, err
	}
	if release == nil {
		release = func() error { return nil }
	}
	if err := mount.All(mounts, dir); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot mount the root file system: %w", err), release())
	}
	return func() {
		mount.Unmount(dir, 0)
		release()
	}, nil
}

// start starts the first process of a container.
func (r *Runner) start(ctx context.Context, spec *specs.Spec, p executor.ProcessInfo) (*runtime.Process, func(), error) {
	io, err := newStreams(p)
	if err != nil {
		return nil, nil, err
	}
	defer io.close()
	process, err := runtime.Start(ctx, &runtime.Config{Spec: spec, Stdin: io.stdin, Stdout: io.stdout, Stderr: io.stderr})
	if err != nil {
		return nil, nil, err
	}
	return process, io.copy(), nil
}

// await waits for the end of a process, kills it when ctx ends, and passes
// signals on. copied waits for the last of its output.
func await(ctx context.Context, process *runtime.Process, copied func(), p executor.ProcessInfo) error {
	done := make(chan struct{})
	var status runtime.ExitStatus
	var waitErr error
	go func() {
		defer close(done)
		status, waitErr = process.Wait()
	}()
	kill := ctx.Done()
	for {
		select {
		case <-kill:
			process.Signal(syscall.SIGKILL)
			kill = nil
		case sig := <-p.Signal:
			process.Signal(sig)
		case size := <-p.Resize:
			if process.Console != nil {
				process.Resize(uint(size.Rows), uint(size.Cols))
			}
		case <-done:
			copied()
			if waitErr != nil {
				return waitErr
			}
			return exitError(ctx, status.Code, p.Meta.ValidExitCodes)
		}
	}
}

// exitError is what an exit code means to BuildKit.
func exitError(ctx context.Context, code int, valid []int) error {
	if len(valid) == 0 {
		valid = []int{0}
	}
	for _, v := range valid {
		if code == v {
			return nil
		}
	}
	if ctx.Err() != nil {
		return fmt.Errorf("the command was stopped: %w", context.Cause(ctx))
	}
	return stack.Enable(&gateway.ExitError{ExitCode: uint32(code), Err: fmt.Errorf("exit code: %d", code)})
}

// streams are the standard streams of a command: files for the process, and
// copies to and from BuildKit's.
type streams struct {
	stdin, stdout, stderr *os.File
	copies                []func()
}

func newStreams(p executor.ProcessInfo) (_ *streams, err error) {
	s := &streams{}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if p.Meta.Tty {
		return nil, errors.New("cannot run the command with a terminal: builds have none")
	}
	output := func(w io.WriteCloser) (*os.File, error) {
		if w == nil {
			return nil, nil
		}
		from, to, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		s.copies = append(s.copies, func() {
			defer from.Close()
			io.Copy(w, from)
			w.Close()
		})
		return to, nil
	}
	if s.stdout, err = output(p.Stdout); err != nil {
		return nil, err
	}
	if s.stderr, err = output(p.Stderr); err != nil {
		return nil, err
	}
	if p.Stdin != nil {
		from, to, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		s.stdin = from
		go func() { // ends with the pipe's reader, or with the input
			defer to.Close()
			io.Copy(to, p.Stdin)
		}()
	}
	return s, nil
}

// copy starts to copy the output and returns a function that waits for its end.
func (s *streams) copy() func() {
	var group sync.WaitGroup
	for _, c := range s.copies {
		group.Go(c)
	}
	s.copies = nil
	return group.Wait
}

// close lets go of what only the process needs, and of all if it did not start.
func (s *streams) close() {
	for _, f := range []*os.File{s.stdin, s.stdout, s.stderr} {
		if f != nil {
			f.Close()
		}
	}
	if len(s.copies) > 0 {
		s.copy()()
	}
}
