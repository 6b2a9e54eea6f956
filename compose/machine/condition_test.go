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
		idle := test.state.Phase == container.Exited
		v, reason, again := Judge(ConditionUp, test.state, test.hasCheck, idle, now)
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

// What is being started again is waited for, however its last run ended.
func TestTheLastRunSaysNothingOfTheNext(t *testing.T) {
	started := time.Unix(1, 0)
	for _, condition := range []string{ConditionStarted, ConditionHealthy, ConditionUp, ConditionCompleted} {
		for _, st := range []container.State{
			{Phase: container.Exited, StartedAt: started},
			{Phase: container.Exited, StartedAt: started, ExitCode: 3},
			{Phase: container.Dead, StartedAt: started, ExitCode: 3},
		} {
			if v, reason, _ := Judge(condition, st, true, false, started.Add(time.Minute)); v != Pending || reason != "to start" {
				t.Errorf("%s of %+v: %v, %q", condition, st, v, reason)
			}
		}
	}
	doomed := container.State{Phase: container.Exited, StartedAt: started, ExitCode: 3, Doomed: true}
	if v, reason, _ := Judge(ConditionHealthy, doomed, true, false, started); v != Failed {
		t.Errorf("what is being removed is waited for: %v, %q", v, reason)
	}
}

func TestProven(t *testing.T) {
	started := time.Unix(1, 0)
	const monitor = 10 * time.Second
	for _, test := range []struct {
		name     string
		state    container.State
		hasCheck bool
		after    time.Duration
		want     Verdict
		reason   string
	}{
		{"it is watched", container.State{Phase: container.Running, StartedAt: started}, false, 9 * time.Second, Pending, "to stay up"},
		{"it has proven itself", container.State{Phase: container.Running, StartedAt: started}, false, monitor, Met, ""},
		{"healthy, and watched", container.State{Phase: container.Running, StartedAt: started, Health: health.Healthy}, true, time.Second, Pending, "to stay up"},
		{"not healthy for long", container.State{Phase: container.Running, StartedAt: started, Health: health.Starting}, true, 2 * monitor, Pending, "to be healthy"},
		{"it was restarted", container.State{Phase: container.Running, StartedAt: started, RestartCount: 1, ExitCode: 3}, false, monitor, Failed, "exited (3) and was restarted"},
		{"it will be restarted", container.State{Phase: container.Restarting, StartedAt: started, ExitCode: 3}, false, 0, Failed, "exited (3) and was restarted"},
		{"a job that is done", container.State{Phase: container.Exited, StartedAt: started}, false, 0, Met, ""},
	} {
		idle := test.state.Phase == container.Exited
		v, reason, again := Proven(test.state, test.hasCheck, idle, monitor, started.Add(test.after))
		if v != test.want || reason != test.reason || again.Equal(started.Add(monitor)) != (reason == "to stay up") {
			t.Errorf("%s: %v, %q, look again at %v", test.name, v, reason, again)
		}
	}
}
