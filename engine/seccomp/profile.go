package seccomp

import (
	"fmt"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Default returns Docker's default profile for a process with these
// capabilities ("CAP_CHOWN" …) in its bounding set, on the running kernel.
func Default(capabilities []string) (*specs.LinuxSeccomp, error) {
	p, err := seccomp.GetDefaultProfile(forCapabilities(capabilities))
	if err != nil {
		return nil, fmt.Errorf("cannot make the default seccomp profile: %w", err)
	}
	return p, nil
}

// Load reads a profile in Docker's JSON format, whose entries may depend on
// capabilities, architecture and kernel version.
func Load(json string, capabilities []string) (*specs.LinuxSeccomp, error) {
	p, err := seccomp.LoadProfile(json, forCapabilities(capabilities))
	if err != nil {
		return nil, fmt.Errorf("cannot load the seccomp profile: %w", err)
	}
	return p, nil
}

func forCapabilities(capabilities []string) *specs.Spec {
	return &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: capabilities}}}
}
