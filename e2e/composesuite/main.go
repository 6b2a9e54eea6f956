// Composesuite runs docker compose's own end-to-end tests twice, on Docker and on
// stack, and writes which pass to a table.
//
//	go run ./e2e/composesuite -stack bin/stack -write e2e/composesuite/RESULTS.md
//
// The tests come from docker compose's Go module when they are run; none of them is
// in this repository. They run in throw-away sandboxes (package peer), one for each
// side, where a small registry plays Docker Hub with images that are made here under
// the names that the tests use. It needs what "make bench" needs.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/stack-run/stack/e2e/peer"
)

func main() { peer.RunProgram(run) }

type options struct {
	stack    string
	dir      string
	write    string
	only     string
	tests    string
	logs     string
	parallel int
}

func parseFlags() options {
	var o options
	flag.StringVar(&o.stack, "stack", "", "stack program (default: built from ./cmd/stack)")
	flag.StringVar(&o.dir, "dir", "", "where to put data of both (default: a temporary directory)")
	flag.StringVar(&o.write, "write", "", "write the table to this Markdown file")
	flag.StringVar(&o.only, "only", "", "run on this side only, Docker or stack, and keep what the table says about the other")
	flag.StringVar(&o.tests, "run", "", "run only tests that match, and keep what the table says about the others")
	flag.StringVar(&o.logs, "logs", "", "write what the tests say to files in this directory, as test2json does")
	flag.IntVar(&o.parallel, "parallel", 4, "tests that run at the same time")
	flag.Parse()
	return o
}

// Where the outer process puts what those in the sandboxes need.
const (
	dirVariable  = "STACK_SUITE_DIR"
	sideVariable = "STACK_SUITE_SIDE"
)

const (
	onDocker = "Docker"
	onStack  = "stack"
)

func run(ctx context.Context) (code int, err error) {
	o := parseFlags()
	if side := os.Getenv(sideVariable); side != "" { // in a sandbox
		inside, code, err := peer.Enter(ctx)
		if inside {
			return 0, work(ctx, o, layout(os.Getenv(dirVariable)), side)
		}
		return code, err
	}
	if o.only != "" && o.only != onDocker && o.only != onStack {
		return 1, fmt.Errorf("cannot run on %q: the sides are %s and %s", o.only, onDocker, onStack)
	}
	dir, err := os.MkdirTemp(o.dir, "suite-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if dir, err = filepath.Abs(dir); err != nil {
		return 1, err
	}
	at := layout(dir)
	if err := prepare(ctx, o, at); err != nil {
		return 1, err
	}
	table, err := readTable(o.write)
	if err != nil {
		return 1, err
	}
	for _, side := range []string{onDocker, onStack} {
		if o.only != "" && o.only != side {
			continue
		}
		_, code, err := peer.Enter(ctx, dirVariable+"="+dir, sideVariable+"="+side)
		if err != nil || code != 0 {
			return code, err
		}
		found, err := readResults(at.results(side))
		if err != nil {
			return 1, err
		}
		table.add(side, found, o.tests != "")
		fmt.Print(summary(side, found))
	}
	if o.write == "" {
		return 0, nil
	}
	return 0, os.WriteFile(o.write, []byte(table.markdown()), 0o644)
}

// layout is the directory of a run. Its paths are short: a socket's may have no more
// than 107 bytes.
type layout string

func (l layout) path(name string) string     { return filepath.Join(string(l), name) }
func (l layout) suite() string               { return l.path("suite.test") }
func (l layout) toJSON() string              { return l.path("test2json") }
func (l layout) source() string              { return l.path("compose") }
func (l layout) programs() string            { return l.path("programs") }
func (l layout) stack() string               { return l.path("stack") }
func (l layout) images() string              { return l.path("images.json") }
func (l layout) results(side string) string  { return l.path("results-" + side) }
func (l layout) of(side, name string) string { return filepath.Join(string(l), "on-"+side, name) }
func (l layout) commands(side string) string { return l.of(side, "bin") }
func (l layout) home(side string) string     { return l.of(side, "home") }

// temporary is where the tests put files of theirs.
func (l layout) temporary(side string) string { return l.of(side, "tmp") }
