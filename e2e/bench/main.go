// Bench measures stack beside Docker and beside the bare work of the kernel.
//
//	go run ./e2e/bench -write e2e/bench/RESULTS.md
//
// It builds stack, starts a Docker daemon of its own, gives both the same image
// and alternates between the two in one run, all in one throw-away sandbox
// (package peer). It needs root, dockerd, a static busybox, and Go.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/e2e/peer"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	code, err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

type options struct {
	runs     int    // of run and exec
	ups      int    // of up, nothing to do, ps, down, for each size
	starts   int    // of the version command
	sizes    string // "10,50"
	memory   int    // containers while memory is measured; 0: not
	only     string
	stack    string
	compose  string
	dir      string
	write    string
	noDocker bool
}

func parseFlags() options {
	var o options
	flag.IntVar(&o.runs, "n", 20, "measurements of run and of exec")
	flag.IntVar(&o.ups, "ups", 5, "measurements of up, ps and down for each size")
	flag.IntVar(&o.starts, "starts", 50, "measurements of a program's start")
	flag.StringVar(&o.sizes, "sizes", "10,50", "numbers of services to bring up")
	flag.IntVar(&o.memory, "memory", 50, "containers while memory is measured, 0 for none")
	flag.StringVar(&o.only, "only", "", "measure only what has this in its name")
	flag.StringVar(&o.stack, "stack", "", "stack program (default: built from ./cmd/stack)")
	flag.StringVar(&o.compose, "compose", "", "docker compose program (default: an installed one, else built from source)")
	flag.StringVar(&o.dir, "dir", "", "where to put data of both (default: a temporary directory)")
	flag.StringVar(&o.write, "write", "", "write the results to this Markdown file too")
	flag.BoolVar(&o.noDocker, "no-docker", false, "measure stack and the floor only")
	flag.Parse()
	return o
}

// Where the outer process puts what the one in the sandbox needs.
const (
	dirVariable     = "STACK_BENCH_DIR"
	composeVariable = "STACK_BENCH_COMPOSE"
	buildxVariable  = "STACK_BENCH_BUILDX"
	// registryVariable names the registry that is pulled from.
	registryVariable = "STACK_BENCH_REGISTRY"
	brokenVariable   = "STACK_BENCH_BROKEN" // why there is no stack
)

func run(ctx context.Context) (code int, err error) {
	o := parseFlags()
	if peer.Inside() {
		return 0, work(ctx, o, os.Getenv(dirVariable), os.Getenv(composeVariable), os.Getenv(brokenVariable))
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
	if !o.noDocker {
		if o.compose == "" {
			if o.compose, err = peer.Compose(ctx); err != nil {
				return nil, err
			}
		}
		compose, err := filepath.Abs(o.compose)
		if err != nil {
			return nil, err
		}
		buildx, err := peer.Buildx(ctx)
		if err != nil {
			return nil, err
		}
		env = append(env, composeVariable+"="+compose, buildxVariable+"="+buildx)
	}
	registry, err := peer.RegistryProgram(ctx)
	if err != nil {
		return nil, err
	}
	env = append(env, registryVariable+"="+registry)
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

func stackPath(dir string) string { return filepath.Join(dir, "stack") }
func emptyPath(dir string) string { return filepath.Join(dir, "empty-program") }
func imagePath(dir string) string { return filepath.Join(dir, "image.tar") }
