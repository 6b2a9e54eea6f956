package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
)

func TestSingleContainers(t *testing.T) {
	b := newBox(t, "busybox:latest", "probe")
	name := func(t *testing.T, args ...string) string {
		t.Helper()
		return strings.TrimSpace(b.ok(t, append([]string{"container", "run", "--detach"}, args...)...))
	}

	t.Run("run gives output and exit code, and --rm leaves nothing", func(t *testing.T) {
		clean := snap(t, b)
		r := b.stack(t, "container", "run", "--rm", "busybox", "sh", "-c", "echo hi; echo oh >&2; exit 3")
		if r.stdout != "hi\n" || r.stderr != "oh\n" || r.code != 3 {
			t.Error(r)
		}
		b.nothingLeft(t, clean)
	})
	t.Run("where there is no Compose file, run, exec and logs mean single containers", func(t *testing.T) {
		if r := b.stack(t, "run", "--rm", "busybox", "echo", "hi"); r.code != 0 || r.stdout != "hi\n" {
			t.Error(r)
		}
		name(t, "--name", "solo", "busybox", "sh", "-c", "echo logged; exec sleep infinity")
		if out := b.ok(t, "exec", "solo", "echo", "inside"); out != "inside\n" {
			t.Errorf("%q", out)
		}
		eventually(t, 5*time.Second, func() error { return count(b.ok(t, "logs", "solo"), "logged", 1) })
	})
	t.Run("inside a project the service wins, and an unknown one's error says how to name a container", func(t *testing.T) {
		p := b.in(t, "project")
		p.compose(t, `
			services:
				solo: {image: busybox, command: [sleep, infinity]}
		`)
		p.ok(t, "up", "--detach")
		if out := p.ok(t, "exec", "-T", "solo", "hostname"); strings.TrimSpace(out) != b.look(t, "project-solo-1").ID[:12] {
			t.Errorf("%q", out)
		}
		if r := p.fails(t, "exec", "-T", "sol", "true"); !strings.Contains(r.stderr, "stack container exec") {
			t.Error(r)
		}
		p.ok(t, "down", "--timeout", "0")
	})
	t.Run("each has one address, which is free again after --rm", func(t *testing.T) {
		network := func() string {
			out, err := filepath.Glob(filepath.Join(b.root, "data", "networks", "*.leases"))
			if err != nil || len(out) != 1 {
				t.Fatalf("%v, %v", out, err)
			}
			text, err := os.ReadFile(out[0])
			if err != nil {
				t.Fatal(err)
			}
			return string(text)
		}
		before := strings.Count(network(), `"key"`)
		for range 4 {
			b.ok(t, "container", "run", "--rm", "busybox", "true")
		}
		// A link goes after its container, and who looks for an address forgets its lease.
		eventually(t, soon, func() error {
			ends, err := filepath.Glob(filepath.Join(b.root, "run", "endpoints", "*.json"))
			if err == nil && len(ends) > 1 {
				err = fmt.Errorf("the endpoints of all are there: %v", ends)
			}
			return err
		})
		b.ok(t, "container", "run", "--rm", "busybox", "true")
		if after := strings.Count(network(), `"key"`); after > before+1 {
			t.Errorf("%d leases, then %d: %s", before, after, network())
		}
	})
	t.Run("a name is taken once", func(t *testing.T) {
		if r := b.fails(t, "container", "run", "--detach", "--name", "solo", "busybox", "true"); !strings.Contains(r.stderr, "solo") {
			t.Error(r)
		}
	})
	t.Run("an ID may be shortened", func(t *testing.T) {
		id := b.look(t, "solo").ID
		if got := b.look(t, id[:6]).ID; got != id {
			t.Errorf("%s is not %s", got, id)
		}
	})
	t.Run("run on a terminal is one inside", func(t *testing.T) {
		cmd := b.command(t.Context(), "container", "run", "--rm", "-it", "probe", "tty")
		tty, err := pty.StartWithSize(cmd, &pty.Winsize{Cols: 90, Rows: 30})
		must(t, err)
		defer tty.Close()
		out := collect(tty)
		out.until(t, 5*time.Second, "size 90x30")
		tty.Write([]byte{3})
		cmd.Wait()
	})
	t.Run("detach keys leave it running, attach comes back", func(t *testing.T) {
		cmd := b.command(t.Context(), "container", "run", "-it", "--name", "shell", "busybox", "sh")
		tty, err := pty.Start(cmd)
		must(t, err)
		defer tty.Close()
		out := collect(tty)
		out.until(t, 5*time.Second, "# ")
		tty.Write([]byte("V=kept\n\x10\x11")) // Ctrl-P Ctrl-Q
		if err := cmd.Wait(); err != nil {
			t.Errorf("detach: %v", err)
		}
		if s := b.look(t, "shell").State; !s.Running {
			t.Fatalf("%+v", s)
		}
		again := b.command(t.Context(), "container", "attach", "shell")
		tty2, err := pty.Start(again)
		must(t, err)
		defer tty2.Close()
		out2 := collect(tty2)
		tty2.Write([]byte("echo is-$V; exit 4\n"))
		out2.until(t, 5*time.Second, "is-kept")
		if code, _ := exitCode(again.Wait()); code != 4 {
			t.Errorf("attach exited %d", code)
		}
	})
	t.Run("create, start, cp, wait, rm", func(t *testing.T) {
		b.ok(t, "container", "create", "--name", "made", "busybox", "cat", "/in")
		b.write(t, "file", "content\n")
		b.ok(t, "container", "cp", "file", "made:/in")
		b.ok(t, "container", "start", "made")
		if out := b.ok(t, "container", "wait", "made"); strings.TrimSpace(out) != "0" {
			t.Errorf("%q", out)
		}
		if out := b.ok(t, "container", "logs", "made"); out != "content\n" {
			t.Errorf("%q", out)
		}
		b.ok(t, "container", "rm", "made")
	})
	t.Run("ls filters and prints in the asked format", func(t *testing.T) {
		out := b.ok(t, "container", "ls", "--all", "--filter", "name=solo", "--format", "{{.Names}} {{.State}}")
		if out != "solo running\n" {
			t.Errorf("%q", out)
		}
	})
	t.Run("ports and names work on a user network", func(t *testing.T) {
		b.ok(t, "network", "create", "net")
		name(t, "--network", "net", "--name", "web", "--publish", "127.0.0.1:8080:80", "probe", "serve", "80")
		fetch(t, "http://127.0.0.1:8080/host")
		if r := b.stack(t, "container", "run", "--rm", "--network", "net", "probe", "get", "http://web/host"); r.code != 0 {
			t.Error(r)
		}
		if r := b.stack(t, "network", "rm", "net"); r.code == 0 {
			t.Error("a network in use was removed")
		}
		b.ok(t, "container", "rm", "--force", "web")
		b.ok(t, "network", "rm", "net")
	})
	t.Run("prune removes what has ended", func(t *testing.T) {
		b.ok(t, "container", "rm", "--force", "solo", "shell")
		b.stack(t, "container", "run", "busybox", "false")
		b.ok(t, "container", "prune", "--force")
		if out := b.ok(t, "container", "ls", "--all", "--quiet"); out != "" {
			t.Errorf("%q", out)
		}
		b.nothingLeft(t, b.before)
	})
}

func TestIsolation(t *testing.T) {
	b := newBox(t, "redis:7")
	run := func(t *testing.T, args ...string) string {
		t.Helper()
		return b.ok(t, append([]string{"container", "run", "--rm", "--entrypoint", "sh"}, args...)...)
	}
	t.Run("the file system is the image's, and changes stay in the container", func(t *testing.T) {
		run(t, "redis:7", "-c", "touch /usr/changed")
		if out := run(t, "redis:7", "-c", "ls /usr"); strings.Contains(out, "changed") {
			t.Error(out)
		}
	})
	t.Run("a read-only container is read-only but for its volumes", func(t *testing.T) {
		out := run(t, "--read-only", "--tmpfs", "/scratch", "redis:7", "-c", "touch /usr/x 2>/dev/null || echo no; touch /scratch/x /data/x && echo yes")
		if out != "no\nyes\n" {
			t.Errorf("%q", out)
		}
	})
	t.Run("processes, host name and IPC are the container's own", func(t *testing.T) {
		out := run(t, "--hostname", "alone", "redis:7", "-c", "ls -d /proc/[0-9]* | wc -l; hostname")
		if f := strings.Fields(out); len(f) != 2 || len(f[0]) > 1 || f[1] != "alone" {
			t.Errorf("%q", out)
		}
	})
	t.Run("users and groups of the image have their names", func(t *testing.T) {
		if out := run(t, "--user", "redis", "--group-add", "daemon", "redis:7", "-c", "id"); !strings.Contains(out, "uid=999(redis) gid=999(redis) groups=999(redis),1(daemon)") {
			t.Error(out)
		}
	})
	t.Run("init reaps orphans", func(t *testing.T) {
		out := run(t, "--init", "redis:7", "-c", "(true &) ; sleep 0.2; grep -l '^State:.Z' /proc/[0-9]*/status; echo done")
		if out != "done\n" {
			t.Errorf("%q", out)
		}
	})
}

func TestPruneBesideAContainerThatLeaves(t *testing.T) {
	b := newBox(t, "busybox:latest")
	for range 3 {
		// Its network outlives it for a moment.
		b.ok(t, "container", "run", "--rm", "busybox:latest", "true")
		if out := b.ok(t, "network", "prune", "--force"); out != "" {
			t.Errorf("%q", out)
		}
		b.ok(t, "system", "prune", "--force")
	}
}
