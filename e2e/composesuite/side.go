package main

import (
	"bufio"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/stack-run/stack/e2e/peer"
)

// work runs the tests on one side, inside of its sandbox.
func work(ctx context.Context, o options, at layout, side string) (err error) {
	text, err := os.ReadFile(at.images())
	if err != nil {
		return err
	}
	var images []image
	if err := json.Unmarshal(text, &images); err != nil {
		return err
	}
	h, err := newHub(images)
	if err != nil {
		return err
	}
	if err := serveHub(at, h); err != nil {
		return err
	}
	settings := filepath.Join(at.home(side), ".docker")
	if err := os.MkdirAll(filepath.Join(settings, "cli-plugins"), 0o755); err != nil {
		return err
	}
	// The tests copy it where it does not exist.
	if err := os.WriteFile(filepath.Join(settings, "config.json"), []byte("{}\n"), 0o600); err != nil {
		return err
	}
	for _, dir := range []string{at.commands(side), at.temporary(side)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	setUp := setUpStack
	if side == onDocker {
		setUp = setUpDocker
	}
	running, err := setUp(ctx, at)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, running.Close()) }()
	if err := link(at.path("example-provider"), at.commands(side)); err != nil {
		return err
	}
	found, err := runSuite(ctx, o, at, side)
	if err != nil {
		return err
	}
	return writeResults(at.results(side), found)
}

type closer interface{ Close() error }

func setUpDocker(ctx context.Context, at layout) (closer, error) {
	docker, err := peer.StartDocker(ctx, at.of(onDocker, "docker"), at.programs())
	if err != nil {
		return nil, err
	}
	bin := at.commands(onDocker)
	err = errors.Join(link(filepath.Join(at.programs(), "docker-compose"), bin),
		link(filepath.Join(at.programs(), "docker"), bin),
		link(filepath.Join(at.programs(), "docker-buildx"), filepath.Join(at.home(onDocker), ".docker/cli-plugins")))
	if err == nil {
		// The tests give commands an environment without a DOCKER_HOST.
		err = os.Symlink(docker.Socket(), "/run/docker.sock")
	}
	return docker, err
}

//go:embed docker.sh
var dockerShim string

// setUpStack makes the commands that the tests call from stack. They give their
// commands an environment of their own, so the roots are in a program.
func setUpStack(_ context.Context, at layout) (closer, error) {
	bin := at.commands(onStack)
	roots := at.of(onStack, "")
	compose := fmt.Sprintf("#!/bin/sh\nSTACK_DATA_ROOT=%s/data STACK_RUN_ROOT=%s/run exec %s \"$@\"\n", roots, roots, at.stack())
	err := errors.Join(os.WriteFile(filepath.Join(bin, "docker-compose"), []byte(compose), 0o755),
		os.WriteFile(filepath.Join(bin, "docker"), []byte(strings.ReplaceAll(dockerShim, "BIN", bin)), 0o755))
	return &stackSide{peer.NewStack(at.stack(), roots)}, err
}

// stackSide is a stack that may still have containers of tests that failed.
type stackSide struct{ *peer.Stack }

func (s *stackSide) Close() error {
	ctx := context.Background()
	out, err := peer.Run(s.Container(ctx, "ls", "--all", "--quiet"))
	if ids := strings.Fields(string(out)); len(ids) > 0 {
		_, rmErr := peer.Run(s.Container(ctx, append([]string{"rm", "--force"}, ids...)...))
		err = errors.Join(err, rmErr)
	}
	return errors.Join(err, s.Stack.Close())
}

func link(program, dir string) error {
	return os.Symlink(program, filepath.Join(dir, filepath.Base(program)))
}

// runSuite runs the tests, and says what became of each.
func runSuite(ctx context.Context, o options, at layout, side string) (results, error) {
	args := []string{"-test.v=test2json", "-test.parallel=" + strconv.Itoa(o.parallel), "-test.timeout=90m"}
	if o.tests != "" {
		args = append(args, "-test.run="+o.tests)
	}
	bin := at.commands(side)
	suite := exec.CommandContext(ctx, at.suite(), args...)
	suite.Dir = filepath.Join(at.source(), "pkg/e2e")
	suite.Env = append(os.Environ(), "HOME="+at.home(side), "PATH="+bin+":"+os.Getenv("PATH"),
		"COMPOSE_E2E_BIN_PATH="+filepath.Join(bin, "docker-compose"), "USER=root", "TMPDIR="+at.temporary(side))
	log, err := os.Create(at.of(side, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	// A file, because what a test leaves running holds a pipe open.
	suite.Stdout, suite.Stderr = log, log
	runErr := suite.Run()
	var exit *exec.ExitError
	if runErr != nil && !errors.As(runErr, &exit) {
		return nil, fmt.Errorf("cannot run the tests on %s: %w", side, runErr)
	}
	if _, err := log.Seek(0, 0); err != nil {
		return nil, err
	}
	convert := exec.CommandContext(ctx, at.toJSON(), "-t")
	convert.Stdin = log
	events, err := peer.Run(convert)
	if err != nil {
		return nil, err
	}
	if o.logs != "" {
		if err := os.WriteFile(filepath.Join(o.logs, side+".json"), events, 0o644); err != nil {
			return nil, err
		}
	}
	return parseEvents(string(events))
}

// results are what became of each test, by its name.
type results map[string]result

type result struct {
	Outcome string // "pass", "fail" or "skip"
	Said    string `json:",omitempty"` // why it failed or was skipped
}

// parseEvents reads what test2json says. Only whole tests count: what a part of one
// says is said by the test.
func parseEvents(events string) (results, error) {
	found := results{}
	said := map[string][]string{}
	lines := bufio.NewScanner(strings.NewReader(events))
	lines.Buffer(nil, 1<<26)
	for lines.Scan() {
		var e struct{ Action, Test, Output string }
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("cannot read what the tests said: %w", err)
		}
		test, _, part := strings.Cut(e.Test, "/")
		switch e.Action {
		case "run":
			if !part {
				found[test] = result{Outcome: "fail", Said: "it did not end"}
			}
		case "output":
			said[test] = append(said[test], strings.TrimRight(e.Output, "\n"))
		case "pass", "fail", "skip":
			if !part && test != "" {
				r := result{Outcome: e.Action}
				if r.Outcome != "pass" {
					r.Said = reason(said[test])
				}
				found[test] = r
			}
		}
	}
	return found, lines.Err()
}

// reason picks the line that says most about a failure.
func reason(said []string) string {
	for _, mark := range []string{"failure: ", "Skipping", "skip", "assertion failed", "Failures:", "_test.go:"} {
		i := slices.IndexFunc(said, func(line string) bool { return strings.Contains(line, mark) })
		if i < 0 {
			continue
		}
		line := strings.TrimSpace(said[i])
		if _, rest, ok := strings.Cut(line, "failure: "); ok {
			line = rest
		}
		if mark == "Failures:" && i+1 < len(said) {
			line = strings.TrimSpace(said[i+1])
		}
		return line
	}
	return ""
}

func writeResults(path string, r results) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o644)
}

func readResults(path string) (results, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var r results
	return r, json.Unmarshal(text, &r)
}
