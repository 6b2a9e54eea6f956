package main

import (
	"os"
	"time"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/image"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/engine"
)

// openVerbs opens the engine for the verbs.
func openVerbs(r cli.Roots, warn func(string)) (compose.API, error) {
	return compose.Open(compose.Options{DataRoot: r.Data, RunRoot: r.Run, Warn: warn})
}

// openObjects opens the engine for its stores.
func openObjects(r cli.Roots, warn func(string)) (*engine.Engine, error) {
	return engine.Open(engine.Options{DataRoot: r.Data, RunRoot: r.Run, Warn: warn})
}

// newApp is the command line of this process.
func newApp() *cli.App {
	return &cli.App{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr,
		Environ: os.Environ(), Now: time.Now, Cwd: os.Getwd,
		Open: openVerbs, Objects: openObjects, Builder: image.RunBuilder,
	}
}
