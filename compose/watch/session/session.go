// Package session acts on what changes under develop.watch, through a Host.
package session

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/stack-run/stack/compose/desired"
	"github.com/stack-run/stack/compose/watch"
	"github.com/stack-run/stack/compose/watch/tree"
)

// Container is one of a service's.
type Container struct {
	ID, Name string
	Running  bool
}

// Host does what a session decides. Its methods may be called side by side for
// different services.
type Host interface {
	// Containers are those of a service, stopped ones too.
	Containers(ctx context.Context, service string) ([]Container, error)
	// Copy brings files into a container and tells, for each, whether that changed
	// anything there. What goes wrong with one does not stop the others.
	Copy(ctx context.Context, container string, copies []watch.Copy) (changed []bool, err error)
	// Build builds a service's image.
	Build(ctx context.Context, service string) error
	// Replace makes a service's containers anew if its image is another.
	Replace(ctx context.Context, service string) error
	Restart(ctx context.Context, service string) error
	// Exec runs a command in a container. A status other than 0 is an error.
	Exec(ctx context.Context, container Container, hook desired.Hook) error
	// Say tells the user what happens, Warn what went wrong.
	Say(text string)
	Warn(text string)
}

// Session is a watch.
type Session struct {
	rules    []*watch.Rule
	host     Host
	tree     *tree.Tree
	services map[string]*service
	building sync.Mutex // one build at a time: their output is read as one text
}

// service is what is to be done in one service.
type service struct {
	name  string
	rules []*watch.Rule
	wake  chan struct{}

	copying sync.Mutex      // guards what follows, and copies
	has     map[string]bool // containers that have what follows
	touched map[string]bool // sources that have been copied: whether they were directories

	mu      sync.Mutex // guards what follows
	rebuild bool
	restart bool
	exec    map[*watch.Rule]bool
	calloff func() // ends a build that is under way, nil else
}

// Open looks at all that the rules watch. What is to be in the containers at once
// is brought there by Run.
func Open(ctx context.Context, rules []*watch.Rule, host Host) (*Session, error) {
	s := &Session{rules: rules, host: host, services: map[string]*service{}}
	var roots []string
	for _, r := range rules {
		svc := s.services[r.Service]
		if svc == nil {
			svc = &service{
				name: r.Service, wake: make(chan struct{}, 1),
				has: map[string]bool{}, touched: map[string]bool{}, exec: map[*watch.Rule]bool{},
			}
			s.services[r.Service] = svc
		}
		svc.rules = append(svc.rules, r)
		if !slices.Contains(roots, r.Path) {
			roots = append(roots, r.Path)
		}
	}
	some := func(f func(*watch.Rule) bool) bool { return slices.ContainsFunc(rules, f) }
	var err error
	s.tree, err = tree.Open(ctx, tree.Options{
		Roots:   roots,
		Prune:   func(dir string) bool { return !some(func(r *watch.Rule) bool { return !r.Prunes(dir) }) },
		Skip:    func(name string) bool { return !some(func(r *watch.Rule) bool { return r.Matches(name) }) },
		Content: func(name string) bool { return some(func(r *watch.Rule) bool { return r.NeedsContent(name) }) },
		Scarce: func(err error) {
			host.Warn(fmt.Sprintf("changes are noticed a second or more late: %v", err))
		},
	})
	return s, err
}

// Watches is how many directories the kernel watches.
func (s *Session) Watches() int { return s.tree.Watches() }

// Run acts on changes until ctx ends. ready is called when nothing is missed any
// more.
func (s *Session) Run(ctx context.Context, ready func()) error {
	ctx, cancel := context.WithCancel(ctx)
	var idle sync.WaitGroup
	defer idle.Wait()
	defer s.tree.Close()
	defer cancel()
	s.tree.Read(ctx)
	failed := make(chan error, 1)
	idle.Go(func() { failed <- s.tree.Run(ctx) })
	for _, svc := range s.services {
		idle.Go(func() { s.work(ctx, svc) })
	}
	for _, svc := range s.services {
		if err := s.catchUp(ctx, svc); err != nil && ctx.Err() == nil {
			s.host.Warn(err.Error())
		}
	}
	ready()
	for changes := range s.tree.Changes() {
		s.act(ctx, changes)
	}
	if err := <-failed; err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

// act does what a batch asks for: copies at once, the rest beside it.
func (s *Session) act(ctx context.Context, changes []watch.Change) {
	var idle sync.WaitGroup
	for _, t := range watch.Decide(s.rules, changes) {
		svc := s.services[t.Service]
		idle.Go(func() {
			exec := t.Exec
			if len(t.Copies) > 0 {
				by, err := s.copy(ctx, svc, t.Copies)
				if err != nil && ctx.Err() == nil {
					s.host.Warn(fmt.Sprintf("cannot sync service %q: %v", svc.name, err))
				}
				for r := range by {
					switch r.Action {
					case desired.WatchSyncRestart:
						t.Restart = true
					case desired.WatchSyncExec:
						exec = append(exec, r)
					}
				}
			}
			svc.ask(t.Rebuild, t.Restart, exec)
		})
	}
	idle.Wait()
}

// copy brings files into all containers of a service, and tells which rules
// changed something there.
func (s *Session) copy(ctx context.Context, svc *service, copies []watch.Copy) (map[*watch.Rule]bool, error) {
	svc.copying.Lock()
	defer svc.copying.Unlock()
	for _, c := range copies {
		svc.touched[c.Source] = c.Dir
	}
	return s.bring(ctx, svc, copies)
}

// catchUp brings what its containers do not have into a service: the files of an
// initial sync, and in a container that is new, what has been copied before.
func (s *Session) catchUp(ctx context.Context, svc *service) error {
	svc.copying.Lock()
	defer svc.copying.Unlock()
	_, err := s.bring(ctx, svc, nil)
	return err
}

func (s *Session) bring(ctx context.Context, svc *service, copies []watch.Copy) (map[*watch.Rule]bool, error) {
	containers, err := s.host.Containers(ctx, svc.name)
	if err != nil {
		svc.has = nil // what was to be copied is owed to all
		return nil, err
	}
	owed := sync.OnceValue(func() []watch.Copy { return s.owed(svc) })
	var (
		mu      sync.Mutex
		idle    sync.WaitGroup
		by      = map[*watch.Rule]bool{}
		sources = map[string]bool{}
		errs    []error
	)
	has := map[string]bool{}
	for _, c := range containers {
		todo := copies
		if !svc.has[c.ID] {
			todo = owed()
		}
		if len(todo) == 0 {
			mu.Lock()
			has[c.ID] = true
			mu.Unlock()
			continue
		}
		idle.Go(func() {
			changed, err := s.host.Copy(ctx, c.ID, todo)
			mu.Lock()
			defer mu.Unlock()
			for i, yes := range changed {
				if yes {
					by[todo[i].Rule], sources[todo[i].Source] = true, true
				}
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", c.Name, err))
				return
			}
			has[c.ID] = true
		})
	}
	idle.Wait()
	svc.has = has
	if len(sources) > 0 {
		s.host.Say(fmt.Sprintf("Syncing service %q after %d changes were detected", svc.name, len(sources)))
	}
	return by, errors.Join(errs...)
}

// owed are the copies that a container gets which has had none yet.
func (s *Session) owed(svc *service) []watch.Copy {
	var changes []watch.Change
	for name, dir := range svc.touched {
		c := s.tree.Look(name)
		c.Dir = c.Dir || c.Gone && dir
		changes = append(changes, c)
	}
	var out []watch.Copy
	for _, r := range svc.rules {
		if !r.Copies() {
			continue
		}
		mine := changes
		if r.InitialSync {
			mine = slices.Clone(changes)
			for _, c := range s.tree.Paths(r.Path) {
				if _, ok := svc.touched[c.Path]; !ok && !slices.Contains(r.Aside, c.Path) {
					mine = append(mine, c)
				}
			}
		}
		for _, t := range watch.Decide([]*watch.Rule{r}, mine) {
			out = append(out, t.Copies...)
		}
	}
	return out
}

// ask notes what is to be done. A build that is under way is of what was before.
func (svc *service) ask(rebuild, restart bool, exec []*watch.Rule) {
	svc.mu.Lock()
	svc.rebuild = svc.rebuild || rebuild
	svc.restart = svc.restart || restart
	for _, r := range exec {
		svc.exec[r] = true
	}
	if rebuild && svc.calloff != nil {
		svc.calloff()
	}
	svc.mu.Unlock()
	select {
	case svc.wake <- struct{}{}:
	default:
	}
}

// work does what is asked for in one service, one after the other.
func (s *Session) work(ctx context.Context, svc *service) {
	for {
		select {
		case <-svc.wake:
		case <-ctx.Done():
			return
		}
		for ctx.Err() == nil && s.step(ctx, svc) {
		}
	}
}

// step does one thing. It tells whether there was one.
func (s *Session) step(ctx context.Context, svc *service) bool {
	svc.mu.Lock()
	switch {
	case svc.rebuild:
		svc.rebuild = false
		build, cancel := context.WithCancel(ctx)
		svc.calloff = cancel
		svc.mu.Unlock()
		defer cancel()
		s.rebuild(ctx, build, svc)
	case svc.restart:
		svc.restart = false
		svc.mu.Unlock()
		if err := s.host.Restart(ctx, svc.name); err != nil {
			s.warn(ctx, "cannot restart service %q: %v", svc.name, err)
			break
		}
		s.host.Say(fmt.Sprintf("service(s) [%q] restarted", svc.name))
	case len(svc.exec) > 0:
		var hooks []*watch.Rule
		for _, r := range svc.rules { // in their order
			if svc.exec[r] {
				hooks = append(hooks, r)
			}
		}
		svc.exec = map[*watch.Rule]bool{}
		svc.mu.Unlock()
		s.exec(ctx, svc, hooks)
	default:
		svc.mu.Unlock()
		return false
	}
	return true
}

// rebuild builds and, only if that succeeds, replaces. A restart that was asked for
// before the replacement is done with it.
func (s *Session) rebuild(ctx, build context.Context, svc *service) {
	s.building.Lock()
	if build.Err() == nil {
		s.host.Say(fmt.Sprintf("Rebuilding service(s) [%q] after changes were detected...", svc.name))
	}
	err := build.Err()
	if err == nil {
		err = s.host.Build(build, svc.name)
	}
	s.building.Unlock()
	svc.mu.Lock()
	svc.calloff = nil
	again := svc.rebuild
	if err == nil && !again {
		svc.restart = false
	}
	svc.mu.Unlock()
	switch {
	case again || ctx.Err() != nil:
		return // what it was built from has changed since
	case err != nil:
		s.host.Warn(fmt.Sprintf("Build failed, service %q stays as it is: %v", svc.name, err))
		return
	}
	s.host.Say(fmt.Sprintf("service(s) [%q] successfully built", svc.name))
	if err := s.host.Replace(ctx, svc.name); err != nil {
		s.warn(ctx, "cannot replace service %q: %v", svc.name, err)
		return
	}
	if err := s.catchUp(ctx, svc); err != nil {
		s.warn(ctx, "cannot sync service %q: %v", svc.name, err)
	}
}

func (s *Session) exec(ctx context.Context, svc *service, rules []*watch.Rule) {
	containers, err := s.host.Containers(ctx, svc.name)
	if err != nil {
		s.warn(ctx, "cannot run a command in service %q: %v", svc.name, err)
		return
	}
	running := slices.DeleteFunc(containers, func(c Container) bool { return !c.Running })
	for _, r := range rules {
		command := strings.Join(r.Exec.Command, " ")
		if len(running) == 0 {
			s.host.Warn(fmt.Sprintf("cannot run %q in service %q: none of its containers runs", command, svc.name))
		}
		for _, c := range running {
			if err := s.host.Exec(ctx, c, r.Exec); err != nil {
				s.warn(ctx, "%s: %q: %v", c.Name, command, err)
			}
		}
	}
}

func (s *Session) warn(ctx context.Context, format string, args ...any) {
	if ctx.Err() == nil {
		s.host.Warn(fmt.Sprintf(format, args...))
	}
}
