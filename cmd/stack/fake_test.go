package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/compose/apply"
	"github.com/stack-run/stack/compose/plan"
	"github.com/stack-run/stack/compose/schedule"
	"github.com/stack-run/stack/compose/spec"
	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/healthcheck"
	"github.com/stack-run/stack/netns"
	"github.com/stack-run/stack/volumes"
)

func TestMain(m *testing.M) {
	time.Local = time.UTC
	os.Exit(m.Run())
}

// clock is when everything in these tests happens.
func clock() time.Time { return time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC) }

// fakeVerbs is an engine without containers: it answers from memory and notes
// what it is asked to do.
type fakeVerbs struct {
	mu         sync.Mutex
	containers []engine.Container
	definition map[string]*spec.Desired
	schedules  map[string]schedule.Record
	brought    *spec.Desired // what Up was last asked for
	calls      []string
	logs       []compose.LogLine
	stats      []compose.Stats
	events     []compose.EngineEvent
	plan       *plan.Plan
	images     []plan.ImageOp

	up     func(ctx context.Context, p compose.Progress) error
	follow func(ctx context.Context, o compose.LogOptions, line func(compose.LogLine) error) error
	run    func(compose.RunOptions) (int, error)
	exec   func(compose.ExecOptions) (int, error)
	wait   func(container string) (int, error)
	stop   func(ctx context.Context) error

	builder compose.Builder
}

// door is a fake engine whose images, networks and volumes are real, in the session's
// own directories.
type door struct {
	*fakeVerbs
	objects
}

type objects interface {
	compose.Containers
	compose.Images
	compose.Registries
	compose.Builds
	compose.Networks
	compose.Volumes
	compose.Stored
	compose.System
}

func (f *fakeVerbs) note(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, fmt.Sprintf(format, args...))
}

func (f *fakeVerbs) noted() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

// describe writes a selector down without what is not set.
func describe(s compose.Selector) string {
	var parts []string
	for _, id := range s.IDs {
		parts = append(parts, strings.TrimSuffix(id[:min(len(id), 12)], "000000000"))
	}
	if s.Project != "" {
		parts = append(parts, s.Project+":"+strings.Join(s.Services, ","))
	}
	if s.Index > 0 {
		parts = append(parts, fmt.Sprint("#", s.Index))
	}
	if s.All {
		parts = append(parts, "all")
	}
	return strings.Join(parts, " ")
}

func (f *fakeVerbs) Plan(context.Context, *spec.Desired, compose.UpOptions) (*plan.Plan, error) {
	return cmp.Or(f.plan, &plan.Plan{}), nil
}

func (d door) Rehearse(func(*plan.Plan) error) compose.API { return d }

func (f *fakeVerbs) EnsureImages(context.Context, *spec.Desired, compose.ImageOptions, compose.Progress) error {
	return nil
}

func (f *fakeVerbs) PlanImages(context.Context, *spec.Desired, compose.ImageOptions) ([]plan.ImageOp, error) {
	return f.images, nil
}

func (f *fakeVerbs) Up(ctx context.Context, d *spec.Desired, o compose.UpOptions, p compose.Progress) error {
	f.note("up %s %+v", d.Project, o)
	f.brought = d
	if f.up != nil {
		return f.up(ctx, p)
	}
	p(apply.Event{Kind: "Container", Name: "shop-db-1", Status: "Started", Done: true})
	return nil
}

func (f *fakeVerbs) Watch(ctx context.Context, d *spec.Desired, o compose.WatchOptions) error {
	f.note("watch %s %v", d.Project, o.Services)
	o.Say("Watch enabled")
	<-ctx.Done()
	o.Say("Watch disabled")
	return nil
}

func (f *fakeVerbs) Down(_ context.Context, project string, o compose.DownOptions, _ compose.Progress) error {
	f.note("down %s services=%v volumes=%t images=%q orphans=%t timeout=%v", project, o.Services, o.Volumes, o.Images, o.Orphans, o.Timeout)
	return nil
}

func (f *fakeVerbs) Start(_ context.Context, s compose.Selector, o compose.StartOptions, _ compose.Progress) error {
	f.note("start %s%s", describe(s), map[bool]string{true: " wait=" + o.WaitTimeout.String()}[o.Wait])
	return nil
}

func stopText(o compose.StopOptions) string {
	text := ""
	if o.Timeout != nil {
		text += fmt.Sprint(" timeout=", *o.Timeout)
	}
	if o.Signal != "" {
		text += " signal=" + o.Signal
	}
	for _, flag := range []struct {
		name string
		set  bool
	}{{" nodeps", o.NoDeps}, {" force", o.Force}, {" stop", o.Stop}, {" volumes", o.Volumes}} {
		if flag.set {
			text += flag.name
		}
	}
	return text
}

func (f *fakeVerbs) Stop(ctx context.Context, s compose.Selector, o compose.StopOptions, _ compose.Progress) error {
	f.note("stop %s%s", describe(s), stopText(o))
	if f.stop != nil {
		return f.stop(ctx)
	}
	return nil
}

func (f *fakeVerbs) Restart(_ context.Context, s compose.Selector, o compose.StopOptions, _ compose.Progress) error {
	f.note("restart %s%s", describe(s), stopText(o))
	return nil
}

func (f *fakeVerbs) Kill(_ context.Context, s compose.Selector, o compose.StopOptions, _ compose.Progress) error {
	f.note("kill %s%s", describe(s), stopText(o))
	return nil
}

func (f *fakeVerbs) Pause(_ context.Context, s compose.Selector, _ compose.Progress) error {
	f.note("pause %s", describe(s))
	return nil
}

func (f *fakeVerbs) Unpause(_ context.Context, s compose.Selector, _ compose.Progress) error {
	f.note("unpause %s", describe(s))
	return nil
}

func (f *fakeVerbs) Remove(_ context.Context, s compose.Selector, o compose.StopOptions, _ compose.Progress) error {
	f.note("remove %s%s", describe(s), stopText(o))
	return nil
}

func (f *fakeVerbs) Containers(_ context.Context, s compose.Selector) ([]engine.Container, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []engine.Container
	for _, ref := range s.IDs {
		i := slices.IndexFunc(f.containers, func(c engine.Container) bool { return c.Spec.Name == ref || strings.HasPrefix(c.ID, ref) })
		if i < 0 {
			return nil, fmt.Errorf("%w: %s", engine.ErrNotFound, ref)
		}
		out = append(out, f.containers[i])
	}
	if len(s.IDs) > 0 {
		return out, nil
	}
	for _, c := range f.containers {
		switch {
		case s.Project != "" && c.Project != s.Project,
			len(s.Services) > 0 && !slices.Contains(s.Services, c.Service),
			s.Index > 0 && c.Index != s.Index,
			!s.OneOff && c.OneOff,
			!s.All && c.State.Phase != engine.Running && c.State.Phase != engine.Paused:
			continue
		}
		out = append(out, c)
	}
	return out, nil
}

func (f *fakeVerbs) Projects(context.Context) ([]compose.ProjectSummary, error) {
	return []compose.ProjectSummary{
		{Name: "blog", Status: map[engine.Phase]int{engine.Exited: 1}, ConfigFiles: []string{"/srv/blog/compose.yaml"}},
		{Name: "shop", Status: map[engine.Phase]int{engine.Running: 3, engine.Exited: 1}, ConfigFiles: []string{"/srv/shop/compose.yaml", "/srv/shop/compose.override.yaml"}},
	}, nil
}

func (f *fakeVerbs) Schedules(_ context.Context, project string) (schedule.Record, error) {
	return f.schedules[project], nil
}

func (f *fakeVerbs) Definition(_ context.Context, project string) (*spec.Desired, error) {
	if d := f.definition[project]; d != nil {
		return d, nil
	}
	return nil, fmt.Errorf("no such project: %s: %w", project, fs.ErrNotExist)
}

func (f *fakeVerbs) Run(_ context.Context, o compose.RunOptions, _ compose.Progress) (int, error) {
	f.note("run %s %s %q", o.Spec.Image, o.Service, o.Spec.Process.Command)
	if o.Started != nil {
		o.Started(id('f'))
	}
	if f.run != nil {
		return f.run(o)
	}
	return 0, nil
}

func (f *fakeVerbs) Exec(_ context.Context, container string, o compose.ExecOptions) (int, error) {
	f.note("exec %s %q", container[:min(3, len(container))], o.Command)
	if f.exec != nil {
		return f.exec(o)
	}
	return 0, nil
}

func (f *fakeVerbs) Attach(_ context.Context, container string, o compose.RunOptions) (int, error) {
	f.note("attach %s", container[:3])
	return 7, nil
}

func (f *fakeVerbs) Wait(_ context.Context, container string) (int, error) {
	if f.wait != nil {
		return f.wait(container)
	}
	return 0, nil
}

func (f *fakeVerbs) Logs(ctx context.Context, s compose.Selector, o compose.LogOptions, line func(compose.LogLine) error) error {
	f.note("logs %s follow=%t tail=%d since=%s", describe(s), o.Follow, o.Tail, o.Since.Format(time.RFC3339))
	if f.follow != nil && o.Follow {
		return f.follow(ctx, o, line)
	}
	selected, err := f.Containers(ctx, s)
	if err != nil {
		return err
	}
	for _, l := range f.logs {
		if slices.ContainsFunc(selected, func(c engine.Container) bool { return c.ID == l.Container.ID }) {
			if err := line(l); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *fakeVerbs) Events(_ context.Context, s compose.Selector, _, _ time.Time, event func(compose.EngineEvent) error) error {
	for _, e := range f.events {
		if err := event(e); err != nil {
			return err
		}
	}
	return nil
}

func (f *fakeVerbs) Stats(_ context.Context, _ compose.Selector, _ bool, sample func([]compose.Stats) error) error {
	return sample(f.stats)
}

func (f *fakeVerbs) Top(_ context.Context, container string, args []string) ([]string, [][]string, error) {
	if strings.HasPrefix(container, "d") {
		return []string{"UID", "PID", "CMD"}, [][]string{{"postgres", "41", "postgres -D /data"}, {"postgres", "42", "postgres: writer"}}, nil
	}
	return []string{"UID", "PID", "TIME", "CMD"}, [][]string{{"root", "51", "00:00:01", "web --listen :80"}}, nil
}

func (f *fakeVerbs) CopyFrom(context.Context, string, string, bool, io.Writer) error { return nil }

func (f *fakeVerbs) CopyTo(context.Context, string, string, io.Reader, bool) error { return nil }

func (f *fakeVerbs) Inspect(ctx context.Context, name string) (container.InspectResponse, error) {
	cs, err := f.Containers(ctx, compose.Selector{IDs: []string{name}})
	if err != nil {
		return container.InspectResponse{}, err
	}
	return container.InspectResponse{ID: cs[0].ID, Name: "/" + cs[0].Spec.Name, State: &container.State{ExitCode: cs[0].State.ExitCode}}, nil
}

func (f *fakeVerbs) Resume(context.Context, compose.Progress) error {
	f.note("resume")
	return nil
}

// id makes an ID that begins with c.
func id(c rune) string { return string(c) + strings.Repeat("0", 63) }

// shop is the project of testdata/shop as it runs.
func shop() []engine.Container {
	at := func(d time.Duration) time.Time { return clock().Add(-d) }
	endpoint := &netns.Endpoint{Ports: []netns.Port{{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"}}}
	web := func(c rune, index int) engine.Container {
		return engine.Container{
			ID: id(c), Project: "shop", Service: "web", Index: index, Created: at(3 * time.Minute),
			Spec: engine.Spec{
				Name: fmt.Sprintf("shop-web-%d", index), Image: "shop/web", ImageID: "sha256:" + id('7'),
				Labels:  map[string]string{"com.docker.compose.project": "shop", "tier": "front"},
				Process: engine.Process{Entrypoint: []string{"web"}, Command: []string{"--listen", ":80", "--verbose"}},
				Network: netns.EndpointSpec{Networks: []netns.Attachment{{Network: "shop_default"}}},
			},
			State: engine.State{Phase: engine.Running, StartedAt: at(3 * time.Minute), Health: healthcheck.Healthy, Endpoint: endpoint},
		}
	}
	second := web('b', 2)
	second.State = engine.State{Phase: engine.Paused, StartedAt: at(3 * time.Minute)}
	db := engine.Container{
		ID: id('d'), Project: "shop", Service: "db", Index: 1, Created: at(4 * time.Minute),
		Spec: engine.Spec{
			Name: "shop-db-1", Image: "postgres:16", ImageID: "sha256:" + id('8'), Process: engine.Process{Command: []string{"postgres"}},
			Mounts:  []volumes.Mount{{Type: volumes.TypeVolume, Source: "shop_data", Target: "/var/lib/postgresql/data"}},
			Network: netns.EndpointSpec{Networks: []netns.Attachment{{Network: "shop_default"}}},
		},
		State: engine.State{Phase: engine.Running, StartedAt: at(4 * time.Minute)},
	}
	migrate := engine.Container{
		ID: id('e'), Project: "shop", Service: "migrate", Index: 1, Created: at(4 * time.Minute),
		Spec:  engine.Spec{Name: "shop-migrate-1", Image: "shop/web", Process: engine.Process{Command: []string{"migrate"}}},
		State: engine.State{Phase: engine.Exited, ExitCode: 137, StartedAt: at(4 * time.Minute), FinishedAt: at(2 * time.Second)},
	}
	single := engine.Container{
		ID: id('5'), Project: "single.box", Created: at(time.Hour),
		Spec:  engine.Spec{Name: "box", Image: "debian@sha256:" + id('9'), Process: engine.Process{Command: []string{"sleep", "9"}, TTY: true, Stdin: true}},
		State: engine.State{Phase: engine.Running, StartedAt: at(time.Hour)},
	}
	all := []engine.Container{web('a', 1), second, db, migrate, single}
	for i := range all {
		all[i].Args = slices.Concat(all[i].Spec.Process.Entrypoint, all[i].Spec.Process.Command)
	}
	return all
}

// session is one command line at a time against a fake engine.
type session struct {
	*cli.App
	fake     *fakeVerbs
	out, err bytes.Buffer
}

// newSession works in the directory testdata/DIR.
func newSession(t *testing.T, dir string) *session {
	t.Helper()
	s := &session{fake: &fakeVerbs{containers: shop(), definition: map[string]*spec.Desired{}}}
	s.App = &cli.App{
		In: strings.NewReader(""), Out: &s.out, Err: &s.err,
		// What the user of this machine has is neither seen nor touched.
		Environ: []string{
			"HOME=" + t.TempDir(), "PATH=/bin", "GREETING=hello",
			"STACK_DATA_ROOT=" + t.TempDir(), "STACK_RUN_ROOT=" + t.TempDir(),
		},
		Now: clock,
		Cwd: func() (string, error) {
			if filepath.IsAbs(dir) {
				return dir, nil
			}
			return filepath.Abs(filepath.Join("testdata", dir))
		},
		Open: func(a *cli.App) (compose.API, error) {
			r := a.Roots()
			c, err := compose.Open(compose.Options{DataRoot: r.Data, RunRoot: r.Run, Builder: s.fake.builder})
			return door{s.fake, c}, err
		},
	}
	return s
}

// do runs a command line and returns what it printed and its exit code.
func (s *session) do(t *testing.T, args ...string) (out, errOut string, code int) {
	t.Helper()
	return s.as(t, "stack", args...)
}

// as is do of the program of another name.
func (s *session) as(t *testing.T, name string, args ...string) (out, errOut string, code int) {
	t.Helper()
	s.out.Reset()
	s.err.Reset()
	s.App.Global = cli.GlobalOptions{}
	code = run(t.Context(), s.App, name, args)
	return s.out.String(), s.err.String(), code
}

// desired is testdata/shop as it would be brought up.
func (s *session) desired(t *testing.T) *spec.Desired {
	t.Helper()
	p, err := s.App.LoadProject(t.Context(), cli.LoadRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return p.Desired
}
