package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/e2e/conformance"
)

// A badInput is a Compose file that up must refuse, with what the error names.
type badInput struct {
	name string // "up refuses …"
	yaml string
	says []string // all of these, in the error
	code int      // 0: anything but success
}

func badInputs() []badInput {
	return []badInput{
		{
			name: "a file that is not YAML",
			yaml: "services:\n  web:\n   image: [\n",
			says: []string{"compose.yaml:3"},
		},
		{
			name: "an unknown key, with its place and the right one",
			yaml: `
				services:
					web:
						image: probe
						enviroment: {A: b}
			`,
			says: []string{"compose.yaml:4", "services.web", "enviroment", "environment"},
		},
		{
			name: "a wrong type, with its place",
			yaml: `
				services:
					web:
						image: probe
						ports: 8080
			`,
			says: []string{"compose.yaml:4", "services.web.ports"},
		},
		{
			name: "a required variable that is not set",
			yaml: `
				services:
					web:
						image: "${IMAGE:?set it to the image}"
			`,
			says: []string{"compose.yaml", "IMAGE", "set it to the image"},
		},
		{
			name: "a dependency with a misspelt name",
			yaml: `
				services:
					web: {image: probe}
					app: {image: probe, depends_on: [wbe]}
			`,
			says: []string{"compose.yaml:3", "wbe", `did you mean "web"`},
		},
		{
			name: "a network that is not declared",
			yaml: `
				services:
					web: {image: probe, networks: [frnt]}
				networks:
					front:
			`,
			says: []string{"compose.yaml", "frnt", `did you mean "front"`},
		},
		{
			name: "a cycle, and prints it",
			yaml: `
				services:
					a: {image: probe, depends_on: [b]}
					b: {image: probe, depends_on: [c]}
					c: {image: probe, depends_on: [a]}
			`,
			says: []string{"a -> b -> c -> a"},
		},
		{
			name: "an image that is not there",
			yaml: `
				services:
					web: {image: "missing.invalid/nothing:1", pull_policy: never}
			`,
			says: []string{"web", "missing.invalid/nothing:1"},
		},
		{
			name: "an image that is not there before it starts anything",
			yaml: `
				services:
					ok: {image: probe, command: [on-term, "0"]}
					web: {image: "missing.invalid/nothing:1", pull_policy: never, depends_on: [ok]}
			`,
			says: []string{"missing.invalid/nothing:1"},
		},
		{
			name: "an external volume that is not there",
			yaml: `
				services:
					web: {image: probe, command: [on-term, "0"], volumes: ["theirs:/data"]}
				volumes:
					theirs: {external: true}
			`,
			says: []string{"theirs", "stack volume create"},
		},
		{
			name: "an external network that is not there",
			yaml: `
				services:
					web: {image: probe, command: [on-term, "0"], networks: [theirs]}
				networks:
					theirs: {external: true}
			`,
			says: []string{"theirs", "stack network create"},
		},
		{
			name: "a bind source that is not there",
			yaml: `
				services:
					web:
						image: probe
						command: [on-term, "0"]
						volumes:
							- {type: bind, source: ./absent, target: /data, bind: {create_host_path: false}}
			`,
			says: []string{"web", "absent"},
		},
		{
			name: "a subnet that two networks want",
			yaml: `
				services:
					web: {image: probe, command: [on-term, "0"], networks: [one, two]}
				networks:
					one: {ipam: {config: [{subnet: 10.78.0.0/24}]}}
					two: {ipam: {config: [{subnet: 10.78.0.0/16}]}}
			`,
			says: []string{"10.78.0.0"},
		},
		{
			name: "an address outside of the network",
			yaml: `
				services:
					web: {image: probe, command: [on-term, "0"], networks: {one: {ipv4_address: 10.79.0.5}}}
				networks:
					one: {ipam: {config: [{subnet: 10.78.0.0/24}]}}
			`,
			says: []string{"10.79.0.5"},
		},
		{
			name: "an unknown capability",
			yaml: `
				services:
					web: {image: probe, command: [on-term, "0"], cap_add: [CAP_FLY]}
			`,
			says: []string{"FLY"},
		},
		{
			name: "a user that the image does not have",
			yaml: `
				services:
					web: {image: probe, command: [on-term, "0"], user: nosuchuser}
			`,
			says: []string{"nosuchuser"},
		},
		{
			name: "a device that is not there",
			yaml: `
				services:
					web: {image: probe, command: [on-term, "0"], devices: ["/dev/nosuchdevice"]}
			`,
			says: []string{"/dev/nosuchdevice"},
		},
	}
}

func TestBadInput(t *testing.T) {
	b := newBox(t, "probe", "busybox:latest")
	clean := snap(t, b)
	for _, c := range badInputs() {
		t.Run("up refuses "+c.name, func(t *testing.T) {
			b.compose(t, c.yaml)
			r := b.with("COMPOSE_PROJECT_NAME=app").fails(t, "up", "--detach")
			for _, s := range c.says {
				if !strings.Contains(r.stderr, s) {
					t.Errorf("the error does not say %q: %v", s, r)
				}
			}
			b.with("COMPOSE_PROJECT_NAME=app").stack(t, "-p", "app", "down", "--volumes")
			b.nothingLeft(t, clean)
		})
	}
}

// What fails after containers were made must leave no half-made one.
func TestFailedStarts(t *testing.T) {
	b := newBox(t, "probe", "busybox:latest")
	b.write(t, "not-executable", "#!/bin/sh\n")
	clean := snap(t, b)
	for _, c := range []badInput{
		{
			name: "a command that the image does not have is 127",
			yaml: `
				name: app
				services:
					web: {image: busybox, command: [/no/such/command]}
			`,
			says: []string{"web", "/no/such/command"}, code: 127,
		},
		{
			name: "a command that may not be executed is 126",
			yaml: `
				name: app
				services:
					web: {image: busybox, command: [/not-executable], volumes: ["./not-executable:/not-executable"]}
			`,
			says: []string{"web", "/not-executable"}, code: 126,
		},
		{
			name: "a service without any command",
			yaml: `
				name: app
				services:
					web: {image: probe, entrypoint: []}
			`,
			says: []string{"web", "command"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			b.compose(t, c.yaml)
			r := b.fails(t, "up", "--detach")
			for _, s := range c.says {
				if !strings.Contains(r.stderr, s) {
					t.Errorf("the error does not say %q: %v", s, r)
				}
			}
			if c.code != 0 {
				if i, err := b.tryLook(t, "app-web-1"); err == nil && i.State.ExitCode != c.code {
					t.Errorf("the container's exit code is %d, must be %d", i.State.ExitCode, c.code)
				}
				if r := b.stack(t, "run", "--rm", "web"); r.code != c.code {
					t.Errorf("run must exit with %d: %v", c.code, r)
				}
			}
			b.ok(t, "down", "--volumes")
			b.nothingLeft(t, clean)
		})
	}
}

func TestPortInUse(t *testing.T) {
	b := newBox(t, "probe")
	other := b.in(t, "other")
	other.compose(t, `
		services:
			web: {image: probe, command: [serve, "80"], ports: ["8080:80"]}
	`)
	b.compose(t, `
		name: app
		services:
			first: {image: probe, command: [on-term, "0"]}
			web: {image: probe, command: [serve, "80"], ports: ["8080:80"], depends_on: [first]}
	`)
	t.Run("another project's service is named, before anything starts", func(t *testing.T) {
		other.ok(t, "up", "--detach")
		before := snap(t, b)
		r := b.fails(t, "up", "--detach")
		for _, s := range []string{"8080", "other", "web"} {
			if !strings.Contains(r.stderr, s) {
				t.Errorf("the error does not say %q: %v", s, r)
			}
		}
		b.stack(t, "down")
		b.nothingLeft(t, before)
		other.ok(t, "down")
	})
	t.Run("a program of the host is named, before anything starts", func(t *testing.T) {
		stop := listenOn(t, "8080")
		before := snap(t, b)
		r := b.fails(t, "up", "--detach")
		for _, s := range []string{"8080", filepath.Base(os.Args[0])} {
			if !strings.Contains(r.stderr, s) {
				t.Errorf("the error does not say %q: %v", s, r)
			}
		}
		b.stack(t, "down")
		b.nothingLeft(t, before)
		stop()
		b.ok(t, "up", "--detach")
		b.ok(t, "down")
	})
	t.Run("two services of one file are refused", func(t *testing.T) {
		b.compose(t, `
			name: app
			services:
				one: {image: probe, command: [on-term, "0"], ports: ["8080:80"]}
				two: {image: probe, command: [on-term, "0"], ports: ["8080:81"]}
		`)
		before := snap(t, b)
		r := b.fails(t, "up", "--detach")
		for _, s := range []string{"8080", "one", "two"} {
			if !strings.Contains(r.stderr, s) {
				t.Errorf("the error does not say %q: %v", s, r)
			}
		}
		b.stack(t, "down")
		b.nothingLeft(t, before)
	})
}

func TestFailedDependency(t *testing.T) {
	b := newBox(t, "busybox:latest", "probe")
	clean := snap(t, b)
	for _, c := range []badInput{
		{
			name: "a dependency that turns unhealthy is named with its last log lines",
			yaml: `
				name: app
				services:
					db:
						image: busybox
						command: [sh, -c, "echo disk is on fire; exec sleep infinity"]
						healthcheck: {test: ["CMD", "false"], interval: 100ms, retries: 2}
					web: {image: probe, command: [on-term, "0"], depends_on: {db: {condition: service_healthy}}}
			`,
			says: []string{"db", "unhealthy", "disk is on fire"},
		},
		{
			name: "a migration that fails is named with its exit code and last log lines",
			yaml: `
				name: app
				services:
					db:
						image: busybox
						command: [sh, -c, "echo no such table; exit 3"]
					web: {image: probe, command: [on-term, "0"], depends_on: {db: {condition: service_completed_successfully}}}
			`,
			says: []string{"db", "3", "no such table"},
		},
		{
			name: "a dependency that ends before it is healthy is named with its last log lines",
			yaml: `
				name: app
				services:
					db:
						image: busybox
						command: [sh, -c, "echo cannot read the configuration; exit 4"]
						healthcheck: {test: ["CMD", "true"], interval: 5s}
					web: {image: probe, command: [on-term, "0"], depends_on: {db: {condition: service_healthy}}}
			`,
			says: []string{"db", "4", "cannot read the configuration"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			b.compose(t, c.yaml)
			r := b.fails(t, "up", "--detach")
			for _, s := range c.says {
				if !strings.Contains(r.stderr, s) {
					t.Errorf("the error does not say %q: %v", s, r)
				}
			}
			if i, err := b.tryLook(t, "app-web-1"); err == nil && i.State.Running {
				t.Error("the dependent was started")
			}
			b.ok(t, "down", "--volumes")
			b.nothingLeft(t, clean)
		})
	}
	t.Run("a dependency that is not required does not hold up", func(t *testing.T) {
		b.compose(t, `
			name: app
			services:
				db: {image: busybox, command: ["false"]}
				web:
					image: probe
					command: [on-term, "0"]
					depends_on: {db: {condition: service_completed_successfully, required: false}}
		`)
		b.ok(t, "up", "--detach")
		if s := b.look(t, "app-web-1").State.Status; s != "running" {
			t.Errorf("web is %s", s)
		}
		b.ok(t, "down")
	})
	conformance.Works(t, "services.*.depends_on.*.required")
}

func TestFailedChangeKeepsTheRest(t *testing.T) {
	b := newBox(t, "busybox:latest")
	const yaml = `
		name: app
		services:
			db: {image: busybox, command: [sleep, infinity], volumes: ["data:/data"]}
			web: {image: busybox, command: [WEB, infinity], depends_on: [db]}
		volumes: {data: {}}
	`
	b.compose(t, strings.Replace(yaml, "WEB", "sleep", 1))
	b.ok(t, "up", "--detach")
	b.ok(t, "exec", "-T", "db", "sh", "-c", "echo precious > /data/file")
	db := b.look(t, "app-db-1").ID
	b.compose(t, strings.Replace(yaml, "WEB", "/no/such", 1))
	r := b.fails(t, "up", "--detach")

	t.Run("the error says what still runs", func(t *testing.T) {
		if !strings.Contains(r.stderr, "still run") || !strings.Contains(r.stderr, "db") {
			t.Error(r)
		}
	})
	t.Run("the other service runs on", func(t *testing.T) {
		if i := b.look(t, "app-db-1"); i.ID != db || !i.State.Running {
			t.Errorf("db is %+v", i.State)
		}
	})
	t.Run("the right file repairs the project, with its data", func(t *testing.T) {
		b.compose(t, strings.Replace(yaml, "WEB", "sleep", 1))
		b.ok(t, "up", "--detach", "--wait")
		if out := b.ok(t, "exec", "-T", "db", "cat", "/data/file"); out != "precious\n" {
			t.Errorf("the file holds %q", out)
		}
	})
}

func TestFullDisk(t *testing.T) {
	b := newBox(t)
	// A data root of 8 MiB: the image fits, then a file fills the rest.
	must(t, os.MkdirAll(b.dataRoot(), 0o755))
	must(t, unix.Mount("tmpfs", b.dataRoot(), "tmpfs", 0, "size=8m"))
	t.Cleanup(func() { unix.Unmount(b.dataRoot(), unix.MNT_DETACH) })
	b.load(t, "busybox:latest")
	b.compose(t, `
		name: app
		services:
			web: {image: busybox, command: [sleep, infinity], volumes: ["data:/data"]}
		volumes: {data: {}}
	`)
	clean := snap(t, b)
	ballast := filepath.Join(b.dataRoot(), "ballast")
	fill(t, ballast)

	r := b.fails(t, "up", "--detach")
	t.Run("the error says so", func(t *testing.T) {
		if !strings.Contains(r.stderr, "no space left on device") {
			t.Error(r)
		}
	})
	t.Run("down works on a full disk and leaves nothing", func(t *testing.T) {
		b.ok(t, "down", "--volumes")
		b.nothingLeft(t, clean, "file data/ballast")
	})
	t.Run("with room again it starts", func(t *testing.T) {
		must(t, os.Remove(ballast))
		b.ok(t, "up", "--detach")
		b.ok(t, "down", "--volumes")
		b.nothingLeft(t, clean)
	})
	t.Run("a restart that could not start again stops nothing", func(t *testing.T) {
		b.ok(t, "up", "--detach")
		before := b.look(t, "app-web-1").State.Pid
		fill(t, ballast)
		if r := b.fails(t, "restart"); !strings.Contains(r.stderr, "no space left on device") || !strings.Contains(r.stderr, "left running") {
			t.Error(r)
		}
		if s := b.look(t, "app-web-1").State; s.Pid != before || !s.Running {
			t.Errorf("%+v", s)
		}
		must(t, os.Remove(ballast))
		b.ok(t, "restart")
		b.ok(t, "down", "--volumes")
	})
	t.Run("an image that does not fit is not in the store", func(t *testing.T) {
		img := shared.Images["postgres:15"]
		r := b.fails(t, "image", "import", img.Tar, img.Ref)
		if !strings.Contains(r.stderr, "no space left on device") {
			t.Error(r)
		}
		if out := b.ok(t, "image", "ls", "--quiet"); len(strings.Fields(out)) != 1 {
			t.Errorf("the images are: %s", out)
		}
	})
}

// fill writes a file until the disk is full.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	block := make([]byte, 4096)
	for err == nil {
		_, err = f.Write(block)
	}
}

// With a file that cannot be parsed, and that names its project, nobody knows which
// project is meant: certainly not one named after the directory.
func TestBrokenFileNamesNoOtherProject(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.write(t, "compose.yaml", "services: {web: {image: busybox, command: sleep 1000, init: true}}\n")
	b.ok(t, "up", "--detach")
	b.write(t, "compose.yaml", "services: {web: {image: busybox\nname: other\n")
	for _, verb := range []string{"down", "ps", "stop"} {
		if r := b.fails(t, verb); !strings.Contains(r.stderr, "compose.yaml:1: invalid YAML") {
			t.Errorf("%s: %v", verb, r)
		}
	}
	if i := b.look(t, "app-web-1"); i.State.Status != "running" {
		t.Errorf("another project's container is %s", i.State.Status)
	}
	b.ok(t, "-p", "app", "down")
	b.nothingLeft(t, b.before)
}

func TestContainerNames(t *testing.T) {
	b := newBox(t, "busybox:latest")
	for _, name := range []string{"../../x", "a/b", ".", "-x", "ä", "bad name", strings.Repeat("x", 300)} {
		r := b.stack(t, "container", "run", "--rm", "--name="+name, "busybox", "true")
		if r.code != 125 || !strings.Contains(r.stderr, "invalid container name") {
			t.Errorf("%q: %v", name, r)
		}
	}
	b.ok(t, "container", "create", "--name", "right", "busybox", "true")
	if r := b.fails(t, "container", "rename", "right", "../../x"); !strings.Contains(r.stderr, "invalid container name") {
		t.Error(r)
	}
	b.ok(t, "container", "rm", "right")
	b.nothingLeft(t, b.before)
}
