package machine

import (
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/stack-run/stack/engine/container"
)

// host is a machine that performs effects as a real one does: what it is told to
// do has its outcome at once or later, and what it was not told never happens.
type host struct {
	r       Record
	now     time.Time
	process bool      // there is one
	killed  bool      // it has been told to end, and will
	timer   EventKind // armed
	at      time.Time
	stored  container.State // what the next supervisor reads
	gone    bool
}

// feed is one event with all that follows from it at once.
func (h *host) feed(t *rapid.T, e Event, outcomes func(EffectKind) bool) error {
	e.At = h.now
	before := h.r
	after, effects, err := Step(h.r, e)
	if err != nil {
		if after.State.Phase != before.State.Phase || len(effects) > 0 {
			t.Fatalf("%s was refused in %s and changed something", e.Kind, before.Phase())
		}
		if strings.HasPrefix(err.Error(), "internal error") {
			t.Fatalf("%s in %s: %v", e.Kind, before.Phase(), err)
		}
		return err
	}
	h.r = after
	saved := false
	for _, x := range effects {
		switch x.Kind {
		case Save:
			h.stored, saved = h.r.State, true
		case Start:
			if h.process {
				t.Fatalf("%s starts a container that runs", e.Kind)
			}
			if outcomes(Start) {
				h.process, h.killed = true, false
				st := h.r.State
				st.Phase, st.Pid, st.StartedAt, st.FinishedAt = container.Running, 9, h.now, time.Time{}
				h.feed(t, Event{Kind: Started, State: st}, outcomes)
			} else {
				h.feed(t, Event{Kind: StartFailed, Error: "no", ExitCode: 125}, outcomes)
			}
			return nil // it is the last of a step
		case Signal, Kill:
			if !h.process {
				t.Fatalf("%s sends a signal to nobody", e.Kind)
			}
			h.killed = h.killed || x.Kind == Kill || x.Signal == sigKill
		case ArmTimer:
			h.timer, h.at = x.Event, x.At
		case DisarmTimer:
			h.timer = ""
		case Freeze:
			h.feed(t, Event{Kind: Frozen}, outcomes)
		case Thaw:
			h.feed(t, Event{Kind: Thawed}, outcomes)
		case Unplug:
			if h.process {
				t.Fatalf("%s takes the network from a process", e.Kind)
			}
		case Remove:
			if h.process {
				t.Fatalf("%s removes a container that runs", e.Kind)
			}
			if !saved {
				t.Fatalf("%s removes what is not recorded as going", e.Kind)
			}
			if outcomes(Remove) {
				h.gone = true
				h.feed(t, Event{Kind: Removed}, outcomes)
			} else {
				h.feed(t, Event{Kind: RemoveFailed, Error: "busy"}, outcomes)
			}
			return nil
		}
	}
	return nil
}

// check is what is true of every record between events.
func (h *host) check(t *rapid.T) {
	r := &h.r
	if r.Live() != h.process {
		t.Fatalf("it is %s, and there is a process: %v", r.Phase(), h.process)
	}
	if h.process != (r.State.Pid != 0) {
		t.Fatalf("it is %s with pid %d", r.Phase(), r.State.Pid)
	}
	if r.Phase() == Restarting && h.timer != BackoffElapsed {
		t.Fatalf("it is to restart, and nothing is armed")
	}
	if r.Phase() == Restarting && r.State.StoppedByUser {
		t.Fatalf("a stop was asked for, and it restarts")
	}
	if r.Phase() == Stopping && !r.State.StopBy.IsZero() && h.timer != GraceElapsed && !h.killed {
		t.Fatalf("it is being stopped, and nothing will end it")
	}
	if r.State.StartAgain && r.Phase() != Stopping {
		t.Fatalf("it is to be started again and is %s", r.Phase())
	}
	if h.gone != (r.Phase() == Gone) {
		t.Fatalf("it is %s, and it was removed: %v", r.Phase(), h.gone)
	}
}

// TestRandomLives has containers of every kind live at random, their supervisors
// killed between any two events, and checks what must always hold. In the end it
// waits: whatever was asked for comes true by itself.
func TestRandomLives(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		restart := container.Restart{Policy: rapid.SampledFrom([]string{"", "no", "always", "on-failure", "unless-stopped"}).Draw(t, "policy")}
		h := &host{now: noon, r: Record{
			State: container.State{Phase: container.Created}, Restart: restart,
			AutoRemove: restart.Policy == "" && rapid.Bool().Draw(t, "rm"), Checked: rapid.Bool().Draw(t, "checked"),
		}}
		h.stored = h.r.State
		outcomes := func(k EffectKind) bool { return rapid.IntRange(0, 9).Draw(t, string(k)) > 0 }
		var wanted string
		for range rapid.IntRange(1, 40).Draw(t, "events") {
			if h.gone {
				break
			}
			h.now = h.now.Add(time.Duration(rapid.IntRange(0, 30_000).Draw(t, "ms")) * time.Millisecond)
			choices := []string{"start", "stop", "restart", "kill", "hup", "pause", "unpause", "remove", "force", "successor"}
			if h.process && (h.r.Phase() != Paused || h.killed) {
				choices = append(choices, "exit", "probe")
			}
			if h.timer != "" {
				choices = append(choices, "timer")
			}
			what := rapid.SampledFrom(choices).Draw(t, "what")
			e := Event{}
			switch what {
			case "start":
				e.Kind = StartAsked
			case "stop", "restart":
				e = Event{Kind: StopAsked, Signal: 15, Grace: time.Duration(rapid.IntRange(-1, 20).Draw(t, "grace")) * time.Second, Again: what == "restart"}
			case "kill":
				e = Event{Kind: KillAsked, Signal: sigKill}
			case "hup":
				e = Event{Kind: KillAsked, Signal: 1}
			case "pause":
				e.Kind = PauseAsked
			case "unpause":
				e.Kind = UnpauseAsked
			case "remove", "force":
				e = Event{Kind: RemoveAsked, Force: what == "force"}
			case "exit":
				h.process = false
				e = Event{Kind: ProcessExited, ExitCode: rapid.IntRange(0, 1).Draw(t, "code")}
			case "probe":
				e.Kind = Probed
			case "timer":
				h.now = later(h.now, h.at)
				e.Kind, h.timer = h.timer, ""
			case "successor":
				h.succeed(t, outcomes)
				h.check(t)
				continue
			}
			if err := h.feed(t, e, outcomes); err == nil && slices.Contains([]string{"start", "stop", "restart", "remove", "force"}, what) {
				wanted = what
			}
			h.check(t)
		}
		h.rest(t)
		switch phase := h.r.Phase(); {
		case wanted == "stop" && h.r.Live() && h.r.State.StoppedByUser, h.r.Phase() == Stopping, phase == Starting, phase == Removing:
			t.Fatalf("after all is quiet it is %s", phase)
		}
	})
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// succeed kills the supervisor: what it had not stored is forgotten, and the next
// one adopts what there is.
func (h *host) succeed(t *rapid.T, outcomes func(EffectKind) bool) {
	h.r = Record{State: h.stored, Restart: h.r.Restart, AutoRemove: h.r.AutoRemove, Checked: h.r.Checked}
	h.timer, h.killed = "", false
	h.feed(t, Event{Kind: Adopted}, outcomes)
}

// rest lets time pass and everything end that has been told to, until nothing
// more happens by itself. A process that restarts for ever is let run.
func (h *host) rest(t *rapid.T) {
	fine := func(EffectKind) bool { return true }
	for range 100 {
		switch {
		case h.gone:
			return
		case h.process && h.killed:
			h.process = false
			h.feed(t, Event{Kind: ProcessExited, ExitCode: 137}, fine)
		case h.timer != "":
			h.now = later(h.now, h.at)
			kind := h.timer
			h.timer = ""
			h.feed(t, Event{Kind: kind}, fine)
		case h.process && h.r.Phase() == Stopping: // for ever, and it does end
			h.process = false
			h.feed(t, Event{Kind: ProcessExited}, fine)
		default:
			return
		}
		h.check(t)
	}
	t.Fatal("it never comes to rest")
}
