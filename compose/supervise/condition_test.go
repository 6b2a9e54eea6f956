package supervise

import (
	"testing"
	"time"

	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/healthcheck"
)

func TestSettled(t *testing.T) {
	started := time.Unix(1, 0)
	for _, test := range []struct {
		name             string
		state            engine.State
		hasCheck, stayed bool
		want             verdict
		reason           string
	}{
		{"created", engine.State{Phase: engine.Created}, false, false, pending, "to start"},
		{"just started", engine.State{Phase: engine.Running, StartedAt: started}, false, false, pending, "to stay up"},
		{"up", engine.State{Phase: engine.Running, StartedAt: started}, false, true, met, ""},
		{"up, not healthy yet", engine.State{Phase: engine.Running, StartedAt: started, Health: healthcheck.Starting}, true, true, pending, "to be healthy"},
		{"healthy at once", engine.State{Phase: engine.Running, StartedAt: started, Health: healthcheck.Healthy}, true, false, met, ""},
		{"unhealthy", engine.State{Phase: engine.Running, StartedAt: started, Health: healthcheck.Unhealthy}, true, true, failed, "is unhealthy"},
		{"a job that is done", engine.State{Phase: engine.Exited, StartedAt: started}, false, false, met, ""},
		{"a job that failed", engine.State{Phase: engine.Exited, StartedAt: started, ExitCode: 3}, false, false, failed, "exited (3)"},
		{"never started", engine.State{Phase: engine.Exited}, false, false, failed, "exited (0)"},
		{"restarting", engine.State{Phase: engine.Restarting, StartedAt: started, ExitCode: 3}, false, true, pending, "to stay up"},
	} {
		if v, reason := settled(test.state, test.hasCheck, test.stayed); v != test.want || reason != test.reason {
			t.Errorf("%s: %v, %q", test.name, v, reason)
		}
	}
}
