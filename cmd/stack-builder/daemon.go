package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/engine"
	builder "github.com/stack-run/stack/engine/build"
	buildd "github.com/stack-run/stack/engine/build/daemon"
	"github.com/stack-run/stack/engine/build/request"
	"github.com/stack-run/stack/engine/build/runner"
	"github.com/stack-run/stack/engine/cgroup"
	"github.com/stack-run/stack/engine/image"
)

// daemon serves builds. It is started by build.Dial, in a pid and a mount
// namespace of its own, and says on descriptor 3 that it is ready.
func daemon(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("daemon", flag.ContinueOnError)
	isolated := f.Bool(builder.IsolatedFlag[2:], false, "started in namespaces of its own")
	wait := builder.DefaultIdle
	if d, err := time.ParseDuration(os.Getenv("STACK_BUILDER_IDLE")); err == nil {
		wait = d
	}
	idle := f.Duration("idle", wait, "leave when nobody has been connected for this long")
	debug := f.Bool("debug", false, "log what BuildKit does")
	if err := f.Parse(args); err != nil {
		return err
	}
	if !*isolated {
		return isolate(ctx)
	}
	logrus.SetLevel(logrus.WarnLevel)
	if *debug {
		logrus.SetLevel(logrus.DebugLevel)
	}
	tell := os.NewFile(builder.ReadyFD, "ready")
	err := serveBuilds(ctx, *idle, func() {
		fmt.Fprint(tell, "ready")
		tell.Close()
	})
	if err != nil {
		fmt.Fprint(tell, err) // nobody reads it any more once the daemon was ready
	}
	if err != nil || ctx.Err() != nil {
		leaveGroups()
		return err
	}
	// It leaves. Of all that it ran, in goroutines too, nothing is left afterwards.
	return syscall.Exec("/proc/self/exe", []string{os.Args[0], "share"}, os.Environ())
}

// share is what the daemon ends as: nobody uses the build cache any more, and what
// the engine has of the same can take its place.
func share(ctx context.Context, _ []string) error {
	if os.Getpid() != 1 {
		return errors.New("stack-builder share is what the daemon ends as, alone in its namespaces")
	}
	defer leaveGroups()
	// Commands of builds that nobody waited for.
	if err := unix.Kill(-1, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	eng, err := engine.Open(engine.Options{Warn: func(s string) { logrus.Warn(s) }})
	if err != nil {
		return err
	}
	lock, free, err := buildd.TryLock(eng.RunRoot())
	if err != nil || !free {
		return err // there is a new daemon, which will end like this as well
	}
	defer lock.Unlock()
	layers, err := eng.Layers()
	if err != nil {
		return err
	}
	err = buildd.Share(ctx, eng.DataRoot(), layers)
	// Layers that only the build cache had, before something was pruned from it.
	collectErr := eng.CollectLayers(ctx)
	return errors.Join(err, collectErr)
}

// leaveGroups removes the control groups that the daemon was started in.
func leaveGroups() {
	if groups := os.Getenv(builder.GroupsVar); groups != "" {
		cgroup.LeaveGroups(strings.Split(groups, "\n"))
	}
}

// isolate runs the daemon in namespaces of its own, in the foreground.
func isolate(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	attr := builder.Isolation()
	attr.Setsid = false
	p, err := os.StartProcess(self, append(os.Args, builder.IsolatedFlag), &os.ProcAttr{
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr, os.Stderr}, Sys: attr,
	})
	if err != nil {
		return fmt.Errorf("cannot start the daemon: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { p.Signal(os.Interrupt) })
	defer stop()
	state, err := p.Wait()
	if err == nil && !state.Success() {
		err = fmt.Errorf("the daemon ended with %v", state)
	}
	return err
}

func serveBuilds(ctx context.Context, idle time.Duration, ready func()) (err error) {
	// Mounts stay in this namespace, where those made outside are seen, too, and
	// /proc is that of the new pid namespace.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("cannot leave the host's mount namespace: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("cannot mount /proc: %w", err)
	}
	warn := func(s string) { logrus.Warn(s) }
	eng, err := engine.Open(engine.Options{Warn: warn})
	if err != nil {
		return err
	}
	o := buildd.Options{DataRoot: eng.DataRoot(), RunRoot: eng.RunRoot(), Idle: idle}
	lock, err := buildd.Lock(ctx, o.RunRoot)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	if err := provideXZ(filepath.Join(request.Dir(o.RunRoot), "bin")); err != nil {
		return fmt.Errorf("cannot stand in for xz, which this machine lacks: %w", err)
	}
	if o.Images, err = eng.Images(); err != nil {
		return err
	}
	if o.Layers, err = eng.Layers(); err != nil {
		return err
	}
	o.Ready = func(ctx context.Context, img image.Image) error {
		return o.Layers.Unpack(ctx, img.Layers, o.Images.Content())
	}
	r, err := runner.New(ctx, runner.Options{Engine: eng, Dir: filepath.Join(request.Dir(o.RunRoot), "running"), Warn: warn})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close(context.WithoutCancel(ctx))) }()
	o.Executor = r
	return buildd.Serve(ctx, o, ready)
}
