// Command stack runs Compose files on one Linux machine with its own engine.
package main

import (
	"context"
	"os"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/compose"
)

func main() {
	// A process that the engine starts for itself pays nothing for the command line.
	if compose.Internal() {
		return
	}
	a := newApp()
	os.Exit(run(context.Background(), a, os.Args[1:]))
}

// run runs one command line and returns the exit code.
func run(ctx context.Context, a *cli.App, args []string) int {
	root := newRootCmd(a, args)
	root.SetArgs(args)
	root.SetIn(a.In)
	root.SetOut(a.Out)
	root.SetErr(a.Err)
	return a.Report(root.ExecuteContext(ctx))
}
