// Command stack-builder is the builder of stack: BuildKit as a daemon, and its
// client. Users call it through "stack build"; it is a program of its own so
// that commands that do not build pay nothing for it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

// verbs are what the program can do, by its first argument.
func verbs() map[string]func(ctx context.Context, args []string) error {
	return map[string]func(context.Context, []string) error{
		"build":  build,
		"daemon": daemon,
		"du":     usage,
		"prune":  prune,
		"share":  share,
	}
}

func main() {
	if filepath.Base(os.Args[0]) == xzName {
		if err := decompress(os.Stdout, os.Stdin); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) < 2 || verbs()[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, `stack-builder is called by stack: see "stack build --help" and "stack builder --help"`)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := verbs()[os.Args[1]](ctx, os.Args[2:])
	interrupted := ctx.Err() != nil
	stop()
	var said errSaid
	switch {
	case err == nil:
	case interrupted:
		os.Exit(130)
	case errors.As(err, &said):
		os.Exit(1)
	default:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// errSaid is an error that the user has been told already.
type errSaid struct{ error }
