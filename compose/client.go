// Package compose is the verbs as a Go API: up, down, logs, exec and the rest,
// over the projects of one data root. It is wiring: what a Compose file means is
// in compose/load and compose/spec, what must be done in compose/plan, who does
// it in compose/supervise, and how a container runs in package engine.
//
// Verbs that change something are asked of the project's supervisor, which is
// started when it does not run. Verbs that look (ps, logs, exec, stats …) read
// records, logs and the kernel directly and work with a dead supervisor too.
package compose

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/api/types/container"

	"github.com/stack-run/stack/compose/apply"
	"github.com/stack-run/stack/compose/plan"
	"github.com/stack-run/stack/compose/schedule"
	"github.com/stack-run/stack/compose/spec"
	"github.com/stack-run/stack/compose/supervise"
	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/engine/logs/inotify"
	"github.com/stack-run/stack/netns"
	"github.com/stack-run/stack/volumes"
)

// Options open a Client.
type Options struct {
	DataRoot string // default $STACK_DATA_ROOT, then /var/lib/stack
	RunRoot  string // default $STACK_RUN_ROOT, then /run/stack
	// Warn gets sentences worth telling the user, such as what the host lacks.
	Warn func(string)
	// UserAgent is this program's name to registries.
	UserAgent string
	// Builder has the builder program do something; without it nothing can be built.
	Builder Builder
}

// Client implements API.
type Client struct {
	Engine    *engine.Engine
	projects  *supervise.ProjectStore
	warn      func(string)
	rehearse  func(*plan.Plan) error
	watchers  *inotify.Shared // by all verbs: a user has few instances
	userAgent string
	builder   Builder
}

// Open opens the data root. It is cheap and changes nothing.
func Open(o Options) (*Client, error) {
	e, err := engine.Open(engine.Options{DataRoot: o.DataRoot, RunRoot: o.RunRoot, Warn: o.Warn})
	if err != nil {
		return nil, err
	}
	return &Client{
		Engine: e, projects: supervise.NewProjectStore(e), warn: o.Warn, userAgent: o.UserAgent, builder: o.Builder,
		watchers: &inotify.Shared{Scarce: func(err error) {
			e.Warnf("changes are noticed up to a quarter of a second late: %v", err)
		}},
	}, nil
}

// Rehearse returns a client whose verbs give their plans to show.
func (c *Client) Rehearse(show func(*plan.Plan) error) API {
	rehearsing := *c
	rehearsing.rehearse = show
	return &rehearsing
}

// supervisor is the client of a project's supervisor.
func (c *Client) supervisor(project string) *supervise.Client {
	env := slices.DeleteFunc(os.Environ(), func(kv string) bool {
		key, _, _ := strings.Cut(kv, "=")
		return key == "STACK_DATA_ROOT" || key == "STACK_RUN_ROOT"
	})
	return &supervise.Client{
		Project: supervise.RealmOf(project),
		Dir:     c.projectDir(project),
		Env:     append(env, "STACK_DATA_ROOT="+c.Engine.DataRoot(), "STACK_RUN_ROOT="+c.Engine.RunRoot()),
	}
}

// projectDir is the run directory of who supervises a project.
func (c *Client) projectDir(project string) string {
	return filepath.Join(c.Engine.RunRoot(), "projects", supervise.RealmOf(project))
}

func (c *Client) call(ctx context.Context, project, verb string, body, result any, p Progress) error {
	var events func(apply.Event)
	if p != nil {
		events = p
	}
	return c.supervisor(project).Call(ctx, verb, body, result, events)
}

// apply has a verb carried out by the supervisor of its project, or rehearses it. Where
// one is killed, the next one goes on.
func (c *Client) apply(ctx context.Context, req supervise.ApplyRequest, p Progress) error {
	if c.rehearse != nil {
		return c.rehearsed(req)
	}
	for lost := 1; ; lost++ {
		err := c.call(ctx, req.Project, "apply", req, nil, p)
		if !errors.Is(err, supervise.ErrLost) || ctx.Err() != nil || lost > patience || !req.Converges() {
			return err
		}
		p.tell(lostOne(req.Project))
	}
}

// patience is how many supervisors may be lost in one verb, which may be what ends them.
const patience = 3

func lostOne(project string) apply.Event {
	return apply.Event{Kind: "Project", Name: project, Status: "Warning", Text: "its supervisor was lost while it worked; the next one goes on"}
}

func (c *Client) rehearsed(req supervise.ApplyRequest) error {
	planned, err := supervise.Plan(c.Engine, &req)
	if err != nil {
		return err
	}
	return c.rehearse(planned)
}

// Plan says what Up would do. It only reads.
func (c *Client) Plan(_ context.Context, d *spec.Desired, o UpOptions) (*plan.Plan, error) {
	req := upRequest(d, o)
	return supervise.Plan(c.Engine, &req)
}

// Up makes the project what d says.
func (c *Client) Up(ctx context.Context, d *spec.Desired, o UpOptions, p Progress) error {
	return c.apply(ctx, upRequest(d, o), p)
}

// Down takes a project away.
func (c *Client) Down(ctx context.Context, project string, o DownOptions, p Progress) error {
	if known, err := c.known(project); err != nil || !known && len(o.ImageNames) == 0 {
		if err == nil { // one that was killed may have left something of it
			_, err = c.Sweep(ctx, c.rehearse != nil)
		}
		return err
	}
	if len(o.Services) == 0 {
		if err := c.removeBrokenOf(ctx, project); err != nil {
			return err
		}
	}
	return c.apply(ctx, downRequest(project, o), p)
}

// known tells whether anything of a project exists.
func (c *Client) known(project string) (bool, error) {
	if _, err := c.projects.Definition(project); !errors.Is(err, fs.ErrNotExist) {
		return true, err
	}
	o, err := supervise.Observe(c.Engine, project)
	if err != nil {
		return false, err
	}
	return len(o.Containers) > 0 ||
		slices.ContainsFunc(o.Networks, func(n netns.Network) bool { return n.Project == project }) ||
		slices.ContainsFunc(o.Volumes, func(v volumes.Volume) bool { return v.Project == project }), nil
}

// find returns a container by name or ID. If it runs and nobody sees to it any
// more, its keepers are brought back.
func (c *Client) find(ctx context.Context, ref string) (*engine.Container, error) {
	r, err := c.Engine.Records.Find(ref)
	if err != nil {
		return nil, err
	}
	if r.State.Pid != 0 && c.revive(ctx, r.Project) {
		return c.Engine.Records.Read(r.ID)
	}
	return r, nil
}

// reviveBound is how long a verb that only looks waits for keepers that it starts.
const reviveBound = 5 * time.Second

// revive brings back the keepers of a project whose containers run on without any,
// and tells whether it did. Whatever touches a project does: without a reader a
// program blocks once its output pipe is full, and nobody notes how it ends.
func (c *Client) revive(ctx context.Context, project string) bool {
	s := c.supervisor(project)
	if s.Alive() {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, reviveBound)
	defer cancel()
	if err := s.Call(ctx, "ping", struct{}{}, nil, nil); err != nil {
		if c.warn != nil {
			c.warn(fmt.Sprintf("cannot bring back the supervisor of project %s: %v", supervise.RealmOf(project), err))
		}
		return false
	}
	return true
}

// Containers reads the records that s selects.
func (c *Client) Containers(ctx context.Context, s Selector) ([]engine.Container, error) {
	var found []*engine.Container
	read := func() (err error) {
		found = nil
		if len(s.IDs) == 0 {
			found, err = c.Engine.Records.List()
			found = slices.DeleteFunc(found, func(r *engine.Container) bool { return !s.matches(r) })
			return err
		}
		for _, ref := range s.IDs {
			r, err := c.Engine.Records.Find(ref)
			if s.Listed && errors.Is(err, engine.ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			found = append(found, r)
		}
		return nil
	}
	if err := read(); err != nil {
		return nil, err
	}
	revived := c.reviveAll(ctx, found)
	if s.Project != "" && c.armed(s.Project) {
		revived = c.revive(ctx, s.Project) || revived
	}
	if revived {
		if err := read(); err != nil {
			return nil, err
		}
	}
	view := make([]engine.Container, len(found))
	for i, r := range found {
		view[i] = *r
		c.correct(&view[i])
	}
	// What has ended unseen is not selected any more.
	if len(s.IDs) == 0 {
		view = slices.DeleteFunc(view, func(r engine.Container) bool { return !s.matches(&r) })
	}
	return view, nil
}

// reviveAll is revive for all projects of the containers that have a process.
func (c *Client) reviveAll(ctx context.Context, containers []*engine.Container) bool {
	revived := false
	seen := map[string]bool{}
	for _, r := range containers {
		if realm := supervise.RealmOf(r.Project); r.State.Pid != 0 && !seen[realm] {
			seen[realm] = true
			revived = c.revive(ctx, r.Project) || revived
		}
	}
	return revived
}

// correct says of a container that it has ended, where nobody is there to note it.
func (c *Client) correct(r *engine.Container) {
	if r.State.Pid == 0 || c.supervisor(r.Project).Alive() {
		return
	}
	if code, ended := c.Engine.Ended(r); ended {
		r.State.Phase, r.State.Pid, r.State.ExitCode = engine.Exited, 0, code
		r.State.FinishedAt = time.Now().UTC() // at the latest
	}
}

func (s Selector) matches(c *engine.Container) bool {
	switch {
	case s.Project != "" && c.Project != s.Project,
		s.Singles && c.Service != "",
		len(s.Services) > 0 && !slices.Contains(s.Services, c.Service),
		s.Index > 0 && c.Index != s.Index,
		!s.OneOff && c.OneOff && s.Project != "",
		s.Declared != nil && !plan.Belongs(c, s.Declared),
		!s.All && !up(c.State.Phase):
		return false
	}
	for _, l := range s.Labels {
		key, want, hasValue := strings.Cut(l, "=")
		got, ok := c.Spec.Labels[key]
		if !ok || hasValue && got != want {
			return false
		}
	}
	return true
}

func up(p engine.Phase) bool {
	return p == engine.Running || p == engine.Paused || p == engine.Restarting
}

// Projects lists the Compose projects that have containers or a definition.
func (c *Client) Projects(context.Context) ([]ProjectSummary, error) {
	byName := map[string]*ProjectSummary{}
	get := func(name string) *ProjectSummary {
		if byName[name] == nil {
			byName[name] = &ProjectSummary{Name: name, Status: map[engine.Phase]int{}}
		}
		return byName[name]
	}
	names, err := c.projects.List()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		d, err := c.projects.Definition(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		p := get(name)
		p.ConfigFiles, p.WorkingDir = d.ConfigFiles, d.WorkingDir
		if r, err := c.projects.Schedules(name); err == nil {
			p.Scheduled = len(r.Armed())
		}
	}
	all, err := c.Engine.Records.List()
	if err != nil {
		return nil, err
	}
	for _, r := range all {
		if r.Service != "" {
			get(r.Project).Status[r.State.Phase]++
		}
	}
	var out []ProjectSummary
	for _, p := range byName {
		out = append(out, *p)
	}
	slices.SortFunc(out, func(a, b ProjectSummary) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// Definition returns what a project was last asked to be.
func (c *Client) Definition(_ context.Context, project string) (*spec.Desired, error) {
	d, err := c.projects.Definition(project)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no such project: %s; \"stack ls --all\" lists them: %w", project, fs.ErrNotExist)
	}
	return d, err
}

// each applies a verb to all selected containers, one request a realm.
func (c *Client) each(ctx context.Context, s Selector, p Progress, request func(project string, ids []string) supervise.ApplyRequest) error {
	return c.eachOf(ctx, s, p, false, request)
}

// eachOf is each for a verb that, with schedules, is about those of the project, too.
func (c *Client) eachOf(ctx context.Context, s Selector, p Progress, schedules bool, request func(project string, ids []string) supervise.ApplyRequest) error {
	selected, err := c.Containers(ctx, s)
	if err != nil {
		return err
	}
	var order []string
	byRealm := map[string][]string{}
	if schedules && c.scheduled(s.Project) {
		order, byRealm[s.Project] = []string{s.Project}, []string{}
	}
	for _, r := range selected {
		realm := supervise.RealmOf(r.Project)
		if byRealm[realm] == nil {
			order = append(order, realm)
		}
		byRealm[realm] = append(byRealm[realm], r.ID)
	}
	return together(order, func(realm string) error {
		req := request(realm, byRealm[realm])
		req.Schedules = schedules
		return c.apply(ctx, req, p)
	})
}

// whole says that all of a project is selected.
func (s Selector) whole() bool {
	return s.Project != "" && len(s.Services)+len(s.IDs)+len(s.Labels)+s.Index == 0
}

// scheduled says that a project has schedules.
func (c *Client) scheduled(project string) bool {
	d, err := c.projects.Definition(project)
	return err == nil && len(d.Scheduled()) > 0 || c.armed(project)
}

// armed says that jobs of a project are run by schedules.
func (c *Client) armed(project string) bool {
	r, err := c.projects.Schedules(project)
	return err == nil && len(r.Armed())+len(r.Underway()) > 0
}

// Schedules returns what is remembered of the jobs of a project that have schedules.
func (c *Client) Schedules(ctx context.Context, project string) (schedule.Record, error) {
	if c.armed(project) {
		c.revive(ctx, project)
	}
	return c.projects.Schedules(project)
}

// together calls do for each name at once and joins the errors.
func together(names []string, do func(name string) error) error {
	errs := make([]error, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() { errs[i] = do(name) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Start starts stopped containers, in the graph's order.
func (c *Client) Start(ctx context.Context, s Selector, o StartOptions, p Progress) error {
	s.All = true
	return c.eachOf(ctx, s, p, s.whole(), func(project string, ids []string) supervise.ApplyRequest { return startRequest(project, ids, o) })
}

// Stop stops running containers, dependents first. Of a project's it names those that
// stood still already, too, as docker compose does.
func (c *Client) Stop(ctx context.Context, s Selector, o StopOptions, p Progress) error {
	if s.Project != "" {
		whole := s
		whole.All = true
		all, err := c.Containers(ctx, whole)
		if err != nil {
			return err
		}
		for _, r := range all {
			if !r.OneOff && (r.State.Phase == engine.Exited || r.State.Phase == engine.Created) {
				p.tell(apply.Event{Kind: "Container", Name: r.Spec.Name, Status: "Stopped", Done: true})
			}
		}
	}
	return c.eachOf(ctx, s, p, s.whole(), verbRequest(plan.VerbStop, o))
}

// Restart stops and starts containers; their networks stay.
func (c *Client) Restart(ctx context.Context, s Selector, o StopOptions, p Progress) error {
	s.All = true
	return c.eachOf(ctx, s, p, s.whole(), verbRequest(plan.VerbRestart, o))
}

// Kill sends a signal, SIGKILL by default.
func (c *Client) Kill(ctx context.Context, s Selector, o StopOptions, p Progress) error {
	return c.each(ctx, s, p, verbRequest(plan.VerbKill, o))
}

// Pause freezes all processes of the containers.
func (c *Client) Pause(ctx context.Context, s Selector, p Progress) error {
	return c.each(ctx, s, p, verbRequest(plan.VerbPause, StopOptions{}))
}

// Unpause thaws paused containers.
func (c *Client) Unpause(ctx context.Context, s Selector, p Progress) error {
	return c.each(ctx, s, p, verbRequest(plan.VerbUnpause, StopOptions{}))
}

// Remove removes stopped containers, with Force running ones too.
func (c *Client) Remove(ctx context.Context, s Selector, o StopOptions, p Progress) error {
	s.All = true
	if len(s.IDs) > 0 {
		rest, err := c.removeBroken(ctx, s)
		if len(rest.IDs) == 0 || err != nil {
			return err
		}
		s = rest
	}
	return c.each(ctx, s, p, verbRequest(plan.VerbRemove, o))
}

// Wait returns the exit code of a container once it has ended for good.
func (c *Client) Wait(ctx context.Context, container string) (int, error) {
	r, err := c.Engine.Records.Find(container)
	if err != nil {
		return 0, err
	}
	var res supervise.WaitResult
	err = c.call(ctx, r.Project, "wait", supervise.ContainerRequest{ID: r.ID}, &res, nil)
	return res.ExitCode, err
}

// Resume brings up every project that ran before a crash or a boot, in the
// order and under the conditions of its graph.
func (c *Client) Resume(ctx context.Context, p Progress) error {
	all, err := c.Engine.Records.List()
	if err != nil {
		return err
	}
	var realms []string
	for _, r := range all {
		if realm := supervise.RealmOf(r.Project); !slices.Contains(realms, realm) {
			realms = append(realms, realm)
		}
	}
	names, err := c.projects.List()
	if err != nil {
		return err
	}
	for _, name := range names {
		if c.armed(name) && !slices.Contains(realms, name) {
			realms = append(realms, name)
		}
	}
	return together(realms, func(realm string) error {
		if err := c.apply(ctx, resumeRequest(realm), p); err != nil {
			return fmt.Errorf("cannot resume project %s: %w", realm, err)
		}
		return nil
	})
}

// Inspect returns a container in the shape of "docker container inspect".
func (c *Client) Inspect(_ context.Context, name string) (container.InspectResponse, error) {
	found, err := c.Containers(context.Background(), Selector{IDs: []string{name}})
	if err != nil {
		return container.InspectResponse{}, err
	}
	return c.Engine.Inspect(&found[0]), nil
}
