package plan_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stack-run/stack/compose/plan"
	"github.com/stack-run/stack/engine/container"
	"github.com/stack-run/stack/netns/endpoint"
	"github.com/stack-run/stack/volumes/volume"
)

// stopped is the project with all containers ended and never stopped by a user.
func stopped(o *plan.Observed) {
	for i := range o.Containers {
		o.Containers[i].Phase, o.Containers[i].Health = container.Exited, ""
	}
}

func id(o plan.Observed, name string) string { return find(o, name).ID }

func TestVerbs(t *testing.T) {
	second := time.Second
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	// twin adds what web-1 replaces, as it is when the machine goes down in the middle.
	twin := func(o *plan.Observed, newStarted bool) {
		stopped(o)
		x := find(*o, "shop-web-1")
		spec := *x.Spec
		spec.Restart.Policy, x.Spec, x.StartedAt = "always", &spec, began
		old := *x
		old.ID, old.Name, old.Created = "old-web-1", "0123456789ab_shop-web-1", x.Created.Add(-time.Hour)
		if x.StartedAt = x.StartedAt.Add(time.Minute); !newStarted {
			x.StartedAt = time.Time{}
		}
		o.Containers = append(o.Containers, old)
	}
	for _, tt := range []struct {
		name    string
		yaml    string // "" for shop
		change  func(*plan.Observed)
		request plan.Request
		byID    []string // names of containers
		text    string
		graph   string
		err     string
	}{
		{
			name:    "stop goes against the graph",
			request: plan.Request{Verb: plan.VerbStop, Timeout: &second},
			text:    "stop worker 1,2: stop\nstop web: stop\nstop db: stop\n",
			graph: `[1] stop container shop-worker-2: stop
[2] stop container shop-worker-1: stop
[3] stop container shop-web-1: stop
[4] stop container shop-db-1: stop [after 1 2 3]
`,
		},
		{
			name:    "stop leaves what is stopped, and ends a restart to come",
			change:  func(o *plan.Observed) { stopped(o); find(*o, "shop-web-1").RestartPending = true },
			request: plan.Request{Verb: plan.VerbStop},
			graph:   "[1] stop container shop-web-1: stop\n",
		},
		{
			name:    "an order holds through services that are left alone",
			yaml:    "name: shop\nservices:\n  db: {image: db}\n  mid: {image: mid, depends_on: [db]}\n  web: {image: web, depends_on: [mid]}\n",
			request: plan.Request{Verb: plan.VerbStop, Services: []string{"db", "web"}},
			graph:   "[1] stop container shop-web-1: stop\n[2] stop container shop-db-1: stop [after 1]\n",
		},
		{
			name:    "kill",
			request: plan.Request{Verb: plan.VerbKill, Services: []string{"db", "web"}, Signal: "SIGHUP"},
			text:    "kill web: SIGHUP\nkill db: SIGHUP\n",
			graph:   "[1] kill container shop-web-1 with SIGHUP: kill\n[2] kill container shop-db-1 with SIGHUP: kill [after 1]\n",
		},
		{
			name:    "pause",
			request: plan.Request{Verb: plan.VerbPause, Services: []string{"db", "migrate"}},
			text:    "pause db: pause\n",
			graph:   "[1] pause container shop-db-1: pause\n",
		},
		{
			name: "unpause goes with the graph",
			change: func(o *plan.Observed) {
				find(*o, "shop-db-1").Phase, find(*o, "shop-web-1").Phase = container.Paused, container.Paused
			},
			request: plan.Request{Verb: plan.VerbUnpause},
			text:    "unpause db: unpause\nunpause web: unpause\n",
			graph:   "[1] unpause container shop-db-1: unpause\n[2] unpause container shop-web-1: unpause [after 1]\n",
		},
		{
			name:    "remove takes what does not run",
			change:  func(o *plan.Observed) { find(*o, "shop-worker-2").Phase = container.Exited },
			request: plan.Request{Verb: plan.VerbRemove},
			text:    "remove worker 2: remove\nremove migrate: remove\n",
			graph:   "[1] remove container shop-worker-2: remove\n[2] remove container shop-migrate-1: remove\n",
		},
		{
			name:    "remove with force",
			request: plan.Request{Verb: plan.VerbRemove, Force: true, Volumes: true, Services: []string{"web"}},
			text:    "remove web: remove\n",
			graph:   "[1] stop container shop-web-1 with SIGKILL: remove --force\n[2] remove container shop-web-1: remove [after 1]\n",
		},
		{
			name:    "a running container that was named is for the engine to refuse",
			request: plan.Request{Verb: plan.VerbRemove},
			byID:    []string{"shop-web-1"},
			graph:   "[1] remove container shop-web-1: remove\n",
		},
		{
			name:    "what is gone already needs no removal",
			request: plan.Request{Verb: plan.VerbRemove, Containers: []string{"gone"}},
			byID:    []string{"shop-migrate-1"},
			text:    "remove migrate: remove\n",
		},
		{
			name:    "start brings up what is needed, as it is needed",
			change:  stopped,
			request: plan.Request{Verb: plan.VerbStart, Services: []string{"web"}, Wait: true},
			text:    "start db: exited with code 0\nstart web: exited with code 0\n",
			graph: `[1] start container shop-db-1: exited with code 0
[2] wait for db: service_healthy [after 1]
[3] wait for migrate: service_completed_successfully
[4] start container shop-web-1: exited with code 0 [after 2 3]
[5] wait for shop-web-1: up [after 1 4]
`,
		},
		{
			name:    "start without dependencies",
			change:  stopped,
			request: plan.Request{Verb: plan.VerbStart, Services: []string{"web"}, NoDeps: true},
			graph:   "[1] start container shop-web-1: exited with code 0\n",
		},
		{
			name:    "start of all runs jobs again, and what was created",
			change:  func(o *plan.Observed) { find(*o, "shop-worker-1").Phase = container.Created },
			request: plan.Request{Verb: plan.VerbStart},
			text:    "start migrate: exited with code 0\nstart worker 1: was created but not started\n",
		},
		{
			name:    "start by ID follows the graph, too",
			change:  stopped,
			request: plan.Request{Verb: plan.VerbStart},
			byID:    []string{"shop-worker-2"},
			text:    "start db: exited with code 0\nstart worker 2: exited with code 0\n",
		},
		{
			name: "start of a container of no project",
			change: func(o *plan.Observed) {
				*o = plan.Observed{Project: "single.x", Containers: []plan.Container{{ID: "x", Name: "x", Phase: container.Exited, ExitCode: 1}}}
			},
			request: plan.Request{Verb: plan.VerbStart, Whole: true, Containers: []string{"x"}, Wait: true},
			text:    "start x: exited with code 1\n",
			graph:   "[1] start container x: exited with code 1\n[2] wait for x: up [after 1]\n",
		},
		{
			name:    "start of what has no container",
			change:  func(o *plan.Observed) { o.Containers = o.Containers[:0] },
			request: plan.Request{Verb: plan.VerbStart, Services: []string{"web"}},
			err:     `service "web" has no container to start; create it with: stack up -d web`,
		},
		{
			name:    "restart: a dependent runs on until what it depends on is ready",
			request: plan.Request{Verb: plan.VerbRestart, Services: []string{"db"}},
			text:    "restart db: restart\nrestart web: depends on what is restarted\n",
			graph: `[1] stop container shop-db-1: restart
[2] start container shop-db-1: restart [after 1]
[3] wait for db: service_healthy [after 2]
[4] stop container shop-web-1: depends on what is restarted [after 3]
[5] start container shop-web-1: depends on what is restarted [after 4]
`,
		},
		{
			name:    "dependents of what was restarted as it was unhealthy",
			request: plan.Request{Verb: plan.VerbRestart, Dependents: true},
			byID:    []string{"shop-db-1"},
			text:    "restart web: depends on what was unhealthy\n",
			graph: `[1] wait for db: service_healthy
[2] stop container shop-web-1: depends on what was unhealthy [after 1]
[3] start container shop-web-1: depends on what was unhealthy [after 2]
`,
		},
		{
			name:    "nobody restarts with what was unhealthy",
			request: plan.Request{Verb: plan.VerbRestart, Dependents: true},
			byID:    []string{"shop-web-1"},
		},
		{
			name:    "restart without dependents",
			request: plan.Request{Verb: plan.VerbRestart, Services: []string{"db"}, NoDeps: true},
			graph:   "[1] stop container shop-db-1: restart\n[2] start container shop-db-1: restart [after 1]\n",
		},
		{
			name:    "restart starts what does not run",
			change:  stopped,
			request: plan.Request{Verb: plan.VerbRestart, Services: []string{"worker"}},
			graph:   "[1] start container shop-worker-1: exited with code 0\n[2] start container shop-worker-2: exited with code 0\n",
		},
		{
			name: "resume: what policies want, and what that needs",
			change: func(o *plan.Observed) {
				stopped(o)
				for i := range o.Containers {
					x := &o.Containers[i]
					spec := *x.Spec
					x.Spec, x.StartedAt = &spec, began
					if x.Service == "web" {
						x.Spec.Restart.Policy = "always"
					}
					if x.Service == "migrate" {
						x.FinishedAt = began.Add(time.Second)
					}
				}
			},
			request: plan.Request{Verb: plan.VerbResume},
			text:    "start db: ran before, and is depended on\nstart web: restart: always\n",
			graph: `[1] start container shop-db-1: ran before, and is depended on
[2] wait for db: service_healthy [after 1]
[3] wait for migrate: service_completed_successfully
[4] start container shop-web-1: restart: always [after 2 3]
`,
		},
		{
			name:    "resume starts one of two that are the same replica: the one that ran last",
			change:  func(o *plan.Observed) { twin(o, true) },
			request: plan.Request{Verb: plan.VerbResume},
			graph:   "[1] wait for db: service_healthy\n[2] wait for migrate: service_completed_successfully\n[3] start container shop-web-1: restart: always [after 1 2]\n",
		},
		{
			name:    "resume starts what was to be replaced, where nothing had taken its place",
			change:  func(o *plan.Observed) { twin(o, false) },
			request: plan.Request{Verb: plan.VerbResume},
			graph:   "[1] wait for db: service_healthy\n[2] wait for migrate: service_completed_successfully\n[3] start container 0123456789ab_shop-web-1: restart: always [after 1 2]\n",
		},
		{
			name:    "start starts one of two that are the same replica",
			change:  func(o *plan.Observed) { twin(o, true) },
			request: plan.Request{Verb: plan.VerbStart, Services: []string{"web"}, NoDeps: true},
			graph:   "[1] start container shop-web-1: exited with code 0\n",
		},
		{
			name: "start starts one of two that are the same replica, also with what it depends on",
			change: func(o *plan.Observed) {
				twin(o, true)
				find(*o, "shop-db-1").Phase = container.Running
			},
			request: plan.Request{Verb: plan.VerbStart, Services: []string{"web"}},
			graph: `[1] wait for db: service_healthy
[2] wait for migrate: service_completed_successfully
[3] start container shop-web-1: exited with code 0 [after 1 2]
`,
		},
		{
			name:    "restart starts one of two that are the same replica",
			change:  func(o *plan.Observed) { twin(o, true) },
			request: plan.Request{Verb: plan.VerbRestart, Services: []string{"web"}, NoDeps: true},
			graph:   "[1] start container shop-web-1: exited with code 0\n",
		},
		{
			name: "resume leaves what a user stopped",
			change: func(o *plan.Observed) {
				stopped(o)
				x := find(*o, "shop-web-1")
				spec := *x.Spec
				spec.Restart.Policy, x.Spec, x.StoppedByUser, x.StartedAt = "unless-stopped", &spec, true, began
			},
			request: plan.Request{Verb: plan.VerbResume},
			graph:   "",
		},
		{
			name:    "up starts what is being stopped",
			change:  func(o *plan.Observed) { find(*o, "shop-web-1").Stopping = true },
			request: plan.Request{Verb: plan.VerbUp, Wait: true, Services: []string{"web"}},
			text:    "restart web: is being stopped\n",
			graph: `[1] stop container shop-web-1: is being stopped
[2] wait for db: service_healthy
[3] wait for migrate: service_completed_successfully
[4] start container shop-web-1: is being stopped [after 1 2 3]
[5] wait for web: up [after 4]
`,
		},
		{
			name:    "create leaves alone what is being stopped",
			change:  func(o *plan.Observed) { find(*o, "shop-web-1").Stopping = true },
			request: plan.Request{Verb: plan.VerbCreate},
			graph:   "",
		},
		{
			name:    "create starts nothing",
			change:  func(o *plan.Observed) { o.Containers = nil },
			request: plan.Request{Verb: plan.VerbCreate, Services: []string{"db"}},
			graph:   "[1] create container shop-db-1: no container yet\n",
		},
		{
			name:    "scale",
			yaml:    strings.Replace(shop, "scale: 2", "scale: 3", 1),
			request: plan.Request{Verb: plan.VerbScale, Services: []string{"worker"}, NoDeps: true},
			text:    "create worker 3\n",
		},
		{
			name: "run: what the service needs, then the container",
			change: func(o *plan.Observed) {
				o.Containers, o.Networks, o.Volumes = nil, nil, nil
			},
			request: plan.Request{Verb: plan.VerbRun, OneOff: &plan.OneOff{Service: "migrate", Spec: container.Spec{
				Name: "shop-migrate-run-1", Network: endpoint.Spec{Networks: []endpoint.Attachment{{Network: "shop_back"}}},
			}}},
			text: "create network shop_back\ncreate volume shop_data\ncreate db\ncreate shop-migrate-run-1\n",
			graph: `[1] create network shop_back: does not exist
[2] create volume shop_data: does not exist
[3] create container shop-db-1: no container yet [after 1 2]
[4] start container shop-db-1 [after 1 3]
[5] wait for db: service_healthy [after 4]
[6] create container shop-migrate-run-1: run [after 1 5]
[7] start container shop-migrate-run-1: run [after 6]
`,
		},
		{
			name:   "run without dependencies makes networks and volumes only",
			change: func(o *plan.Observed) { o.Containers, o.Networks, o.Volumes = nil, nil, nil },
			request: plan.Request{Verb: plan.VerbRun, NoDeps: true, CreateOnly: true, OneOff: &plan.OneOff{Service: "db", Spec: container.Spec{
				Name: "x", Network: endpoint.Spec{Networks: []endpoint.Attachment{{Network: "shop_back"}}},
				Mounts: []volume.Mount{{Type: volume.TypeVolume, Source: "shop_data", Target: "/d"}},
			}}},
			graph: `[1] create network shop_back: does not exist
[2] create volume shop_data: does not exist
[3] create container x: run [after 1 2]
`,
		},
		{
			name:    "run of a service that is not there",
			request: plan.Request{Verb: plan.VerbRun, OneOff: &plan.OneOff{Service: "wbe"}},
			err:     `no such service: "wbe"; did you mean "web"?`,
		},
		{
			name:    "run of a container of no project",
			request: plan.Request{Verb: plan.VerbRun, Whole: true, OneOff: &plan.OneOff{Spec: container.Spec{Name: "box"}}},
			text:    "create box\n",
			graph:   "[1] create container box: run\n[2] start container box: run [after 1]\n",
		},
		{
			name:    "down of one service takes that service alone",
			request: plan.Request{Verb: plan.VerbDown, Services: []string{"db"}, Volumes: true},
			text:    "remove db: down\nremove volume shop_data: down --volumes\n",
		},
		{
			name:    "down of one service, whose network nobody else uses",
			request: plan.Request{Verb: plan.VerbDown, Services: []string{"web"}},
			text:    "remove web: down\nremove network shop_front: down\n",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			yaml := tt.yaml
			if yaml == "" {
				yaml = shop
			}
			was := shop
			if tt.yaml != "" && !strings.Contains(tt.yaml, "postgres") {
				was = tt.yaml
			}
			o := running(wanted(t, was))
			if tt.change != nil {
				tt.change(&o)
			}
			r := tt.request
			if !r.Whole {
				r.Desired = wanted(t, yaml)
			}
			for _, name := range tt.byID {
				r.Containers = append(r.Containers, id(o, name))
			}
			p, err := plan.Make(r, o)
			if err != nil || tt.err != "" {
				if err == nil || err.Error() != tt.err {
					t.Fatalf("error %v, want %q", err, tt.err)
				}
				return
			}
			if tt.text != "" {
				if diff := cmp.Diff(tt.text, p.String()); diff != "" {
					t.Errorf("print (-want +got):\n%s\n%s", diff, p.Graph())
				}
			}
			if tt.graph != "" || tt.text == "" {
				if diff := cmp.Diff(tt.graph, p.Graph()); diff != "" {
					t.Errorf("graph (-want +got):\n%s", diff)
				}
			}
		})
	}
}

// Whoever waits for a service does not wait for a container of it whose place another has.
func TestNobodyWaitsForTheSuperseded(t *testing.T) {
	for _, verb := range []plan.Verb{plan.VerbResume, plan.VerbStart, plan.VerbRestart} {
		o := running(wanted(t, shop))
		stopped(&o)
		for i := range o.Containers {
			x := &o.Containers[i]
			spec := *x.Spec
			spec.Restart.Policy, x.Spec, x.StartedAt = "always", &spec, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
		}
		old := *find(o, "shop-db-1")
		old.ID, old.Name, old.StartedAt = "old-db-1", "0123456789ab_shop-db-1", old.StartedAt.Add(-time.Hour)
		o.Containers = append(o.Containers, old)
		p, err := plan.Make(plan.Request{Verb: verb, Desired: wanted(t, shop)}, o)
		if err != nil {
			t.Fatal(err)
		}
		waits := 0
		for _, op := range p.Ops {
			if op.Kind == plan.WaitFor && op.Service == "db" {
				waits++
				if op.ContainerID == "" && (len(op.Except) != 1 || op.Except[0] != "old-db-1") || op.ContainerID == "old-db-1" {
					t.Errorf("%s waits for all of db but %q", verb, op.Except)
				}
			}
		}
		if waits == 0 {
			t.Errorf("%s does not wait for db:\n%v", verb, p)
		}
	}
}
