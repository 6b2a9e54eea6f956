package machine

import (
	"testing"
	"time"

	"github.com/stack-run/stack/engine/container"
	"github.com/stack-run/stack/healthcheck/health"
)

// The first time that a run was healthy is kept through what comes after it.
func TestHealthyAt(t *testing.T) {
	r := in(Created)
	r.Checked, r.Restart.Policy = true, "always"
	at := func(n int) time.Time { return noon.Add(time.Duration(n) * time.Second) }
	for _, e := range []struct {
		event Event
		want  time.Time
	}{
		{Event{Kind: StartAsked, At: at(0)}, time.Time{}},
		{Event{Kind: Started, At: at(0), State: container.State{Phase: container.Running, StartedAt: at(0)}}, time.Time{}},
		{Event{Kind: Probed, At: at(1), Health: health.State{Status: health.Starting}}, time.Time{}},
		{Event{Kind: Probed, At: at(2), Health: health.State{Status: health.Healthy}}, at(2)},
		{Event{Kind: Probed, At: at(3), Health: health.State{Status: health.Unhealthy}}, at(2)},
		{Event{Kind: Probed, At: at(4), Health: health.State{Status: health.Healthy}}, at(2)},
		{Event{Kind: ProcessExited, At: at(5), ExitCode: 1}, at(2)},
		{Event{Kind: BackoffElapsed, At: at(6)}, at(2)},
		// The engine fills in the state of a new run.
		{Event{Kind: Started, At: at(6), State: container.State{Phase: container.Running, StartedAt: at(6)}}, time.Time{}},
	} {
		var err error
		if r, _, err = Step(r, e.event); err != nil || !r.State.HealthyAt.Equal(e.want) {
			t.Fatalf("%s at %v: healthy at %v, not %v; %v", e.event.Kind, e.event.At, r.State.HealthyAt, e.want, err)
		}
	}
	// When one became healthy that an earlier release has started is not known.
	old := in(Running)
	old.State.Health = health.Healthy
	if old, _, _ = Step(old, Event{Kind: Probed, At: noon, Health: health.State{Status: health.Healthy}}); !old.State.HealthyAt.IsZero() {
		t.Errorf("healthy at %v", old.State.HealthyAt)
	}
}
