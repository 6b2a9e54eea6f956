package main

import (
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/engine"
)

// openVerbs opens the engine for the verbs.
func openVerbs(r roots, warn func(string)) (compose.API, error) {
	return compose.Open(compose.Options{DataRoot: r.Data, RunRoot: r.Run, Warn: warn})
}

// openObjects opens the engine for its stores.
func openObjects(r roots, warn func(string)) (*engine.Engine, error) {
	return engine.Open(engine.Options{DataRoot: r.Data, RunRoot: r.Run, Warn: warn})
}
