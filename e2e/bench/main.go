// Bench measures stack beside Docker and beside the bare work of the kernel.
//
//	go run ./e2e/bench -write e2e/bench/RESULTS.md
//
// It builds stack and a current Docker, starts a daemon of its own, gives both
// the same image and alternates between the two in one run, all in one throw-away
// sandbox (package peer). It needs root, a static busybox, and Go; for the first
// build of runc a C compiler and libseccomp, which "make peers" installs.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/stack-run/stack/e2e/peer"
)

func main() { peer.RunProgram(run) }

type options struct {
	runs     int    // of run and exec
	ups      int    // of up, nothing to do, ps, down, for each size, and of what takes as long
	starts   int    // of the version command
	sizes    string // "10,50"
	memory   int    // containers while memory is measured, and that are run one by one; 0: none
	settle   time.Duration
	only     string
	stack    string
	dir      string
	write    string
	noDocker bool
}

func parseFlags() options {
	var o options
	flag.IntVar(&o.runs, "n", 20, "measurements of run and of exec")
	flag.IntVar(&o.ups, "ups", 5, "measurements of up, ps and down for each size, of logs and pulls")
	flag.IntVar(&o.starts, "starts", 50, "measurements of a program's start")
	flag.StringVar(&o.sizes, "sizes", "10,50", "numbers of services to bring up")
	flag.IntVar(&o.memory, "memory", 50, "containers while memory is measured, and that are run one by one, 0 for none")
	flag.DurationVar(&o.settle, "settle", 2*time.Second, "pause after what removes many files, in which the file system and daemons come to rest")
	flag.StringVar(&o.only, "only", "", "measure only what has this in its name")
	flag.StringVar(&o.stack, "stack", "", "stack program (default: built from ./cmd/stack)")
	flag.StringVar(&o.dir, "dir", "", "where to put data of both (default: a temporary directory)")
	flag.StringVar(&o.write, "write", "", "write the results to this Markdown file too")
	flag.BoolVar(&o.noDocker, "no-docker", false, "measure stack and the floor only")
	flag.Parse()
	return o
}

// Where the outer process puts what the one in the sandbox needs.
const (
	dirVariable    = "STACK_BENCH_DIR"
	brokenVariable = "STACK_BENCH_BROKEN" // why there is no stack
)

func run(ctx context.Context) (code int, err error) {
	o := parseFlags()
	if peer.Inside() {
		return 0, work(ctx, o, os.Getenv(dirVariable), os.Getenv(brokenVariable))
	}
	dir := os.Getenv(dirVariable) // set in the sandbox's first process
	var env []string
	if dir == "" {
		if dir, err = os.MkdirTemp(o.dir, "stack-bench-"); err != nil {
			return 1, err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
		if env, err = prepare(ctx, o, dir); err != nil {
			return 1, err
		}
	}
	_, code, err = peer.Enter(ctx, env...)
	return code, err
}

// prepare builds everything, with the network that the sandbox lacks.
func prepare(ctx context.Context, o options, dir string) ([]string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	root := filepath.Dir(strings.TrimSpace(string(out)))
	if err != nil || root == "." || root == "/dev" {
		return nil, fmt.Errorf("cannot find the module: run this in the checkout of stack: %w", err)
	}
	env := []string{dirVariable + "=" + dir}
	if o.stack != "" {
		path, err := filepath.Abs(o.stack)
		if err == nil {
			err = os.Symlink(path, stackPath(dir))
		}
		if err != nil {
			return nil, err
		}
	} else if err := peer.Build(ctx, root, "./cmd/stack", stackPath(dir)); err != nil {
		env = append(env, brokenVariable+"="+err.Error())
	}
	if err := buildEmpty(ctx, dir); err != nil {
		return nil, err
	}
	programs := []string{"registry"}
	if !o.noDocker {
		programs = append(programs, peer.DockerPrograms...)
	}
	if err := peer.Link(ctx, programsPath(dir), programs...); err != nil {
		return nil, err
	}
	busybox, err := peer.Busybox()
	if err != nil {
		return nil, err
	}
	image, err := os.Create(imagePath(dir))
	if err != nil {
		return nil, err
	}
	return env, errors.Join(peer.WriteRootfs(image, busybox), image.Close())
}

// buildEmpty builds the program that does nothing, the floor of a start.
func buildEmpty(ctx context.Context, dir string) error {
	src := filepath.Join(dir, "empty")
	if err := os.Mkdir(src, 0o755); err != nil {
		return err
	}
	for name, content := range map[string]string{"go.mod": "module empty\n", "main.go": "package main\n\nfunc main() {}\n"} {
		if err := os.WriteFile(filepath.Join(src, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	return peer.Build(ctx, src, ".", emptyPath(dir))
}

func stackPath(dir string) string    { return filepath.Join(dir, "stack") }
func emptyPath(dir string) string    { return filepath.Join(dir, "empty-program") }
func imagePath(dir string) string    { return filepath.Join(dir, "image.tar") }
func programsPath(dir string) string { return filepath.Join(dir, "programs") }
