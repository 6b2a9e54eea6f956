package e2e

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/stack-run/stack/e2e/machine"
)

func TestExec(t *testing.T) {
	b := newBox(t, "busybox:latest", "redis:7", "probe")
	b.compose(t, `
		name: app
		services:
			box:
				image: redis:7
				entrypoint: [sleep, infinity]
				environment: {COLOUR: blue}
				working_dir: /var
				mem_limit: 100m
			probe:
				image: probe
				command: [on-term, "0"]
	`)
	b.ok(t, "up", "--detach")

	t.Run("output, error output and exit code come back apart", func(t *testing.T) {
		r := b.stack(t, "exec", "-T", "box", "sh", "-c", "echo out; echo err >&2; exit 42")
		if r.stdout != "out\n" || r.stderr != "err\n" || r.code != 42 {
			t.Error(r)
		}
	})
	t.Run("death by a signal is 128 and the signal", func(t *testing.T) {
		if r := b.stack(t, "exec", "-T", "box", "sh", "-c", "kill -KILL $$"); r.code != 137 {
			t.Error(r)
		}
	})
	t.Run("a command that is not there is 127, one that may not be executed 126", func(t *testing.T) {
		if r := b.stack(t, "exec", "-T", "box", "/no/such"); r.code != 127 {
			t.Error(r)
		}
		if r := b.stack(t, "exec", "-T", "box", "/etc/passwd"); r.code != 126 {
			t.Error(r)
		}
	})
	t.Run("standard input reaches the command, with its end", func(t *testing.T) {
		data := strings.Repeat("0123456789abcdef\n", 300_000)
		r := b.input(t, data, "exec", "-T", "box", "sha256sum")
		sum := sha256.Sum256([]byte(data))
		if r.stdout != hex.EncodeToString(sum[:])+"  -\n" {
			t.Error(r)
		}
	})
	t.Run("much output arrives whole, whoever reads it", func(t *testing.T) {
		r := b.stack(t, "exec", "-T", "box", "head", "-c", "20000000", "/dev/zero")
		if len(r.stdout) != 20_000_000 {
			t.Errorf("%d bytes", len(r.stdout))
		}
	})
	t.Run("environment, directory and user are the container's or as asked for", func(t *testing.T) {
		if out := b.ok(t, "exec", "-T", "box", "sh", "-c", "echo $COLOUR; pwd; id -un"); out != "blue\n/var\nroot\n" {
			t.Errorf("%q", out)
		}
		if out := b.ok(t, "exec", "-T", "-e", "COLOUR=red", "-w", "/usr", "-u", "redis", "box", "sh", "-c", "echo $COLOUR; pwd; id -un; id -gn"); out != "red\n/usr\nredis\nredis\n" {
			t.Errorf("%q", out)
		}
		if out := b.ok(t, "exec", "-T", "-u", "1234:99", "box", "sh", "-c", "id -u; id -g"); out != "1234\n99\n" {
			t.Errorf("%q", out)
		}
	})
	t.Run("it has the container's control group, capabilities and seccomp filter", func(t *testing.T) {
		const look = "cat /proc/%s/cgroup; grep -E '^(Cap|Seccomp:|NoNewPrivs)' /proc/%[1]s/status"
		own := b.ok(t, "exec", "-T", "box", "sh", "-c", fmt.Sprintf(look, "$$"))
		first := b.ok(t, "exec", "-T", "box", "sh", "-c", fmt.Sprintf(look, "1"))
		if own != first {
			t.Errorf("it has\n%s\nthe container has\n%s", own, first)
		}
	})
	t.Run("--privileged has all capabilities", func(t *testing.T) {
		out := b.ok(t, "exec", "-T", "--privileged", "box", "sh", "-c", "grep CapEff /proc/$$/status")
		plain := b.ok(t, "exec", "-T", "box", "sh", "-c", "grep CapEff /proc/$$/status")
		if out == plain {
			t.Errorf("privileged %s, plain %s", out, plain)
		}
	})
	t.Run("--index chooses the replica", func(t *testing.T) {
		b.ok(t, "up", "--detach", "--scale", "box=2")
		if out := b.ok(t, "exec", "-T", "--index", "2", "box", "hostname"); strings.TrimSpace(out) != b.look(t, "app-box-2").ID[:12] {
			t.Errorf("%q", out)
		}
	})
	t.Run("a terminal has the caller's size and follows its changes", func(t *testing.T) {
		cmd := b.command(t.Context(), "exec", "probe", "/probe", "tty")
		tty, err := pty.StartWithSize(cmd, &pty.Winsize{Cols: 101, Rows: 33})
		must(t, err)
		defer tty.Close()
		out := collect(tty)
		out.until(t, 5*time.Second, "size 101x33")
		must(t, pty.Setsize(tty, &pty.Winsize{Cols: 55, Rows: 22}))
		out.until(t, 5*time.Second, "size 55x22")
		_, err = tty.Write([]byte{3}) // Ctrl-C, by the container's terminal
		must(t, err)
		if err := cmd.Wait(); err == nil {
			t.Error("an interrupted command must not succeed")
		}
	})
	t.Run("without a terminal there is none inside", func(t *testing.T) {
		if out := b.ok(t, "exec", "-T", "probe", "/probe", "tty"); out != "not a terminal\n" {
			t.Errorf("%q", out)
		}
	})
	t.Run("what an exec leaves running ends with the container", func(t *testing.T) {
		b.ok(t, "exec", "-d", "box", "sleep", "12345")
		b.ok(t, "stop", "--timeout", "0", "box")
		for _, l := range now(t, machine.Processes) {
			if strings.Contains(l, "12345") {
				t.Errorf("left: %s", l)
			}
		}
	})
	t.Run("exec in a stopped service says so", func(t *testing.T) {
		r := b.fails(t, "exec", "-T", "box", "true")
		if !strings.Contains(r.stderr, "not running") {
			t.Error(r)
		}
	})
	b.ok(t, "down")
	b.nothingLeft(t, b.before)
}

// collect reads a terminal until its other side is closed.
func collect(tty *os.File) *buffer {
	out := newBuffer()
	go func() {
		io.Copy(out, tty) // EIO at the end
		out.Close()
	}()
	return out
}

func TestRun(t *testing.T) {
	b := newBox(t, "busybox:latest", "probe")
	b.compose(t, `
		name: app
		services:
			db: {image: probe, command: [serve, "5432"]}
			job:
				image: busybox
				environment: {A: one}
				command: [sh, -c, "echo $$A"]
				depends_on: [db]
				ports: ["8080:80"]
	`)
	t.Run("it starts dependencies, gives output and exit code, and --rm removes", func(t *testing.T) {
		r := b.stack(t, "run", "--rm", "-e", "A=two", "job")
		if r.code != 0 || r.stdout != "two\n" {
			t.Error(r)
		}
		if r := b.stack(t, "run", "--rm", "job", "sh", "-c", "exit 5"); r.code != 5 {
			t.Error(r)
		}
		if rows := b.ps(t); len(rows) != 1 || rows[0].Service != "db" {
			t.Errorf("%+v", rows)
		}
	})
	t.Run("it reaches the project's services", func(t *testing.T) {
		if r := b.stack(t, "run", "--rm", "job", "wget", "-q", "-O", "-", "http://db:5432/host"); r.code != 0 {
			t.Error(r)
		}
	})
	t.Run("standard input reaches it", func(t *testing.T) {
		if r := b.input(t, "hello", "run", "--rm", "-T", "job", "cat"); r.stdout != "hello" {
			t.Error(r)
		}
	})
	t.Run("--service-ports publishes, without it nothing is", func(t *testing.T) {
		b.ok(t, "run", "--detach", "--name", "plain", "job", "httpd", "-f", "-p", "80")
		if _, err := get("http://127.0.0.1:8080/"); err == nil || strings.Contains(err.Error(), "404") {
			t.Errorf("the port answers: %v", err)
		}
		b.ok(t, "run", "--detach", "--service-ports", "--name", "published", "job", "httpd", "-f", "-p", "80")
		eventually(t, 5*time.Second, func() error {
			if _, err := get("http://127.0.0.1:8080/"); err == nil || !strings.Contains(err.Error(), "404") {
				return fmt.Errorf("the port does not answer: %v", err)
			}
			return nil
		})
	})
	t.Run("down removes what run left", func(t *testing.T) {
		b.ok(t, "down", "--timeout", "0")
		b.nothingLeft(t, b.before)
	})
}

// A second mount of a container's files takes the work directory away from the first,
// which can then change nothing any more: those who copy take turns, and a start
// waits for them.
func TestCopiesTakeTurnsWithAStart(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.compose(t, `
		services:
			web: {image: busybox, command: sleep 1000, init: true, stop_signal: SIGKILL}
	`)
	b.ok(t, "up", "-d")
	b.ok(t, "stop")

	const clients = 8
	file := b.write(t, "file", "text")
	results := make(chan result, 2*clients)
	for i := range clients {
		go func() {
			results <- b.stack(t, "cp", file, fmt.Sprintf("web:/etc/copied-%d", i))
		}()
		go func() {
			results <- b.stack(t, "cp", "web:/etc/passwd", filepath.Join(b.dir, fmt.Sprintf("passwd-%d", i)))
		}()
	}
	for range 2 * clients {
		if r := <-results; r.code != 0 {
			t.Error(r)
		}
	}

	copying := b.start(t, "cp", "-", "web:/etc")
	tw := tar.NewWriter(copying.stdin)
	entry := func(name string) {
		t.Helper()
		must(t, tw.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: 1}))
		_, err := tw.Write([]byte("x"))
		must(t, err)
	}
	entry("first")
	at := filepath.Join(b.dataRoot(), "containers-rw", b.look(t, "app-web-1").ID, "upper/etc/first")
	comes(t, at, "x")
	start := b.start(t, "start")
	start.out.until(t, limit, "Starting")
	for i := range 50 {
		entry(fmt.Sprintf("hosts-%d", i))
	}
	entry("passwd") // which is the image's, and copied up
	must(t, tw.Close())
	must(t, copying.stdin.Close())
	if code := copying.wait(t, limit); code != 0 {
		t.Errorf("cp: %d: %s", code, copying.out.String())
	}
	if code := start.wait(t, limit); code != 0 {
		t.Errorf("start: %d: %s", code, start.out.String())
	}
	if out := b.ok(t, "exec", "-T", "web", "sh", "-c", "ls /etc | grep -c copied-; cat /etc/passwd /etc/hosts-49; echo y >>/etc/group && echo writes"); out != "8\nxxwrites\n" {
		t.Errorf("after the start: %q", out)
	}
	b.ok(t, "down")
}

func TestCopy(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.compose(t, `
		name: app
		services:
			box: {image: busybox, command: [sleep, infinity], volumes: ["data:/data"]}
		volumes: {data: {}}
	`)
	b.ok(t, "up", "--detach")
	b.write(t, "in/a.txt", "a\n")
	b.write(t, "in/sub/b.txt", "b\n")
	t.Run("a directory goes in and comes out", func(t *testing.T) {
		b.ok(t, "cp", "in", "box:/data/copy")
		if out := b.ok(t, "exec", "-T", "box", "cat", "/data/copy/a.txt", "/data/copy/sub/b.txt"); out != "a\nb\n" {
			t.Errorf("%q", out)
		}
		b.ok(t, "cp", "box:/data/copy", "out")
		if text, err := os.ReadFile(b.dir + "/out/sub/b.txt"); err != nil || string(text) != "b\n" {
			t.Errorf("%q %v", text, err)
		}
	})
	t.Run("a directory that is not there is named as the user did", func(t *testing.T) {
		if r := b.fails(t, "cp", "in/a.txt", "box:/nodir/x"); !strings.Contains(r.stderr, "cannot copy to app-box-1:/nodir") {
			t.Error(r)
		}
	})
	t.Run("a tar stream goes both ways", func(t *testing.T) {
		tarball := b.ok(t, "cp", "box:/data/copy", "-")
		r := b.input(t, tarball, "cp", "-", "box:/tmp")
		if r.code != 0 {
			t.Error(r)
		}
		b.ok(t, "exec", "-T", "box", "cat", "/tmp/copy/a.txt")
	})
	t.Run("links in the container are followed", func(t *testing.T) {
		b.ok(t, "exec", "-T", "box", "sh", "-c", "mkdir /real && echo in > /real/f && ln -s real /dirlink && ln -s /real/f /filelink && ln -s real/new /dangling")
		b.ok(t, "cp", "box:/dirlink/.", "behind")
		if text, err := os.ReadFile(b.dir + "/behind/f"); err != nil || string(text) != "in\n" {
			t.Errorf("%q %v", text, err)
		}
		if out := b.ok(t, "cp", "box:/dirlink/.", "-"); !strings.Contains(out, "in\n") {
			t.Errorf("a stream of %d bytes", len(out))
		}
		b.ok(t, "cp", "in/a.txt", "box:/filelink")
		b.ok(t, "cp", "in/sub/b.txt", "box:/dangling")
		if out := b.ok(t, "exec", "-T", "box", "sh", "-c", "cat /real/f /real/new; readlink /filelink"); out != "a\nb\n/real/f\n" {
			t.Errorf("%q", out)
		}
	})
	t.Run("a link in the container does not lead out of it", func(t *testing.T) {
		secret := b.write(t, "secret", "host\n")
		b.ok(t, "exec", "-T", "box", "ln", "-s", secret, "/data/link")
		if r := b.stack(t, "cp", "-L", "box:/data/link", "stolen"); r.code == 0 {
			t.Error(r)
		}
	})
}

// What a service does not depend on may lack its image where that service is run.
func TestRunNeedsNoOtherImages(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.compose(t, `
		name: lone
		services:
			job: {image: busybox, command: [echo, done]}
			other: {image: "nobody/has:this"}
	`)
	if out := b.ok(t, "run", "--rm", "job"); out != "done\n" {
		t.Errorf("run prints %q", out)
	}
}
