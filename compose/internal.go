package compose

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/compose/supervise"
	"github.com/stack-run/stack/compose/supervise/guard"
	"github.com/stack-run/stack/engine"
)

// collectRarely lets the heap grow to 16 MiB before the garbage collector runs
// for the first time: most of our processes end before that. A supervisor gives
// memory back when it is idle instead.
const collectRarely = 400

// Internal sets up the runtime and runs the process that this one was started to
// be, where that is not the command line; it tells whether it did. Warden and guardian never come
// here: package guard takes them at initialisation.
func Internal() (handled bool) {
	debug.SetGCPercent(collectRarely)
	if os.Getenv(guard.EnvRole) != guard.Supervisor {
		return false
	}
	if err := supervisor(); err != nil {
		fmt.Fprintln(os.Stderr, "supervisor:", err)
		os.Exit(1)
	}
	return true
}

func supervisor() error {
	// It ends when nothing is left to own, not when somebody asks.
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGTERM, unix.SIGPIPE)
	go engine.WarmUp()
	// After exec of /proc/self/exe the process would be called "exe".
	if err := os.WriteFile("/proc/self/comm", []byte("stack-supervise"), 0); err != nil {
		return err
	}
	keeper, err := supervise.InheritKeeper()
	if err != nil {
		return err
	}
	dir, project := os.Getenv(guard.EnvDir), os.Getenv(guard.EnvName)
	if err := os.MkdirAll(filepath.Join(dir, "exits"), 0o700); err != nil {
		return err
	}
	e, err := engine.Open(engine.Options{Warn: func(text string) { fmt.Fprintln(os.Stderr, text) }})
	if err != nil {
		return err
	}
	return supervise.Run(context.Background(), supervise.Options{Realm: project, Dir: dir, Engine: e, Keeper: keeper})
}
