package faults

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stack-run/stack/e2e/machine"
	"github.com/stack-run/stack/examples/images"
)

// kit is what all tests share; it is made once, outside the namespaces.
type kit struct {
	Stack  string // the program under test
	Temp   string // short because of unix socket paths
	Images map[string]images.Image
	// program is how it was built; not known to the tests.
	program machine.Program
}

var shared *kit // set before any test and not changed afterwards

var (
	seedFlag     = flag.Uint64("seed", 0, "what is random comes from it; 0: the clock, or 1 where no flag asks for more than the short form")
	withPostgres = flag.Bool("postgres", false, "a real PostgreSQL is part of the project")
	slow         = flag.Float64("slow", 1, "what all bounds of time are multiplied with")
	everything   = flag.Bool("all", false, "all scarcities, not one of them")
	keepDir      = flag.String("keep", "", "directory that gets the roots of what failed")
)

func TestMain(m *testing.M) {
	flag.Parse()
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

func makeKit() (*kit, error) {
	module, err := filepath.Abs("../..")
	if err != nil {
		return nil, err
	}
	dir, err := images.DefaultDir()
	if err != nil {
		return nil, err
	}
	ctx, cache := context.Background(), images.Cache{Dir: dir, Log: os.Stderr}
	busybox, err := cache.BusyBox(ctx)
	if err != nil {
		return nil, err
	}
	all, err := cache.Go(ctx, module, images.Program{
		Ref: "probe", Path: "/probe", Package: "./e2e/probe", Changes: []string{`ENTRYPOINT ["/probe"]`},
	})
	if err != nil {
		return nil, err
	}
	if *withPostgres {
		pg, err := cache.Debian(ctx, images.Postgres())
		if err != nil {
			return nil, err
		}
		all = append(all, pg...)
	}
	temp, err := os.MkdirTemp("/tmp", "flt-")
	if err != nil {
		return nil, err
	}
	k := &kit{Temp: temp, Images: map[string]images.Image{}}
	for _, img := range append(all, busybox) {
		k.Images[img.Ref] = img
	}
	if k.program, err = machine.Build(module, temp); err != nil {
		return nil, err
	}
	k.Stack = k.program.Path
	return k, nil
}

// seed is the source of all that is random, and says how to have it again.
func seed(t *testing.T) uint64 {
	t.Helper()
	s := *seedFlag
	asked := false
	flag.Visit(func(f *flag.Flag) { asked = asked || !strings.HasPrefix(f.Name, "test.") })
	switch {
	case s == 0 && !asked:
		s = 1
	case s == 0:
		s = uint64(time.Now().UnixNano()) % 1e9
	}
	t.Logf("-seed %d", s)
	return s
}

// source is a stream of random numbers of its own for each n.
func source(seed, n uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, n)) }

// begin skips a test that cannot run.
func begin(t *testing.T) {
	t.Helper()
	if shared == nil {
		t.Skip("needs root")
	}
}
