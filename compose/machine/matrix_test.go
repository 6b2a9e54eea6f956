package machine

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stack-run/stack/engine/container"
	"github.com/stack-run/stack/healthcheck/health"
)

var update = flag.Bool("update", false, "write testdata/matrix.txt anew")

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// in is a record of a container in a phase that started ten seconds before noon.
func in(phase Phase) Record {
	r := Record{Restart: container.Restart{Policy: "no"}}
	started := container.State{StartedAt: noon.Add(-10 * time.Second), Pid: 7, StartTicks: 70}
	ended := container.State{StartedAt: started.StartedAt, FinishedAt: noon.Add(-5 * time.Second)}
	switch phase {
	case Created:
		r.State.Phase = container.Created
	case Starting:
		r.State.Phase, r.Under = container.Created, Starting
	case Running:
		r.State = started
		r.State.Phase = container.Running
	case Stopping:
		r.State = started
		r.State.Phase, r.State.Stopping, r.State.StoppedByUser = container.Running, true, true
		r.State.StopSignal, r.State.StopBy = 15, noon
	case Paused:
		r.State = started
		r.State.Phase = container.Paused
	case Restarting:
		r.State = ended
		r.State.Phase, r.State.RestartAt, r.State.RestartDelay = container.Restarting, noon, firstDelay
	case Exited:
		r.State = ended
		r.State.Phase = container.Exited
	case Removing:
		r.State = ended
		r.State.Phase, r.Under = container.Removing, Removing
	case Dead:
		r.State = ended
		r.State.Phase = container.Dead
	case Gone:
		r.State = ended
		r.State.Phase, r.Under = container.Removing, Gone
	}
	return r
}

// happens is a plain event of a kind.
func happens(kind EventKind) Event {
	e := Event{Kind: kind, At: noon}
	switch kind {
	case Started:
		e.State = container.State{Phase: container.Running, Pid: 8, StartedAt: noon}
	case StartFailed, RemoveFailed:
		e.Error, e.ExitCode = "the host has no such thing", 125
	case ProcessExited:
		e.ExitCode = 3
	case StopAsked:
		e.Signal, e.Grace = 15, 10*time.Second
	case KillAsked:
		e.Signal = sigKill
	case Probed:
		e.Health = health.State{Status: health.Healthy}
	case UnhealthyEnded:
		e.Signal, e.Grace = 15, 10*time.Second
	}
	return e
}

func (e Effect) String() string {
	switch e.Kind {
	case Signal:
		return fmt.Sprintf("signal %d", e.Signal)
	case ArmTimer:
		return fmt.Sprintf("timer %+v: %s", e.At.Sub(noon), e.Event)
	case Save:
		return "save " + string(e.Durability)
	case Emit:
		if e.Attribute != "" {
			return "emit " + e.Action + " " + e.Attribute
		}
		return "emit " + e.Action
	case Remove:
		if e.Volumes {
			return "remove with volumes"
		}
	}
	return string(e.Kind)
}

// cell is what a step does, in one line.
func cell(r Record, e Event) string {
	after, effects, err := Step(r, e)
	if err != nil {
		return "refused: " + err.Error()
	}
	var list []string
	for _, x := range effects {
		list = append(list, x.String())
	}
	to := "→ " + string(after.Phase())
	if after.Phase() == r.Phase() {
		to = "stays"
	}
	if len(list) == 0 {
		return to
	}
	return to + ": " + strings.Join(list, ", ")
}

// unwell is a container that is unhealthy, and what is to happen then.
func unwell(what container.OnUnhealthy) func(*Record) {
	return func(r *Record) {
		r.Checked, r.State.Health, r.OnUnhealthy = true, health.Unhealthy, what
		if what == "" {
			r.State.Health, r.OnUnhealthy = health.Healthy, container.UnhealthyRestart
		}
	}
}

// ending is a container that was asked to end because it is unhealthy.
func ending(what container.OnUnhealthy, policy string) func(*Record) {
	return func(r *Record) {
		unwell(what)(r)
		r.Restart.Policy, r.State.Unwell, r.State.StoppedByUser = policy, true, what == container.UnhealthyStop
	}
}

// TestMatrix is every event in every phase, the impossible ones too.
func TestMatrix(t *testing.T) {
	var b strings.Builder
	line := func(phase Phase, event, what string) { fmt.Fprintf(&b, "%-11s %-22s %s\n", phase, event, what) }
	for _, phase := range Phases {
		for _, kind := range EventKinds {
			line(phase, string(kind), cell(in(phase), happens(kind)))
		}
		b.WriteByte('\n')
	}
	// What changes with what the event or the container says besides.
	variants := []struct {
		name   string
		phases []Phase
		record func(*Record)
		event  Event
	}{
		{"stop asked, deaf", []Phase{Running, Paused}, nil, Event{Kind: StopAsked, Signal: 15, Grace: time.Second, Deaf: true}},
		{"stop asked, for ever", []Phase{Running, Stopping}, nil, Event{Kind: StopAsked, Signal: 15, Grace: -1}},
		{"stop asked, again", Phases, nil, Event{Kind: StopAsked, Signal: 15, Grace: time.Second, Again: true}},
		{"stop asked, network goes", []Phase{Running, Restarting}, nil, Event{Kind: StopAsked, Signal: 15, Grace: time.Second, KeepNetwork: true, Transient: true}},
		{"kill asked, SIGHUP", Phases, nil, Event{Kind: KillAsked, Signal: 1}},
		{"remove asked, force", Phases, nil, Event{Kind: RemoveAsked, Force: true, Volumes: true}},
		{"exited, --rm", []Phase{Running, Stopping, Paused}, func(r *Record) { r.AutoRemove = true }, Event{Kind: ProcessExited}},
		{"start failed, --rm", []Phase{Starting}, func(r *Record) { r.AutoRemove = true }, Event{Kind: StartFailed, Error: "no"}},
		{"exited, always", []Phase{Running, Stopping, Paused}, func(r *Record) { r.Restart.Policy = "always" }, Event{Kind: ProcessExited}},
		{"exited, out of memory", []Phase{Running}, nil, Event{Kind: ProcessExited, ExitCode: 137, OOMKilled: true}},
		{"exited, checked", []Phase{Running}, func(r *Record) { r.Checked, r.State.Health = true, health.Healthy }, Event{Kind: ProcessExited}},
		{"exited, start again", []Phase{Stopping}, func(r *Record) { r.State.StartAgain = true }, Event{Kind: ProcessExited}},
		{"exited, doomed", []Phase{Running, Stopping}, func(r *Record) { r.State.Doomed, r.State.DoomedVolumes = true, true }, Event{Kind: ProcessExited}},
		{"exited, network stays", []Phase{Stopping}, func(r *Record) { r.KeepNetwork, r.Transient = true, true }, Event{Kind: ProcessExited}},
		{"start failed, by policy", []Phase{Starting}, func(r *Record) { r.Automatic, r.Restart.Policy, r.State.RestartDelay = true, "always", time.Second }, Event{Kind: StartFailed, Error: "no"}},
		{"adopted, doomed", []Phase{Created, Running, Paused, Exited}, func(r *Record) { r.State.Doomed = true }, Event{Kind: Adopted}},
		{"adopted, start again", []Phase{Stopping, Exited}, func(r *Record) { r.State.StartAgain = true }, Event{Kind: Adopted}},
		{"adopted, --rm", []Phase{Created, Exited}, func(r *Record) { r.AutoRemove = true }, Event{Kind: Adopted}},
		{"adopted, to be run", []Phase{Created}, func(r *Record) { r.State.StartBy = noon.Add(time.Second) }, Event{Kind: Adopted}},
		{"expired, to be run", []Phase{Created, Running}, func(r *Record) { r.State.StartBy = noon }, Event{Kind: Expired}},
		{"start asked, to be run", []Phase{Created}, func(r *Record) { r.State.StartBy = noon }, Event{Kind: StartAsked}},
		{"started, checked", []Phase{Starting}, func(r *Record) { r.Checked = true }, happens(Started)},
		{"paused, checked", []Phase{Running}, func(r *Record) { r.Checked = true }, Event{Kind: Frozen}},
		{"thawed, checked", []Phase{Paused, Stopping}, func(r *Record) { r.Checked = true }, Event{Kind: Thawed}},
		{"adopted, checked", []Phase{Running, Paused}, func(r *Record) { r.Checked = true }, Event{Kind: Adopted}},
		{"probed, unhealthy", []Phase{Running, Stopping, Paused}, unwell(""), Event{Kind: Probed, Health: health.State{Status: health.Unhealthy}}},
		{"unhealthy, restart", []Phase{Running, Stopping, Paused}, unwell(container.UnhealthyRestart), happens(UnhealthyEnded)},
		{"unhealthy, deaf", []Phase{Running}, unwell(container.UnhealthyRestart), Event{Kind: UnhealthyEnded, Signal: 15, Deaf: true}},
		{"unhealthy, for ever", []Phase{Running}, unwell(container.UnhealthyRestart), Event{Kind: UnhealthyEnded, Signal: 15, Grace: -1}},
		{"exited, unwell: restart", []Phase{Stopping}, ending(container.UnhealthyRestart, ""), Event{Kind: ProcessExited}},
		{"exited, unwell: stop", []Phase{Stopping}, ending(container.UnhealthyStop, "always"), Event{Kind: ProcessExited}},
		{"exited, unwell: kill", []Phase{Stopping}, ending(container.UnhealthyKill, ""), Event{Kind: ProcessExited}},
		{"exited, unwell: always", []Phase{Stopping}, ending(container.UnhealthyKill, "always"), Event{Kind: ProcessExited}},
		{"started, unwell", []Phase{Starting}, func(r *Record) { r.Automatic, r.State.Unwell = true, true }, happens(Started)},
		{"adopted, recovered", []Phase{Running, Paused, Exited}, func(r *Record) { r.State.Recovered = true }, Event{Kind: Adopted}},
		{"dependents restarted", []Phase{Running, Exited}, func(r *Record) { r.State.Recovered = true }, Event{Kind: DependentsRestarted}},
		{"exited, not set up", []Phase{Running}, func(r *Record) { r.State.SetUp, r.Restart.Policy = true, "always" }, Event{Kind: ProcessExited, ExitCode: 255}},
		{"grace elapsed, too early", []Phase{Stopping}, func(r *Record) { r.State.StopBy = noon.Add(1) }, Event{Kind: GraceElapsed}},
	}
	for _, v := range variants {
		for _, phase := range v.phases {
			r := in(phase)
			if v.record != nil {
				v.record(&r)
			}
			v.event.At = noon
			line(phase, v.name, cell(r, v.event))
		}
		b.WriteByte('\n')
	}
	const golden = "testdata/matrix.txt"
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	for i, got := range strings.Split(b.String(), "\n") {
		lines := strings.Split(string(want), "\n")
		if i >= len(lines) || lines[i] != got {
			t.Errorf("line %d is\n%s\nand should be\n%s", i+1, got, lines[min(i, len(lines)-1)])
		}
	}
}

// A start that a kill cut off is told from a command that exited with the same status.
func TestStartThatWasCutOff(t *testing.T) {
	for _, c := range []struct {
		setUp bool
		code  int
		told  bool
	}{{true, 255, true}, {true, 7, false}, {false, 255, false}} {
		r := in(Running)
		r.State.SetUp = c.setUp
		r, _, err := Step(r, Event{Kind: ProcessExited, At: noon, ExitCode: c.code})
		if err != nil || (r.State.Error != "") != c.told || r.State.SetUp || r.State.ExitCode != c.code {
			t.Errorf("%+v: %+v, %v", c, r.State, err)
		}
	}
}
