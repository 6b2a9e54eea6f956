package supervise

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stack-run/stack/compose/machine"
	"github.com/stack-run/stack/compose/plan"
	"github.com/stack-run/stack/compose/schedule"
	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/engine/container"
	"github.com/stack-run/stack/healthcheck"
	"github.com/stack-run/stack/netns"
)

// fakeRunner runs containers of which there is nothing but goroutines.
type fakeRunner struct {
	mu      sync.Mutex
	did     []string
	current *fakeProcess
	stored  engine.State
	// lives is how long a process runs by itself, 0 for ever; obeys how long it
	// takes to end once it is asked to, below 0 for ever.
	lives, obeys time.Duration
	startTakes   time.Duration
	startErr     error
	immortal     bool          // what is killed does not end
	finishing    chan struct{} // closed when what ended processes leave is cleaned up, nil for at once
	check        *healthcheck.Spec
	probe        func() healthcheck.Result
}

func (f *fakeRunner) note(what string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.did = append(f.did, what)
}

// notes returns what was done since the last call.
func (f *fakeRunner) notes() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	text := strings.Join(f.did, ", ")
	f.did = nil
	return text
}

type fakeProcess struct {
	f    *fakeRunner
	done chan struct{}
	once sync.Once
	code int

	released bool
}

func (p *fakeProcess) end(code int) {
	p.once.Do(func() {
		p.code = code
		close(p.done)
	})
}

func (p *fakeProcess) Done() <-chan struct{} { return p.done }
func (p *fakeProcess) Finish() engine.Exit {
	if p.f.finishing != nil {
		<-p.f.finishing
	}
	return engine.Exit{Code: p.code}
}

// Release forgets how it ended: who is killed after it must find that in the record.
func (p *fakeProcess) Release() {
	p.f.mu.Lock()
	saved := p.f.stored.ExitCode == p.code && p.f.stored.Phase != engine.Running && p.f.stored.Phase != engine.Paused
	p.released = true
	p.f.mu.Unlock()
	if !saved {
		p.f.note("release of what is not saved")
	}
}
func (p *fakeProcess) Deaf(string) (bool, error) { return false, nil }
func (p *fakeProcess) Signal(name string) error {
	p.f.note("signal " + name)
	if p.f.obeys >= 0 {
		time.AfterFunc(p.f.obeys, func() { p.end(143) })
	}
	return nil
}
func (p *fakeProcess) Kill() error {
	p.f.note("kill")
	if !p.f.immortal {
		p.end(137)
	}
	return nil
}
func (p *fakeProcess) Freeze(context.Context) error { p.f.note("freeze"); return nil }
func (p *fakeProcess) Thaw() error                  { p.f.note("thaw"); return nil }

func (f *fakeRunner) Start(ctx context.Context, c *engine.Container) (process, error) {
	f.note("start")
	if f.startTakes > 0 {
		select {
		case <-time.After(f.startTakes):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if f.startErr != nil {
		return nil, f.startErr
	}
	p := &fakeProcess{f: f, done: make(chan struct{})}
	f.mu.Lock()
	if f.current != nil && !f.current.released {
		f.did = append(f.did, "start before the release of the last run")
	}
	f.current = p
	f.mu.Unlock()
	c.State.Phase, c.State.Pid, c.State.StartedAt = engine.Running, 1, time.Now().UTC()
	if f.lives > 0 {
		time.AfterFunc(f.lives, func() { p.end(1) })
	}
	return p, nil
}

func (f *fakeRunner) Adopt(context.Context, *engine.Container) (process, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.current, nil
}
func (f *fakeRunner) Ended(*engine.Container) (int, bool) { return 255, true }
func (f *fakeRunner) Unplug(context.Context, *engine.Container) error {
	f.note("unplug")
	return nil
}
func (f *fakeRunner) Endpoint(string) (*netns.Endpoint, error) { return nil, nil }
func (f *fakeRunner) Remove(context.Context, *engine.Container, bool, bool) error {
	f.note("remove")
	return nil
}
func (f *fakeRunner) Forget(string, *netns.Endpoint, bool) {}
func (f *fakeRunner) Save(c *engine.Container, _ machine.Durability) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stored = c.State
	return nil
}
func (f *fakeRunner) Health(*engine.Container) *healthcheck.Spec { return f.check }
func (f *fakeRunner) Prober(context.Context, *engine.Container, *healthcheck.Spec) (healthcheck.Probe, <-chan struct{}) {
	return func(context.Context) healthcheck.Result { return f.probe() }, nil
}
func (f *fakeRunner) StopSignal(*engine.Container) string { return "SIGTERM" }
func (f *fakeRunner) Describe(int) string                 { return "state D" }
func (f *fakeRunner) Publish([]netns.Entry) error         { return nil }
func (f *fakeRunner) Deliver(*engine.Container) error     { return nil }
func (f *fakeRunner) Linger(string)                       {}

// supervised returns a supervisor with one container that was created.
func supervised(t *testing.T, f *fakeRunner, sp engine.Spec) (*Supervisor, *actor) {
	t.Helper()
	return supervisedAs(t, f, sp, engine.State{Phase: engine.Created})
}

func supervisedAs(t *testing.T, f *fakeRunner, sp engine.Spec, st engine.State) (*Supervisor, *actor) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	events, err := openEventLog(filepath.Join(t.TempDir(), eventLogName))
	if err != nil {
		t.Fatal(err)
	}
	s := &Supervisor{
		realm: "shop", ctx: ctx, runner: f, events: events, leaving: &atomic.Bool{},
		applying: make(chan struct{}, 1), actors: map[string]*actor{}, changed: make(chan struct{}), warned: map[string]bool{}, replies: map[*reply]bool{},
	}
	s.schedules = newScheduler(s, schedule.Record{})
	sp.Name = "shop-web-1"
	a := s.insert(&engine.Container{ID: strings.Repeat("a", 64), Project: "shop", Service: "web", Index: 1, Spec: sp, State: st})
	t.Cleanup(func() {
		// Its goroutine ends with the container, or, in one that was killed, with it.
		if s.leaving.Load() {
			a.box.post(func() { a.record.Under = machine.Gone })
			return
		}
		a.removeIt(context.Background(), removeOptions{force: true})
		cancel()
		events.f.Close()
		os.Remove(events.path)
	})
	return s, a
}

func phase(a *actor) machine.Phase { return a.view.Load().phase }

func TestStopWaitsForTheGracePeriod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeRunner{obeys: -1}
		_, a := supervised(t, f, engine.Spec{})
		if err := a.startIt(t.Context(), false, nil); err != nil {
			t.Fatal(err)
		}
		f.notes()
		before := time.Now()
		if err := a.stopIt(t.Context(), stopOptions{}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(before); took != engine.DefaultStopGrace {
			t.Errorf("it took %v", took)
		}
		if did := f.notes(); did != "signal 15, kill, unplug" {
			t.Errorf("it did: %s", did)
		}
		if v := a.view.Load(); v.phase != machine.Exited || v.State.ExitCode != 137 || !v.State.StoppedByUser {
			t.Errorf("it is %s: %+v", v.phase, v.State)
		}
	})
}

func TestWhatSomebodyElseThawedNeedsNoThaw(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, a := supervised(t, &fakeRunner{}, engine.Spec{})
		if err := a.startIt(t.Context(), false, nil); err != nil {
			t.Fatal(err)
		}
		h := &host{s: s}
		if err := h.UnpauseContainer(t.Context(), a.id, &plan.Op{ToRun: true}); err != nil {
			t.Errorf("on the way to run: %v", err)
		}
		err := h.UnpauseContainer(t.Context(), a.id, &plan.Op{})
		if err == nil || err.Error() != "cannot unpause container shop-web-1: it is not paused" {
			t.Errorf("asked for: %v", err)
		}
	})
}

func TestAStartThatIsGivenUpGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeRunner{startTakes: time.Second}
		_, a := supervised(t, f, engine.Spec{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if err := a.startIt(ctx, false, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		if phase(a) != machine.Starting {
			t.Fatalf("it is %s", phase(a))
		}
		if err := a.startIt(t.Context(), false, nil); err != nil {
			t.Fatal(err)
		}
		if did := f.notes(); did != "start" || phase(a) != machine.Running {
			t.Errorf("it is %s and did: %s", phase(a), did)
		}
	})
}

// What a supervisor that leaves does not start has not failed: how the container ended
// before stays in the record, and the next supervisor is asked.
func TestAStartThatASupervisorLeavesIsNoOutcome(t *testing.T) {
	for name, leave := range map[string]time.Duration{"before": 0, "meanwhile": time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				before := engine.State{Phase: engine.Exited, ExitCode: 7, StartedAt: time.Now(), FinishedAt: time.Now()}
				f := &fakeRunner{startTakes: 2 * time.Second, startErr: errors.New("cut off"), stored: before}
				s, a := supervisedAs(t, f, engine.Spec{AutoRemove: true}, before)
				time.AfterFunc(leave, func() { s.leaving.Store(true) })
				synctest.Wait()
				if err := a.startIt(t.Context(), false, nil); !errors.Is(err, errLeaves) {
					t.Errorf("whoever asked is told: %v", err)
				}
				f.mu.Lock()
				defer f.mu.Unlock()
				if f.stored.ExitCode != 7 || f.stored.Error != "" || slices.Contains(f.did, "remove") {
					t.Errorf("stored is %+v, and it did: %v", f.stored, f.did)
				}
			})
		})
	}
}

func TestAStopThatIsGivenUpGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeRunner{obeys: 5 * time.Second}
		_, a := supervised(t, f, engine.Spec{})
		if err := a.startIt(t.Context(), false, nil); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := a.stopIt(ctx, stopOptions{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		if phase(a) != machine.Stopping {
			t.Fatalf("it is %s", phase(a))
		}
		// Who wants it to run gets it running, once it has ended.
		if err := a.startIt(t.Context(), false, nil); err != nil {
			t.Fatal(err)
		}
		if v := a.view.Load(); v.phase != machine.Running || v.starts != 2 || v.ends != 1 {
			t.Errorf("it is %s after %d starts and %d ends", v.phase, v.starts, v.ends)
		}
	})
}

func TestRestartsBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeRunner{lives: time.Millisecond}
		_, a := supervised(t, f, engine.Spec{Restart: engine.Restart{Policy: "always"}})
		if err := a.startIt(t.Context(), false, nil); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		time.Sleep(100*time.Millisecond + 200*time.Millisecond + 400*time.Millisecond + 10*time.Millisecond)
		synctest.Wait()
		if v := a.view.Load(); v.starts != 4 || v.State.RestartCount != 3 {
			t.Errorf("%d starts, restart count %d after %v", v.starts, v.State.RestartCount, time.Since(begun))
		}
		if err := a.stopIt(t.Context(), stopOptions{}); err != nil {
			t.Fatal(err)
		}
		f.notes()
		time.Sleep(time.Hour)
		if did := f.notes(); did != "" {
			t.Errorf("after a stop it did: %s", did)
		}
	})
}

func TestASuccessorGoesOnWithAStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeRunner{obeys: -1}
		s, a := supervised(t, f, engine.Spec{})
		if err := a.startIt(t.Context(), false, nil); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
		defer cancel()
		a.stopIt(ctx, stopOptions{})
		s.leaving.Store(true) // killed, as far as this process is concerned
		a.box.post(a.disarm)
		synctest.Wait()
		f.mu.Lock()
		stored := f.stored
		f.mu.Unlock()
		f.notes()

		next, b := supervisedAs(t, f, engine.Spec{}, stored)
		b.box.post(func() { b.adopt(next.ctx) })
		before := time.Now()
		if err := b.stopIt(t.Context(), stopOptions{}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(before); took != 6*time.Second {
			t.Errorf("what was left of the grace period took %v", took)
		}
		if did := f.notes(); !strings.HasSuffix(did, "kill, unplug") {
			t.Errorf("it did: %s", did)
		}
	})
}

func TestWhatIsNotStartedInTimeGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeRunner{}
		s, a := supervisedAs(t, f, engine.Spec{AutoRemove: true}, engine.State{Phase: engine.Created, StartBy: time.Now().Add(startBound)})
		if s.idle() {
			t.Error("the supervisor leaves before")
		}
		time.Sleep(startBound)
		synctest.Wait()
		if phase(a) != machine.Gone || !s.idle() {
			t.Errorf("it is %s", phase(a))
		}
	})
}

func TestWishesInAnyOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeRunner{obeys: time.Second}
		_, a := supervised(t, f, engine.Spec{})
		var errs []error
		var mu sync.Mutex
		var wg sync.WaitGroup
		for range 20 {
			for name, do := range map[string]func() error{
				"start":   func() error { return a.startIt(t.Context(), false, nil) },
				"stop":    func() error { return a.stopIt(t.Context(), stopOptions{}) },
				"restart": func() error { return a.stopIt(t.Context(), stopOptions{again: true}) },
				"kill":    func() error { return a.killIt(t.Context(), "KILL") },
				"pause":   func() error { return a.pauseIt(t.Context()) },
				"unpause": func() error { return a.unpauseIt(t.Context()) },
			} {
				wg.Go(func() {
					err := do()
					if err != nil && !strings.HasPrefix(err.Error(), "cannot "+name) {
						mu.Lock()
						errs = append(errs, err)
						mu.Unlock()
					}
				})
			}
		}
		wg.Wait()
		if len(errs) > 0 {
			t.Error(errs)
		}
		if err := a.removeIt(t.Context(), removeOptions{force: true}); err != nil {
			t.Error(err)
		}
		if phase(a) != machine.Gone {
			t.Errorf("it is %s", phase(a))
		}
	})
}

func TestProbesReachTheRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		results := []int{1, 0, 1, 1, 1}
		f := &fakeRunner{check: &healthcheck.Spec{Test: []string{"CMD", "x"}, Interval: time.Second, Timeout: time.Second, Retries: 3}}
		f.probe = func() healthcheck.Result {
			code := results[0]
			if len(results) > 1 {
				results = results[1:]
			}
			return healthcheck.Result{Start: time.Now(), End: time.Now(), ExitCode: code}
		}
		s, a := supervised(t, f, engine.Spec{})
		if err := a.startIt(t.Context(), false, nil); err != nil {
			t.Fatal(err)
		}
		var seen []healthcheck.Status
		err := s.await(t.Context(), func(views []*view) (bool, time.Time, error) {
			if h := views[0].State.Health; len(seen) == 0 || seen[len(seen)-1] != h {
				seen = append(seen, h)
			}
			return len(seen) == 3, time.Time{}, nil
		})
		if err != nil || !slices.Equal(seen, []healthcheck.Status{healthcheck.Starting, healthcheck.Healthy, healthcheck.Unhealthy}) {
			t.Errorf("it was %v, %v", seen, err)
		}
	})
}

func TestWhatDoesNotEndIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeRunner{obeys: -1, immortal: true}
		_, a := supervised(t, f, engine.Spec{})
		if err := a.startIt(t.Context(), false, nil); err != nil {
			t.Fatal(err)
		}
		for name, do := range map[string]func() error{
			"stop":   func() error { return a.stopIt(t.Context(), stopOptions{}) },
			"kill":   func() error { return a.killIt(t.Context(), "") },
			"remove": func() error { return a.removeIt(t.Context(), removeOptions{force: true}) },
		} {
			if err := do(); err == nil || !strings.Contains(err.Error(), "state D") || !strings.Contains(err.Error(), "cannot "+name) {
				t.Errorf("%s: %v", name, err)
			}
		}
		f.mu.Lock()
		p := f.current
		f.mu.Unlock()
		p.end(137)
		synctest.Wait()
		if phase(a) != machine.Gone {
			t.Errorf("once it has ended it is %s", phase(a))
		}
	})
}

func TestAChangeWaitsForTheEndOfWhatHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeRunner{finishing: make(chan struct{})}
		_, a := supervised(t, f, engine.Spec{})
		if err := a.startIt(t.Context(), false, nil); err != nil {
			t.Fatal(err)
		}
		f.mu.Lock()
		p := f.current
		f.mu.Unlock()
		p.end(0)
		changed := make(chan engine.State, 1)
		go a.change(t.Context(), func(c *engine.Container) error {
			changed <- c.State
			return nil
		})
		synctest.Wait()
		select {
		case st := <-changed:
			t.Fatalf("it was changed while what it left is cleaned up, in state %+v", st)
		default:
		}
		close(f.finishing)
		if st := <-changed; st.Pid != 0 || st.Phase != engine.Exited {
			t.Errorf("it was changed in state %+v", st)
		}
	})
}

// What is unhealthy is ended as its service says, after as many failures as a check has
// retries, and restarted with the delays of a restart policy.
func TestUnhealthy(t *testing.T) {
	for _, c := range []struct {
		what    container.OnUnhealthy
		policy  string
		did     string
		ends    machine.Phase
		byUser  bool
		restart int
	}{
		{container.UnhealthyRestart, "", "start, signal 15, start", machine.Running, false, 1},
		{container.UnhealthyStop, "always", "start, signal 15, unplug", machine.Exited, true, 0},
		{container.UnhealthyKill, "", "start, kill, unplug", machine.Exited, false, 0},
		{container.UnhealthyKill, "always", "start, kill, start", machine.Running, false, 1},
		{"", "always", "start", machine.Running, false, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			var sick atomic.Bool
			sick.Store(true)
			f := &fakeRunner{check: &healthcheck.Spec{Test: []string{"CMD", "x"}, Interval: time.Second, Retries: 3}}
			f.probe = func() healthcheck.Result {
				if sick.Load() {
					return healthcheck.Result{ExitCode: 1}
				}
				return healthcheck.Result{}
			}
			_, a := supervised(t, f, engine.Spec{OnUnhealthy: c.what, Restart: engine.Restart{Policy: c.policy}})
			if err := a.startIt(t.Context(), false, nil); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2900 * time.Millisecond)
			if v := a.view.Load(); v.phase != machine.Running || v.State.Health == healthcheck.Unhealthy {
				t.Errorf("%+v: after two failures it is %s, %s", c, v.phase, v.State.Health)
			}
			time.Sleep(150 * time.Millisecond)
			sick.Store(false)
			time.Sleep(10 * time.Second)
			v := a.view.Load()
			if did := f.notes(); did != c.did || v.phase != c.ends || v.State.StoppedByUser != c.byUser || v.State.RestartCount != c.restart || v.State.Unwell {
				t.Errorf("%+v: it is %s (%+v) and did: %s", c, v.phase, v.State, did)
			}
		})
	}
}
