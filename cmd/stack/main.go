// Command stack runs Compose files on one Linux machine with its own engine.
package main

import (
	"context"
	"os"
	"path/filepath"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/compose"
)

func main() {
	// A process that the engine starts for itself pays nothing for the command line.
	if compose.Internal() {
		return
	}
	a := newApp()
	os.Exit(run(context.Background(), a, filepath.Base(os.Args[0]), os.Args[1:]))
}

// run runs one command line of the program of that name and returns the exit code.
func run(ctx context.Context, a *cli.App, name string, args []string) int {
	is, args := understand(name, args)
	root := newRootCmd(a, is, args)
	root.SetArgs(args)
	root.SetIn(a.In)
	root.SetOut(a.Out)
	root.SetErr(a.Err)
	return a.Report(root.ExecuteContext(ctx))
}
