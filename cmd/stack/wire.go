package main

import (
	"os"
	"time"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/image"
	"github.com/stack-run/stack/compose"
)

// open opens the door to the engine.
func open(a *cli.App) (compose.API, error) {
	r := a.Roots()
	return compose.Open(compose.Options{
		DataRoot: r.Data, RunRoot: r.Run, Warn: func(w string) { a.Warn("%s", w) },
		UserAgent: "stack/" + cli.Version, Builder: image.Builder(a),
	})
}

// newApp is the command line of this process.
func newApp() *cli.App {
	return &cli.App{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr,
		Environ: os.Environ(), Now: time.Now, Cwd: os.Getwd, Open: open,
	}
}
