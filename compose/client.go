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
	"time"

	"github.com/stack-run/stack/compose/apply"
	"github.com/stack-run/stack/compose/plan"
	"github.com/stack-run/stack/compose/spec"
	"github.com/stack-run/stack/compose/supervise"
	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/netns"
	"github.com/stack-run/stack/volumes"
)

// Options open a Client.
type Options struct {
	DataRoot string // default $STACK_DATA_ROOT, then /var/lib/stack
	RunRoot  string // default $STACK_RUN_ROOT, then /run/stack
	// Warn gets sentences worth telling the user, such as what the host lacks.
	Warn func(string)
}

// Client implements Verbs.
type Client struct {
	Engine   *engine.Engine
	projects *supervise.ProjectStore
	warn     func(string)
}

var _ Verbs = (*Client)(nil)

// Open opens the data root. It is cheap and changes nothing.
func Open(o Options) (*Client, error) {
	e, err := engine.Open(engine.Options{DataRoot: o.DataRoot, RunRoot: o.RunRoot, Warn: o.Warn})
	if err != nil {
		return nil, err
	}
	return &Client{Engine: e, projects: supervise.NewProjectStore(e), warn: o.Warn}, nil
}

// supervisor is the client of a project's supervisor.
func (c *Client) supervisor(project string) *supervise.Client {
	env := slices.DeleteFunc(os.Environ(), func(kv string) bool {
		key, _, _ := strings.Cut(kv, "=")
		return key == "STACK_DATA_ROOT" || key == "STACK_RUN_ROOT"
	})
	return &supervise.Client{
		Project: project,
		Dir:     c.projectDir(project),
		Env:     append(env, "STACK_DATA_ROOT="+c.Engine.DataRoot(), "STACK_RUN_ROOT="+c.Engine.RunRoot()),
	}
}

func (c *Client) projectDir(project string) string {
	return filepath.Join(c.Engine.RunRoot(), "projects", project)
}

func (c *Client) call(ctx context.Context, project, verb string, body, result any, p Progress) error {
	var events func(apply.Event)
	if p != nil {
		events = p
	}
	return c.supervisor(project).Call(ctx, verb, body, result, events)
}

// Plan says what Up would do. It only reads.
func (c *Client) Plan(_ context.Context, d *spec.Desired, o UpOptions) (*plan.Plan, error) {
	observed, err := supervise.Observe(c.Engine, d.Project)
	if err != nil {
		return nil, err
	}
	if err := supervise.PinImages(c.Engine, d, supervise.UpOptions(o)); err != nil {
		return nil, err
	}
	return supervise.ComputePlan(d, observed, supervise.UpOptions(o))
}

// Up makes the project what d says.
func (c *Client) Up(ctx context.Context, d *spec.Desired, o UpOptions, p Progress) error {
	return c.call(ctx, d.Project, "up", supervise.UpRequest{Desired: d, Options: supervise.UpOptions(o)}, nil, p)
}

// Down takes a project away.
func (c *Client) Down(ctx context.Context, project string, o DownOptions, p Progress) error {
	if known, err := c.known(project); err != nil || !known && len(o.ImageNames) == 0 {
		return err
	}
	return c.call(ctx, project, "down", supervise.DownRequest(o), nil, p)
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

// Containers reads the records that s selects.
func (c *Client) Containers(_ context.Context, s Selector) ([]engine.Container, error) {
	if len(s.IDs) > 0 {
		var out []engine.Container
		for _, ref := range s.IDs {
			r, err := c.Engine.Records.Find(ref)
			if err != nil {
				return nil, err
			}
			out = append(out, *r)
		}
		c.settle(out)
		return out, nil
	}
	all, err := c.Engine.Records.List()
	if err != nil {
		return nil, err
	}
	view := make([]engine.Container, len(all))
	for i, r := range all {
		view[i] = *r
	}
	c.settle(view)
	return slices.DeleteFunc(view, func(r engine.Container) bool { return !s.matches(&r) }), nil
}

// settle corrects the records of containers that ended after all processes that
// could have noted it were killed. Their next supervisor does so for good.
func (c *Client) settle(all []engine.Container) {
	supervised := map[string]bool{}
	for i := range all {
		r := &all[i]
		if r.State.Pid == 0 {
			continue
		}
		if _, known := supervised[r.Project]; !known {
			supervised[r.Project] = c.supervisor(r.Project).Alive()
		}
		if supervised[r.Project] {
			continue
		}
		if code, ended := c.Engine.Ended(r); ended {
			r.State.Phase, r.State.Pid, r.State.ExitCode = engine.Exited, 0, code
			r.State.FinishedAt = time.Now().UTC() // at the latest
		}
	}
}

func (s Selector) matches(c *engine.Container) bool {
	switch {
	case s.Project != "" && c.Project != s.Project,
		s.Singles && c.Service != "",
		len(s.Services) > 0 && !slices.Contains(s.Services, c.Service),
		s.Index > 0 && c.Index != s.Index,
		!s.OneOff && c.OneOff && s.Project != "",
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

// each asks the supervisors of all selected containers, one request a project.
func (c *Client) each(ctx context.Context, s Selector, verb string, req supervise.VerbRequest, p Progress) error {
	selected, err := c.Containers(ctx, s)
	if err != nil {
		return err
	}
	var order []string
	byProject := map[string][]string{}
	for _, r := range selected {
		if byProject[r.Project] == nil {
			order = append(order, r.Project)
		}
		byProject[r.Project] = append(byProject[r.Project], r.ID)
	}
	errs := make([]error, len(order))
	done := make(chan struct{}, len(order))
	for i, project := range order {
		go func() {
			req := req
			req.IDs = byProject[project]
			errs[i] = c.call(ctx, project, verb, req, nil, p)
			done <- struct{}{}
		}()
	}
	for range order {
		<-done
	}
	return errors.Join(errs...)
}

// Start starts stopped containers, in the graph's order.
func (c *Client) Start(ctx context.Context, s Selector, o StartOptions, p Progress) error {
	s.All = true
	return c.each(ctx, s, "start", supervise.VerbRequest{Wait: o.Wait, WaitTimeout: o.WaitTimeout, NoDeps: o.NoDeps}, p)
}

// Stop stops running containers, dependents first.
func (c *Client) Stop(ctx context.Context, s Selector, o StopOptions, p Progress) error {
	return c.each(ctx, s, "stop", request(o), p)
}

// Restart stops and starts containers; their networks stay.
func (c *Client) Restart(ctx context.Context, s Selector, o StopOptions, p Progress) error {
	s.All = true
	return c.each(ctx, s, "restart", request(o), p)
}

// Kill sends a signal, SIGKILL by default.
func (c *Client) Kill(ctx context.Context, s Selector, o StopOptions, p Progress) error {
	return c.each(ctx, s, "kill", request(o), p)
}

// Pause freezes all processes of the containers.
func (c *Client) Pause(ctx context.Context, s Selector, p Progress) error {
	return c.each(ctx, s, "pause", supervise.VerbRequest{}, p)
}

// Unpause thaws paused containers.
func (c *Client) Unpause(ctx context.Context, s Selector, p Progress) error {
	return c.each(ctx, s, "unpause", supervise.VerbRequest{}, p)
}

// Remove removes stopped containers, with Force running ones too.
func (c *Client) Remove(ctx context.Context, s Selector, o StopOptions, p Progress) error {
	s.All = true
	return c.each(ctx, s, "remove", request(o), p)
}

func request(o StopOptions) supervise.VerbRequest {
	return supervise.VerbRequest{Timeout: o.Timeout, Signal: o.Signal, NoDeps: o.NoDeps, Force: o.Force, Volumes: o.Volumes}
}

// Wait returns the exit code of a container once it has ended for good.
func (c *Client) Wait(ctx context.Context, container string) (int, error) {
	r, err := c.Engine.Records.Find(container)
	if err != nil {
		return 0, err
	}
	var res supervise.WaitResult
	err = c.call(ctx, r.Project, "wait", supervise.VerbRequest{IDs: []string{r.ID}}, &res, nil)
	return res.ExitCode, err
}

// Resume brings up every project that ran before a crash or a boot, in the
// order and under the conditions of its graph.
func (c *Client) Resume(ctx context.Context, p Progress) error {
	all, err := c.Engine.Records.List()
	if err != nil {
		return err
	}
	var projects []string
	for _, r := range all {
		if !slices.Contains(projects, r.Project) {
			projects = append(projects, r.Project)
		}
	}
	errs := make([]error, len(projects))
	done := make(chan struct{}, len(projects))
	for i, project := range projects {
		go func() {
			if err := c.call(ctx, project, "resume", struct{}{}, nil, p); err != nil {
				errs[i] = fmt.Errorf("cannot resume project %s: %w", project, err)
			}
			done <- struct{}{}
		}()
	}
	for range projects {
		<-done
	}
	return errors.Join(errs...)
}

// Inspect returns a container in the shape of "docker container inspect".
func (c *Client) Inspect(_ context.Context, container string) (any, error) {
	found, err := c.Containers(context.Background(), Selector{IDs: []string{container}})
	if err != nil {
		return nil, err
	}
	return c.Engine.Inspect(&found[0])
}
