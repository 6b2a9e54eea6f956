package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// damages are what can happen to a record.
var damages = []struct {
	name string
	harm func(path string) error
}{
	{"empty", func(path string) error { return os.Truncate(path, 0) }},
	{"cut", func(path string) error {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		return os.Truncate(path, info.Size()/2)
	}},
	{"garbled", func(path string) error { return os.WriteFile(path, []byte("\x7fELF\x02"), 0o600) }},
	{"missing", os.Remove},
}

const corruptible = `
services:
  web: {image: busybox, command: [sleep, inf], stop_grace_period: 0s, volumes: ["data:/data"]}
jobs:
  yearly: {image: busybox, command: ["true"], triggers: {schedule: [{cron: "@yearly"}]}}
volumes: {data: {}}
`

// TestCorruption damages one record of a project after the other and sees that
// another project, and all that is not of a project, works as before.
func TestCorruption(t *testing.T) {
	b := newBox(t, "busybox:latest")
	good := b.in(t, "good")
	good.compose(t, corruptible)
	good.ok(t, "up", "-d")
	bad := b.in(t, "bad")
	bad.compose(t, corruptible)

	container := func(name string) string {
		id, err := os.Readlink(filepath.Join(b.dataRoot(), "names", name))
		must(t, err)
		return id
	}
	network := func() string {
		all, err := filepath.Glob(filepath.Join(b.dataRoot(), "networks", "*.json"))
		must(t, err)
		for _, path := range all {
			if text, err := os.ReadFile(path); err == nil && strings.Contains(string(text), `"bad_default"`) {
				return path
			}
		}
		t.Fatalf("no network of bad in %v", all)
		return ""
	}
	kinds := []struct {
		name string
		path func() string
		// untold is for what is mended without a word.
		untold bool
	}{
		{name: "container", path: func() string { return filepath.Join(b.dataRoot(), "containers", container("bad-web-1"), "config.json") }},
		{name: "state", path: func() string { return filepath.Join(b.runRoot(), "containers", container("bad-web-1"), "state.json") }},
		{name: "final state", untold: true, path: func() string { return filepath.Join(b.dataRoot(), "containers", container("bad-web-1"), "final.json") }},
		{name: "network", untold: true, path: network},
		{name: "leases", untold: true, path: func() string { return strings.TrimSuffix(network(), ".json") + ".leases" }},
		{name: "endpoint", untold: true, path: func() string { return filepath.Join(b.runRoot(), "endpoints", container("bad-web-1")+".json") }},
		{name: "volume", path: func() string { return filepath.Join(b.dataRoot(), "volumes", "bad_data", "volume.json") }},
		{name: "definition", path: func() string { return filepath.Join(b.dataRoot(), "projects", "bad", "definition.json") }},
		{name: "schedules", path: func() string { return filepath.Join(b.dataRoot(), "projects", "bad", "schedules.json") }},
	}
	for _, kind := range kinds {
		for _, d := range damages {
			t.Run(kind.name+" "+d.name, func(t *testing.T) {
				bad.ok(t, "up", "-d")
				path := kind.path()
				must(t, d.harm(path))

				good.ok(t, "up", "-d")
				if ps := good.ok(t, "ps", "--format", "{{.Name}} {{.State}}"); strings.TrimSpace(ps) != "good-web-1 running" {
					t.Errorf("ps of the good project: %q", ps)
				}
				good.ok(t, "exec", "web", "true")
				b.ok(t, "ls", "--all")
				b.ok(t, "volume", "ls")
				b.ok(t, "network", "ls")
				b.ok(t, "container", "prune", "--force")
				b.ok(t, "container", "run", "--rm", "--network", "none", "busybox", "true")

				if all := bad.stack(t, "ps", "--all"); !kind.untold && d.name != "missing" {
					told := all.stderr + b.stack(t, "volume", "ls").stderr + b.stack(t, "network", "ls").stderr + b.stack(t, "ls").stderr
					if !strings.Contains(told, path) {
						t.Errorf("nothing tells of %s:\n%s", path, told)
					}
				}
				// What is left to do is one command.
				bad.ok(t, "down", "--timeout", "0")
				// A volume is no business of a repair: its data may be missed.
				if r := b.stack(t, "system", "check", "--quiet", "--repair"); r.code != 0 && kind.name != "volume" {
					t.Error(r)
				}
				bad.ok(t, "up", "-d")
				bad.ok(t, "exec", "web", "true")
				if check := b.stack(t, "system", "check"); check.code != 0 {
					t.Errorf("it is not mended: %v", check)
				}
				bad.ok(t, "down", "--timeout", "0", "--volumes")
			})
		}
	}
	good.ok(t, "down", "--timeout", "0", "--volumes")
	if left, err := filepath.Glob(filepath.Join(b.dataRoot(), "containers", "*")); err != nil || len(left) != 0 {
		t.Errorf("containers are left: %v, %v", left, err)
	}
}

// A container whose record is broken can be removed by its name while it runs.
func TestRemoveBrokenContainer(t *testing.T) {
	b := newBox(t, "busybox:latest")
	for _, supervised := range []bool{true, false} {
		b.ok(t, "container", "run", "-d", "--name", "lost", "busybox", "sleep", "inf")
		id, err := os.Readlink(filepath.Join(b.dataRoot(), "names", "lost"))
		must(t, err)
		if !supervised {
			b.killKeepers(t, "single.", "warden", "guardian", "supervisor")
		}
		must(t, os.WriteFile(filepath.Join(b.dataRoot(), "containers", id, "config.json"), nil, 0o600))
		b.ok(t, "container", "rm", "--force", "lost")
		for _, dir := range []string{"data/containers", "data/containers-rw", "run/containers", "run/endpoints"} {
			found, err := filepath.Glob(filepath.Join(b.root, dir, id+"*"))
			if err != nil || len(found) != 0 {
				t.Errorf("supervised %v: left: %v, %v", supervised, found, err)
			}
		}
		b.ok(t, "container", "run", "--rm", "--name", "lost", "busybox", "true")
	}
}

// TestPowerTakesTheRecordOfLayers: what a container wrote is read and kept when a
// power failure emptied the record of the layers that it lies on.
func TestPowerTakesTheRecordOfLayers(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.ok(t, "container", "run", "--name", "one", "--network", "none", "busybox", "sh", "-c", "echo kept >> /kept; cat /kept")
	id, err := os.Readlink(filepath.Join(b.dataRoot(), "names", "one"))
	must(t, err)
	record := filepath.Join(b.dataRoot(), "containers-rw", id, "lower.json")
	whole, err := os.ReadFile(record)
	must(t, err)
	for _, d := range damages {
		for _, verb := range []struct{ args, want string }{
			{"container diff one", "A /kept\n"},
			{"cp one:/kept -", "kept\n"},
			{"container ls --all --size --format {{.Size}}", " (virtual "},
			{"export one", "kept\n"},
			{"container commit one saved", "sha256:"},
			{"container start --attach one", "kept\nkept\n"},
		} {
			must(t, os.WriteFile(record, whole, 0o600)) // not each verb needs it
			must(t, d.harm(record))
			if out := b.ok(t, strings.Fields(verb.args)...); !strings.Contains(out, verb.want) || strings.Contains(out, "0B (virtual 0B)") {
				t.Errorf("%s with a record that is %s: %q", verb.args, d.name, out)
			}
		}
	}
}

// TestRemovedWhileItIsRead: who reads a container whose record of layers is lost makes
// it again, but not for one that somebody removes.
func TestRemovedWhileItIsRead(t *testing.T) {
	b := newBox(t, "busybox:latest")
	for range 12 {
		b.ok(t, "container", "create", "--name", "one", "--network", "none", "busybox", "true")
		id, err := os.Readlink(filepath.Join(b.dataRoot(), "names", "one"))
		must(t, err)
		must(t, os.Truncate(filepath.Join(b.dataRoot(), "containers-rw", id, "lower.json"), 0))
		var readers sync.WaitGroup
		for _, verb := range []string{"container diff one", "export one", "cp one:/bin/sh -", "container ls -a --size"} {
			readers.Go(func() {
				for range 3 {
					b.stack(t, strings.Fields(verb)...)
				}
			})
		}
		b.ok(t, "container", "rm", "one")
		readers.Wait()
		left, err := filepath.Glob(filepath.Join(b.dataRoot(), "containers-rw", "*"))
		if err != nil || len(left) != 0 {
			t.Fatalf("left: %v, %v", left, err)
		}
	}
}

// TestDamagedImages damages each kind of record of an image, with and without a
// container of it: other images work, and the image can be had again.
func TestDamagedImages(t *testing.T) {
	b := newBox(t, "busybox:latest")
	archive := filepath.Join(b.dir, "own.tar")
	b.ok(t, "container", "run", "--name", "mother", "--network", "none", "busybox", "sh", "-c", "echo own > /own")
	b.ok(t, "export", "-o", archive, "mother")
	b.ok(t, "container", "rm", "mother")
	records := func() map[string]bool {
		found := map[string]bool{}
		for _, pattern := range []string{"images/index", "images/records/*", "layers/stacks/*", "layers/*/layer.json"} {
			all, err := filepath.Glob(filepath.Join(b.dataRoot(), pattern))
			must(t, err)
			for _, path := range all {
				found[path] = true
			}
		}
		return found
	}
	others := records()
	for _, kind := range []string{"images/records/", "layers/stacks/", "/layer.json", "images/index"} {
		for i, d := range damages {
			used := i%2 == 0
			what := kind + " " + d.name
			b.ok(t, "image", "import", "--change", `CMD ["cat", "/own"]`, archive, "own:1")
			if used {
				b.ok(t, "container", "run", "--name", "user", "own:1")
			}
			var victim string
			for path := range records() {
				if strings.Contains(path, kind) && (!others[path] || kind == "images/index") {
					victim = path
				}
			}
			if victim == "" {
				t.Fatalf("no record %s", kind)
			}
			must(t, d.harm(victim))
			if kind != "images/index" { // which is of all images
				if out := b.says(t, "busybox", "echo", "well"); out != "well" {
					t.Errorf("%s: another image says %q", what, out)
				}
			}
			if r := b.stack(t, "image", "ls"); r.code != 0 && !strings.Contains(r.stderr, victim) {
				t.Errorf("%s: %v", what, r)
			}
			b.stack(t, "system", "check", "--repair")
			if used {
				if out := b.ok(t, "container", "start", "--attach", "user"); out != "own\n" {
					t.Errorf("%s: the container that has it says %q", what, out)
				}
				b.ok(t, "container", "rm", "user")
			}
			b.stack(t, "image", "rm", "--force", "own:1")
			if kind == "images/index" {
				b.load(t, "busybox:latest")
			}
			b.ok(t, "image", "import", "--change", `CMD ["cat", "/own"]`, archive, "own:1")
			if out := b.says(t, "own:1"); out != "own" {
				t.Errorf("%s: had again, it says %q", what, out)
			}
			if r := b.stack(t, "system", "check"); r.code != 0 {
				t.Errorf("%s, a container has it: %t: after the repair: %v", what, used, r)
			}
			b.ok(t, "image", "rm", "own:1")
		}
	}
}
