package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/network"
	"golang.org/x/sys/unix"

	builder "github.com/stack-run/stack/engine/build"
	buildd "github.com/stack-run/stack/engine/build/daemon"
	"github.com/stack-run/stack/engine/build/runner"
	"github.com/stack-run/stack/engine/image"
	"github.com/stack-run/stack/engine/snapshot"
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
	if err := f.Parse(args); err != nil {
		return err
	}
	if !*isolated {
		return errors.New("stack-builder daemon is started by stack itself")
	}
	tell := os.NewFile(builder.ReadyFD, "ready")
	err := serveBuilds(ctx, buildd.Options{
		DataRoot: os.Getenv("STACK_DATA_ROOT"), RunRoot: os.Getenv("STACK_RUN_ROOT"), Idle: *idle,
	}, func() {
		fmt.Fprint(tell, "ready")
		tell.Close()
	})
	if err != nil {
		fmt.Fprint(tell, err) // nobody reads it any more once the daemon was ready
	}
	return err
}

func serveBuilds(ctx context.Context, o buildd.Options, ready func()) error {
	// Mounts stay in this namespace, and /proc is that of the new pid namespace.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("cannot make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("cannot mount /proc: %w", err)
	}
	var err error
	if o.Images, err = image.Open(o.DataRoot); err != nil {
		return err
	}
	layers, err := snapshot.Open(o.DataRoot)
	if err != nil {
		return err
	}
	o.Ready = func(ctx context.Context, img image.Image) error {
		return layers.Unpack(ctx, img.Layers, o.Images.Content())
	}
	o.Networks = map[pb.NetMode]network.Provider{
		pb.NetMode_UNSET: network.NewHostProvider(),
		pb.NetMode_HOST:  network.NewHostProvider(),
		pb.NetMode_NONE:  network.NewNoneProvider(),
	}
	if o.Executor, err = runner.New(filepath.Join(builder.Dir(o.RunRoot), "running"), o.Networks); err != nil {
		return err
	}
	return buildd.Serve(ctx, o, ready)
}
