package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stack-run/stack/e2e/conformance"
)

// Root of a project with user namespaces is nobody on the host, and all that people
// run works as ever.
func TestUserNamespaces(t *testing.T) {
	b := newBox(t, "busybox:latest", "postgres:15", "redis:7", "nginx:1.22")
	b.write(t, "conf/default.conf", "server { listen 80; location / { return 200 \"hello\\n\"; } }\n")
	b.write(t, "secret.txt", "hidden")
	b.compose(t, `
		name: app
		services:
			db:
				image: postgres:15
				userns_mode: auto
				environment: {POSTGRES_PASSWORD: secret}
				volumes: [data:/var/lib/postgresql/data]
				healthcheck: {test: ["CMD", "pg_isready", "-U", "postgres", "-h", "127.0.0.1"], interval: 200ms, retries: 100}
			cache:
				image: redis:7
				userns_mode: auto
				healthcheck: {test: ["CMD", "redis-cli", "ping"], interval: 200ms, retries: 50}
			web:
				image: nginx:1.22
				userns_mode: auto
				ports: ["127.0.0.1::80"]
				volumes: ["./conf:/etc/nginx/conf.d:ro"]
				ipc: shareable
			tool:
				image: busybox
				userns_mode: auto
				command: sleep infinity
				tmpfs: ["/scratch:mode=700,uid=70"]
				secrets: [{source: hidden, uid: "70", mode: 0400}]
				depends_on: {db: {condition: service_healthy}, cache: {condition: service_healthy}}
				ulimits: {nofile: {soft: 512, hard: 1024}}
			beside:
				image: busybox
				userns_mode: auto
				command: sleep infinity
				network_mode: service:web
				pid: service:web
				ipc: service:web
			watcher:
				image: busybox
				userns_mode: auto
				command: sleep infinity
				pid: service:cache
			talker:
				image: busybox
				userns_mode: auto
				command: sleep infinity
				ipc: service:web
			plain:
				image: busybox
				command: sleep infinity
				network_mode: service:web
			inplain:
				image: busybox
				userns_mode: auto
				command: sleep infinity
				network_mode: service:own
			own:
				image: busybox
				command: sleep infinity
		volumes: {data: {}}
		secrets: {hidden: {file: secret.txt}}
	`)
	b.ok(t, "up", "--detach", "--wait")

	const query = "create table if not exists seen(n int); insert into seen values (1); select count(*) from seen"
	psql := []string{"exec", "-T", "db", "psql", "-U", "postgres", "-Atqc"}
	if out := b.ok(t, append(psql, query)...); out != "1\n" {
		t.Errorf("postgres says %q", out)
	}
	if out := b.ok(t, "exec", "-T", "cache", "redis-cli", "set", "a", "b"); out != "OK\n" {
		t.Errorf("redis says %q", out)
	}
	if out := fetch(t, "http://127.0.0.1:"+b.hostPort(t, "web", "80")+"/"); out != "hello\n" {
		t.Errorf("nginx says %q", out)
	}
	base := uint32(0)
	t.Run("nobody of the container is anybody of the host", func(t *testing.T) {
		for name, p := range b.pids(t) {
			st, err := os.Stat(fmt.Sprintf("/proc/%d", p.PID))
			must(t, err)
			uid := st.Sys().(*syscall.Stat_t).Uid
			if name == "app-plain-1" || name == "app-own-1" {
				if uid != 0 {
					t.Errorf("%s runs as user %d", name, uid)
				}
				continue
			}
			if uid < 1<<20 {
				t.Errorf("%s runs as user %d of the host", name, uid)
			}
			if base == 0 {
				base = uid &^ 0xffff
			}
			if uid&^0xffff != base {
				t.Errorf("%s has another range (user %d) than its project (%d)", name, uid, base)
			}
		}
		// Files are whose they were, on disk.
		data := filepath.Join(b.dataRoot(), "volumes/app_data/_data")
		owner := strings.TrimSpace(b.ok(t, "exec", "-T", "db", "stat", "-c", "%u", "/var/lib/postgresql/data"))
		if st, err := os.Stat(data); err != nil || strconv.Itoa(int(st.Sys().(*syscall.Stat_t).Uid)) != owner {
			t.Errorf("the volume belongs to %v, in the container to %s: %v", st.Sys(), owner, err)
		}
	})
	t.Run("files have the owners they should have", func(t *testing.T) {
		for what, want := range map[string]string{
			"id -u":                                     "0\n",
			"stat -c %u%a /run/secrets/hidden":          "70400\n",
			"stat -c %u%a /scratch":                     "70700\n",
			"stat -c %u /etc/hosts /tmp /bin":           "0\n0\n0\n",
			"ulimit -n -H; ulimit -n":                   "1024\n512\n",
			"touch /x; chown 5:6 /x; stat -c %u:%g /x":  "5:6\n",
			"echo 1 >/proc/sys/kernel/panic || echo no": "no\n",
			"hostname x || echo no":                     "no\n",
		} {
			if out := b.stack(t, "exec", "-T", "tool", "sh", "-c", what); out.stdout != want {
				t.Errorf("%s: %s", what, out)
			}
		}
	})
	t.Run("one network for two", func(t *testing.T) {
		if out := b.ok(t, "exec", "-T", "beside", "wget", "-qO-", "http://127.0.0.1/"); out != "hello\n" {
			t.Errorf("%q", out)
		}
		if out := b.ok(t, "exec", "-T", "plain", "wget", "-qO-", "http://127.0.0.1/"); out != "hello\n" {
			t.Errorf("%q", out)
		}
		if out := b.ok(t, "exec", "-T", "inplain", "wget", "-qO-", "http://web/"); out != "hello\n" {
			t.Errorf("%q", out)
		}
		if out := b.ok(t, "exec", "-T", "beside", "ps"); !strings.Contains(out, "nginx: master") {
			t.Errorf("%q", out)
		}
		if out := b.ok(t, "exec", "-T", "watcher", "sh", "-c", "ps; ls /sys/class/net"); !strings.Contains(out, "redis-server") || !strings.Contains(out, "eth0") {
			t.Errorf("%q", out)
		}
		if out := b.ok(t, "exec", "-T", "tool", "wget", "-qO-", "http://web/"); out != "hello\n" {
			t.Errorf("%q", out)
		}
	})
	t.Run("copies", func(t *testing.T) {
		from := b.write(t, "from.txt", "copied\n")
		b.ok(t, "cp", from, "tool:/etc/copied")
		if out := b.ok(t, "exec", "-T", "tool", "sh", "-c", "cat /etc/copied; stat -c %u:%g /etc/copied"); out != "copied\n0:0\n" {
			t.Errorf("%q", out)
		}
		b.ok(t, "exec", "-T", "tool", "chown", "70:71", "/etc/copied")
		out := b.ok(t, "cp", "-a", "tool:/etc/copied", filepath.Join(b.dir, "back.txt"))
		_ = out
		st, err := os.Stat(filepath.Join(b.dir, "back.txt"))
		must(t, err)
		if s := st.Sys().(*syscall.Stat_t); s.Uid != 70 || s.Gid != 71 {
			t.Errorf("the copy belongs to %d:%d", s.Uid, s.Gid)
		}
	})
	t.Run("data survive, with and without", func(t *testing.T) {
		b.ok(t, "down")
		b.ok(t, "up", "--detach", "--wait")
		if out := b.ok(t, append(psql, query)...); out != "2\n" {
			t.Errorf("postgres says %q", out)
		}
		file := filepath.Join(b.dir, "compose.yaml")
		text, err := os.ReadFile(file)
		must(t, err)
		must(t, os.WriteFile(file, []byte(strings.ReplaceAll(string(text), "userns_mode: auto", "userns_mode: host")), 0o644))
		b.ok(t, "up", "--detach", "--wait")
		if out := b.ok(t, append(psql, query)...); out != "3\n" {
			t.Errorf("postgres says %q", out)
		}
		b.ok(t, "restart", "db")
	})
	b.ok(t, "down", "--volumes")
	b.noRanges(t)
	conformance.Works(t, "services.*.userns_mode")
}

// noRanges fails if somebody has a range of IDs still.
func (b *box) noRanges(t *testing.T) {
	t.Helper()
	if left, err := os.ReadDir(filepath.Join(b.runRoot(), "ids")); err != nil || len(left) > 0 {
		t.Errorf("ranges of IDs are left: %v, %v", left, err)
	}
}

// No two projects have the same users of the host, unless somebody asks for it.
func TestUserNamespacesOfTwoInstallations(t *testing.T) {
	boxes := []*box{newBox(t, "busybox:latest"), newBox(t, "busybox:latest")}
	const service = "name: %s\nservices: {a: {image: busybox, userns_mode: %q, command: sleep infinity, init: true}}\n"
	const users = "cat /proc/self/uid_map"
	seen := map[string]bool{}
	for _, b := range boxes {
		b.compose(t, fmt.Sprintf(service, "app", "auto"))
		b.ok(t, "up", "--detach")
		seen[b.ok(t, "exec", "-T", "a", "sh", "-c", users)] = true
	}
	if len(seen) != 2 {
		t.Errorf("both have %v", seen)
	}
	for i, b := range boxes {
		b.compose(t, fmt.Sprintf(service, "own", fmt.Sprintf("%d:1000", 250000+i)))
		const told = "project own has the user IDs 250001:1000 of the host, of which some are those of project own of the run root "
		if r := b.stack(t, "up", "--detach", "--scale", "a=2"); r.code != 0 || strings.Count(r.stderr, told) != i {
			t.Error(r)
		}
		if r := b.stack(t, "restart"); r.code != 0 || strings.Contains(r.stderr, told) {
			t.Error(r)
		}
	}
	for _, b := range boxes {
		b.ok(t, "down")
		b.compose(t, fmt.Sprintf(service, "app", "auto"))
		b.ok(t, "down")
		b.noRanges(t)
	}
}

// Whose the files are that a container makes in a bind mount.
func TestUserNamespacesOfBindMounts(t *testing.T) {
	b := newBox(t, "busybox:latest")
	for _, c := range []struct {
		mode, user    string
		wantUID       int // on the host, of what the container makes
		seen, created string
	}{
		{"auto", "0", 0, "1000", "0"},
		{"keep-id", "0", 1000, "0", "0"},
		{"keep-id", "999", 1000, "999", "999"},
		{"host", "0", 0, "1000", "0"},
	} {
		t.Run(c.mode+" "+c.user, func(t *testing.T) {
			dir := filepath.Join(b.dir, "data-"+c.mode+c.user)
			must(t, os.MkdirAll(dir, 0o755))
			must(t, os.Chown(dir, 1000, 1000))
			if c.mode == "auto" || c.mode == "host" {
				must(t, os.Chmod(dir, 0o777))
			}
			out := b.ok(t, "container", "run", "--rm", "--userns", c.mode, "--user", c.user, "-v", dir+":/data", "busybox",
				"sh", "-c", "stat -c %u /data; touch /data/made; stat -c %u /data/made")
			if out != c.seen+"\n"+c.created+"\n" {
				t.Errorf("the container sees %q", out)
			}
			st, err := os.Stat(filepath.Join(dir, "made"))
			must(t, err)
			if uid := int(st.Sys().(*syscall.Stat_t).Uid); uid != c.wantUID {
				t.Errorf("the file belongs to %d on the host, want %d", uid, c.wantUID)
			}
		})
	}
	t.Run("nomap", func(t *testing.T) {
		dir := filepath.Join(b.dir, "unmapped")
		must(t, os.MkdirAll(dir, 0o755))
		r := b.stack(t, "container", "run", "--rm", "--userns", "nomap", "-v", dir+":/data", "busybox", "sh", "-c", "stat -c %u /data; touch /data/made")
		if r.code == 0 || !strings.HasPrefix(r.stdout, "65534\n") {
			t.Error(r)
		}
	})
	t.Run("a range", func(t *testing.T) {
		if out := b.ok(t, "container", "run", "--rm", "--userns", "300000:1000", "busybox", "cat", "/proc/self/uid_map"); strings.Join(strings.Fields(out), " ") != "0 300000 1000" {
			t.Errorf("%q", out)
		}
	})
	b.noRanges(t)
	t.Run("what cannot be", func(t *testing.T) {
		for _, args := range [][]string{
			{"--userns", "auto", "--privileged"}, {"--userns", "auto", "--network", "host"}, {"--userns", "auto", "--pid", "host"},
			{"--userns", "some"}, {"--userns", "0:10"}, {"--userns", "5:0"},
		} {
			r := b.fails(t, append(append([]string{"container", "run", "--rm"}, args...), "busybox", "true")...)
			if !strings.Contains(r.stderr, "userns") && !strings.Contains(r.stderr, "user namespace") {
				t.Error(r)
			}
		}
	})
}

// A limit of processes counts the container's, and none of a start's.
func TestUserNamespacesWithFewProcesses(t *testing.T) {
	b := newBox(t, "busybox:latest")
	for _, c := range []struct {
		limit string
		init  bool
		want  string // of a command that starts another one
	}{
		{"1", false, "no\n"}, {"2", false, "yes\n"}, {"2", true, "no\n"}, {"3", true, "yes\n"},
	} {
		for _, mode := range []string{"host", "auto"} {
			t.Run(fmt.Sprintf("%s, limit %s, init %v", mode, c.limit, c.init), func(t *testing.T) {
				args := []string{"container", "run", "--rm", "--userns", mode, "--pids-limit", c.limit, fmt.Sprintf("--init=%v", c.init), "busybox"}
				if out := b.ok(t, append(args, "cat", "/proc/self/cmdline")...); !strings.Contains(out, "/proc/self/cmdline") {
					t.Errorf("%q", out)
				}
				r := b.stack(t, append(args, "sh", "-c", "/bin/cat /dev/null && echo yes; :")...)
				if out := r.stdout; out != strings.ReplaceAll(c.want, "no\n", "") {
					t.Error(r)
				}
			})
		}
	}
}

// A health check has room beside the container's one process, and a restart starts as the
// first start did.
func TestUserNamespacesWithFewProcessesAndChecks(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.compose(t, `
		name: app
		services:
			two: {image: busybox, userns_mode: auto, pids_limit: 2, command: sleep infinity, stop_grace_period: 0s, healthcheck: {test: ["CMD", "true"], interval: 100ms}}
			one: {image: busybox, userns_mode: auto, pids_limit: 1, command: sleep infinity, stop_grace_period: 0s}
	`)
	b.ok(t, "up", "--detach", "--wait")
	b.ok(t, "restart")
	b.killKeepers(t, "app", "supervisor")
	b.eventuallyKept(t, "app")
	b.ok(t, "up", "--detach", "--wait")
	b.ok(t, "down")
	b.noRanges(t)
}

// What else touches a container's files and processes knows whose they are.
func TestUserNamespacesOutliveAllElse(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.write(t, "src/a", "one\n")
	b.compose(t, `
		name: app
		services:
			box:
				image: busybox
				userns_mode: auto
				user: "70"
				command: sh -c 'trap "exit 3" TERM; while :; do date; sleep 0.2; done'
				init: true
				develop: {watch: [{path: src, action: sync, target: /srv/src, initial_sync: true}]}
				volumes: ["made:/made", {type: volume, source: ram, target: /ram}]
		volumes: {made: {}, ram: {driver_opts: {type: tmpfs, device: tmpfs}}}
	`)
	b.ok(t, "up", "--detach")
	w := b.startWatch(t)
	if out := b.ok(t, "exec", "-T", "box", "sh", "-c", "cat /srv/src/a; stat -c %u /srv/src/a /srv/src"); out != "one\n70\n70\n" {
		t.Errorf("after the initial sync: %q", out)
	}
	b.write(t, "src/a", "two\n")
	comes(t, b.rootOf(t, "app-box-1")+"/srv/src/a", "two\n")
	must(t, os.Remove(filepath.Join(b.dir, "src/a")))
	goes(t, b.rootOf(t, "app-box-1")+"/srv/src/a")
	w.end(t)

	b.killKeepers(t, "app", "warden", "guardian", "supervisor")
	b.ok(t, "exec", "-T", "--user", "0", "box", "sh", "-c", "echo kept >/kept; chown 5:6 /kept; echo x >/made/f; echo y >/ram/f")
	b.killKeepers(t, "app", "supervisor")
	b.eventuallyKept(t, "app")
	b.ok(t, "restart", "box")
	if out := b.ok(t, "exec", "-T", "box", "sh", "-c", "cat /kept /made/f /ram/f; stat -c %u:%g /kept /made/f /ram; cat /proc/self/uid_map | wc -l"); out != "kept\nx\ny\n5:6\n0:0\n0:0\n1\n" {
		t.Errorf("after a restart: %q", out)
	}
	if out := b.ok(t, "container", "diff", "app-box-1"); !strings.Contains(out, "A /kept\n") {
		t.Errorf("%q", out)
	}
	b.ok(t, "container", "commit", "app-box-1", "committed:1")
	if out := b.ok(t, "container", "run", "--rm", "committed:1", "stat", "-c", "%u:%g", "/kept"); out != "5:6\n" {
		t.Errorf("in an image made of it: %q", out)
	}
	b.ok(t, "stop")
	b.ok(t, "cp", b.write(t, "late.txt", "late\n"), "box:/late")
	b.ok(t, "start")
	if out := b.ok(t, "exec", "-T", "box", "sh", "-c", "cat /late; stat -c %u /late"); out != "late\n0\n" {
		t.Errorf("copied while it was stopped: %q", out)
	}
	b.ok(t, "kill", "--signal", "TERM")
	b.eventuallyState(t, "app-box-1", "exited")
	b.ok(t, "down", "--volumes")
}

// The commands of a build run in a user namespace as containers do, and the image is the
// same that a build without makes.
func TestBuildsInUserNamespaces(t *testing.T) {
	b := newBox(t, "busybox:latest", "probe").with("STACK_BUILDER_IDLE=100ms", "SOURCE_DATE_EPOCH=1000000000")
	b.write(t, "secret", "hidden")
	socket := filepath.Join(b.root, "agent")
	l, err := net.Listen("unix", socket)
	must(t, err)
	defer l.Close()
	b.write(t, "Dockerfile", unindent(`
		FROM busybox AS one
		RUN mkdir -p /d/sub && echo x >/d/f && touch /d/sub/gone && chown -R 5:6 /d && chmod 4750 /d/f && mkfifo /d/fifo && ln /d/f /d/g
		FROM busybox AS two
		COPY --from=one --chown=7:8 /d /d
		RUN rm /d/g && mv /d/f /d/h && mkdir /d/new && touch -h -d @5 /d/h && rm -r /d/sub && mkdir /d/sub && chown 65534 /d/sub
		FROM two
		COPY --from=probe /probe /probe
		RUN ["/probe", "grant", "/probe"]
		RUN --mount=type=secret,id=s,uid=9,gid=10,mode=0400 test $(stat -c %u:%g:%a /run/secrets/s) = 9:10:400 && test $(cat /run/secrets/s) = hidden
		RUN --mount=type=ssh,uid=3 test -S $SSH_AUTH_SOCK && test $(stat -c %u $SSH_AUTH_SOCK) = 3
		RUN --mount=type=cache,target=/cache,uid=11 test $(stat -c %u /cache) = 11 && touch /cache/mine && test $(stat -c %u /cache/mine) = 0
		RUN --mount=type=cache,target=/cache,uid=11 test $(stat -c %u /cache/mine) = 0 && chown 12 /cache/mine && rm /cache/mine
		RUN --mount=type=cache,id=from,target=/cache,from=one test $(stat -c %u:%g /cache/d/f) = 5:6 && echo y >/cache/d/f
		RUN --mount=type=bind,from=one,target=/one test $(stat -c %u:%g /one/d/f) = 5:6 && ! touch /one/x
		RUN --mount=type=bind,from=one,source=/d,target=/one,rw test $(stat -c %u /one/f) = 5 && touch /one/x && chown 3 /one/f
		RUN --mount=type=tmpfs,target=/t test $(stat -c %u /t) = 0 && touch /t/x
		RUN nslookup localhost | grep -q 127.0.0.11 && ip -o addr show | grep -q eth0 && test $(stat -c %u /etc/hosts /etc/resolv.conf | sort -u) = 0
		RUN --network=none test $(ip -o link show | wc -l) = 1
		USER 70:71
		WORKDIR /work/below
		RUN touch mine && test $(stat -c %u:%g mine) = 70:71
	`))
	build := func(t *testing.T, name string, args ...string) string {
		t.Helper()
		args = append([]string{"image", "build", "--no-cache", "--provenance", "mode=max", "--secret", "id=s,src=secret", "--ssh", "default", "-o", "type=image,rewrite-timestamp=true,name=" + name}, append(args, ".")...)
		b.with("SSH_AUTH_SOCK="+socket).ok(t, args...)
		return b.ok(t, "image", "inspect", "-f", "{{.Id}}", name)
	}
	want := build(t, "plain")
	for _, mode := range []string{"auto", "nomap", "300000:65536"} {
		t.Run(mode, func(t *testing.T) {
			if got := build(t, "own", "--userns", mode); got != want {
				t.Errorf("the image is %s, without a user namespace %s", got, want)
			}
		})
	}
	mapping := func(t *testing.T, text string) (uid int) {
		t.Helper()
		_, after, _ := strings.Cut(text, "the map:")
		if fields := strings.Fields(after); len(fields) > 1 {
			uid, _ = strconv.Atoi(fields[1])
		} else {
			t.Errorf("no map in %q", text)
		}
		return uid
	}
	const tell = "RUN echo the  map:$(cat /proc/self/uid_map)" // which looks otherwise when it is shown
	t.Run("its root is nobody, and may not what needs the host's", func(t *testing.T) {
		b.write(t, "Dockerfile", "FROM busybox\n"+tell+"\nRUN ! mknod /null c 1 3 && ! mount -t tmpfs none /mnt\n")
		if uid := mapping(t, b.stack(t, "image", "build", "--no-cache", "--progress", "plain", "--userns", "auto", ".").stderr); uid < 1<<20 {
			t.Errorf("it is %d", uid)
		}
		for _, args := range [][]string{{"--userns", "keep-id"}, {"--userns", "some"}, {"--userns", "auto", "--network", "host", "--no-cache"}} {
			if r := b.fails(t, append(append([]string{"image", "build"}, args...), ".")...); !strings.Contains(r.stderr, "userns") {
				t.Error(r)
			}
		}
	})
	t.Run("commands that run at a time share a cache that is made of an image", func(t *testing.T) {
		b.write(t, "Dockerfile", unindent(`
			FROM busybox AS a
			RUN --mount=type=cache,id=both,target=/c,from=busybox touch /c/a; until test -e /c/b; do sleep 0.1; done; touch /made
			FROM busybox AS b
			RUN --mount=type=cache,id=both,target=/c,from=busybox touch /c/b; until test -e /c/a; do sleep 0.1; done; touch /made
			FROM a
			COPY --from=b /made /too
		`))
		b.ok(t, "image", "build", "--no-cache", "--userns", "auto", ".")
	})
	t.Run("a project's builds have the IDs of its containers", func(t *testing.T) {
		b.compose(t, `
			name: app
			services:
				web: {build: {dockerfile_inline: "FROM busybox\n`+strings.ReplaceAll(tell, "$", "$$")+`\n", no_cache: true}, userns_mode: keep-id, command: sleep infinity}
				own: {build: {dockerfile_inline: "FROM busybox\nRUN true\n`+strings.ReplaceAll(tell, "$", "$$")+`\n", no_cache: true}, userns_mode: "400000:65536"}
		`)
		b.ok(t, "up", "--detach", "--build", "web")
		running := mapping(t, "the map:"+b.ok(t, "exec", "-T", "web", "cat", "/proc/self/uid_map"))
		if uid := mapping(t, b.ok(t, "build", "--progress", "plain", "web")); uid != running || uid < 1<<20 {
			t.Errorf("a build has %d, a container %d", uid, running)
		}
		if uid := mapping(t, b.ok(t, "build", "--progress", "plain", "own")); uid != 400000 {
			t.Errorf("a build with a range has %d", uid)
		}
		b.ok(t, "down")
	})
	b.awaitBuilder(t)
	b.noRanges(t)
}
