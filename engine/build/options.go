package build

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// DefaultIdle is how long a daemon stays that nobody is connected to.
const DefaultIdle = 30 * time.Second

// Options say which builder is meant.
type Options struct {
	DataRoot string // the engine's
	RunRoot  string // the engine's
	// Program is the stack-builder program; "" is this program if it is that,
	// else the one beside it, else the one in PATH.
	Program string
	// Idle is how long a daemon that is started now stays when nobody is
	// connected; 0 is DefaultIdle.
	Idle time.Duration
}

// Dir is the builder's directory below a run root.
func Dir(runRoot string) string { return filepath.Join(runRoot, "builder") }

// Socket is where the daemon of a run root serves BuildKit's API.
func Socket(runRoot string) string { return filepath.Join(Dir(runRoot), "buildkitd.sock") }

// StateDir is where the build cache of a data root is.
func StateDir(dataRoot string) string { return filepath.Join(dataRoot, "build") }

const programName = "stack-builder"

// FindProgram returns the path of the stack-builder program: this very program,
// or the one in the same directory, or the one in PATH.
func FindProgram() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("cannot find the builder: %w", err)
	}
	if filepath.Base(self) == programName {
		return self, nil
	}
	beside := filepath.Join(filepath.Dir(self), programName)
	if _, err := os.Stat(beside); err == nil {
		return beside, nil
	}
	if p, err := exec.LookPath(programName); err == nil {
		return p, nil
	}
	return "", fmt.Errorf("cannot find the builder: there is no %s in %s or in PATH; install it beside stack", programName, filepath.Dir(self))
}

// HostGateway is the address that a client writes for "host-gateway" in extra
// hosts: BuildKit wants an address, and which it is depends on the network that a
// command gets. It is of a net for documentation (RFC 5737), where nobody is.
const HostGateway = "192.0.2.254"
