// Command stack runs Compose files on one Linux machine with its own engine.
package main

import (
	"context"
	"os"

	"github.com/stack-run/stack/compose"
)

func main() {
	// A process that the engine starts for itself pays nothing for the command line.
	if compose.Internal() {
		return
	}
	a := newApp()
	os.Exit(a.main(context.Background(), os.Args[1:]))
}

// main runs one command line and returns the exit code.
func (a *app) main(ctx context.Context, args []string) int {
	root := newRootCmd(a, args)
	root.SetArgs(args)
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	return a.report(root.ExecuteContext(ctx))
}
