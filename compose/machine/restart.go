package machine

import (
	"time"

	"github.com/stack-run/stack/engine/container"
)

// Back-off of Docker's restart monitor: 100 ms, doubled each time up to a
// minute, and back to the start after a run of 10 s.
const (
	firstDelay    = 100 * time.Millisecond
	longestDelay  = time.Minute
	defaultWindow = 10 * time.Second
)

// ended is what a restart policy looks at.
type ended struct {
	ExitCode      int
	RanFor        time.Duration
	StoppedByUser bool
	Restarts      int           // so far
	LastDelay     time.Duration // 0 before the first restart
}

// restartAfter decides whether and after which delay a container starts again.
func restartAfter(r container.Restart, e ended) (again bool, delay time.Duration) {
	if e.StoppedByUser || r.MaxRetries > 0 && e.Restarts >= r.MaxRetries {
		return false, 0
	}
	switch r.Policy {
	case "always", "unless-stopped":
	case "on-failure":
		if e.ExitCode == 0 {
			return false, 0
		}
	default:
		return false, 0
	}
	if r.Delay > 0 {
		return true, r.Delay
	}
	window := r.Window
	if window == 0 {
		window = defaultWindow
	}
	if e.LastDelay == 0 || e.RanFor >= window {
		return true, firstDelay
	}
	return true, min(2*e.LastDelay, longestDelay)
}
