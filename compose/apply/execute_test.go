package apply

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stack-run/stack/compose/desired"
	"github.com/stack-run/stack/compose/plan"
)

// fakeHost does nothing and notes what it was to do.
type fakeHost struct {
	mu    sync.Mutex
	did   []string
	fails map[string]error // by what it was to do
	made  int
}

func (f *fakeHost) note(format string, args ...any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	what := fmt.Sprintf(format, args...)
	f.did = append(f.did, what)
	return f.fails[what]
}

func (f *fakeHost) CreateNetwork(_ context.Context, op *plan.Op) error {
	return f.note("create network %s", op.Name)
}
func (f *fakeHost) RemoveNetwork(_ context.Context, op *plan.Op) error {
	return f.note("remove network %s", op.Name)
}
func (f *fakeHost) CreateVolume(_ context.Context, op *plan.Op) error {
	return f.note("create volume %s", op.Name)
}
func (f *fakeHost) RemoveVolume(_ context.Context, op *plan.Op) error {
	return f.note("remove volume %s", op.Name)
}
func (f *fakeHost) ScheduleJob(_ context.Context, op *plan.Op) error {
	return f.note("schedule %s", op.Name)
}
func (f *fakeHost) UnscheduleJob(_ context.Context, op *plan.Op) error {
	return f.note("unschedule %s", op.Name)
}
func (f *fakeHost) CreateContainer(_ context.Context, op *plan.Op) (string, error) {
	f.mu.Lock()
	f.made++
	id := fmt.Sprint("new", f.made)
	f.mu.Unlock()
	return id, f.note("create %s", op.Name)
}
func (f *fakeHost) StartContainer(_ context.Context, id string, _ *plan.Op) error {
	return f.note("start %s", id)
}
func (f *fakeHost) StopContainer(_ context.Context, id string, _ *plan.Op, again bool) error {
	if again {
		return f.note("restart %s", id)
	}
	return f.note("stop %s", id)
}
func (f *fakeHost) KillContainer(_ context.Context, id string, _ *plan.Op) error {
	return f.note("kill %s", id)
}
func (f *fakeHost) PauseContainer(_ context.Context, id string, _ *plan.Op) error {
	return f.note("pause %s", id)
}
func (f *fakeHost) UnpauseContainer(_ context.Context, id string, _ *plan.Op) error {
	return f.note("unpause %s", id)
}
func (f *fakeHost) RemoveContainer(_ context.Context, id string, _ *plan.Op) error {
	return f.note("remove %s", id)
}
func (f *fakeHost) RenameContainer(_ context.Context, id string, op *plan.Op) error {
	return f.note("rename %s %s", id, op.Name)
}
func (f *fakeHost) HandOver(_ context.Context, id string, op *plan.Op) error {
	return f.note("hand over to %s from %s", id, op.Replaces)
}
func (f *fakeHost) Await(_ context.Context, op *plan.Op) error {
	return f.note("await %s %s", op.Name, op.Condition)
}

// graph numbers operations.
func graph(ops ...*plan.Op) *plan.Plan {
	for i, op := range ops {
		op.ID = i + 1
	}
	return &plan.Plan{Ops: ops}
}

func TestExecute(t *testing.T) {
	broken := errors.New("broken")
	recreate := func() *plan.Plan {
		return graph(
			&plan.Op{Kind: plan.CreateContainer, Name: "web", TempName: "old_web", Replaces: "old", Cause: "image changed"},
			&plan.Op{Kind: plan.WaitFor, Name: "db", Condition: "service_healthy", Deps: []int{1}},
			&plan.Op{Kind: plan.StopContainer, Name: "web", ContainerID: "old", Deps: []int{2}},
			&plan.Op{Kind: plan.RemoveContainer, Name: "web", ContainerID: "old", Deps: []int{3}},
			&plan.Op{Kind: plan.RenameContainer, Name: "web", Creates: 1, Deps: []int{4}},
			&plan.Op{Kind: plan.StartContainer, Name: "web", Creates: 1, Deps: []int{5}},
		)
	}
	for _, tt := range []struct {
		name        string
		plan        *plan.Plan
		fails       map[string]error
		did, events []string
		err         string
	}{
		{
			name: "a container takes the place of another",
			plan: recreate(),
			did:  []string{"create web", "await db service_healthy", "stop old", "remove old", "rename new1 web", "start new1"},
			events: []string{
				"Container web Recreate image changed", "Container web Recreated", "Container web Stopping", "Container web Stopped",
				"Container web Removing", "Container web Removed", "Container web Starting", "Container web Started",
			},
		},
		{
			name:  "what could not take another's place goes, the other stays",
			plan:  recreate(),
			fails: map[string]error{"await db service_healthy": broken},
			did:   []string{"create web", "await db service_healthy", "remove new1"},
			events: []string{
				"Container web Recreate image changed", "Container web Recreated", "Container old_web Removing", "Container old_web Removed",
			},
			err: "broken",
		},
		{
			name:   "once the other is gone, what takes its place stays",
			plan:   recreate(),
			fails:  map[string]error{"start new1": broken},
			did:    []string{"create web", "await db service_healthy", "stop old", "remove old", "rename new1 web", "start new1"},
			events: []string{"Container web Recreate image changed", "Container web Recreated", "Container web Stopping", "Container web Stopped", "Container web Removing", "Container web Removed", "Container web Starting", "Container web Error broken"},
			err:    "broken",
		},
		{
			name: "once the other is gone, what takes its place gets the name in any case",
			plan: graph(
				&plan.Op{Kind: plan.CreateContainer, Name: "web", TempName: "old_web", Replaces: "old"},
				&plan.Op{Kind: plan.RemoveContainer, Name: "web", ContainerID: "old", Deps: []int{1}},
				&plan.Op{Kind: plan.StartContainer, Name: "db", ContainerID: "1", Deps: []int{2}},
				&plan.Op{Kind: plan.RenameContainer, Name: "web", Creates: 1, Deps: []int{2, 3}},
			),
			fails:  map[string]error{"start 1": broken},
			did:    []string{"create web", "remove old", "start 1", "rename new1 web"},
			events: []string{"Container web Recreate", "Container web Recreated", "Container web Removing", "Container web Removed", "Container db Starting", "Container db Error broken"},
			err:    "broken",
		},
		{
			name: "a first container that does not start stays as it was created",
			plan: graph(
				&plan.Op{Kind: plan.CreateContainer, Name: "web"},
				&plan.Op{Kind: plan.StartContainer, Name: "web", Creates: 1, Deps: []int{1}},
			),
			fails:  map[string]error{"start new1": broken},
			did:    []string{"create web", "start new1"},
			events: []string{"Container web Creating", "Container web Created", "Container web Starting", "Container web Error broken"},
			err:    "broken",
		},
		{
			name: "a stop with its start is a restart",
			plan: graph(
				&plan.Op{Kind: plan.StopContainer, Name: "web", ContainerID: "1", KeepNetwork: true},
				&plan.Op{Kind: plan.StartContainer, Name: "web", ContainerID: "1", Deps: []int{1}},
			),
			did:    []string{"restart 1", "start 1"},
			events: []string{"Container web Restarting", "Container web Started"},
		},
		{
			name: "a start that waits for more is none",
			plan: graph(
				&plan.Op{Kind: plan.StopContainer, Name: "web", ContainerID: "1", KeepNetwork: true},
				&plan.Op{Kind: plan.RemoveNetwork, Name: "net", Deps: []int{1}},
				&plan.Op{Kind: plan.StartContainer, Name: "web", ContainerID: "1", Deps: []int{1, 2}},
			),
			did:    []string{"stop 1", "remove network net", "start 1"},
			events: []string{"Container web Stopping", "Container web Stopped", "Network net Removing", "Network net Removed", "Container web Starting", "Container web Started"},
		},
		{
			name: "of an update as many may fail as it says, each counted once",
			plan: graph(
				&plan.Op{Kind: plan.StartContainer, Service: "web", Index: 1, Name: "web-1", ContainerID: "1", Tolerate: 1},
				&plan.Op{Kind: plan.WaitFor, Service: "web", Index: 1, Name: "web-1", Condition: plan.Proven, ContainerID: "1", Tolerate: 1, Deps: []int{1}},
				&plan.Op{Kind: plan.StartContainer, Service: "web", Index: 2, Name: "web-2", ContainerID: "2", Tolerate: 1, Deps: []int{2}},
				&plan.Op{Kind: plan.WaitFor, Service: "web", Index: 2, Name: "web-2", Condition: plan.Proven, ContainerID: "2", Tolerate: 1, Deps: []int{3}},
			),
			fails: map[string]error{"start 1": broken, "await web-1 proven": broken, "await web-2 proven": broken},
			did:   []string{"start 1", "await web-1 proven", "start 2", "await web-2 proven"},
			events: []string{
				"Container web-1 Starting", "Container web-1 Warning the update goes on: broken", "Container web-1 Started",
				"Container web-1 Warning the update goes on: broken", "Container web-2 Starting", "Container web-2 Started",
			},
			err: "broken",
		},
		{
			name: "an optional dependency that fails is told",
			plan: graph(
				&plan.Op{Kind: plan.WaitFor, Name: "db", Condition: "service_healthy", Optional: true},
				&plan.Op{Kind: plan.StartContainer, Name: "web", ContainerID: "1", Deps: []int{1}},
			),
			fails:  map[string]error{"await db service_healthy": broken},
			did:    []string{"await db service_healthy", "start 1"},
			events: []string{`Service db Warning optional dependency "db" failed to start: broken`, "Container web Starting", "Container web Started"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := &fakeHost{fails: tt.fails}
			var events []string
			err := Execute(t.Context(), tt.plan, h, func(e Event) {
				events = append(events, strings.TrimSpace(strings.Join([]string{e.Kind, e.Name, e.Status, e.Text}, " ")))
			}, 1)
			if text := fmt.Sprint(err); err == nil && tt.err != "" || err != nil && text != tt.err {
				t.Errorf("error %v, want %q", err, tt.err)
			}
			if !slices.Equal(h.did, tt.did) {
				t.Errorf("it did\n%s\nand should have\n%s", strings.Join(h.did, "\n"), strings.Join(tt.did, "\n"))
			}
			if !slices.Equal(events, tt.events) {
				t.Errorf("it told\n%s\nand should have\n%s", strings.Join(events, "\n"), strings.Join(tt.events, "\n"))
			}
		})
	}
}

// waiting is a host on which old containers never come to run again.
type waiting struct {
	fakeHost
	giveUp context.CancelCauseFunc
}

func (w *waiting) Await(ctx context.Context, op *plan.Op) error {
	if op.ContainerID != "old1" {
		return nil
	}
	w.giveUp(errors.New("called off"))
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(5 * time.Second):
		return errors.New("it waits on")
	}
}

func TestARollbackCanBeCalledOff(t *testing.T) {
	p := graph(
		&plan.Op{Kind: plan.CreateContainer, Service: "web", Name: "web-1", TempName: "old1_web-1", Replaces: "old1", Rolls: true},
		&plan.Op{Kind: plan.StopContainer, Service: "web", Name: "web-1", ContainerID: "old1", Deps: []int{1}},
		&plan.Op{Kind: plan.StartContainer, Service: "web", Name: "web-1", Creates: 1, Deps: []int{2}},
		&plan.Op{Kind: plan.WaitFor, Service: "web", Name: "web-1", Creates: 1, Condition: plan.Proven, Deps: []int{3}},
		&plan.Op{Kind: plan.CreateContainer, Service: "web", Name: "web-2", TempName: "old2_web-2", Replaces: "old2", Rolls: true, Deps: []int{4}},
		&plan.Op{Kind: plan.StartContainer, Service: "web", Name: "web-2", Creates: 5, Deps: []int{5}},
	)
	p.Rollouts = map[string]plan.Rollouts{"web": {Update: desired.Rollout{FailureAction: desired.Rollback}, Rollback: desired.Rollout{Parallelism: 1}}}
	ctx, giveUp := context.WithCancelCause(t.Context())
	h := &waiting{fakeHost{fails: map[string]error{"start new2": errors.New("broken")}}, giveUp}
	err := Execute(ctx, p, h, func(Event) {}, 0)
	if text := fmt.Sprint(err); text != "broken\nit was not undone entirely: called off" {
		t.Errorf("it ends with %q", text)
	}
	if want := "remove new2"; !slices.Contains(h.did, want) || slices.Contains(h.did, "remove new1") {
		t.Errorf("it did %q", h.did)
	}
}
