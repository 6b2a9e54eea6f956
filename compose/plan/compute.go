package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/stack-run/stack/compose/desired"
	"github.com/stack-run/stack/engine/container"
	"github.com/stack-run/stack/netns/endpoint"
	"github.com/stack-run/stack/volumes/volume"
)

// Compute plans up, or, with Options.NoStart, create.
//
// Networks and volumes come first. Containers are created as soon as those
// exist, all at once; they start in the order of depends_on, when its
// conditions are met. A container that has to be made anew is created under a
// temporary name while the old one runs on; the old one is stopped when the new
// one could start. So a create or a dependency that fails leaves it running.
func Compute(wanted *desired.Project, observed Observed, o Options) (*Plan, error) {
	if o.ForceRecreate && o.NoRecreate {
		return nil, fmt.Errorf("--force-recreate and --no-recreate exclude each other; use one")
	}
	if o.RecreateDeps && o.NoRecreate {
		return nil, fmt.Errorf("--always-recreate-deps and --no-recreate exclude each other; use one")
	}
	if o.RenewAnonymous && o.NoRecreate {
		return nil, fmt.Errorf("--renew-anon-volumes and --no-recreate exclude each other; use one")
	}
	c, err := newComputer(wanted, observed, o)
	if err != nil {
		return nil, err
	}
	if err := c.decideAll(); err != nil {
		return nil, err
	}
	c.emit()
	c.schedules()
	c.waitUp()
	return c.plan, c.plan.finish()
}

// decideAll decides everything; nothing is planned where something is wrong.
func (c *computer) decideAll() error {
	if err := c.networks(); err != nil {
		return err
	}
	if err := c.volumes(); err != nil {
		return err
	}
	for _, name := range c.order {
		if err := c.decide(name); err != nil {
			return err
		}
	}
	for _, name := range c.order {
		for _, d := range c.decisions[name] {
			if d.starts() && c.inScope[name] {
				if err := c.checkShared(name, &d.replica.Spec, !c.opts.NoStart); err != nil {
					return err
				}
			}
		}
	}
	c.orphans()
	c.early()
	return nil
}

// sharing says in docker compose's words what an attribute shares.
var sharing = map[string]string{"network_mode": "network namespace", "pid": "PID namespace", "ipc": "IPC namespace", "volumes_from": "volume"}

// checkShared refuses a container that is to share namespaces or volumes of a
// service that has no container for it, before anything is stopped for its sake.
func (c *computer) checkShared(service string, s *container.Spec, starts bool) error {
	shared := sharedBy(s)
	for _, attribute := range slices.Sorted(maps.Keys(shared)) {
		name := shared[attribute]
		if c.inScope[name] {
			continue
		}
		attribute := strings.TrimSuffix(attribute, " "+name)
		existing := c.containers(name)
		if len(existing) == 0 {
			return fmt.Errorf("service %q cannot share %s with service %s: container missing; start it with \"stack up -d %s\", or leave --no-deps out", service, sharing[attribute], name, name)
		}
		if starts && attribute != "volumes_from" && !slices.ContainsFunc(existing, (*Container).live) {
			return fmt.Errorf("service %q has %s: service:%s, and service %q does not run; start it with \"stack start %s\", or leave --no-deps out", service, attribute, name, name, name)
		}
	}
	return nil
}

// waitUp ends the plan with waiting for the services that were asked for.
func (c *computer) waitUp() {
	if !c.opts.Wait {
		return
	}
	after := c.plan.starting()
	for _, name := range c.order {
		if c.targets[name] && len(c.desired.Services[name].Replicas) > 0 {
			c.plan.add(&Op{Kind: WaitFor, Service: name, Name: name, Condition: Up, Timeout: waitLimit(c.opts.WaitTimeout), Cause: "--wait"}, after...)
		}
	}
}

// computer holds what Compute builds up.
type computer struct {
	desired  *desired.Project
	observed Observed
	opts     Options
	plan     *Plan

	order   []string        // all services, dependencies first
	inScope map[string]bool // those that are converged
	targets map[string]bool // those that were asked for

	networkOps map[string]*Op // by network name: what makes it
	volumeOps  map[string]*Op // by volume name

	// onNetwork are live containers whose network is made anew, by ID, with the
	// operation that removes the old network.
	onNetwork map[string][]*Op
	// onVolume are the names of volumes that are made anew.
	onVolume map[string]*Op // the operation that removes the old one

	decisions map[string][]*decision // by service
	removals  []*removal
	recreated map[string]bool // services
	bounced   map[string]bool // services with a container that is recreated or restarted

	stops map[string]*Op   // by container ID
	made  map[string][]*Op // creates, by service
	// prepared are the operations after which pre_start of a service is done.
	prepared map[string][]*Op
	starts   map[string][]*Op // by service
	waits    map[string]*Op   // by service and condition

	oneOff *container.Spec // a container outside the graph, which needs networks and volumes
}

type action int

const (
	keep action = iota
	create
	recreate // new one under a temporary name first
	replace  // old one away first, since a volume must go too
	start
	restart
	unpause
)

// decision is what happens to one replica.
type decision struct {
	service string
	replica *desired.Replica
	old     *Container
	action  action
	diffs   []FieldDiff
	cause   string
	again   bool // a job that is done is run again
	rename  bool // an interrupted recreate left it with a temporary name
	// leftovers are further containers of the same number.
	leftovers []*Container
	// early stops the old container without waiting for what the new one needs.
	early bool
	// started is what starts it, in a rolling update.
	started *Op
}

// removal is a container that has to go.
type removal struct {
	container *Container
	cause     string
	service   string
	done      *Op
}

func newComputer(wanted *desired.Project, observed Observed, o Options) (*computer, error) {
	if err := checkServices(wanted, o.Services); err != nil {
		return nil, err
	}
	c := &computer{
		desired: wanted, observed: observed, opts: o, plan: &Plan{replicas: map[string]int{}, Rollouts: map[string]Rollouts{}},
		inScope: map[string]bool{}, targets: map[string]bool{},
		networkOps: map[string]*Op{}, volumeOps: map[string]*Op{}, onNetwork: map[string][]*Op{}, onVolume: map[string]*Op{},
		decisions: map[string][]*decision{}, recreated: map[string]bool{}, bounced: map[string]bool{},
		prepared: map[string][]*Op{},
		stops:    map[string]*Op{}, made: map[string][]*Op{}, starts: map[string][]*Op{}, waits: map[string]*Op{},
	}
	all := slices.Sorted(maps.Keys(wanted.Services))
	for name, s := range wanted.Services {
		c.plan.replicas[name] = len(s.Replicas)
		for dep, d := range s.DependsOn {
			if _, ok := wanted.Services[dep]; !ok && d.Required {
				return nil, fmt.Errorf("service %q depends on %q, which is not there or disabled; enable its profile, or set required: false", name, dep)
			}
		}
	}
	order, err := dependencyOrder(all, func(name string) []string { return dependencyNames(wanted, name) })
	if err != nil {
		return nil, err
	}
	c.order = order
	var targets, scope []string
	if len(o.Services) > 0 || !o.only {
		targets, scope = inScope(wanted, o.Services, o.NoDeps)
	}
	for _, name := range targets {
		c.targets[name] = true
	}
	for _, name := range scope {
		c.inScope[name] = true
	}
	return c, nil
}

// inScope are the services that are asked for, all if none is, and those with
// the ones that they depend on.
func inScope(d *desired.Project, services []string, noDeps bool) (targets, scope []string) {
	targets = services
	if len(targets) == 0 {
		targets = slices.Sorted(maps.Keys(d.Services))
	}
	if noDeps {
		return targets, targets
	}
	return targets, withDependencies(d, targets)
}

// containers are the numbered containers of a service.
func (c *computer) containers(service string) []*Container {
	var out []*Container
	for i := range c.observed.Containers {
		if x := &c.observed.Containers[i]; x.Service == service && !x.OneOff {
			out = append(out, x)
		}
	}
	return out
}

// networks plans what the services in scope attach to.
func (c *computer) networks() error {
	used := map[string]bool{}
	for name := range c.inScope {
		for _, r := range c.desired.Services[name].Replicas {
			for _, a := range r.Spec.Network.Networks {
				used[a.Network] = true
			}
		}
	}
	byOneOff := map[string]bool{}
	if c.oneOff != nil {
		for _, a := range c.oneOff.Network.Networks {
			byOneOff[a.Network] = true
		}
	}
	existing := map[string]*endpoint.Network{}
	for i := range c.observed.Networks {
		existing[c.observed.Networks[i].Name] = &c.observed.Networks[i]
	}
	for _, key := range slices.Sorted(maps.Keys(c.desired.Networks)) {
		want := c.desired.Networks[key]
		name := want.Spec.Name
		if (len(c.opts.Services) > 0 || c.opts.only) && !used[name] && !byOneOff[name] {
			continue
		}
		have := existing[name]
		switch {
		case want.External && have == nil && name != "host" && name != "none":
			return fmt.Errorf("network %s declared as external, but could not be found; create it with \"stack network create %s\", or remove external: true", name, name)
		case want.External:
		case have == nil:
			c.networkOps[name] = c.plan.add(&Op{Kind: CreateNetwork, Name: name, Key: key, Cause: "does not exist"})
		case have.Project != want.Spec.Project:
			c.plan.Warnings = append(c.plan.Warnings, foreign("network", name, have.Project))
		case !used[name] && byOneOff[name]:
			// A container on the side is no reason to restart others.
		default:
			if diffs := diffNetworks(have.NetworkSpec, want.Spec); len(diffs) > 0 {
				c.recreateNetwork(key, want, diffs)
			}
		}
	}
	return nil
}

func foreign(kind, name, project string) string {
	owner := "not by a project"
	if project != "" {
		owner = fmt.Sprintf("by project %q", project)
	}
	return fmt.Sprintf("%s %q exists but was made %s; it is used as it is (say external: true, or give this project's its own name)", kind, name, owner)
}

// recreateNetwork removes and creates a network. Its users are stopped and
// started; they need not be recreated, since a container gets its addresses
// when it starts.
func (c *computer) recreateNetwork(key string, want *desired.Network, diffs []FieldDiff) {
	name := want.Spec.Name
	remove := c.plan.add(&Op{Kind: RemoveNetwork, Name: name, Key: key, Cause: joinDiffs(diffs)})
	c.networkOps[name] = c.plan.add(&Op{Kind: CreateNetwork, Name: name, Key: key, Cause: "made anew", Diffs: diffs}, remove)
	for i := range c.observed.Containers {
		x := &c.observed.Containers[i]
		if x.Spec != nil && x.live() && attached(x.Spec, name) {
			c.onNetwork[x.ID] = append(c.onNetwork[x.ID], remove)
		}
	}
}

func attached(s *container.Spec, network string) bool {
	return slices.ContainsFunc(s.Network.Networks, func(a endpoint.Attachment) bool { return a.Network == network })
}

// volumes plans the named volumes that the services in scope mount.
func (c *computer) volumes() error {
	used := map[string]bool{}
	for name := range c.inScope {
		for _, r := range c.desired.Services[name].Replicas {
			for _, m := range r.Spec.Mounts {
				used[m.Source] = true
			}
		}
	}
	byOneOff := map[string]bool{}
	if c.oneOff != nil {
		for _, m := range c.oneOff.Mounts {
			byOneOff[m.Source] = m.Type == volume.TypeVolume
		}
	}
	for _, key := range slices.Sorted(maps.Keys(c.desired.Volumes)) {
		want := c.desired.Volumes[key]
		name := want.Spec.Name
		if (len(c.opts.Services) > 0 || c.opts.only) && !used[name] && !byOneOff[name] {
			continue
		}
		i := slices.IndexFunc(c.observed.Volumes, func(v volume.Volume) bool { return v.Name == name })
		switch {
		case want.External && i < 0:
			return fmt.Errorf("external volume %q not found; create it with \"stack volume create %s\", or remove external: true", name, name)
		case want.External:
		case i < 0:
			c.volumeOps[name] = c.plan.add(&Op{Kind: CreateVolume, Name: name, Key: key, Cause: "does not exist"})
		case c.observed.Volumes[i].Project != want.Spec.Project:
			c.plan.Warnings = append(c.plan.Warnings, foreign("volume", name, c.observed.Volumes[i].Project))
		case !used[name] && byOneOff[name]:
		default:
			diffs := diffVolumes(c.observed.Volumes[i].Spec, want.Spec)
			if len(diffs) == 0 {
				continue
			}
			if !c.opts.AssumeYes && !slices.Contains(c.opts.RecreateVolumes, key) {
				c.plan.Confirm = append(c.plan.Confirm, Question{
					Volume: key, Diffs: diffs,
					Text: fmt.Sprintf("volume %q exists but does not match the Compose file (%s)", name, joinDiffs(diffs)),
				})
				continue
			}
			remove := c.plan.add(&Op{Kind: RemoveVolume, Name: name, Key: key, Cause: joinDiffs(diffs)})
			c.onVolume[name] = remove
			c.volumeOps[name] = c.plan.add(&Op{Kind: CreateVolume, Name: name, Key: key, Cause: "made anew", Diffs: diffs}, remove)
		}
	}
	return nil
}

// orphans are containers of services that the project no longer has, and
// one-offs that have ended. Those of another application are none.
func (c *computer) orphans() {
	var orphans, others []*Container
	for i := range c.observed.Containers {
		x := &c.observed.Containers[i]
		known := declares(c.desired, x.Service)
		switch {
		case known && (!x.OneOff || x.live()):
		case !x.from(c.desired):
			others = append(others, x)
		case x.OneOff && known:
			if c.opts.RemoveOrphans { // else an ended one-off is no reason for a warning
				c.removals = append(c.removals, &removal{container: x, service: x.Service, cause: "one-off that has ended"})
			}
		case c.opts.RemoveOrphans:
			c.removals = append(c.removals, &removal{container: x, service: x.Service, cause: fmt.Sprintf("orphan: the project has no service %q", x.Service)})
		default:
			orphans = append(orphans, x)
		}
	}
	if !c.opts.IgnoreOrphans {
		c.plan.tellOthers(others)
		c.plan.tellOrphans(orphans)
	}
}
