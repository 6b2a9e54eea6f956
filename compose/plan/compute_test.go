package plan_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stack-run/stack/compose/load"
	"github.com/stack-run/stack/compose/plan"
	"github.com/stack-run/stack/compose/spec"
	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/healthcheck"
	"github.com/stack-run/stack/netns"
	"github.com/stack-run/stack/volumes"
)

const shop = `name: shop
services:
  web:
    image: web
    ports: ["8080:80"]
    networks: [front, back]
    environment: {LOG_LEVEL: info, DB_PASSWORD: one}
    depends_on:
      db: {condition: service_healthy, restart: true}
      migrate: {condition: service_completed_successfully}
  worker:
    image: worker
    scale: 2
    networks: [back]
    depends_on: [db]
  migrate:
    image: web
    command: migrate
    x-once: true
    networks: [back]
    depends_on:
      db: {condition: service_healthy}
  db:
    image: postgres
    networks: [back]
    volumes: ["data:/var/lib/postgresql"]
    healthcheck: {test: [CMD, pg_isready]}
networks:
  front:
  back: {internal: true}
volumes:
  data:
`

func wanted(t *testing.T, yaml string) *spec.Desired {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "compose.yaml"), []byte(yaml), 0o644); err != nil {
		t.Fatal(err)
	}
	loaded, err := load.Load(context.Background(), load.Options{WorkingDir: dir, Environ: []string{}})
	if err != nil {
		t.Fatal(err)
	}
	d, _, err := spec.Build(loaded.Project, spec.HostFacts{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// running is the project as it is after a successful up.
func running(d *spec.Desired) plan.Observed {
	o := plan.Observed{Project: d.Project}
	for _, n := range d.Networks {
		o.Networks = append(o.Networks, netns.Network{NetworkSpec: n.Spec})
	}
	for _, v := range d.Volumes {
		o.Volumes = append(o.Volumes, volumes.Volume{Spec: v.Spec})
	}
	for name, s := range d.Services {
		for _, r := range s.Replicas {
			c := plan.Container{ID: strings.Repeat((name + "__")[:2]+"00", 16), Name: r.Spec.Name, Service: name, Index: r.Index, Hash: r.Hash, Phase: engine.Running, Health: healthcheck.Healthy, Spec: &r.Spec}
			if r.Index > 1 {
				c.ID = strings.Repeat((name + "__")[:2]+"11", 16)
			}
			if name == "migrate" {
				c.Phase, c.Health = engine.Exited, ""
			}
			o.Containers = append(o.Containers, c)
		}
	}
	return o
}

func find(o plan.Observed, name string) *plan.Container {
	for i := range o.Containers {
		if o.Containers[i].Name == name {
			return &o.Containers[i]
		}
	}
	panic("no container " + name)
}

func TestPlans(t *testing.T) {
	tests := []struct {
		name    string
		yaml    string // what is wanted; "" for shop
		change  func(*plan.Observed)
		empty   bool // nothing exists yet
		options plan.Options
		want    string
		graph   string
	}{
		{
			name: "first up", empty: true,
			want: `create network shop_back
create network shop_front
create volume shop_data
create db
create migrate
create web
create worker 1,2
`,
			graph: `[1] create network shop_back: does not exist
[2] create network shop_front: does not exist
[3] create volume shop_data: does not exist
[4] create container shop-db-1: no container yet [after 1 3]
[5] start container shop-db-1 [after 1 4]
[6] create container shop-migrate-1: no container yet [after 1]
[7] wait for db: service_healthy [after 5]
[8] start container shop-migrate-1 [after 1 6 7]
[9] create container shop-web-1: no container yet [after 1 2]
[10] wait for migrate: service_completed_successfully [after 8]
[11] start container shop-web-1 [after 1 2 7 9 10]
[12] create container shop-worker-1: no container yet [after 1]
[13] start container shop-worker-1 [after 1 5 12]
[14] create container shop-worker-2: no container yet [after 1]
[15] start container shop-worker-2 [after 1 5 14]
`,
		},
		{
			name: "second up does nothing",
			want: "nothing to do\n",
		},
		{
			name: "second up runs a completed job again, as docker compose does",
			yaml: strings.Replace(shop, "    x-once: true\n", "", 1),
			want: "start migrate: is done, exited with code 0; up runs it again, unless it says x-once: true\n",
			graph: `[1] wait for db: service_healthy
[2] start container shop-migrate-1: is done, exited with code 0; up runs it again, unless it says x-once: true [after 1]
`,
		},
		{
			name: "one variable changes",
			yaml: strings.Replace(shop, "LOG_LEVEL: info", "LOG_LEVEL: debug", 1),
			want: "recreate web: environment.LOG_LEVEL \"info\" → \"debug\"\n",
			graph: `[1] create container shop-web-1 as we00we00we00_shop-web-1: environment.LOG_LEVEL "info" → "debug"
[2] wait for db: service_healthy
[3] wait for migrate: service_completed_successfully
[4] stop container shop-web-1: replaced [after 1 2 3]
[5] remove container shop-web-1: replaced [after 1 4]
[6] rename container shop-web-1: replaces we00we00we00 [after 5]
[7] start container shop-web-1 [after 2 3 6]
`,
		},
		{
			name: "an update that starts first",
			yaml: strings.Replace(shop, "scale: 2", "environment: {A: b}\n    deploy:\n      replicas: 2\n      update_config: {order: start-first, delay: 1m}", 1),
			want: "recreate worker 1,2: environment.A added: \"b\"\n",
			graph: `[1] create container shop-worker-1 as wo00wo00wo00_shop-worker-1: environment.A added: "b"
[2] create container shop-worker-2 as wo11wo11wo11_shop-worker-2: environment.A added: "b"
[3] start container shop-worker-1 aside: takes the place of wo00wo00wo00 [after 1]
[4] wait for shop-worker-1: proven [after 3]
[5] hand over to container shop-worker-1: takes the place of wo00wo00wo00 [after 4]
[6] stop container shop-worker-1 when its connections have ended: replaced [after 5]
[7] pause worker for 1m0s: update_config.delay [after 6]
[8] start container shop-worker-2 aside: takes the place of wo11wo11wo11 [after 2 7]
[9] wait for shop-worker-2: proven [after 8]
[10] hand over to container shop-worker-2: takes the place of wo11wo11wo11 [after 9]
[11] stop container shop-worker-2 when its connections have ended: replaced [after 10]
[12] remove container shop-worker-1: replaced [after 6 11]
[13] rename container shop-worker-1: replaces wo00wo00wo00 [after 12]
[14] remove container shop-worker-2: replaced [after 6 11]
[15] rename container shop-worker-2: replaces wo11wo11wo11 [after 14]
`,
		},
		{
			name: "an update that stops first, where dependents wait for what is new",
			yaml: strings.Replace(strings.Replace(shop, "image: postgres", "image: postgres:18\n    deploy:\n      update_config: {parallelism: 0}", 1), "restart: true", "restart: false", 1),
			want: "recreate db: image \"postgres\" → \"postgres:18\"\n",
			graph: `[1] create container shop-db-1 as db00db00db00_shop-db-1: image "postgres" → "postgres:18"
[2] stop container shop-db-1: replaced [after 1]
[3] start container shop-db-1: takes the place of db00db00db00 [after 2]
[4] wait for shop-db-1: proven [after 3]
[5] remove container shop-db-1: replaced [after 4]
[6] rename container shop-db-1: replaces db00db00db00 [after 5]
`,
		},
		{
			name: "what runs before a service runs before anything of it is stopped",
			yaml: strings.Replace(shop, "command: migrate\n", "command: migrate\n    pre_start: [{command: a}, {command: b, image: tool}]\n", 1),
			want: "run pre_start[0] of service migrate\nrun pre_start[1] of service migrate\nrecreate migrate: pre_start added: 88facb4bb978\n",
			graph: `[1] wait for db: service_healthy
[2] create container shop-migrate-pre_start-0: pre_start[0] of service migrate
[3] start container shop-migrate-pre_start-0: pre_start[0] of service migrate [after 1 2]
[4] wait for shop-migrate-pre_start-0: service_completed_successfully [after 3]
[5] remove container shop-migrate-pre_start-0: pre_start[0] of service migrate [after 4]
[6] create container shop-migrate-pre_start-1: pre_start[1] of service migrate
[7] start container shop-migrate-pre_start-1: pre_start[1] of service migrate [after 5 6]
[8] wait for shop-migrate-pre_start-1: service_completed_successfully [after 7]
[9] remove container shop-migrate-pre_start-1: pre_start[1] of service migrate [after 8]
[10] create container shop-migrate-1 as mi00mi00mi00_shop-migrate-1: pre_start added: 88facb4bb978
[11] remove container shop-migrate-1: replaced [after 10]
[12] rename container shop-migrate-1: replaces mi00mi00mi00 [after 11]
[13] start container shop-migrate-1 [after 9 12]
`,
		},
		{
			name: "a password is not printed",
			yaml: strings.Replace(shop, "DB_PASSWORD: one", "DB_PASSWORD: two", 1),
			want: "recreate web: environment.DB_PASSWORD\n",
		},
		{
			name: "a dependency with restart: true is recreated",
			yaml: strings.Replace(shop, "image: postgres", "image: postgres:18", 1),
			want: `recreate db: image "postgres" → "postgres:18"
restart web: depends on db, which is recreated
`,
			graph: `[1] create container shop-db-1 as db00db00db00_shop-db-1: image "postgres" → "postgres:18"
[2] stop container shop-web-1: depends on db, which is recreated
[3] stop container shop-db-1: replaced [after 1 2]
[4] remove container shop-db-1: replaced [after 1 3]
[5] rename container shop-db-1: replaces db00db00db00 [after 4]
[6] start container shop-db-1 [after 5]
[7] wait for db: service_healthy [after 6]
[8] wait for migrate: service_completed_successfully
[9] start container shop-web-1: depends on db, which is recreated [after 2 7 8]
`,
		},
		{
			name: "the image has a new ID",
			change: func(o *plan.Observed) {
				find(*o, "shop-worker-1").ImageID = "sha256:aaaaaaaaaaaaaaaa"
			},
			want: "nothing to do\n", // not known what the wanted one is
		},
		{
			name: "scale down",
			yaml: strings.Replace(shop, "scale: 2", "scale: 1", 1),
			want: "remove worker 2: scaled down to 1\n",
		},
		{
			name: "scale up leaves the first alone",
			yaml: strings.Replace(shop, "scale: 2", "scale: 3", 1),
			want: "create worker 3\n",
		},
		{
			name: "a network changes",
			yaml: strings.Replace(shop, "internal: true", "internal: false", 1),
			want: `recreate network shop_back: internal removed: true
restart web: its network is made anew
restart db: its network is made anew
restart worker 1,2: its network is made anew
`,
		},
		{
			name: "a volume changes",
			yaml: strings.Replace(shop, "volumes:\n  data:\n", "volumes:\n  data: {driver_opts: {size: 1g}}\n", 1),
			want: "keep volume data: its definition changed (driver_opts.size added: \"1g\")\n",
		},
		{
			name:    "a volume changes and may go",
			yaml:    strings.Replace(shop, "volumes:\n  data:\n", "volumes:\n  data: {driver_opts: {size: 1g}}\n", 1),
			options: plan.Options{AssumeYes: true},
			want: `recreate volume shop_data: driver_opts.size added: "1g"
restart web: depends on db, which is recreated
recreate db: volume shop_data is made anew
`,
		},
		{
			name: "an orphan stays with a warning",
			change: func(o *plan.Observed) {
				o.Containers = append(o.Containers, plan.Container{ID: "x", Name: "shop-old-1", Service: "old", Index: 1, Phase: engine.Running})
			},
			want: "nothing to do\n",
		},
		{
			name:    "an orphan goes",
			options: plan.Options{RemoveOrphans: true},
			change: func(o *plan.Observed) {
				o.Containers = append(o.Containers, plan.Container{ID: "x", Name: "shop-old-1", Service: "old", Index: 1, Phase: engine.Running})
			},
			want: "remove old: orphan: the project has no service \"old\"\n",
		},
		{
			name: "a stopped container is started",
			change: func(o *plan.Observed) {
				c := find(*o, "shop-worker-2")
				c.Phase, c.ExitCode = engine.Exited, 3
			},
			want: "start worker 2: exited with code 3\n",
		},
		{
			name:    "forced, one service",
			options: plan.Options{ForceRecreate: true, Services: []string{"worker"}},
			want:    "recreate worker 1,2: --force-recreate\n",
		},
		{
			name: "interrupted recreate, before the rename",
			change: func(o *plan.Observed) {
				c := find(*o, "shop-worker-2")
				c.Name, c.Phase = "0123456789ab_shop-worker-2", engine.Created
			},
			want: "rename worker 2: an interrupted recreate left it as 0123456789ab_shop-worker-2\nstart worker 2: was created but not started\n",
		},
		{
			name: "interrupted recreate, both there",
			change: func(o *plan.Observed) {
				c := *find(*o, "shop-worker-2")
				c.ID, c.Name, c.Phase = "fresh", "0123456789ab_shop-worker-2", engine.Created
				o.Containers = append(o.Containers, c)
			},
			want: "remove worker 2: left over from an interrupted recreate\n",
		},
		{
			name:   "hash of another version, same fields",
			change: func(o *plan.Observed) { find(*o, "shop-web-1").Hash = "v0:1234" },
			want:   "nothing to do\n",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var o plan.Observed
			if !tt.empty {
				o = running(wanted(t, shop))
			}
			if tt.change != nil {
				tt.change(&o)
			}
			want := tt.yaml
			if want == "" {
				want = shop
			}
			p, err := plan.Compute(wanted(t, want), o, tt.options)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, p.String()); diff != "" {
				t.Errorf("print (-want +got):\n%s\n%s", diff, p.Graph())
			}
			if tt.graph != "" {
				if diff := cmp.Diff(tt.graph, p.Graph()); diff != "" {
					t.Errorf("graph (-want +got):\n%s", diff)
				}
			}
		})
	}
}

func TestUpdatesThatCannotBe(t *testing.T) {
	rolls := strings.Replace(shop, "scale: 2", "environment: {A: b}\n    deploy:\n      replicas: 2\n      update_config: {order: start-first}", 1)
	p, err := plan.Compute(wanted(t, strings.Replace(rolls, "back: {internal: true}", "back: {internal: false}", 1)), running(wanted(t, shop)), plan.Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"service worker is not updated as its update_config says, but all at once: its network is made anew"}
	if diff := cmp.Diff(want, p.Warnings); diff != "" {
		t.Error(diff)
	}
}

// Who shares a service's namespaces must not be left with those of a container that
// is gone, though only that service was asked for.
func TestSharersOfARecreatedService(t *testing.T) {
	d := wanted(t, `
name: home
services:
  vpn: {image: vpn}
  app: {image: app, network_mode: "service:vpn", depends_on: [vpn]}
  other: {image: other, depends_on: [vpn]}
`)
	p, err := plan.Compute(d, running(d), plan.Options{ForceRecreate: true, Services: []string{"vpn"}})
	if err != nil {
		t.Fatal(err)
	}
	want := "recreate vpn: --force-recreate\nrestart app: network_mode of service vpn, which is made anew\n"
	if diff := cmp.Diff(want, p.String()); diff != "" {
		t.Errorf("(-want +got):\n%s\n%s", diff, p.Graph())
	}
}

// One that an interrupted update left aside is watched as long as any other, and let
// in only if it has not failed already.
func TestAdmissionOfOneLeftAside(t *testing.T) {
	d := wanted(t, `
name: home
services:
  web: {image: web, deploy: {update_config: {order: start-first, monitor: 7s}}}
`)
	o := running(d)
	next := o.Containers[0]
	o.Containers[0].Hash = "v1:former"
	next.ID, next.Name, next.Aside = "next", "0123456789ab_home-web-1", true
	o.Containers = append(o.Containers, next)
	p, err := plan.Compute(d, o, plan.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(p.Ops, func(op *plan.Op) bool {
		return op.Kind == plan.WaitFor && op.ContainerID == "next" && op.Monitor == 7*time.Second
	}) {
		t.Errorf("it is let in at once:\n%s", p.Graph())
	}

	// One that has failed meanwhile never will be: the update begins anew.
	for name, fails := range map[string]func(c *plan.Container){
		"restarted": func(c *plan.Container) { c.Restarted = true },
		"unhealthy": func(c *plan.Container) { c.Health = healthcheck.Unhealthy },
	} {
		o.Containers[1] = next
		fails(&o.Containers[1])
		p, err := plan.Compute(d, o, plan.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if got := p.String(); !strings.Contains(got, "recreate web") || !strings.Contains(got, "remove web: left over") {
			t.Errorf("%s: the plan is\n%s", name, got)
		}
	}
}

func TestDownPlan(t *testing.T) {
	d := wanted(t, shop)
	p, err := plan.Make(plan.Request{Verb: plan.VerbDown, Desired: d, Whole: true, Volumes: true}, running(d))
	if err != nil {
		t.Fatal(err)
	}
	want := `[1] stop container shop-worker-2: down
[2] remove container shop-worker-2: down [after 1]
[3] stop container shop-worker-1: down
[4] remove container shop-worker-1: down [after 3]
[5] stop container shop-web-1: down
[6] remove container shop-web-1: down [after 5]
[7] remove container shop-migrate-1: down [after 6]
[8] stop container shop-db-1: down [after 2 4 6 7]
[9] remove container shop-db-1: down [after 8]
[10] remove network shop_back: down [after 1 3 5 7 8]
[11] remove network shop_front: down [after 5]
[12] remove volume shop_data: down --volumes [after 9]
`
	if diff := cmp.Diff(want, p.Graph()); diff != "" {
		t.Errorf("down (-want +got):\n%s", diff)
	}
}

func TestPlanErrorsSayWhatToDo(t *testing.T) {
	d := wanted(t, shop)
	tests := map[string]struct {
		change  func(*spec.Desired)
		options plan.Options
		want    string
	}{
		"cycle":            {func(d *spec.Desired) { d.Services["db"].DependsOn = map[string]spec.Dependency{"web": {}} }, plan.Options{}, "dependency cycle: db -> web -> db; remove one of these depends_on"},
		"external network": {func(d *spec.Desired) { d.Networks["front"].External = true }, plan.Options{}, `network shop_front declared as external, but could not be found; create it with "stack network create shop_front", or remove external: true`},
		"external volume":  {func(d *spec.Desired) { d.Volumes["data"].External = true }, plan.Options{}, `external volume "shop_data" not found; create it with "stack volume create shop_data", or remove external: true`},
		"unknown service":  {func(*spec.Desired) {}, plan.Options{Services: []string{"wbe"}}, `no such service: "wbe"; did you mean "web"?`},
		"flags":            {func(*spec.Desired) {}, plan.Options{ForceRecreate: true, NoRecreate: true}, "--force-recreate and --no-recreate exclude each other; use one"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			d = wanted(t, shop)
			tt.change(d)
			_, err := plan.Compute(d, plan.Observed{}, tt.options)
			if err == nil || err.Error() != tt.want {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}
