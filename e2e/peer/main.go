package peer

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// dirVariable names Dir to the processes of a sandbox.
const dirVariable = "STACK_PEER_DIR"

// Dir is the directory that Main's prepare has filled.
func Dir() string { return os.Getenv(dirVariable) }

// Main is the main function of tests, m, that run in a sandbox. Outside of it
// prepare puts what they need into a new directory, which is removed in the end;
// what it sets in the environment is set inside as well.
func Main(m interface{ Run() int }, prepare func(ctx context.Context, dir string) error) {
	RunProgram(func(ctx context.Context) (int, error) { return enterAndRun(ctx, m, prepare) })
}

// RunProgram is the main function of a program that does run, whose context ends with an
// interrupt, and exits as it says.
func RunProgram(run func(ctx context.Context) (code int, err error)) {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	code, err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", filepath.Base(os.Args[0]), err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func enterAndRun(ctx context.Context, m interface{ Run() int }, prepare func(ctx context.Context, dir string) error) (int, error) {
	var env []string
	if Dir() == "" {
		dir, err := os.MkdirTemp("", "stack-peer-")
		if err != nil {
			return 1, err
		}
		defer os.RemoveAll(dir)
		if err := prepare(ctx, dir); err != nil {
			return 1, err
		}
		env = []string{dirVariable + "=" + dir}
	}
	inside, code, err := Enter(ctx, env...)
	if inside {
		return m.Run(), nil
	}
	return code, err
}
