package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What a verb acts on: what the files that are given declare, and nobody else's.

func (b *box) volumeNames(t *testing.T) []string {
	t.Helper()
	return strings.Fields(b.ok(t, "volume", "ls", "--quiet"))
}

func TestApplicationsOfOneName(t *testing.T) {
	b := newBox(t, "busybox:latest")
	// Two applications whose directories are both called deploy.
	a, other := b.in(t, "siteA/deploy"), b.in(t, "siteB/deploy")
	a.compose(t, `
		services:
			web: {image: busybox, command: [sleep, "1000"], init: true}
	`)
	other.compose(t, `
		services:
			db: {image: busybox, command: [sh, -c, "echo data > /data/file; exec sleep 1000"], init: true, volumes: [/data]}
	`)
	other.ok(t, "up", "--detach")
	pid := b.look(t, "deploy-db-1").State.Pid
	for _, verb := range [][]string{{"stop"}, {"restart"}, {"kill"}, {"pause"}, {"rm", "--force", "--stop"}, {"down"}, {"down", "--volumes", "--remove-orphans"}} {
		r := a.stack(t, verb...)
		if s := b.look(t, "deploy-db-1").State; !s.Running || s.Paused || s.Pid != pid {
			t.Fatalf("%v acted on another application: %+v", r, s)
		}
	}
	a.ok(t, "up", "--detach")
	if s := b.look(t, "deploy-db-1").State; s.Pid != pid {
		t.Errorf("up acted on another application: %+v", s)
	}
	if r := a.stack(t, "down"); r.code != 0 || !strings.Contains(r.stderr, "siteB") {
		t.Errorf("down must leave the other application alone and say so: %v", r)
	}
	if out := other.ok(t, "exec", "-T", "db", "cat", "/data/file"); out != "data\n" {
		t.Errorf("the other application's data is %q", out)
	}
	other.ok(t, "down")
	b.nothingLeft(t, b.before, "file data/layers", "file data/images", "file data/content")
}

func TestFilesOfOneDirectory(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.compose(t, `
		services:
			web: {image: busybox, command: [sleep, "1000"], init: true}
			db: {image: busybox, command: [sleep, "1000"], init: true}
	`)
	b.write(t, "mon.yaml", "services:\n  mon: {image: busybox, command: [sleep, '1000'], init: true}\n")
	b.ok(t, "up", "--detach")
	b.ok(t, "-f", "mon.yaml", "up", "--detach")
	names := func() string {
		var all []string
		for _, c := range b.ps(t) {
			all = append(all, c.Service)
		}
		return strings.Join(all, " ")
	}
	if got := names(); got != "db mon web" {
		t.Fatalf("there are %s", got)
	}
	b.ok(t, "-f", "mon.yaml", "down")
	if got := names(); got != "db web" {
		t.Errorf("after down of mon.yaml there are %s", got)
	}
	b.ok(t, "-f", "mon.yaml", "up", "--detach")
	b.ok(t, "-f", "mon.yaml", "stop")
	if s := b.look(t, "app-web-1").State; !s.Running {
		t.Errorf("stop of mon.yaml stopped web: %+v", s)
	}
	b.ok(t, "-f", "mon.yaml", "down", "--remove-orphans")
	if got := names(); got != "" {
		t.Errorf("after down --remove-orphans there are %s", got)
	}
}

func TestDownOfOneService(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.compose(t, `
		name: app
		services:
			web: {image: busybox, command: [sleep, "1000"], init: true, volumes: ["own:/own", "both:/both"]}
			proxy: {image: busybox, command: [sleep, "1000"], init: true, depends_on: [web], volumes: ["both:/both", "its:/its"]}
		volumes: {own: {}, both: {}, its: {}}
	`)
	b.ok(t, "up", "--detach")
	pid := b.look(t, "app-proxy-1").State.Pid
	b.ok(t, "down", "web")
	if s := b.look(t, "app-proxy-1").State; s.Pid != pid {
		t.Errorf("down of web took proxy along: %+v", s)
	}
	b.ok(t, "up", "--detach", "web")
	if s := b.look(t, "app-proxy-1").State; s.Pid != pid {
		t.Errorf("up of web restarted proxy: %+v", s)
	}
	b.ok(t, "down", "--volumes", "web")
	if got := strings.Join(b.volumeNames(t), " "); got != "app_both app_its" {
		t.Errorf("volumes %s are left", got)
	}
	b.ok(t, "down", "--volumes")
	if got := b.volumeNames(t); len(got) > 0 {
		t.Errorf("volumes %v are left", got)
	}
}

// What other profiles had started goes with down, too, whatever profiles are active.
func TestDownOfOtherProfiles(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.compose(t, `
		name: app
		services:
			web: {image: busybox, command: [sleep, "1000"], init: true}
			one: {image: busybox, command: [sleep, "1000"], init: true, profiles: [a], networks: [extra]}
			two: {image: busybox, command: [sleep, "1000"], init: true, profiles: [b], ports: ["8080:80"]}
		networks: {extra: {}}
	`)
	for _, profile := range []string{"", "a"} {
		b.ok(t, "--profile", "a", "--profile", "b", "up", "--detach")
		if ids := b.ids(t); len(ids) != 3 {
			t.Fatalf("there are %v", ids)
		}
		var args []string
		if profile != "" {
			args = []string{"--profile", profile}
		}
		b.ok(t, append(args, "down")...)
		b.nothingLeft(t, b.before)
	}
}

func TestAnonymousVolumesAcrossUps(t *testing.T) {
	b := newBox(t, "busybox:latest")
	const with = `
		name: app
		services:
			web: {image: busybox, command: [sleep, "1000"], init: true, volumes: [/data]}
	`
	b.compose(t, with)
	b.ok(t, "up", "--detach")
	b.ok(t, "exec", "-T", "web", "touch", "/data/old")
	b.ok(t, "up", "--detach", "--force-recreate")
	b.ok(t, "exec", "-T", "web", "test", "-e", "/data/old")
	b.ok(t, "up", "--detach", "--renew-anon-volumes")
	b.fails(t, "exec", "-T", "web", "test", "-e", "/data/old")
	b.ok(t, "exec", "-T", "web", "touch", "/data/new")
	before := b.volumeNames(t)
	b.compose(t, strings.Replace(with, ", volumes: [/data]", "", 1))
	if r := b.stack(t, "plan"); !strings.Contains(r.stdout+r.stderr, "/data") {
		t.Errorf("plan says nothing of the data: %v", r)
	}
	b.ok(t, "up", "--detach")
	if got := b.volumeNames(t); strings.Join(got, " ") != strings.Join(before, " ") {
		t.Errorf("the volume went with its line: %v, before %v", got, before)
	}
	b.ok(t, "down")
}

func TestJobsRunAgain(t *testing.T) {
	b := newBox(t, "busybox:latest")
	log := filepath.Join(b.root, "runs")
	if err := os.WriteFile(log, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	b.compose(t, `
		name: app
		services:
			migrate: {image: busybox, command: [sh, -c, "echo run >> /runs"], volumes: ["`+log+`:/runs"]}
			once: {image: busybox, command: [sh, -c, "echo once >> /runs"], volumes: ["`+log+`:/runs"], x-once: true}
			web: {image: busybox, command: [sleep, "1000"], init: true, depends_on: {migrate: {condition: service_completed_successfully}, once: {condition: service_completed_successfully}}}
	`)
	for range 3 {
		b.ok(t, "up", "--detach")
		b.eventuallyState(t, "app-migrate-1", "exited")
	}
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	if runs, once := strings.Count(string(text), "run\n"), strings.Count(string(text), "once\n"); runs != 3 || once != 1 {
		t.Errorf("three ups ran the job %d times, and the one that runs once %d times", runs, once)
	}
	if out := b.ok(t, "plan"); !strings.Contains(out, "migrate") {
		t.Errorf("plan must list the job, and succeed: %s", out)
	}
	b.ok(t, "down")
}

func TestAFailedUpCanBeGoneOnWith(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.compose(t, `
		name: app
		services:
			db: {image: busybox, command: [sh, -c, "test -e /on/yes"], volumes: ["on:/on"]}
			web: {image: busybox, command: [sleep, "1000"], init: true, depends_on: {db: {condition: service_completed_successfully}}}
		volumes: {on: {}}
	`)
	b.fails(t, "up", "--detach")
	if s := b.look(t, "app-web-1").State; s.Status != "created" {
		t.Errorf("web is %s", s.Status)
	}
	b.fails(t, "start")
	b.ok(t, "container", "run", "--rm", "--volume", "app_on:/on", "busybox", "touch", "/on/yes")
	b.ok(t, "start")
	b.eventuallyState(t, "app-web-1", "running")
	b.ok(t, "down", "--volumes")
}

func TestNetworkNeedsItsOwner(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.compose(t, `
		name: app
		services:
			db: {image: busybox, command: [sleep, "1000"], init: true}
			app: {image: busybox, command: [sleep, "1000"], init: true, network_mode: "service:db"}
	`)
	b.ok(t, "up", "--detach")
	pid := b.look(t, "app-app-1").State.Pid
	b.ok(t, "container", "rm", "--force", "app-db-1")
	b.fails(t, "up", "--detach", "--no-deps", "--force-recreate", "app")
	if s := b.look(t, "app-app-1").State; s.Pid != pid {
		t.Errorf("it was stopped for nothing: %+v", s)
	}
	b.ok(t, "up", "--detach")
	b.ok(t, "down")
}

func TestDownBesideOtherUsers(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.compose(t, `
		name: app
		services:
			web: {image: busybox, command: [sleep, "1000"], init: true}
	`)
	b.ok(t, "up", "--detach")
	b.ok(t, "container", "run", "--detach", "--name", "guest", "--network", "app_default", "busybox", "sleep", "1000")
	if r := b.stack(t, "down"); r.code != 0 || !strings.Contains(r.stderr, "guest") {
		t.Errorf("down must succeed, and name who uses the network: %v", r)
	}
	if s := b.look(t, "guest").State; !s.Running {
		t.Errorf("the guest is %s", s.Status)
	}
	b.ok(t, "container", "rm", "--force", "guest")
	b.ok(t, "network", "rm", "app_default")
}

func TestANetworkThatIsGoneIsMadeAgain(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.compose(t, `
		name: app
		services:
			web: {image: busybox, command: [sleep, "1000"], init: true}
	`)
	b.ok(t, "up", "--detach")
	b.ok(t, "stop")
	if err := os.RemoveAll(filepath.Join(b.dataRoot(), "networks")); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(b.runRoot(), "networks")); err != nil {
		t.Fatal(err)
	}
	b.ok(t, "up", "--detach")
	b.eventuallyState(t, "app-web-1", "running")
	b.ok(t, "down")
}
