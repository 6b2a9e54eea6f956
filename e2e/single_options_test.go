package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/e2e/machine"
)

func TestSingleContainerOptions(t *testing.T) {
	b := newBox(t, "busybox:latest", "probe")
	b.loadAs(t, "busybox:latest", "exposes", "EXPOSE 80 53/udp")
	clean := snap(t, b)
	const sleep = "busybox sleep infinity"
	run := func(t *testing.T, args string) {
		t.Helper()
		b.ok(t, append([]string{"container", "run", "--detach"}, strings.Fields(args)...)...)
	}
	remove := func(t *testing.T, names ...string) {
		t.Helper()
		b.ok(t, append([]string{"container", "rm", "--force"}, names...)...)
		b.nothingLeft(t, clean)
	}

	t.Run("a stopped one starts though the default network went with another", func(t *testing.T) {
		run(t, "--name old --init "+sleep)
		b.ok(t, "container", "stop", "old")
		b.ok(t, "container", "run", "--rm", "busybox", "true")
		eventually(t, 5*time.Second, func() error {
			if out := b.ok(t, "network", "inspect", "bridge", "--format", "{{len .IPAM.Config}}"); out != "0\n" {
				return fmt.Errorf("it has %s subnets", out)
			}
			return nil
		})
		b.ok(t, "container", "start", "old")
		if !b.look(t, "old").State.Running {
			t.Error("it does not run")
		}
		remove(t, "old")
	})
	t.Run("docker's networks are there and stay", func(t *testing.T) {
		if out := b.ok(t, "network", "ls", "--format", "{{.Name}} {{.Driver}}"); out != "bridge bridge\nhost host\nnone null\n" {
			t.Errorf("%q", out)
		}
		run(t, "--name inhost --network host "+sleep)
		if out := b.ok(t, "network", "inspect", "host", "--format", "{{.Driver}} {{range .Containers}}{{.Name}}{{end}}"); out != "host inhost\n" {
			t.Errorf("%q", out)
		}
		for _, args := range []string{"network rm bridge", "network rm host", "network create none", "network connect host inhost"} {
			b.fails(t, strings.Fields(args)...)
		}
		remove(t, "inhost")
	})
	t.Run("a network may be named by the start of its ID, and joined later", func(t *testing.T) {
		id := strings.TrimSpace(b.ok(t, "network", "create", "net"))
		run(t, "--name member --network "+id[:12]+" "+sleep)
		b.ok(t, "network", "connect", "bridge", "member")
		b.ok(t, "network", "disconnect", id[:12], "member")
		if out := b.ok(t, "container", "inspect", "member", "--format", "{{json .NetworkSettings.Networks}}"); !strings.Contains(out, `"bridge"`) || strings.Contains(out, `"net"`) {
			t.Error(out)
		}
		b.ok(t, "network", "connect", "--alias", "x", id[:12], "member")
		if r := b.fails(t, "network", "rm", id[:12]); !strings.Contains(r.stderr, "member") {
			t.Error(r)
		}
		b.ok(t, "container", "rm", "--force", "member")
		b.ok(t, "network", "rm", id[:12])
		b.nothingLeft(t, clean)
	})
	t.Run("a logging driver that is not there is replaced, an unknown one refused", func(t *testing.T) {
		if r := b.stack(t, "container", "run", "--rm", "--log-driver", "splunk", "busybox", "echo", "hi"); r.code != 0 || r.stdout != "hi\n" || !strings.Contains(r.stderr, "splunk") {
			t.Error(r)
		}
		if r := b.fails(t, "container", "run", "--log-driver", "sylog", "busybox", "true"); r.code != 125 || !strings.Contains(r.stderr, "json-file") {
			t.Error(r)
		}
		b.nothingLeft(t, clean)
	})
	t.Run("what the host does not have is told before anything is made", func(t *testing.T) {
		for flags, want := range map[string]string{
			"--cpus 4000":                          "this host has",
			"--cpuset-cpus 4000":                   "no CPU 4000",
			"--device /dev/nosuch":                 "/dev/nosuch",
			"--sysctl kernel.panic=1":              "not namespaced",
			"--sysctl net.no.such=1":               "no such parameter",
			"--sysctl kernel.shmmax=9 --ipc host":  "host's ipc namespace",
			"--stop-signal SIGNOSUCH":              "unknown signal",
			"--blkio-weight 5":                     "10 to 1000",
			"--gpus all":                           "nvidia-ctk cdi generate",
			"--network nosuch --publish 1234:1234": "network nosuch does not exist",
		} {
			args := append([]string{"container", "run", "--detach"}, strings.Fields(flags)...)
			if r := b.fails(t, append(args, "busybox", "true")...); r.code != 125 || !strings.Contains(r.stderr, want) {
				t.Errorf("%s: %v", flags, r)
			}
		}
		if out := b.ok(t, "container", "ls", "--all", "--quiet"); out != "" {
			t.Errorf("there is %s", out)
		}
		b.nothingLeft(t, clean)
	})
	t.Run("exposed ports are shown, and --publish-all publishes them", func(t *testing.T) {
		run(t, "--name shown --expose 6000-6001 exposes sleep infinity")
		if out := b.ok(t, "container", "ls", "--format", "{{.Ports}}"); out != "80/tcp, 53/udp, 6000-6001/tcp\n" {
			t.Errorf("%q", out)
		}
		out := b.ok(t, "container", "inspect", "shown", "--format", "{{json .Config.ExposedPorts}} {{json .NetworkSettings.Ports}}")
		if want := `{"53/udp":{},"6000/tcp":{},"6001/tcp":{},"80/tcp":{}} {"53/udp":null,"6000/tcp":null,"6001/tcp":null,"80/tcp":null}` + "\n"; out != want {
			t.Errorf("%s", out)
		}
		run(t, "--name published --publish-all --publish 127.0.0.1:8099:80 exposes sleep infinity")
		if out := b.ok(t, "container", "port", "published", "80"); out != "127.0.0.1:8099\n" {
			t.Errorf("%q", out)
		}
		if out := b.ok(t, "container", "port", "published", "53/udp"); !strings.HasPrefix(out, "0.0.0.0:") {
			t.Errorf("%q", out)
		}
		remove(t, "shown", "published")
	})
	t.Run("a cgroup parent that was made goes again, one that was there stays", func(t *testing.T) {
		made, theirs := "made-"+filepath.Base(b.root), "theirs-"+filepath.Base(b.root)
		groups := func(name string) []string {
			list, _ := filepath.Glob("/sys/fs/cgroup/*/" + name)
			v2, _ := filepath.Glob("/sys/fs/cgroup/" + name)
			return append(list, v2...)
		}
		root := "/sys/fs/cgroup/pids"
		if !exists(root) {
			root = "/sys/fs/cgroup"
		}
		must(t, os.Mkdir(filepath.Join(root, theirs), 0o755))
		t.Cleanup(func() { os.Remove(filepath.Join(root, theirs)) })
		run(t, "--name a --cgroup-parent "+made+"/below "+sleep)
		run(t, "--name b --cgroup-parent "+made+"/below "+sleep)
		run(t, "--name c --cgroup-parent "+theirs+" "+sleep)
		b.ok(t, "container", "rm", "--force", "a", "c")
		if len(groups(made)) == 0 {
			t.Error("it went before the last container in it")
		}
		b.ok(t, "container", "rm", "--force", "b")
		if left := groups(made); len(left) > 0 {
			t.Errorf("%v are left", left)
		}
		if !exists(filepath.Join(root, theirs)) {
			t.Error("a group of somebody else is gone")
		}
	})
	t.Run("an exec has the container's OOM score", func(t *testing.T) {
		run(t, "--name adjusted --oom-score-adj 321 "+sleep)
		if out := b.ok(t, "container", "exec", "adjusted", "cat", "/proc/self/oom_score_adj"); out != "321\n" {
			t.Errorf("%q", out)
		}
		remove(t, "adjusted")
	})
	t.Run("inspect tells limits and settings as docker does", func(t *testing.T) {
		run(t, "--name told --memory 50m --sysctl net.ipv4.ip_unprivileged_port_start=5 --tmpfs /t:size=64k,noexec --publish 127.0.0.1::80 --annotation a=b "+sleep)
		const format = "{{json .HostConfig.Sysctls}} {{json .HostConfig.Tmpfs}} {{.HostConfig.MemorySwap}} {{json .HostConfig.PortBindings}} {{json .HostConfig.Annotations}}"
		want := `{"net.ipv4.ip_unprivileged_port_start":"5"} {"/t":"size=65536,noexec"} 104857600 {"80/tcp":[{"HostIp":"127.0.0.1","HostPort":""}]} {"a":"b"}` + "\n"
		if out := b.ok(t, "container", "inspect", "told", "--format", format); out != want {
			t.Errorf("%s", out)
		}
		remove(t, "told")
	})
	t.Run("wrong flags and missing names have docker's exit codes", func(t *testing.T) {
		for args, want := range map[string]int{
			"container run --nosuch busybox": 125,
			"container rm --nosuch":          125,
			"container rm nosuch":            1,
			"container rm --force nosuch":    0,
			"container exec nosuch true":     1,
		} {
			if r := b.stack(t, strings.Fields(args)...); r.code != want || r.stderr == "" {
				t.Errorf("%s: want %d, got %v", args, want, r)
			}
		}
	})
}

// A process that nobody reaps keeps its pid namespace, and so its container,
// from ending: the host's init may be a program that reaps none.
func TestDetachedExecHasAParent(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.compose(t, `
		name: app
		services:
			box: {image: busybox, command: [sleep, infinity]}
	`)
	b.ok(t, "up", "--detach")
	b.ok(t, "exec", "--detach", "box", "sleep", "4321")
	parent := func(t *testing.T) int {
		t.Helper()
		pids, err := machine.PIDs()
		must(t, err)
		for _, pid := range pids {
			if p, err := machine.ReadProc(pid); err == nil && p.Cmdline == "sleep 4321" {
				return p.Parent
			}
		}
		t.Fatal("the command does not run")
		return 0
	}
	supervisor, err := b.keeper("app", "supervisor")
	must(t, err)
	if got := parent(t); got != supervisor {
		t.Errorf("its parent is %d, the supervisor %d", got, supervisor)
	}
	kill(t, supervisor, unix.SIGKILL)
	b.eventuallyKept(t, "app")
	guardian, err := b.keeper("app", "guardian")
	must(t, err)
	eventually(t, 5*time.Second, func() error {
		if got := parent(t); got != guardian {
			return fmt.Errorf("without its supervisor its parent is %d, the guardian %d", got, guardian)
		}
		return nil
	})
	if r := b.stack(t, "exec", "--detach", "box", "nosuch"); r.code != 127 {
		t.Error(r)
	}
	b.ok(t, "exec", "--detach", "--tty", "box", "sh", "-c", "tty > /tmp/tty; yes | head -n 100000; touch /tmp/done")
	eventually(t, 5*time.Second, func() error {
		if r := b.stack(t, "exec", "-T", "box", "cat", "/tmp/tty", "/tmp/done"); r.code != 0 || !strings.HasPrefix(r.stdout, "/dev/pts/") {
			return fmt.Errorf("%v", r)
		}
		return nil
	})
	b.ok(t, "down")
	b.nothingLeft(t, b.before)
}

func TestChangedVolume(t *testing.T) {
	b := newBox(t, "busybox:latest")
	project := func(t *testing.T, level int) {
		t.Helper()
		b.compose(t, fmt.Sprintf(`
			name: app
			services:
				box: {image: busybox, command: [sleep, infinity], volumes: ["data:/data"]}
			volumes:
				data: {labels: {level: "%d"}}
		`, level))
	}
	fresh := func(t *testing.T) bool {
		t.Helper()
		return b.stack(t, "exec", "-T", "box", "test", "-e", "/data/file").code != 0
	}
	mark := func(t *testing.T) {
		t.Helper()
		b.ok(t, "exec", "-T", "box", "touch", "/data/file")
	}
	project(t, 1)
	b.ok(t, "up", "--detach")
	mark(t)
	project(t, 2)
	t.Run("it is kept, which plan and up say", func(t *testing.T) {
		if r := b.stack(t, "plan"); r.code != 0 || !strings.Contains(r.stdout, "keep volume data") || !strings.Contains(r.stdout, "level") {
			t.Error(r)
		}
		if r := b.stack(t, "up", "--detach"); r.code != 0 || !strings.Contains(r.stderr, "--yes") || fresh(t) {
			t.Error(r)
		}
	})
	t.Run("with --yes it is made anew", func(t *testing.T) {
		if r := b.stack(t, "plan", "--yes"); r.code != 2 || !strings.Contains(r.stdout, "recreate volume app_data") {
			t.Error(r)
		}
		b.ok(t, "up", "--detach", "--yes")
		if !fresh(t) {
			t.Error("the old data is there")
		}
	})
	for answer, want := range map[string]bool{"n": false, "y": true} {
		t.Run("on a terminal it is asked, and told "+answer, func(t *testing.T) {
			mark(t)
			project(t, 3)
			cmd := b.command(t.Context(), "up", "--detach")
			tty, err := pty.Start(cmd)
			must(t, err)
			defer tty.Close()
			out := collect(tty)
			out.until(t, 10*time.Second, "[y/N]")
			tty.Write([]byte(answer + "\n"))
			if err := cmd.Wait(); err != nil {
				t.Fatal(err)
			}
			if got := fresh(t); got != want {
				t.Errorf("made anew: %v", got)
			}
			project(t, 2)
			b.ok(t, "up", "--detach", "--yes")
		})
	}
	b.ok(t, "down", "--volumes")
	b.nothingLeft(t, b.before)
}

func TestNamesAndNamespacesOfSingleContainers(t *testing.T) {
	b := newBox(t, "busybox:latest", "probe")
	b.ok(t, "network", "create", "net")
	run := func(t *testing.T, args ...string) {
		t.Helper()
		b.ok(t, append([]string{"container", "run", "--detach", "--init"}, args...)...)
	}
	run(t, "--name", "asker", "--network", "net", "--ipc", "shareable", "probe", "on-term", "0")
	run(t, "--name", "old", "--network", "net", "busybox", "sleep", "infinity")
	lookup := func(t *testing.T, name, kind string) lookedUp {
		t.Helper()
		var a lookedUp
		must(t, json.Unmarshal([]byte(b.ok(t, "container", "exec", "asker", "/probe", "lookup", name, kind)), &a))
		return a
	}
	t.Run("a container that is renamed is found by its new name only", func(t *testing.T) {
		b.ok(t, "container", "rename", "old", "new")
		if a := lookup(t, "new", "A"); len(a.Answers) != 1 {
			t.Errorf("%+v", a)
		}
		if a := lookup(t, "old", "A"); a.Rcode != "NXDOMAIN" {
			t.Errorf("%+v", a)
		}
		b.ok(t, "container", "restart", "new")
		if a := lookup(t, "new", "A"); len(a.Answers) != 1 {
			t.Errorf("after a restart: %+v", a)
		}
	})
	t.Run("without being asked for there is no IPv6", func(t *testing.T) {
		if a := lookup(t, "new", "AAAA"); a.Rcode != "NOERROR" || len(a.Answers) != 0 {
			t.Errorf("%+v", a)
		}
		if out := b.ok(t, "container", "exec", "new", "hostname", "-i"); len(strings.Fields(out)) != 1 {
			t.Errorf("%q", out)
		}
	})
	t.Run("who shares a network has the host name of its owner", func(t *testing.T) {
		want := b.ok(t, "container", "exec", "new", "hostname")
		if out := b.ok(t, "container", "run", "--rm", "--network", "container:new", "busybox", "sh", "-c", "hostname; cat /etc/hostname; echo $HOSTNAME"); out != want+want+want {
			t.Errorf("%q is not three times %q", out, want)
		}
		b.fails(t, "container", "run", "--rm", "--network", "container:new", "--hostname", "x", "busybox", "true")
	})
	t.Run("an IPC namespace is shared by who says so", func(t *testing.T) {
		b.ok(t, "container", "run", "--rm", "--ipc", "container:asker", "busybox", "true")
		if r := b.fails(t, "container", "run", "--rm", "--ipc", "container:new", "busybox", "true"); !strings.Contains(r.stderr, "shareable") {
			t.Error(r)
		}
	})
	t.Run("names are filtered by regular expressions", func(t *testing.T) {
		if out := b.ok(t, "container", "ls", "--filter", "name=^ne.$", "--format", "{{.Names}}"); out != "new\n" {
			t.Errorf("%q", out)
		}
		if out := b.ok(t, "network", "ls", "--filter", "name=^n.t$", "--format", "{{.Name}}"); out != "net\n" {
			t.Errorf("%q", out)
		}
	})
	t.Run("a field that is not there is an error in a template", func(t *testing.T) {
		if out := b.ok(t, "inspect", "new", "--format", "{{slice .ID 0 12}}{{if .State.Health}} checked{{end}}"); strings.TrimSpace(out) != b.look(t, "new").ID[:12] {
			t.Errorf("%q", out)
		}
		if r := b.fails(t, "inspect", "new", "--format", "{{.Nope}}"); !strings.Contains(r.stderr, "Nope") {
			t.Error(r)
		}
	})
	t.Run("a container without logs says so", func(t *testing.T) {
		if out := b.ok(t, "container", "run", "--name", "silent", "--log-driver", "none", "busybox", "echo", "seen"); out != "seen\n" {
			t.Errorf("%q", out)
		}
		if r := b.fails(t, "container", "logs", "silent"); !strings.Contains(r.stderr, "none") {
			t.Error(r)
		}
	})
	b.ok(t, "container", "rm", "--force", "asker", "new", "silent")
	b.ok(t, "network", "rm", "net")
	b.nothingLeft(t, b.before)
}

func TestKeepsPrograms(t *testing.T) {
	b := newBox(t, "busybox:latest").with("STACK_KEEP_PROGRAMS=1")
	clean := snap(t, b)
	id := strings.TrimSpace(b.ok(t, "container", "run", "--detach", "--name", "kept", "busybox", "sleep", "infinity"))
	program, err := os.ReadFile(filepath.Join(b.runRoot(), "containers", id, "program"))
	must(t, err)
	for _, want := range []string{"clone ", "seccomp(", "execveat("} {
		if !strings.Contains(string(program), want) {
			t.Errorf("the program has no %q:\n%s", want, program)
		}
	}
	b.ok(t, "system", "check")
	b.ok(t, "container", "rm", "--force", "kept")
	b.nothingLeft(t, clean)
}
