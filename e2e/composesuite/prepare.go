package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/stack-run/stack/e2e/peer"
)

// prepare builds and makes everything, with the network that the sandboxes lack.
func prepare(ctx context.Context, o options, at layout) error {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	root := filepath.Dir(strings.TrimSpace(string(out)))
	if err != nil || root == "." || root == "/dev" {
		return fmt.Errorf("cannot find the module: run this in the checkout of stack: %w", err)
	}
	if o.stack == "" {
		err = peer.Build(ctx, root, "./cmd/stack", at.stack())
	} else {
		var path string
		if path, err = filepath.Abs(o.stack); err == nil {
			err = os.Symlink(path, at.stack())
		}
	}
	if err != nil {
		return err
	}
	if err := peer.Link(ctx, at.programs(), append([]string{"registry"}, peer.DockerPrograms...)...); err != nil {
		return err
	}
	for pkg, to := range map[string]string{
		"./e2e/composesuite/standin": at.path("standin"),
		"github.com/moby/buildkit/frontend/dockerfile/cmd/dockerfile-frontend": at.path("dockerfile-frontend"),
		"cmd/test2json": at.toJSON(),
	} {
		if err := peer.Build(ctx, root, pkg, to); err != nil {
			return err
		}
	}
	if err := fetchSuite(ctx, at); err != nil {
		return fmt.Errorf("cannot build docker compose's tests: %w", err)
	}
	images, err := makeImages(ctx, at)
	if err != nil {
		return err
	}
	text, err := json.Marshal(images)
	if err != nil {
		return err
	}
	return os.WriteFile(at.images(), text, 0o644)
}

// fetchSuite copies docker compose's source, and builds its tests and the provider
// that some of them call.
func fetchSuite(ctx context.Context, at layout) error {
	if err := peer.CopyModule(ctx, "docker-compose", at.source()); err != nil {
		return err
	}
	build := func(args ...string) error {
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Dir = at.source()
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=mod", "GOWORK=off")
		_, err := peer.Run(cmd)
		return err
	}
	return errors.Join(
		build("test", "-c", "-vet=off", "-tags", "e2e standalone", "-o", at.suite(), "./pkg/e2e"),
		build("build", "-o", at.path("example-provider"), "./docs/examples/provider.go"))
}
