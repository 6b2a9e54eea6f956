package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stack-run/stack/e2e/machine"
	"github.com/stack-run/stack/e2e/peer"
	"github.com/stack-run/stack/examples/images"
)

// kit is what all tests share; it is made once, outside the namespaces.
type kit struct {
	Module string // the module's directory
	Stack  string // the program under test
	// program is how it was built; not known to the tests.
	program machine.Program
	// Registry is a program that serves images, see package peer.
	Registry string
	Temp     string                  // directory of all tests, short because of unix socket paths
	Images   map[string]images.Image // by reference
	// The caches of the go command, which would be sought below HOME otherwise.
	GoCache, GoModCache string
}

// shared is set by TestMain before any test and not changed afterwards.
var shared *kit

func TestMain(m *testing.M) {
	machine.Main(m, func() (any, func() error, error) {
		k, err := makeKit()
		if err != nil {
			return nil, nil, err
		}
		return k, func() error { return errors.Join(k.program.Races(), os.RemoveAll(k.Temp)) }, nil
	}, func(text []byte) error {
		shared = new(kit)
		return json.Unmarshal(text, shared)
	})
}

func exitCode(err error) (int, error) { return machine.ExitCode(err) }

func makeKit() (*kit, error) {
	module, err := filepath.Abs("..")
	if err != nil {
		return nil, err
	}
	temp, err := os.MkdirTemp("/tmp", "e2e-")
	if err != nil {
		return nil, err
	}
	k := &kit{Module: module, Temp: temp, Images: map[string]images.Image{}}
	if k.program, err = machine.Build(module, temp); err != nil {
		return nil, err
	}
	k.Stack = k.program.Path
	env := exec.Command("go", "env", "GOCACHE", "GOMODCACHE")
	caches, err := env.Output()
	if err != nil {
		return nil, fmt.Errorf("cannot ask go for its caches: %w", err)
	}
	k.GoCache, k.GoModCache, _ = strings.Cut(strings.TrimSpace(string(caches)), "\n")

	dir, err := images.DefaultDir()
	if err != nil {
		return nil, err
	}
	ctx := context.Background()
	if k.Registry, err = peer.Built(ctx, "registry"); err != nil {
		return nil, err
	}
	cache := images.Cache{Dir: dir, Log: os.Stderr}
	shop := filepath.Join(module, "examples", "shop")
	all, err := cache.Shop(ctx, shop)
	if err != nil {
		return nil, err
	}
	// What README.md's first command builds the shop from needs the network once.
	if _, err := cache.ShopBase(ctx, shop); err != nil {
		return nil, err
	}
	busybox, err := cache.BusyBox(ctx)
	if err != nil {
		return nil, err
	}
	probe, err := cache.Go(ctx, module, images.Program{
		Ref: "probe", Path: "/probe", Package: "./e2e/probe", Changes: []string{`ENTRYPOINT ["/probe"]`},
	})
	if err != nil {
		return nil, err
	}
	for _, img := range append(append(all, busybox), probe...) {
		k.Images[img.Ref] = img
	}
	return k, nil
}
