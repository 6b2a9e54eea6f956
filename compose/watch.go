package compose

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/moby/patternmatcher/ignorefile"
	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/compose/desired"
	"github.com/stack-run/stack/compose/spec"
	"github.com/stack-run/stack/compose/watch"
	"github.com/stack-run/stack/compose/watch/session"
	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/internal/inode"
	"github.com/stack-run/stack/internal/lock"
)

// WatchOptions say how a watch goes about it.
type WatchOptions struct {
	Services []string // empty: all
	// Build builds services' images. Replaced, if set, is called when a service
	// has got a new image.
	Build    func(ctx context.Context, services []string) error
	Replaced func(ctx context.Context)
	// Say and Warn get sentences, Output lines of commands that run in containers.
	// All may be called from several goroutines.
	Say, Warn func(text string)
	Output    func(container, line string)
	// Ready, if set, is called when no change is missed any more.
	Ready    func()
	Progress Progress
}

// ErrNothingToWatch is the error of Watch where no service says anything.
var ErrNothingToWatch = errors.New("none of the selected services is configured for watch; say in develop.watch of a service what is to be watched")

// Watch acts on changes until ctx ends.
func (c *Client) Watch(ctx context.Context, d *spec.Desired, o WatchOptions) error {
	rules, err := watchRules(d, o)
	if err != nil {
		return err
	}
	held, err := c.lockWatch(d.Project)
	if err != nil {
		return err
	}
	defer held.Remove()
	s, err := session.Open(ctx, rules, &watchHost{c: c, d: d, o: o})
	if err != nil {
		return err
	}
	ready := func() {
		o.Say("Watch enabled")
		if o.Ready != nil {
			o.Ready()
		}
	}
	defer o.Say("Watch disabled")
	return s.Run(ctx, ready)
}

// lockWatch sees to it that a project is watched once: two would both restart and
// build for each change.
func (c *Client) lockWatch(project string) (*lock.Held, error) {
	dir := filepath.Join(c.Engine.RunRoot(), "watch")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	held, ok, err := lock.TryExclusive(filepath.Join(dir, project+".lock"))
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("cannot watch project %s: another stack watch or stack up --watch does; end that first", project)
	}
	return held, nil
}

// watchRules are those of the services that are watched.
func watchRules(d *spec.Desired, o WatchOptions) ([]*watch.Rule, error) {
	warnings, err := spec.CheckWatch(d, o.Services)
	for _, w := range warnings {
		o.Warn(w.String())
	}
	if err != nil {
		return nil, err
	}
	var rules []*watch.Rule
	for _, name := range d.Watched(o.Services) {
		for _, t := range d.Services[name].Watch {
			file, lines, err := dockerIgnore(t)
			if err != nil {
				return nil, err
			}
			r, err := watch.NewRule(name, t, file, lines)
			if err != nil {
				return nil, &spec.Error{Where: t.Where, Path: t.At, Text: err.Error(), Cause: err}
			}
			if !r.Covers(t.Path) {
				o.Warn(spec.Warning{Where: t.Where, Path: t.At + ".path", Text: fmt.Sprintf("%s is ignored as a whole by %s: no change is acted on", t.Path, file)}.String())
			} else if _, err := os.Lstat(t.Path); errors.Is(err, fs.ErrNotExist) {
				o.Warn(spec.Warning{Where: t.Where, Path: t.At + ".path", Text: t.Path + " is not there yet; it is watched once it is"}.String())
			}
			rules = append(rules, r)
		}
	}
	if len(rules) == 0 {
		return nil, ErrNothingToWatch
	}
	return rules, nil
}

// dockerIgnore reads the ignore file that a build of the service goes by.
func dockerIgnore(t desired.Trigger) (file string, lines []string, err error) {
	if t.BuildContext == "" {
		return "", nil, nil
	}
	for _, name := range []string{filepath.Join(t.BuildContext, t.Dockerfile+".dockerignore"), filepath.Join(t.BuildContext, ".dockerignore")} {
		f, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrInvalid) {
			continue
		}
		if err != nil {
			return name, nil, fmt.Errorf("cannot read the ignore file: %w", err)
		}
		lines, err := ignorefile.ReadAll(f)
		f.Close()
		if err != nil {
			return name, nil, fmt.Errorf("cannot read the ignore file: %w", err)
		}
		return name, lines, nil
	}
	return "", nil, nil
}

// watchHost does what a session decides with the verbs that a user has, too.
type watchHost struct {
	c *Client
	d *spec.Desired
	o WatchOptions
}

func (h *watchHost) Say(text string)  { h.o.Say(text) }
func (h *watchHost) Warn(text string) { h.o.Warn(text) }

func (h *watchHost) selector(services ...string) Selector {
	return Selector{Project: h.d.Project, Services: services, Declared: h.d}
}

func (h *watchHost) list(ctx context.Context, service string) ([]engine.Container, error) {
	s := h.selector(service)
	s.All = true
	return h.c.Containers(ctx, s)
}

func (h *watchHost) Containers(ctx context.Context, service string) ([]session.Container, error) {
	found, err := h.list(ctx, service)
	var out []session.Container
	for _, c := range found {
		out = append(out, session.Container{ID: c.ID, Name: c.Spec.Name, Running: c.State.Phase == engine.Running})
	}
	return out, err
}

// Copy mirrors files.
func (h *watchHost) Copy(ctx context.Context, container string, copies []watch.Copy) ([]bool, error) {
	changed := make([]bool, len(copies))
	r, err := h.c.find(ctx, container)
	if err != nil {
		return changed, err
	}
	files, err := h.c.Engine.Files(ctx, r)
	if err != nil {
		return changed, err
	}
	defer files.Close()
	m, err := h.c.Engine.Mirror(files, r)
	if err != nil {
		return changed, err
	}
	var failed []error
	for i, copied := range copies {
		if err := ctx.Err(); err != nil {
			return changed, err
		}
		changed[i], err = mirror(m, copied)
		if err != nil {
			failed = append(failed, err)
		}
	}
	if n := len(failed); n > 3 {
		failed = append(failed[:3:3], fmt.Errorf("and %d more", n-3))
	}
	return changed, errors.Join(failed...)
}

// mirror does one copy. What has vanished since it was seen is removed.
func mirror(m *engine.Mirror, c watch.Copy) (bool, error) {
	if !c.Gone {
		changed, err := m.Put(c.Source, c.Target)
		if !errors.Is(err, fs.ErrNotExist) {
			return changed, err
		}
		fd, there := inode.OpenPlain(c.Source)
		if there == nil {
			unix.Close(fd)
		}
		if !errors.Is(there, fs.ErrNotExist) {
			return changed, err
		}
	}
	return m.Remove(c.Target, c.Keeps, c.Empty)
}

func (h *watchHost) Build(ctx context.Context, service string) error {
	return h.o.Build(ctx, []string{service})
}

// Replace brings a service up with the image that it has now, and restarts what
// says that it restarts with it.
func (h *watchHost) Replace(ctx context.Context, service string) error {
	before, err := h.list(ctx, service)
	if err != nil {
		return err
	}
	o := UpOptions{Services: []string{service}, NoDeps: true, IgnoreOrphans: true}
	if err := h.c.Up(ctx, h.d, o, h.o.Progress); err != nil {
		return err
	}
	after, err := h.list(ctx, service)
	if err != nil {
		return err
	}
	same := func(a, b engine.Container) bool { return a.ID == b.ID }
	if slices.EqualFunc(before, after, same) {
		h.Say(fmt.Sprintf("service %q stays: its image is what it was", service))
		return nil
	}
	if h.o.Replaced != nil {
		h.o.Replaced(ctx)
	}
	var dependents []string
	for name, s := range h.d.Services {
		if s.DependsOn[service].Restart {
			dependents = append(dependents, name)
		}
	}
	if len(dependents) == 0 {
		return nil
	}
	slices.Sort(dependents)
	running, err := h.c.Containers(ctx, h.selector(dependents...))
	if err != nil || len(running) == 0 {
		return err
	}
	return h.c.Restart(ctx, h.selector(dependents...), StopOptions{}, h.o.Progress)
}

func (h *watchHost) Restart(ctx context.Context, service string) error {
	return h.c.Restart(ctx, h.selector(service), StopOptions{}, h.o.Progress)
}

// Exec runs a command and tells what it writes.
func (h *watchHost) Exec(ctx context.Context, container session.Container, hook desired.Hook) error {
	out, in, err := os.Pipe()
	if err != nil {
		return err
	}
	var idle sync.WaitGroup
	idle.Go(func() { h.tell(container.Name, out) })
	code, err := h.c.Exec(ctx, container.ID, ExecOptions{
		Process:    engine.Process{Env: hook.Env, WorkingDir: hook.WorkingDir, User: hook.User},
		Command:    hook.Command,
		Privileged: hook.Privileged,
		Stdout:     in, Stderr: in,
	})
	in.Close()
	out.SetReadDeadline(time.Now().Add(hangUp)) // a background process may keep it open
	idle.Wait()
	out.Close()
	if err == nil && code != 0 {
		err = fmt.Errorf("exit status %d", code)
	}
	return err
}

func (h *watchHost) tell(container string, out io.Reader) {
	lines := bufio.NewReaderSize(out, 64<<10) // the longest line that is not cut
	for {
		line, err := lines.ReadSlice('\n')
		if len(line) > 0 && h.o.Output != nil {
			h.o.Output(container, strings.TrimRight(string(line), "\r\n"))
		}
		if err != nil && err != bufio.ErrBufferFull {
			return
		}
	}
}
