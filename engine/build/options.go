package build

import "time"

// DefaultIdle is how long a daemon stays that nobody is connected to.
const DefaultIdle = 30 * time.Second

// Options say which builder is meant.
type Options struct {
	DataRoot string // the engine's
	RunRoot  string // the engine's
	Program  string // path of the stack-builder program
	// Idle is how long a daemon that is started now stays when nobody is
	// connected; 0 is DefaultIdle.
	Idle time.Duration
}

const programName = "stack-builder"

// HostGateway is the address that a client writes for "host-gateway" in extra
// hosts: BuildKit wants an address, and which it is depends on the network that a
// command gets. It is of a net for documentation (RFC 5737), where nobody is.
const HostGateway = "192.0.2.254"

// HostGatewayLabel is the worker label that tells clients of it, as Docker's does.
const HostGatewayLabel = "org.mobyproject.buildkit.worker.moby.host-gateway-ip"
