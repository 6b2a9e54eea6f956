package plan_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stack-run/stack/compose/desired"
	"github.com/stack-run/stack/compose/plan"
	"github.com/stack-run/stack/engine/container"
	"github.com/stack-run/stack/netns/endpoint"
	"github.com/stack-run/stack/volumes/volume"
)

// labelled has all containers come from a directory and files.
func labelled(o plan.Observed, dir, files string) plan.Observed {
	for i := range o.Containers {
		x := &o.Containers[i]
		spec := *x.Spec
		spec.Labels = map[string]string{desired.LabelWorkingDir: dir, desired.LabelConfigFiles: files}
		x.Spec = &spec
	}
	return o
}

// What a verb acts on where two sets of files share a project's name.
func TestReach(t *testing.T) {
	mine := "name: deploy\nservices:\n  web: {image: web}\n"
	theirs := "name: deploy\nservices:\n  db: {image: db, volumes: [/data]}\n"
	elsewhere := "the project's name is also that of an application in /siteB/deploy, which is left alone (deploy-db-1); give one of them another name, with name: in its file or -p"
	orphan := "the project has orphan containers, of services that it no longer has: deploy-db-1; remove them with --remove-orphans"
	for _, tt := range []struct {
		name       string
		dir, files string // of the other containers
		request    plan.Request
		text       string
		warnings   []string
	}{
		{
			name: "down, another application", dir: "/siteB/deploy", files: "/siteB/deploy/compose.yaml",
			request:  plan.Request{Verb: plan.VerbDown},
			text:     "remove web: down\n",
			warnings: []string{elsewhere, "network deploy_default is in use by container deploy-db-1; it stays"},
		},
		{
			name: "down --remove-orphans, another application", dir: "/siteB/deploy", files: "/siteB/deploy/compose.yaml",
			request:  plan.Request{Verb: plan.VerbDown, RemoveOrphans: true, Volumes: true},
			text:     "remove web: down\n",
			warnings: []string{elsewhere, "network deploy_default is in use by container deploy-db-1; it stays"},
		},
		{
			name: "stop, another application", dir: "/siteB/deploy", files: "/siteB/deploy/compose.yaml",
			request: plan.Request{Verb: plan.VerbStop}, text: "stop web: stop\n", warnings: []string{elsewhere},
		},
		{
			name: "restart, another application", dir: "/siteB/deploy", files: "/siteB/deploy/compose.yaml",
			request: plan.Request{Verb: plan.VerbRestart}, text: "restart web: restart\n", warnings: []string{elsewhere},
		},
		{
			name: "kill, files of another directory with this project directory", dir: "/siteA/deploy", files: "/elsewhere/compose.yaml",
			request: plan.Request{Verb: plan.VerbKill}, text: "kill web: SIGKILL\n",
			warnings: []string{strings.Replace(elsewhere, "/siteB/", "/siteA/", 1)},
		},
		{
			name: "up --remove-orphans, another application", dir: "/siteB/deploy", files: "/siteB/deploy/compose.yaml",
			request: plan.Request{Verb: plan.VerbUp, RemoveOrphans: true}, text: "nothing to do\n", warnings: []string{elsewhere},
		},
		{
			name: "down, other files of this directory", dir: "/siteA/deploy", files: "/siteA/deploy/mon.yaml",
			request:  plan.Request{Verb: plan.VerbDown},
			text:     "remove web: down\n",
			warnings: []string{orphan, "network deploy_default is in use by container deploy-db-1; it stays"},
		},
		{
			name: "down --remove-orphans, other files of this directory", dir: "/siteA/deploy", files: "/siteA/deploy/mon.yaml",
			request: plan.Request{Verb: plan.VerbDown, RemoveOrphans: true},
			text:    "remove web: down\nremove db: down\nremove network deploy_default: down\n",
		},
		{
			name: "stop, other files of this directory", dir: "/siteA/deploy", files: "/siteA/deploy/mon.yaml",
			request: plan.Request{Verb: plan.VerbStop}, text: "stop web: stop\n",
		},
		{
			name: "down of the project by its name takes all", dir: "/siteB/deploy", files: "/siteB/deploy/compose.yaml",
			request: plan.Request{Verb: plan.VerbDown, Whole: true},
			text:    "remove web: down\nremove db: down\nremove network deploy_default: down\n",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := wanted(t, mine)
			d.WorkingDir, d.ConfigFiles = "/siteA/deploy", []string{"/siteA/deploy/compose.yaml"}
			o := labelled(running(d), d.WorkingDir, d.ConfigFiles[0])
			o.Containers = append(o.Containers, labelled(running(wanted(t, theirs)), tt.dir, tt.files).Containers...)
			tt.request.Desired = d
			p, err := plan.Make(tt.request, o)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.text, p.String()); diff != "" {
				t.Errorf("print (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.warnings, p.Warnings); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDownLeavesWhatOthersUse(t *testing.T) {
	d := wanted(t, "name: p\nservices:\n  a: {image: a, volumes: [\"one:/a\"], depends_on: [b]}\n  b: {image: b, volumes: [\"two:/b\"]}\nvolumes: {one: , two: }\n")
	o := running(d)
	for _, tt := range []struct {
		name     string
		request  plan.Request
		network  []string
		text     string
		warnings []string
	}{
		{"the volumes that one service alone uses", plan.Request{Services: []string{"b"}, Volumes: true}, nil, "remove b: down\nremove volume p_two: down --volumes\n", nil},
		{"another project's container", plan.Request{}, []string{"container x of project q"}, "remove a: down\nremove b: down\n", []string{"network p_default is in use by container x of project q; it stays"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.request.Verb, tt.request.Desired = plan.VerbDown, d
			o.NetworkUsers = map[string][]string{"p_default": tt.network}
			p, err := plan.Make(tt.request, o)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.text, p.String()); diff != "" {
				t.Errorf("print (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.warnings, p.Warnings); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
		})
	}
}

// The records of other projects say who else uses a network or volume.
func TestObserve(t *testing.T) {
	spec := container.Spec{Name: "x", Network: endpoint.Spec{Networks: []endpoint.Attachment{{Network: "n"}}}, Mounts: []volume.Mount{{Type: volume.TypeVolume, Source: "v"}}}
	running, ended := container.State{Phase: container.Running}, container.State{Phase: container.Exited}
	o := plan.Observe("p", []*container.Record{
		{ID: "1", Project: "p", Spec: spec, State: running}, {ID: "2", Project: "q", Spec: spec, State: running},
		{ID: "3", Project: "r", Spec: spec, State: ended}, {ID: "4", Project: "single.x", Spec: spec, State: running},
	}, nil, nil)
	if diff := cmp.Diff(map[string][]string{"n": {"container x of project q", "container x"}}, o.NetworkUsers); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string][]string{"v": {"container x of project q", "container x of project r", "container x"}}, o.VolumeUsers); diff != "" {
		t.Error(diff)
	}
	if len(o.Containers) != 1 || o.Containers[0].ID != "1" {
		t.Errorf("%+v", o.Containers)
	}
}

func TestAnonymousVolumes(t *testing.T) {
	with := "name: p\nservices:\n  a: {image: a, volumes: [/data]}\n  b: {image: b}\n"
	o := running(wanted(t, with))
	find(o, "p-a-1").Anonymous = map[string]string{"/data": "0123"}
	p, err := plan.Make(plan.Request{Verb: plan.VerbUp, Desired: wanted(t, with), RenewAnonymous: true}, o)
	if err != nil {
		t.Fatal(err)
	}
	if want := "recreate a: --renew-anon-volumes\n"; p.String() != want {
		t.Errorf("renewed: %s, want %s", p, want)
	}
	p, err = plan.Make(plan.Request{Verb: plan.VerbUp, Desired: wanted(t, strings.Replace(with, ", volumes: [/data]", "", 1))}, o)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{`p-a-1 no longer has its anonymous volume at /data: its data stays in volume 0123 until "stack down" or "stack volume prune"`}
	if diff := cmp.Diff(want, p.Warnings); diff != "" {
		t.Errorf("no longer asked for (-want +got):\n%s", diff)
	}
	for _, op := range p.Ops {
		if op.Kind == plan.RemoveContainer && op.Volumes {
			t.Error("its data goes")
		}
	}
	// Nobody uses it any more when all goes.
	o.Volumes = append(o.Volumes, volume.Volume{Spec: volume.Spec{Name: "lost", Project: "p", Anonymous: true}})
	p, err = plan.Make(plan.Request{Verb: plan.VerbDown, Desired: wanted(t, with)}, o)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(p.String(), "remove volume lost: down: no container uses it\n") {
		t.Errorf("down: %s", p)
	}
}

func TestWhatIsSharedMustBeThere(t *testing.T) {
	d := wanted(t, "name: p\nservices:\n  app: {image: app, network_mode: \"service:db\"}\n  db: {image: db}\n")
	up := plan.Request{Verb: plan.VerbUp, Desired: d, Services: []string{"app"}, NoDeps: true, ForceRecreate: true}
	o := running(d)
	if _, err := plan.Make(up, o); err != nil {
		t.Errorf("it runs: %v", err)
	}
	find(o, "p-db-1").Phase = container.Exited
	want := `service "app" has network_mode: service:db, and service "db" does not run; start it with "stack start db", or leave --no-deps out`
	if _, err := plan.Make(up, o); err == nil || err.Error() != want {
		t.Errorf("stopped: %v", err)
	}
	app := *find(o, "p-app-1")
	app.NetworkOf = "gone"
	o.Containers = []plan.Container{app}
	up.ForceRecreate = false
	want = `service "app" cannot share network namespace with service db: container missing; start it with "stack up -d db", or leave --no-deps out`
	if _, err := plan.Make(up, o); err == nil || err.Error() != want {
		t.Errorf("gone: %v", err)
	}
}

func TestAMountedImageThatWasBuiltAgain(t *testing.T) {
	const yaml = "name: p\nservices:\n  a: {image: a, volumes: [{type: image, source: img, target: /i}]}\n"
	was, is := wanted(t, yaml), wanted(t, yaml)
	was.Services["a"].Replicas[0].Spec.Mounts[0].ImageID = "sha256:aaaa"
	is.Services["a"].Replicas[0].Spec.Mounts[0].ImageID = "sha256:bbbb"
	p, err := plan.Make(plan.Request{Verb: plan.VerbUp, Desired: is}, running(was))
	if err != nil {
		t.Fatal(err)
	}
	if want := "recreate a: volumes./i (image ID) aaaa → bbbb\n"; p.String() != want {
		t.Errorf("%s, want %s", p, want)
	}
}

func TestScalingDownKeepsWhatIsUpToDate(t *testing.T) {
	const yaml = "name: p\nservices:\n  x: {image: x, scale: 4}\n"
	o := running(wanted(t, yaml))
	for i := range o.Containers {
		x := &o.Containers[i]
		x.ID = strings.Repeat(string(rune('a'+i)), 64)
		x.ImageID = map[bool]string{true: "sha256:old", false: "sha256:new"}[x.Index <= 2]
	}
	d := wanted(t, strings.Replace(yaml, "4", "2", 1))
	for i := range d.Services["x"].Replicas {
		d.Services["x"].Replicas[i].Spec.ImageID = "sha256:new"
	}
	p, err := plan.Make(plan.Request{Verb: plan.VerbUp, Desired: d}, o)
	if err != nil {
		t.Fatal(err)
	}
	want := "remove x 1: scaled down to 2, and p-x-3 is up to date\nremove x 2: scaled down to 2, and p-x-4 is up to date\n"
	if diff := cmp.Diff(want, p.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// One that does not run is as good as one that does.
	for i := range o.Containers {
		o.Containers[i].ImageID = "sha256:new"
	}
	o.Containers[0].Phase = container.Exited
	if p, err = plan.Make(plan.Request{Verb: plan.VerbUp, Desired: d}, o); err != nil {
		t.Fatal(err)
	}
	want = "remove x 3,4: scaled down to 2\nstart x 1: is done, exited with code 0; up runs it again, unless it says x-once: true\n"
	if diff := cmp.Diff(want, p.String()); diff != "" {
		t.Errorf("with one that has ended (-want +got):\n%s", diff)
	}
	// One whose removal was interrupted takes nobody's place.
	o.Containers[0].Phase, o.Containers[3].Phase = container.Removing, container.Removing
	if p, err = plan.Make(plan.Request{Verb: plan.VerbUp, Desired: d}, o); err != nil {
		t.Fatal(err)
	}
	want = "remove x 1: scaled down to 2, and p-x-3 is up to date\nremove x 4: scaled down to 2\n"
	if diff := cmp.Diff(want, p.String()); diff != "" {
		t.Errorf("with two half removed (-want +got):\n%s", diff)
	}
	o.Containers[3].Phase = container.Running
	o.Containers = o.Containers[2:]
	if p, err = plan.Make(plan.Request{Verb: plan.VerbUp, Desired: d}, o); err != nil || !p.Empty() {
		t.Errorf("again: %v\n%s", err, p)
	}
}

func TestReplicasTakePortsOfARangeInOrder(t *testing.T) {
	d := wanted(t, "name: p\nservices:\n  x: {image: x, scale: 2, ports: [\"8000-8003:80\"]}\n")
	o := running(d)
	o.Containers = nil
	p, err := plan.Make(plan.Request{Verb: plan.VerbUp, Desired: d}, o)
	if err != nil {
		t.Fatal(err)
	}
	want := `[1] create container p-x-1: no container yet
[2] start container p-x-1 [after 1]
[3] create container p-x-2: no container yet
[4] start container p-x-2 [after 2 3]
`
	if diff := cmp.Diff(want, p.Graph()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A job that is done runs again, which is no difference; one that is to run once
// does not.
func TestJobs(t *testing.T) {
	const yaml = "name: p\nservices:\n  job: {image: job}\n  once: {image: once, x-once: true}\n"
	d := wanted(t, yaml)
	o := running(d)
	for i := range o.Containers {
		o.Containers[i].Phase = container.Exited
	}
	for _, services := range [][]string{nil, {"job", "once"}} {
		p, err := plan.Make(plan.Request{Verb: plan.VerbUp, Desired: d, Services: services}, o)
		if err != nil {
			t.Fatal(err)
		}
		if want := "start job: is done, exited with code 0; up runs it again, unless it says x-once: true\n"; p.String() != want || !p.Converged() {
			t.Errorf("%s, want %s; converged: %v", p, want, p.Converged())
		}
	}
	find(o, "p-once-1").ExitCode = 1
	p, err := plan.Make(plan.Request{Verb: plan.VerbUp, Desired: d, Services: []string{"once"}}, o)
	if err != nil {
		t.Fatal(err)
	}
	if want := "start once: exited with code 1\n"; p.String() != want || p.Converged() {
		t.Errorf("failed: %s, want %s; converged: %v", p, want, p.Converged())
	}
}
