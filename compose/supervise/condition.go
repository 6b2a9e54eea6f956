package supervise

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/stack-run/stack/compose/spec"
	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/engine/logs"
	"github.com/stack-run/stack/healthcheck"
)

// Conditions of depends_on, Compose specification "depends_on".
const (
	conditionStarted   = "service_started"
	conditionHealthy   = "service_healthy"
	conditionCompleted = "service_completed_successfully"
)

// verdict is what a condition says of one container.
type verdict int

const (
	pending verdict = iota
	met
	failed
)

// judge decides a condition for one container. hasCheck tells whether it has a
// health check. The reason says why it failed or what is waited for.
func judge(condition string, st engine.State, hasCheck bool) (v verdict, reason string) {
	ended := st.Phase == engine.Exited || st.Phase == engine.Dead
	switch condition {
	case conditionHealthy:
		switch {
		case ended:
			return failed, fmt.Sprintf("exited (%d)", st.ExitCode)
		case !hasCheck:
			return failed, "has no healthcheck, so it never becomes healthy; add a healthcheck or use condition service_started"
		case st.Health == healthcheck.Healthy && st.Phase == engine.Running:
			return met, ""
		case st.Health == healthcheck.Unhealthy && st.Phase == engine.Running:
			return failed, "is unhealthy"
		}
		return pending, "to be healthy"
	case conditionCompleted:
		switch {
		case ended && st.StartedAt.IsZero():
			return pending, "to start"
		case ended && st.ExitCode == 0:
			return met, ""
		case ended:
			return failed, fmt.Sprintf("didn't complete successfully: exit %d", st.ExitCode)
		}
		return pending, "to complete"
	default: // service_started
		switch {
		case st.Phase == engine.Running, st.Phase == engine.Paused, st.Phase == engine.Restarting:
			return met, ""
		case ended && !st.StartedAt.IsZero():
			return met, "" // it was started; that it ended is not asked for
		}
		return pending, "to start"
	}
}

// stayUp is how long a container without a health check must have run for "up
// --wait": one that fails at once has not come up. Docker Compose looks for the
// first time after as long.
const stayUp = 500 * time.Millisecond

// settled decides what "up --wait" waits for: healthy where there is a check, else
// running, and stayed says that it did for stayUp, or, for a job that restarts by
// no policy, ended with success.
func settled(st engine.State, hasCheck, stayed bool) (v verdict, reason string) {
	switch {
	case st.Phase == engine.Exited && st.ExitCode == 0 && !st.StartedAt.IsZero():
		return met, ""
	case st.Phase == engine.Exited || st.Phase == engine.Dead:
		return failed, fmt.Sprintf("exited (%d)", st.ExitCode)
	case st.Phase == engine.Restarting:
		return pending, "to stay up"
	case st.Phase != engine.Running:
		return pending, "to start"
	case hasCheck:
		return judge(conditionHealthy, st, true)
	case !stayed:
		return pending, "to stay up"
	}
	return met, ""
}

// containersOf returns the units of a service, one-offs left out. Callers hold mu.
func (s *Supervisor) containersOf(service string) []*unit {
	var out []*unit
	for _, u := range s.units {
		if u.c.Service == service && !u.c.OneOff && !u.removed {
			out = append(out, u)
		}
	}
	slices.SortFunc(out, func(a, b *unit) int { return a.c.Index - b.c.Index })
	return out
}

// awaitCondition waits until every container of a service meets a condition.
func (s *Supervisor) awaitCondition(ctx context.Context, service, condition string, r *reply) error {
	hasCheck := map[string]bool{}
	var culprit engine.Container
	var why string
	told := map[string]bool{}
	err := s.await(ctx, func() (bool, error) {
		units := s.containersOf(service)
		all := true
		for _, u := range units {
			check, known := hasCheck[u.c.ID]
			if !known {
				check = s.engine.Health(u.c) != nil
				hasCheck[u.c.ID] = check
			}
			v, reason := judge(condition, u.c.State, check)
			switch v {
			case failed:
				culprit, why = *u.c, reason
				return false, errCondition
			case pending:
				all = false
				if r != nil && condition != conditionStarted && !told[u.c.ID] {
					told[u.c.ID] = true
					r.event("Container", u.c.Spec.Name, "Waiting", "", false)
				}
			case met:
				if told[u.c.ID] {
					delete(told, u.c.ID)
					status := "Healthy"
					if condition == conditionCompleted {
						status = "Exited"
					}
					r.event("Container", u.c.Spec.Name, status, "", true)
				}
			}
		}
		return all, nil
	})
	if err == errCondition {
		return s.conditionFailed(culprit, why, r)
	}
	if err != nil {
		return fmt.Errorf("service %s is not %s: %w", service, strings.ReplaceAll(strings.TrimPrefix(condition, "service_"), "_", " "), err)
	}
	return nil
}

var errCondition = fmt.Errorf("condition failed")

// conditionFailed builds the error of a dependency that failed, with the last
// lines of its log, which usually say why.
func (s *Supervisor) conditionFailed(c engine.Container, why string, r *reply) error {
	tail := s.lastLines(c.ID, 10)
	if r != nil {
		r.event("Container", c.Spec.Name, "Error", why, true)
	}
	if tail == "" {
		return fmt.Errorf("dependency failed to start: container %s %s", c.Spec.Name, why)
	}
	return fmt.Errorf("dependency failed to start: container %s %s; its last output was:\n%s", c.Spec.Name, why, tail)
}

// lastLines returns the end of a container's log, indented.
func (s *Supervisor) lastLines(id string, n int) string {
	ctx, cancel := context.WithTimeout(s.ctx, 2*time.Second)
	defer cancel()
	var b strings.Builder
	reader, err := logs.Open(s.engine.LogDir(id))
	if err != nil {
		return ""
	}
	err = reader.Read(ctx, logs.ReadOptions{Tail: n}, func(e logs.Entry) error {
		b.WriteString("    ")
		b.Write(e.Data)
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// awaitDependencies waits for what the container's service depends on. Only
// dependencies that have containers count: others were left out on purpose.
func (s *Supervisor) awaitDependencies(ctx context.Context, u *unit, r *reply) error {
	s.mu.Lock()
	d := s.desired
	service, oneOff := u.c.Service, u.c.OneOff
	s.mu.Unlock()
	if d == nil || d.Services[service] == nil || oneOff {
		return nil
	}
	for name, dep := range d.Services[service].DependsOn {
		s.mu.Lock()
		any := len(s.containersOf(name)) > 0
		s.mu.Unlock()
		if !any {
			continue
		}
		if err := s.awaitCondition(ctx, name, dep.Condition, r); err != nil {
			if !dep.Required {
				r.event("Container", s.view(u).Spec.Name, "Warning", fmt.Sprintf("optional dependency %q failed: %v", name, err), false)
				continue
			}
			return err
		}
	}
	return nil
}

// runPostStart runs a service's post_start hooks in a container that started.
func (s *Supervisor) runPostStart(ctx context.Context, u *unit) error {
	for _, h := range s.hooks(u, func(svc *spec.Service) []spec.Hook { return svc.PostStart }) {
		if err := s.runHook(ctx, u, h); err != nil {
			return fmt.Errorf("post_start hook of container %s failed: %w", s.view(u).Spec.Name, err)
		}
	}
	return nil
}

// runPreStop runs the pre_stop hooks; their failure does not keep a container.
func (s *Supervisor) runPreStop(ctx context.Context, u *unit, notice func(string)) {
	for _, h := range s.hooks(u, func(svc *spec.Service) []spec.Hook { return svc.PreStop }) {
		err := s.runHook(ctx, u, h)
		switch {
		case err == nil:
		case notice != nil:
			notice(fmt.Sprintf("its pre_stop hook failed: %v", err))
		default:
			s.warn(fmt.Errorf("pre_stop hook of container %s failed: %w", s.view(u).Spec.Name, err))
		}
	}
}

func (s *Supervisor) hooks(u *unit, pick func(*spec.Service) []spec.Hook) []spec.Hook {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.desired == nil || u.c.OneOff || s.desired.Services[u.c.Service] == nil {
		return nil
	}
	return pick(s.desired.Services[u.c.Service])
}

func (s *Supervisor) runHook(ctx context.Context, u *unit, h spec.Hook) error {
	s.mu.Lock()
	c, task := *u.c, u.task
	s.mu.Unlock()
	if task == nil {
		return fmt.Errorf("the container is not running")
	}
	out, code, err := s.engine.ExecOutput(ctx, &c, engine.ExecRequest{
		Process:    engine.Process{Entrypoint: []string{}, Command: h.Command, Env: h.Env, User: h.User, WorkingDir: h.WorkingDir},
		Privileged: h.Privileged,
	})
	if err != nil {
		return err
	}
	if code != 0 {
		text := strings.TrimSpace(string(out))
		if text == "" {
			text = "it printed nothing"
		}
		return fmt.Errorf("exit %d: %s", code, text)
	}
	return nil
}
