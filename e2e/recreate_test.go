package e2e

import (
	"maps"
	"path/filepath"
	"strings"
	"testing"
)

const twoServices = `
	name: app
	services:
		web:
			image: probe
			command: ["serve", "80"]
			environment:
				LOG_LEVEL: ${LEVEL:-info}
		other:
			image: probe
			command: ["on-term", "0"]
			volumes: ["kept:/kept"]
	volumes:
		kept:
`

func TestRecreate(t *testing.T) {
	b := newBox(t, "probe")
	b.compose(t, twoServices)
	b.ok(t, "up", "--detach")
	first := b.ids(t)

	t.Run("a second up does nothing", func(t *testing.T) {
		before := b.look(t, "app-web-1").State
		b.ok(t, "up", "--detach")
		if now := b.ids(t); !maps.Equal(now, first) {
			t.Errorf("containers were %v, are %v", first, now)
		}
		if after := b.look(t, "app-web-1").State; after.Pid != before.Pid || !after.StartedAt.Equal(before.StartedAt) {
			t.Errorf("state was %+v, is %+v", before, after)
		}
	})
	t.Run("plan says by its exit code whether up would change anything", func(t *testing.T) {
		if r := b.stack(t, "plan"); r.code != 0 {
			t.Errorf("nothing to do must be 0: %v", r)
		}
		if r := b.with("LEVEL=debug").stack(t, "plan"); r.code != 2 {
			t.Errorf("a change must be 2: %v", r)
		}
		if now := b.ids(t); !maps.Equal(now, first) {
			t.Errorf("plan has changed something: %v, was %v", now, first)
		}
	})
	t.Run("plan and up --dry-run print the same cause", func(t *testing.T) {
		changed := b.with("LEVEL=debug")
		const cause = `environment.LOG_LEVEL "info" → "debug"`
		plan := changed.stack(t, "plan")
		if !strings.Contains(plan.stdout+plan.stderr, cause) {
			t.Errorf("no cause: %v", plan)
		}
		dry := changed.stack(t, "up", "--dry-run")
		if !strings.Contains(dry.stdout+dry.stderr, cause) {
			t.Errorf("no cause: %v", dry)
		}
	})
	t.Run("a restart keeps what it restarts, and says what has changed", func(t *testing.T) {
		r := b.with("LEVEL=debug").stack(t, "restart", "web")
		if want := `environment.LOG_LEVEL "info" → "debug"); to apply it: stack up -d web`; r.code != 0 || !strings.Contains(r.stderr, want) {
			t.Errorf("want %q: %v", want, r)
		}
		if now := b.ids(t); !maps.Equal(now, first) {
			t.Errorf("a restart has replaced something: %v, was %v", now, first)
		}
		if r := b.stack(t, "restart"); r.code != 0 || strings.Contains(r.stderr, "has changed") {
			t.Errorf("nothing has changed: %v", r)
		}
	})
	t.Run("only the changed service is recreated, and up says why", func(t *testing.T) {
		r := b.with("LEVEL=debug").stack(t, "up", "--detach")
		if r.code != 0 || !strings.Contains(r.stdout+r.stderr, `environment.LOG_LEVEL "info" → "debug"`) {
			t.Error(r)
		}
		now := b.ids(t)
		if now["app-web-1"] == first["app-web-1"] || now["app-web-1"] == "" {
			t.Errorf("web must be a new container: %v, was %v", now, first)
		}
		if now["app-other-1"] != first["app-other-1"] {
			t.Errorf("other must be the same container: %v, was %v", now, first)
		}
	})
	t.Run("--force-recreate recreates all, --no-recreate none", func(t *testing.T) {
		before := b.ids(t)
		b.ok(t, "up", "--detach", "--no-recreate")
		if now := b.ids(t); !maps.Equal(now, before) {
			t.Errorf("--no-recreate: %v, was %v", now, before)
		}
		b.ok(t, "up", "--detach", "--force-recreate")
		for name, id := range b.ids(t) {
			if before[name] == id {
				t.Errorf("--force-recreate left %s", name)
			}
		}
	})
	t.Run("replicas that are added leave the others alone", func(t *testing.T) {
		b.ok(t, "up", "--detach")
		before := b.ids(t)
		b.ok(t, "up", "--detach", "--scale", "web=3")
		now := b.ids(t)
		if len(now) != 4 || now["app-web-1"] != before["app-web-1"] {
			t.Errorf("containers are %v, were %v", now, before)
		}
		b.ok(t, "up", "--detach", "--scale", "web=1")
		if now := b.ids(t); !maps.Equal(now, before) {
			t.Errorf("containers are %v, were %v", now, before)
		}
	})
	t.Run("an orphan stays until --remove-orphans", func(t *testing.T) {
		b.compose(t, strings.ReplaceAll(twoServices, "other:", "another:"))
		b.ok(t, "up", "--detach")
		if _, ok := b.ids(t)["app-other-1"]; !ok {
			t.Error("the orphan is gone")
		}
		b.ok(t, "up", "--detach", "--remove-orphans")
		if _, err := b.tryLook(t, "app-other-1"); err == nil {
			t.Error("the orphan is still there")
		}
	})
}

func TestVolumeOutlivesContainers(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.compose(t, `
		name: app
		services:
			box:
				image: busybox
				command: ["sleep", "infinity"]
				volumes: ["kept:/kept", "/anonymous"]
		volumes:
			kept:
	`)
	b.ok(t, "up", "--detach")
	b.ok(t, "exec", "box", "sh", "-c", "echo precious > /kept/file")
	anonymous := mountSource(t, b.look(t, "app-box-1"), "/anonymous")

	t.Run("down keeps a named volume's data and removes an anonymous one", func(t *testing.T) {
		b.ok(t, "down")
		if exists(anonymous) {
			t.Errorf("%s is still there", anonymous)
		}
		b.ok(t, "up", "--detach")
		if out := b.ok(t, "exec", "box", "cat", "/kept/file"); out != "precious\n" {
			t.Errorf("the file holds %q", out)
		}
	})
	t.Run("a recreated service keeps its anonymous volume", func(t *testing.T) {
		before := mountSource(t, b.look(t, "app-box-1"), "/anonymous")
		b.ok(t, "up", "--detach", "--force-recreate")
		if now := mountSource(t, b.look(t, "app-box-1"), "/anonymous"); now != before {
			t.Errorf("the volume is %s, was %s", now, before)
		}
	})
	t.Run("down --volumes removes the data", func(t *testing.T) {
		source := mountSource(t, b.look(t, "app-box-1"), "/kept")
		if !exists(filepath.Join(source, "file")) {
			t.Fatalf("%s has no file", source)
		}
		b.ok(t, "down", "--volumes")
		if exists(source) {
			t.Errorf("%s is still there", source)
		}
	})
}

func TestDownKeepsVolumesThatTheFileDoesNotDeclare(t *testing.T) {
	b := newBox(t, "busybox:latest")
	project := func(volume string) string {
		return `
			name: app
			services:
				box: {image: busybox, command: [sleep, infinity], init: true, volumes: ["` + volume + `:/v"]}
			volumes: {` + volume + `: }
		`
	}
	b.compose(t, project("one"))
	b.ok(t, "up", "--detach")
	b.compose(t, project("two"))
	b.ok(t, "up", "--detach")
	if r := b.stack(t, "down", "--volumes"); r.code != 0 || !strings.Contains(r.stderr, "volume app_one is kept") {
		t.Error(r)
	}
	if out := b.ok(t, "volume", "ls", "--quiet"); out != "app_one\n" {
		t.Errorf("%q", out)
	}
	b.compose(t, project("one"))
	b.ok(t, "down", "--volumes")
	b.nothingLeft(t, b.before)
}

func TestSharedNetworkIsFollowed(t *testing.T) {
	b := newBox(t, "busybox:latest")
	project := func(x string) string {
		return `
			name: app
			services:
				db: {image: busybox, command: [sleep, infinity], init: true, environment: {X: "` + x + `"}}
				beside: {image: busybox, command: [sleep, infinity], init: true, network_mode: "service:db"}
		`
	}
	b.compose(t, project("1"))
	b.ok(t, "up", "--detach")
	b.compose(t, project("2"))
	b.ok(t, "up", "--detach", "--no-deps", "db")
	if r := b.stack(t, "plan"); r.code != 2 || !strings.Contains(r.stdout, "recreate beside: network_mode") {
		t.Error(r)
	}
	b.ok(t, "up", "--detach")
	if a, z := b.ok(t, "exec", "-T", "beside", "hostname", "-i"), b.ok(t, "exec", "-T", "db", "hostname", "-i"); a != z {
		t.Errorf("%q is not %q", a, z)
	}
	if r := b.stack(t, "plan"); r.code != 0 {
		t.Error(r)
	}
	b.ok(t, "down")
	b.nothingLeft(t, b.before)
}

// What is in the file of a config or secret is part of what a container is.
func TestChangedFileRecreates(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.compose(t, `
		name: app
		services:
			web:
				image: busybox
				command: [sleep, infinity]
				init: true
				configs: [conf]
			worker:
				image: busybox
				command: [sleep, infinity]
				init: true
				secrets: [token]
		configs: {conf: {file: ./conf}}
		secrets: {token: {file: ./token}}
	`)
	b.write(t, "conf", "one")
	b.write(t, "token", "one")
	b.ok(t, "up", "--detach")
	for _, c := range []struct{ file, service, other, cause, path string }{
		{"conf", "web", "worker", "configs./conf", "/conf"},
		{"token", "worker", "web", "secrets./run/secrets/token", "/run/secrets/token"},
	} {
		t.Run(c.file, func(t *testing.T) {
			before := b.ids(t)
			b.write(t, c.file, "one")
			if r := b.stack(t, "plan"); r.code != 0 {
				t.Errorf("the same content changes something: %v", r)
			}
			b.write(t, c.file, "two")
			if r := b.stack(t, "plan"); r.code != 2 || !strings.Contains(r.stdout, "recreate "+c.service) || !strings.Contains(r.stdout, c.cause) {
				t.Errorf("no cause %q: %v", c.cause, r)
			}
			b.ok(t, "up", "--detach", "--timeout", "0")
			after := b.ids(t)
			changed, kept := "app-"+c.service+"-1", "app-"+c.other+"-1"
			if after[changed] == before[changed] || after[kept] != before[kept] {
				t.Errorf("containers were %v, are %v", before, after)
			}
			if got := b.ok(t, "exec", "-T", c.service, "cat", c.path); got != "two" {
				t.Errorf("it reads %q", got)
			}
		})
	}
	b.ok(t, "down", "--timeout", "0")
	b.nothingLeft(t, b.before, "file data/sealed/digests")
}
