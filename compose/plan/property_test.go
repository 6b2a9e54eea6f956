package plan

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stack-run/stack/compose/desired"
	"github.com/stack-run/stack/engine/container"
	"github.com/stack-run/stack/netns/endpoint"
	"github.com/stack-run/stack/volumes/volume"
	"pgregory.net/rapid"
)

// drawDesired makes up a project. Service 0 is at the bottom of the graph.
func drawDesired(t *rapid.T, label string) (*desired.Project, map[string]bool) {
	d := &desired.Project{Version: 1, Project: "shop", Services: map[string]*desired.Service{}, Networks: map[string]*desired.Network{}, Volumes: map[string]*desired.Volume{}}
	oneOff := map[string]bool{}
	draw := func(what string, n int) int { return rapid.IntRange(0, n-1).Draw(t, label+what) }
	for _, key := range []string{"front", "back"} {
		d.Networks[key] = &desired.Network{Spec: endpoint.NetworkSpec{Name: "shop_" + key, Project: "shop", Key: key, Driver: "bridge", Internal: draw(key+" internal", 3) == 0}}
	}
	d.Volumes["data"] = &desired.Volume{Spec: volume.Spec{Name: "shop_data", Project: "shop", Key: "data", Driver: "local", DriverOpts: map[string]string{"size": fmt.Sprint(draw("volume", 2))}}}
	n := 1 + draw("services", 5)
	for i := range n {
		name := fmt.Sprintf("s%d", i)
		s := &desired.Service{Name: name, DependsOn: map[string]desired.Dependency{}}
		job := draw(name+" job", 5) == 0
		oneOff[name] = job
		for j := range i {
			dep := fmt.Sprintf("s%d", j)
			if d.Services[dep] == nil || draw(name+" on "+dep, 3) != 0 {
				continue
			}
			conditions := []string{"service_started", "service_healthy"}
			if oneOff[dep] {
				conditions = []string{"service_completed_successfully"}
			}
			s.DependsOn[dep] = desired.Dependency{Condition: conditions[draw(name+dep+" condition", len(conditions))], Restart: draw(name+dep+" restart", 2) == 0, Required: true}
		}
		replicas := draw(name+" replicas", 3)
		if !job && draw(name+" rolls", 2) == 0 {
			rollout := func(what string, actions ...string) *desired.Rollout {
				return &desired.Rollout{
					Parallelism: draw(name+what+" parallelism", 3), StartFirst: draw(name+what+" order", 2) == 0,
					FailureAction: actions[draw(name+what+" action", len(actions))], Delay: time.Duration(draw(name+what+" delay", 2)),
				}
			}
			s.Update = rollout(" update", desired.Halt, desired.Continue, desired.Rollback)
			s.Rollback = rollout(" rollback", desired.Halt, desired.Continue)
		}
		env := fmt.Sprintf("LEVEL=%d", draw(name+" env", 2))
		image := fmt.Sprintf("sha256:%d", draw(name+" image", 2))
		network := []string{"shop_front", "shop_back"}[draw(name+" network", 2)]
		port := uint16(draw(name+" port", 3))
		hostIP := []netip.Addr{{}, netip.MustParseAddr("127.0.0.1")}[draw(name+" host address", 2)]
		fixed := replicas == 1 && draw(name+" fixed address", 3) == 0
		share := ""
		if draw(name+" share", 4) == 0 {
			for dep := range s.DependsOn {
				if !oneOff[dep] && len(d.Services[dep].Replicas) > 0 && (share == "" || dep < share) {
					share = dep
				}
			}
		}
		for index := 1; index <= replicas; index++ {
			c := container.Spec{
				Name: fmt.Sprintf("shop-%s-%d", name, index), Image: "img", ImageID: image,
				Labels:  map[string]string{desired.LabelProject: "shop", desired.LabelService: name, desired.LabelContainerNumber: fmt.Sprint(index)},
				Process: container.Process{Env: []string{env}},
			}
			if share != "" {
				c.Network.Mode = "service:" + share
			} else {
				on := endpoint.Attachment{Network: network}
				if fixed {
					on.IPv4 = netip.AddrFrom4([4]byte{10, 0, 0, byte(10 + i)})
				}
				c.Network.Networks = []endpoint.Attachment{on}
				// A port that the replicas share, out of a few that services trade.
				if port > 0 && (index > 1 && len(s.Replicas[0].Spec.Network.Ports) > 0 || !portTaken(d, 8000+port)) {
					c.Network.Ports = []endpoint.Port{{HostIP: hostIP, HostPort: 8000 + port, ContainerPort: 80, Protocol: "tcp"}}
				}
			}
			if draw(name+" volume", 3) == 0 {
				c.Mounts = []volume.Mount{{Type: volume.TypeVolume, Source: "shop_data", Target: "/data"}}
			}
			if job {
				c.Restart.Policy = "no"
			}
			s.Replicas = append(s.Replicas, desired.Replica{Index: index, Spec: c, Hash: desired.Hash(&c)})
		}
		d.Services[name] = s
	}
	d.Jobs = map[string]*desired.Job{}
	for i := range draw("jobs", 3) {
		j := &desired.Job{Service: desired.Service{Name: fmt.Sprintf("j%d", i)}}
		if cron := []string{"", "@daily", "@hourly"}[draw(j.Name+" schedule", 3)]; cron != "" {
			j.Schedules = []desired.Schedule{{Cron: cron}}
		}
		d.Jobs[j.Name] = j
	}
	// A service that ends and that nobody waits for would be run by each up.
	for name := range oneOff {
		awaited := false
		for _, s := range d.Services {
			_, ok := s.DependsOn[name]
			awaited = awaited || ok
		}
		if !awaited {
			oneOff[name] = false
		}
	}
	return d, oneOff
}

func portTaken(d *desired.Project, port uint16) bool {
	for _, s := range d.Services {
		for _, r := range s.Replicas {
			for _, p := range r.Spec.Network.Ports {
				if p.HostPort == port {
					return true
				}
			}
		}
	}
	return false
}

func checkPlan(t *rapid.T, p *Plan) {
	ids := map[int]bool{}
	for i, op := range p.Ops {
		if op.ID != i+1 {
			t.Fatalf("operation %d has number %d", i+1, op.ID)
		}
		for _, dep := range op.Deps {
			if !ids[dep] {
				t.Fatalf("[%d] depends on [%d], which does not stand before it\n%s", op.ID, dep, p.Graph())
			}
		}
		ids[op.ID] = true
		if op.Cause == "" && op.Kind != StartContainer {
			t.Fatalf("no cause: %s", op.line())
		}
		if op.Kind == CreateContainer && op.Replaces != "" && len(op.Diffs) == 0 {
			t.Fatalf("recreate without a difference: %s", op.line())
		}
		if (op.Kind == CreateNetwork || op.Kind == CreateVolume) && slices.ContainsFunc(p.Ops, func(o *Op) bool {
			return (o.Kind == RemoveNetwork || o.Kind == RemoveVolume) && o.Name == op.Name
		}) && len(op.Diffs) == 0 {
			t.Fatalf("made anew without a difference: %s", op.line())
		}
	}
}

// What a plan promises: applied to a world that refuses what a real machine
// would (a port, name or volume in use, an unmet condition), it succeeds, and
// then nothing is left to do. That holds too after a crash in the middle of an
// earlier plan and after containers died.
func TestApplyingAPlanLeavesNothingToDo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		order := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "order"), 0))
		opts := Options{AssumeYes: true, RemoveOrphans: true}
		for round := range 3 {
			d, jobs := drawDesired(t, fmt.Sprintf("round %d: ", round))
			w.oneOff = jobs
			p, err := Compute(d, w.Observed, opts)
			if err != nil {
				t.Fatal(err)
			}
			checkPlan(t, p)
			if round < 2 && rapid.Bool().Draw(t, "crash") && len(p.Ops) > 0 {
				if err := w.apply(d, p, rapid.IntRange(0, len(p.Ops)-1).Draw(t, "after"), order); err != nil {
					t.Fatal(err)
				}
				continue
			}
			if err := w.apply(d, p, -1, order); err != nil {
				t.Fatal(err)
			}
			again, err := Compute(d, w.Observed, opts)
			if err != nil {
				t.Fatal(err)
			}
			if !again.Converged() {
				t.Fatalf("a second up would do:\n%s\nafter:\n%s", again.Graph(), p.Graph())
			}
			if rapid.Bool().Draw(t, "something dies") && len(w.Containers) > 0 {
				c := &w.Containers[rapid.IntRange(0, len(w.Containers)-1).Draw(t, "which")]
				c.Phase, c.ExitCode = container.Exited, 137
			}
		}
	})
}

// What a rolling update promises: whatever fails, and wherever, once it has been
// recovered from there are as many containers that serve as before, each is the new or
// the old one of its number, others that were stopped for it run again, and the next up,
// if nothing fails, brings all there.
func TestAFailedUpdateCostsNoContainer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		order := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "order"), 0))
		d, jobs := drawDesired(t, "")
		w.oneOff = jobs
		up := func() *Plan {
			t.Helper()
			p, err := Compute(d, w.Observed, Options{})
			if err != nil {
				t.Fatal(err)
			}
			checkPlan(t, p)
			return p
		}
		if err := w.apply(d, up(), -1, order); err != nil {
			t.Fatal(err)
		}
		for _, name := range slices.Sorted(maps.Keys(d.Services)) {
			if rapid.Bool().Draw(t, name+" changes") {
				moves := rapid.Bool().Draw(t, name+" publishes elsewhere")
				for i := range d.Services[name].Replicas {
					r := &d.Services[name].Replicas[i]
					r.Spec.Process.Env = []string{"LEVEL=changed"}
					r.Spec.Network.Ports = slices.Clone(r.Spec.Network.Ports)
					for i := range r.Spec.Network.Ports {
						if p := &r.Spec.Network.Ports[i]; moves {
							p.HostIP = map[bool]netip.Addr{true: netip.MustParseAddr("127.0.0.1")}[!p.HostIP.IsValid()]
						}
					}
					r.Hash = desired.Hash(&r.Spec)
				}
			}
		}
		serving := func() map[string]int {
			n := map[string]int{}
			for _, c := range w.Containers {
				if c.live() && !c.Aside {
					n[c.Name]++
				}
			}
			return n
		}
		before := serving()
		p := up()
		if len(p.Ops) == 0 {
			return
		}
		w.fails = 1 + rapid.IntRange(0, len(p.Ops)-1).Draw(t, "fails at")
		done, made, err := w.carryOut(d, p, -1, order)
		if err == nil {
			return // what failed was tolerated
		}
		w.fails = 0
		halfway := map[string]bool{}
		for _, op := range p.Ops {
			if op.Rolls && made[op.ID] != "" && w.container(op.Replaces) != nil {
				halfway[op.Service] = true
			}
		}
		after := map[int]bool{} // operations that wait for such a service
		for _, op := range p.Ops {
			after[op.ID] = halfway[op.Service] || slices.ContainsFunc(op.Deps, func(dep int) bool { return after[dep] })
		}
		gaveUp := rapid.Bool().Draw(t, "gave up")
		back := p.Recover(func(id int) bool { return done[id] }, made, gaveUp)
		checkPlan(t, back)
		w.lax = true
		if err := w.apply(d, back, -1, order); err != nil {
			t.Fatalf("%v\nafter\n%s", err, p.Graph())
		}
		w.lax = false
		now := serving()
		for _, op := range p.Ops {
			name := op.Name
			if n := before[name]; op.Rolls && now[name] != n {
				t.Fatalf("%s: %d serve, after %d\n%s\nfailed at %d, then\n%s", name, now[name], n, p.Graph(), w.failed, back.Graph())
			}
		}
		for _, op := range p.Ops {
			if op.Kind == StartContainer && after[op.ID] && !gaveUp && now[op.Name] < before[op.Name] {
				t.Fatalf("%s does not run any more\n%s\nfailed at %d, then\n%s", op.Name, p.Graph(), w.failed, back.Graph())
			}
		}
		if err := w.apply(d, up(), -1, order); err != nil {
			t.Fatal(err)
		}
		if again := up(); !again.Converged() {
			t.Fatalf("a second up would do:\n%s", again.Graph())
		}
	})
}

func TestDownLeavesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		order := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "order"), 0))
		d, jobs := drawDesired(t, "")
		w.oneOff = jobs
		p, err := Compute(d, w.Observed, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.apply(d, p, rapid.IntRange(0, len(p.Ops)).Draw(t, "after"), order); err != nil {
			t.Fatal(err)
		}
		if rapid.Bool().Draw(t, "definition lost") {
			d = nil
		}
		p, err = Make(Request{Verb: VerbDown, Desired: d, Whole: true, Volumes: true}, w.Observed)
		if err != nil {
			t.Fatal(err)
		}
		checkPlan(t, p)
		if err := w.apply(d, p, -1, order); err != nil {
			t.Fatal(err)
		}
		if len(w.Containers)+len(w.Networks)+len(w.Volumes)+len(w.Schedules) > 0 {
			t.Fatalf("left: %v", w.Observed)
		}
	})
}

// disturb does to the containers of a world what people and accidents do.
func disturb(t *rapid.T, w *world) {
	for i := range w.Containers {
		c := &w.Containers[i]
		if w.oneOff[c.Service] {
			continue
		}
		spec := *c.Spec
		spec.Restart.Policy = rapid.SampledFrom([]string{"", "always", "unless-stopped", "on-failure"}).Draw(t, c.Name+" policy")
		c.Spec = &spec
		c.StartedAt = time.Unix(2, 0)
		switch rapid.IntRange(0, 9).Draw(t, c.Name+" is disturbed") {
		case 0:
			c.Phase, c.ExitCode = container.Exited, 1
		case 1:
			c.Phase, c.ExitCode, c.StoppedByUser, c.FinishedAt = container.Exited, 143, true, time.Unix(3, 0)
		case 2:
			c.Phase = container.Paused
		case 3:
			c.Stopping = true
		case 4:
			c.Phase, c.RestartPending, c.ExitCode = container.Exited, true, 1
		case 5:
			c.Phase, c.StartedAt = container.Created, time.Time{}
		}
	}
}

// What every verb promises, on any state of a project: the world obeys its plan
// in any order that the plan allows, and is then as the verb says. A request that
// was stored and read again has the same plan.
func TestEveryVerbDoesWhatItSays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		order := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "order"), 0))
		d, jobs := drawDesired(t, "")
		w.oneOff = jobs
		p, err := Make(Request{Verb: VerbUp, Desired: d}, w.Observed)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.apply(d, p, -1, order); err != nil {
			t.Fatal(err)
		}
		disturb(t, w)
		names := slices.Sorted(maps.Keys(d.Services))
		r := Request{Desired: d, Verb: rapid.SampledFrom([]Verb{
			VerbStart, VerbStop, VerbRestart, VerbKill, VerbPause, VerbUnpause, VerbRemove, VerbResume, VerbRun, VerbDown, VerbUp,
		}).Draw(t, "verb"), RemoveOrphans: true, Wait: rapid.Bool().Draw(t, "wait")}
		var meant []string // containers
		switch rapid.IntRange(0, 2).Draw(t, "selection") {
		case 0:
			r.Services = rapid.SliceOfNDistinct(rapid.SampledFrom(names), 1, len(names), rapid.ID).Draw(t, "services")
			if r.Verb == VerbStart {
				r.Services = slices.DeleteFunc(r.Services, func(s string) bool { return len(d.Services[s].Replicas) == 0 })
			}
		case 1:
			if r.Verb != VerbUp && r.Verb != VerbDown && r.Verb != VerbRun {
				for _, c := range w.Containers {
					// The engine refuses what is named and cannot be.
					refused := r.Verb == VerbKill && !c.live() || r.Verb == VerbPause && c.Phase != container.Running || r.Verb == VerbUnpause && c.Phase != container.Paused || r.Verb == VerbRemove && c.live()
					if !refused && rapid.Bool().Draw(t, c.Name+" is named") {
						r.Containers = append(r.Containers, c.ID)
					}
				}
			}
		}
		if r.Verb == VerbPause { // what is paused already is refused as well
			for i := range w.Containers {
				if w.Containers[i].Phase == container.Paused {
					w.Containers[i].Phase = container.Running
				}
			}
		}
		if r.Verb == VerbStart && len(r.Services)+len(r.Containers) == 0 && len(w.Containers) == 0 {
			return
		}
		for _, c := range w.Containers {
			if slices.Contains(r.Containers, c.ID) || slices.Contains(r.Services, c.Service) || len(r.Services)+len(r.Containers) == 0 {
				meant = append(meant, c.ID)
			}
		}
		if r.Verb == VerbRemove {
			r.Force = rapid.Bool().Draw(t, "force")
		}
		if r.Verb == VerbRun {
			service := names[rapid.IntRange(0, len(names)-1).Draw(t, "runs")]
			if len(d.Services[service].Replicas) == 0 {
				return
			}
			spec := d.Services[service].Replicas[0].Spec
			spec.Name, spec.Network.Ports = "shop-run", nil
			if len(spec.Network.Networks) > 0 { // the service may have its fixed address
				spec.Network.Networks = []endpoint.Attachment{{Network: spec.Network.Networks[0].Network}}
			}
			w.single, r.OneOff = &spec, &OneOff{Service: service, Spec: spec}
		}
		// Restart is asked for whatever else there is; at boot, and for a start,
		// what a user stopped or never started may be missing.
		w.lax = r.Verb == VerbRestart
		w.broken = r.Verb == VerbResume
		p, err = Make(r, w.Observed)
		if err != nil {
			t.Fatal(err)
		}
		checkPlan(t, p)
		data, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var read Request
		if err := json.Unmarshal(data, &read); err != nil {
			t.Fatal(err)
		}
		if again, err := Make(read, w.Observed); err != nil || again.Graph() != p.Graph() {
			t.Fatalf("read again (%v):\n%s\nbefore:\n%s", err, again.Graph(), p.Graph())
		}
		if err := w.apply(d, p, -1, order); err != nil {
			t.Fatalf("%s: %v", r.Verb, err)
		}
		for _, id := range meant {
			c := w.container(id)
			ok := true
			switch r.Verb {
			case VerbStart, VerbRestart:
				ok = c.Phase == container.Running || w.oneOff[c.Service]
				if r.Verb == VerbStart && slices.Contains(r.Containers, id) {
					ok = ok && !c.Stopping
				}
			case VerbStop, VerbKill:
				ok = !c.live()
			case VerbPause:
				ok = c.Phase != container.Running
			case VerbUnpause:
				ok = c.Phase != container.Paused
			case VerbRemove:
				ok = c == nil || c.live() && !r.Force
			case VerbDown:
				ok = c == nil
			}
			if !ok {
				t.Fatalf("%s: %s is %s\n%s", r.Verb, c.Name, c.Phase, p.Graph())
			}
		}
		if r.Verb == VerbRun && !slices.ContainsFunc(w.Containers, func(c Container) bool { return c.Name == "shop-run" && (c.live() || w.oneOff[c.Service]) }) {
			t.Fatalf("run: it does not run\n%s", p.Graph())
		}
	})
}

// An unchanged service is never recreated because of what it merely depends on.
func TestOnlyChangedServicesAreRecreated(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		order := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "order"), 0))
		d, jobs := drawDesired(t, "")
		w.oneOff = jobs
		opts := Options{}
		p, err := Compute(d, w.Observed, opts)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.apply(d, p, -1, order); err != nil {
			t.Fatal(err)
		}
		names := slices.Sorted(maps.Keys(d.Services))
		changed := names[rapid.IntRange(0, len(names)-1).Draw(t, "changed")]
		for i := range d.Services[changed].Replicas {
			r := &d.Services[changed].Replicas[i]
			r.Spec.Process.Env = []string{"LEVEL=changed"}
			r.Hash = desired.Hash(&r.Spec)
		}
		p, err = Compute(d, w.Observed, opts)
		if err != nil {
			t.Fatal(err)
		}
		sharing := map[string]bool{changed: true}
		for range names {
			for _, name := range names {
				for _, other := range sharedServices(d.Services[name]) {
					sharing[name] = sharing[name] || sharing[other]
				}
			}
		}
		for _, op := range p.Ops {
			if op.Kind == CreateContainer && !sharing[op.Service] {
				t.Fatalf("%s was changed, but the plan has %s", changed, op.line())
			}
		}
	})
}
