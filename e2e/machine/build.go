package machine

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const (
	// binaryVar names a stack program to test instead of a fresh one.
	binaryVar = "STACK_E2E_BINARY"
	// raceVar, when set, has the program built with the race detector. One that is
	// named by binaryVar must have been built with it.
	raceVar = "STACK_E2E_RACE"
)

// A Program is the stack program under test.
type Program struct {
	Path string
	// races is where the race detector of each of its processes writes, if any.
	races string
}

// Build builds the program under test and its builder below temp, from the module's
// directory, and sets the environment that its race detector needs.
func Build(module, temp string) (Program, error) {
	p := Program{Path: filepath.Join(temp, "bin", "stack")}
	args := []string{"build", "-trimpath", "-buildvcs=false", "-o", filepath.Dir(p.Path) + "/"}
	env := append(os.Environ(), "CGO_ENABLED=0")
	if os.Getenv(raceVar) != "" {
		p.races = filepath.Join(temp, "races")
		if err := os.Mkdir(p.races, 0o777); err != nil {
			return p, err
		}
		// By default each process waits for a second before it exits.
		os.Setenv("GORACE", "atexit_sleep_ms=0 log_path="+filepath.Join(p.races, "report"))
		args, env = append(args, "-race"), append(os.Environ(), "CGO_ENABLED=1")
	}
	if given := os.Getenv(binaryVar); given != "" {
		p.Path = given
		return p, nil
	}
	if err := os.Mkdir(filepath.Dir(p.Path), 0o755); err != nil {
		return p, err
	}
	build := exec.Command("go", append(args, "./cmd/stack", "./cmd/stack-builder")...)
	build.Dir, build.Env = module, env
	if out, err := build.CombinedOutput(); err != nil {
		return p, fmt.Errorf("cannot build stack: %w\n%s", err, out)
	}
	return p, nil
}

// Racing says that the program under test has a race detector, which makes all it
// does many times slower.
func Racing() bool { return os.Getenv(raceVar) != "" }

// Races is an error that has all reports of the race detector.
func (p Program) Races() error {
	if p.races == "" {
		return nil
	}
	reports, err := filepath.Glob(filepath.Join(p.races, "report*"))
	if err != nil || len(reports) == 0 {
		return err
	}
	var all strings.Builder
	for _, name := range reports {
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		all.Write(text)
	}
	return errors.New("the race detector reports:\n" + all.String())
}
