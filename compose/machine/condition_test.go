package machine

import (
	"testing"
	"time"

	"github.com/stack-run/stack/engine/container"
	"github.com/stack-run/stack/healthcheck/health"
)

func TestUp(t *testing.T) {
	started := time.Unix(1, 0)
	for _, test := range []struct {
		name             string
		state            container.State
		hasCheck, stayed bool
		want             Verdict
		reason           string
	}{
		{"created", container.State{Phase: container.Created}, false, false, Pending, "to start"},
		{"just started", container.State{Phase: container.Running, StartedAt: started}, false, false, Pending, "to stay up"},
		{"up", container.State{Phase: container.Running, StartedAt: started}, false, true, Met, ""},
		{"up, not healthy yet", container.State{Phase: container.Running, StartedAt: started, Health: health.Starting}, true, true, Pending, "to be healthy"},
		{"healthy at once", container.State{Phase: container.Running, StartedAt: started, Health: health.Healthy}, true, false, Met, ""},
		{"unhealthy", container.State{Phase: container.Running, StartedAt: started, Health: health.Unhealthy}, true, true, Failed, "is unhealthy"},
		{"a job that is done", container.State{Phase: container.Exited, StartedAt: started}, false, false, Met, ""},
		{"a job that failed", container.State{Phase: container.Exited, StartedAt: started, ExitCode: 3}, false, false, Failed, "exited (3)"},
		{"never started", container.State{Phase: container.Exited}, false, false, Failed, "exited (0)"},
		{"restarting", container.State{Phase: container.Restarting, StartedAt: started, ExitCode: 3}, false, true, Pending, "to stay up"},
	} {
		now := started
		if test.stayed {
			now = started.Add(stayUp)
		}
		v, reason, again := Judge(ConditionUp, test.state, test.hasCheck, false, now)
		if v != test.want || reason != test.reason {
			t.Errorf("%s: %v, %q", test.name, v, reason)
		}
		if onlyTime := test.name == "just started"; again.Equal(started.Add(stayUp)) != onlyTime {
			t.Errorf("%s: look again at %v", test.name, again)
		}
	}
}

func TestNobodyWaitsForWhatNobodyStarts(t *testing.T) {
	for _, condition := range []string{ConditionStarted, ConditionHealthy, ConditionUp, ConditionCompleted} {
		for _, test := range []struct {
			state  container.State
			idle   bool
			want   Verdict
			reason string
		}{
			{container.State{Phase: container.Created}, true, Failed, "was not started"},
			{container.State{Phase: container.Created, Error: "no room"}, true, Failed, "was not started: no room"},
			{container.State{Phase: container.Restarting, StartedAt: time.Unix(1, 0)}, true, Pending, ""},
			{container.State{Phase: container.Created}, false, Pending, ""},
		} {
			if condition == ConditionStarted && test.state.Phase == container.Restarting {
				continue // that was started
			}
			v, reason, _ := Judge(condition, test.state, true, test.idle, time.Unix(2, 0))
			if v != test.want || v == Failed && reason != test.reason {
				t.Errorf("%s of %+v, idle %v: %v, %q", condition, test.state, test.idle, v, reason)
			}
		}
	}
}
