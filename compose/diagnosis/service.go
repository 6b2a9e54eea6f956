package diagnosis

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/stack-run/stack/compose/desired"
	"github.com/stack-run/stack/compose/machine"
	"github.com/stack-run/stack/engine/container"
	"github.com/stack-run/stack/healthcheck/health"
)

// Explain gives one reason for each of the services named, or for all.
func Explain(f Facts, services ...string) []Reason {
	e := explainer{f: &f, known: map[string]Reason{}, under: map[string]bool{}}
	if len(services) == 0 {
		services = f.Services()
	}
	out := make([]Reason, len(services))
	for i, name := range services {
		out[i] = e.service(name)
	}
	return out
}

// explainer remembers what it has found: many may wait for one.
type explainer struct {
	f     *Facts
	known map[string]Reason
	under map[string]bool // being explained: whoever comes there again is in a circle
}

func (e *explainer) service(name string) Reason {
	if r, ok := e.known[name]; ok {
		return r
	}
	e.under[name] = true
	r := e.explain(name)
	delete(e.under, name)
	r.Service = name
	if len(r.Chain) == 0 {
		r.Chain = []string{name}
	}
	e.known[name] = r
	return r
}

func (e *explainer) explain(name string) Reason {
	containers := e.f.of(name)
	if len(containers) == 0 {
		return e.unmade(name)
	}
	reasons := make([]Reason, len(containers))
	for i, c := range containers {
		reasons[i] = e.f.ofContainer(c)
		switch r := &reasons[i]; r.Cause {
		case NotStarted:
			*r = e.unstarted(name, *r)
		case Stopped, HostStopped:
			if taken := e.f.PortTaken[name]; taken != "" {
				r.Text += "; meanwhile " + taken
			}
		}
	}
	causes := order()
	worst := slices.MinFunc(reasons, func(a, b Reason) int { return slices.Index(causes, a.Cause) - slices.Index(causes, b.Cause) })
	worst.Containers = len(containers)
	for _, r := range reasons {
		if r.Cause == worst.Cause {
			worst.Exceptional++
		}
	}
	switch {
	case worst.Containers == 1:
	case worst.Exceptional == worst.Containers:
		worst.Text = fmt.Sprintf("%s (all %d containers)", worst.Text, worst.Containers)
	default:
		worst.Text = fmt.Sprintf("%s (%s, %d of %d containers)", worst.Text, worst.Container, worst.Exceptional, worst.Containers)
	}
	return worst
}

// unmade is why a service has no container.
func (e *explainer) unmade(name string) Reason {
	f := e.f
	up := quoted("stack up --detach "+name) + " starts it"
	s := f.service(name)
	var off []string
	declared := f.Project != nil && f.Project.Services[name] != nil
	if !declared {
		off = f.Profiles[name]
	}
	switch {
	case len(off) > 0:
		return Reason{Cause: ProfileOff, Text: "is not created: " + profiles(off), Todo: quoted("stack --profile "+off[0]+" up --detach "+name) + " starts it"}
	case isJob(f.Project, name), isJob(f.Last, name):
		return Reason{Cause: Job, Text: "is a job, which runs when it is told to", Todo: fmt.Sprintf("see %s, or %s", quoted("stack jobs "+name), quoted("stack run "+name))}
	case provider(f.Project, name) != "":
		return Reason{Cause: Provided, Text: fmt.Sprintf("has no container: %s provides it", provider(f.Project, name))}
	case s == nil && f.Project != nil && slices.Contains(f.Project.Disabled, name):
		return Reason{Cause: Disabled, Text: "is turned off: by a profile, a selection or a fault in the file", Todo: quoted("stack config") + " tells which"}
	case s == nil:
		return Reason{Cause: NotCreated, Text: "is not created", Todo: up}
	case len(s.Replicas) == 0, scaledOff(f.Last, name):
		return Reason{Cause: ScaledOff, Text: "is scaled to 0", Todo: quoted("stack up --detach --scale "+name+"=1 "+name) + " starts one"}
	case f.NoImage[name]:
		image := s.Replicas[0].Spec.Image
		if s.HasBuild {
			return Reason{Cause: NoImage, Text: fmt.Sprintf("is not created: its image %s is not on this machine", image), Todo: quoted("stack build "+name) + " builds it, or says why it cannot"}
		}
		return Reason{Cause: NoImage, Text: fmt.Sprintf("is not created: its image %s is not on this machine", image), Todo: quoted("stack pull "+name) + " fetches it, or says why it cannot"}
	}
	return e.unstarted(name, Reason{Cause: NotCreated, Text: "is not created", Todo: up})
}

func isJob(d *desired.Project, name string) bool { return d != nil && d.Jobs[name] != nil }

func provider(d *desired.Project, name string) string {
	if d == nil {
		return ""
	}
	return d.Providers[name].Type
}

func scaledOff(d *desired.Project, name string) bool {
	return d != nil && d.Services[name] != nil && len(d.Services[name].Replicas) == 0
}

func profiles(names []string) string {
	if len(names) == 1 {
		return "profile " + names[0] + " is not active"
	}
	return "none of the profiles " + strings.Join(names, ", ") + " is active"
}

// unstarted finds why a service has not been started: what it waits for, or what
// would keep it from it. r is what there is to say if nothing does.
func (e *explainer) unstarted(name string, r Reason) Reason {
	needs := e.unmet(name)
	// What cannot come by itself is told before what may.
	slices.SortStableFunc(needs, func(a, b need) int { return rank(a) - rank(b) })
	if r.Cause == NotCreated { // nobody waits yet; what has not even been tried is no reason
		needs = slices.DeleteFunc(needs, func(n need) bool { return n.root.Cause == NotCreated || n.passing })
	}
	step := e.step(name)
	switch {
	case len(needs) > 0:
		return e.held(name, r, needs)
	case step != nil:
		return *step
	case e.f.PortTaken[name] != "":
		r.Text = strings.Replace(r.Text, "was created and never", "was not", 1)
		r.Cause, r.Text = PortInUse, fmt.Sprintf("%s: %s", r.Text, e.f.PortTaken[name])
		r.Todo = "stop that, or publish another port"
	}
	return r
}

// need is a dependency that is not as it is asked for.
type need struct {
	service, condition string
	// root is the reason of the service that is the cause, chain the way there.
	root    Reason
	chain   []string
	passing bool
}

func rank(n need) int {
	if n.passing {
		return 1
	}
	return 0
}

// unmet are the dependencies that a service must still wait for.
func (e *explainer) unmet(name string) []need {
	s := e.f.service(name)
	if s == nil {
		return nil
	}
	var out []need
	for _, other := range slices.Sorted(maps.Keys(s.DependsOn)) {
		dep := s.DependsOn[other]
		provided := provider(e.f.Project, other) != ""
		if e.under[other] || provided {
			continue
		}
		verdict, judged := e.judge(other, dep.Condition)
		if verdict == machine.Met {
			continue
		}
		own := e.service(other)
		n := need{service: other, condition: dep.Condition, root: own, chain: own.Chain, passing: own.passing() && verdict != machine.Failed}
		if own.Cause == Waiting || own.Cause == Blocked {
			n.root = e.service(own.Chain[len(own.Chain)-1])
			n.passing = own.Cause == Waiting
		}
		if own.Well() { // nothing is amiss with it, but it is not what is asked for
			n.root.Text, n.root.Output, n.root.Todo = judged, "", ""
			if verdict == machine.Pending {
				n.root.Text = own.Text
			}
		}
		if !dep.Required && !n.passing {
			continue // it is done without
		}
		out = append(out, n)
	}
	return out
}

// judge is the verdict on all containers of a service: the worst.
func (e *explainer) judge(name, condition string) (machine.Verdict, string) {
	containers := e.f.of(name)
	if len(containers) == 0 {
		return machine.Failed, "has no container"
	}
	worst, text := machine.Met, ""
	for _, c := range containers {
		v, reason, _ := machine.Judge(condition, c.State, c.State.Health != health.None, true, e.f.Now)
		if v == machine.Failed || v == machine.Pending && worst == machine.Met {
			worst, text = v, reason
		}
	}
	return worst, text
}

// held is why a service does not start for others.
func (e *explainer) held(name string, r Reason, needs []need) Reason {
	first := needs[0]
	r.Chain = append([]string{name}, first.chain...)
	wants := wanted(first.service, first.condition)
	if len(r.Chain) > 2 {
		wants += " (" + strings.Join(r.Chain, " ← ") + ")"
	}
	for _, more := range needs[1:] {
		wants += " and " + wanted(more.service, more.condition)
	}
	switch {
	case first.passing:
		r.Cause, r.Text = Waiting, "waits for "+wants
	case r.Cause == NotCreated:
		r.Cause, r.Text = Blocked, "is not created, and needs "+wants
	default:
		r.Cause, r.Text = Blocked, "was not started, as it needs "+wants
	}
	r.Text += "; " + first.root.Service + " " + first.root.Text
	r.Output, r.Todo = first.root.Output, first.root.Todo
	return r
}

// wanted says what a condition of depends_on asks for.
func wanted(service, condition string) string {
	switch condition {
	case machine.ConditionHealthy:
		return service + " to be healthy"
	case machine.ConditionCompleted:
		return service + " to complete"
	}
	return service + " to be started"
}

// step is why a service's pre_start keeps it from starting, nil if it does not.
func (e *explainer) step(name string) *Reason {
	for _, c := range e.f.steps(name) {
		r := e.f.ofContainer(c)
		what := fmt.Sprintf("its %s[%s], container %s,", c.Spec.Labels[desired.LabelHook], c.Spec.Labels[desired.LabelHookIndex], c.Spec.Name)
		switch {
		case c.State.Phase == container.Running:
			r.Cause, r.Text = Waiting, "waits for "+what+" to complete; that "+r.Text
		case r.Cause == Done:
			continue
		default:
			r.Cause, r.Text, r.Todo = Blocked, "was not started: "+what+" "+r.Text, "see "+quoted("stack container logs "+c.Spec.Name)
		}
		return &r
	}
	return nil
}
