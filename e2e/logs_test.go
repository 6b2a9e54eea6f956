package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
)

func TestLogs(t *testing.T) {
	b := newBox(t, "busybox:latest", "probe")
	b.compose(t, `
		name: app
		services:
			both:
				image: busybox
				command: [sh, -c, "echo out; echo err >&2; exec sleep infinity"]
			partial:
				image: busybox
				command: [sh, -c, "printf unfinished; exec sleep infinity"]
			bytes:
				image: busybox
				command: [sh, -c, "printf '\\000\\001\\377\\n'; exec sleep infinity"]
			blob:
				image: probe
				command: [blob, "5000000"]
			many:
				image: probe
				command: [numbers, "1000"]
	`)
	b.ok(t, "up", "--detach")
	b.eventuallyState(t, "app-blob-1", "exited")
	b.eventuallyLog(t, "many", "end 1000")

	t.Run("the streams stay apart", func(t *testing.T) {
		b.eventuallyLog(t, "both", "out")
		r := b.stack(t, "container", "logs", "app-both-1")
		if r.stdout != "out\n" || r.stderr != "err\n" {
			t.Errorf("%q %q", r.stdout, r.stderr)
		}
	})
	t.Run("a line that is not finished is shown too", func(t *testing.T) {
		eventually(t, 5*time.Second, func() error {
			if r := b.stack(t, "container", "logs", "app-partial-1"); r.stdout != "unfinished" {
				return fmt.Errorf("%v", r)
			}
			return nil
		})
	})
	t.Run("it does not run into the first line of the next run", func(t *testing.T) {
		b.ok(t, "restart", "--timeout", "0", "partial")
		eventually(t, 5*time.Second, func() error { return count(b.ok(t, "logs", "partial"), "| unfinished\n", 2) })
	})
	t.Run("bytes come back as they were written", func(t *testing.T) {
		eventually(t, 5*time.Second, func() error {
			if r := b.stack(t, "container", "logs", "app-bytes-1"); r.stdout != "\x00\x01\xff\n" {
				return fmt.Errorf("%q", r.stdout)
			}
			return nil
		})
	})
	t.Run("a line of many MiB is one line", func(t *testing.T) {
		lines := b.logLines(t, "blob")
		if len(lines) != 1 || len(lines[0]) != 5000000 {
			t.Errorf("%d lines, the first of %d bytes", len(lines), len(lines[0]))
		}
	})
	t.Run("--tail, --since and --until select", func(t *testing.T) {
		if lines := strings.Split(strings.TrimSpace(b.ok(t, "logs", "--no-log-prefix", "--tail", "3", "many")), "\n"); len(lines) != 3 || lines[2] != "end 1000" {
			t.Errorf("--tail: %q", lines)
		}
		now := time.Now().Format(time.RFC3339Nano)
		if out := b.ok(t, "logs", "--since", now, "many"); out != "" {
			t.Errorf("--since: %q", tail(out))
		}
		if n := strings.Count(b.ok(t, "logs", "--until", now, "many"), "\n"); n != 1001 {
			t.Errorf("--until: %d lines", n)
		}
	})
	t.Run("lines have their service's name, and times when asked for", func(t *testing.T) {
		out := b.ok(t, "logs", "--timestamps", "--tail", "1", "many")
		name, rest, ok := strings.Cut(out, " | ")
		stamp, text, _ := strings.Cut(strings.TrimSpace(rest), " ")
		if _, err := time.Parse(time.RFC3339Nano, stamp); !ok || err != nil || strings.TrimSpace(name) != "many-1" || text != "end 1000" {
			t.Errorf("%q: %v", out, err)
		}
	})
	t.Run("--follow goes on over a restart and a recreate of the service", func(t *testing.T) {
		f := b.start(t, "logs", "--follow", "both")
		f.out.until(t, 5*time.Second, "out\n")
		b.ok(t, "restart", "--timeout", "0", "both")
		eventually(t, 10*time.Second, func() error { return count(f.out.String(), "| out", 2) })
		b.ok(t, "up", "--detach", "--force-recreate", "--timeout", "0", "both")
		eventually(t, 10*time.Second, func() error { return count(f.out.String(), "| out", 3) })
	})
	b.ok(t, "down", "--timeout", "1")
	b.nothingLeft(t, b.before)
}

func count(s, sub string, want int) error {
	if n := strings.Count(s, sub); n != want {
		return fmt.Errorf("%d of %d times %q in %s", n, want, sub, tail(s))
	}
	return nil
}

func TestLogRotation(t *testing.T) {
	b := newBox(t, "probe")
	b.compose(t, `
		name: app
		services:
			many:
				image: probe
				command: [numbers, "300000"]
				logging: {options: {max-size: 100k, max-file: "3"}}
	`)
	b.ok(t, "up", "--detach")
	b.eventuallyLog(t, "many", "end 300000")
	t.Run("the budget is kept", func(t *testing.T) {
		// Three files of 100 kB; what is being written may stand above it for a moment.
		eventually(t, 5*time.Second, func() error {
			if n := diskUse(t, filepath.Join(b.dataRoot(), "containers")); n > 400_000 {
				return fmt.Errorf("the container's files hold %d bytes", n)
			}
			return nil
		})
	})
	t.Run("what is kept is the end, without a gap", func(t *testing.T) {
		lines := b.logLines(t, "many")
		first := 0
		if _, err := fmt.Sscan(lines[0], &first); err != nil || first < 2 {
			t.Fatalf("the first line kept is %q (%v)", lines[0], err)
		}
		for i, l := range lines[:len(lines)-1] {
			if l != fmt.Sprint(first+i) {
				t.Fatalf("after %d comes %q", first+i-1, l)
			}
		}
	})
}

// A follower needs one of the inotify instances that a user has, and goes on
// without it, telling why it is slower.
func TestFollowersAndInotify(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.compose(t, `
		name: app
		services:
			web: {image: busybox, command: [sh, -c, "trap 'echo two; exit' TERM; echo one; sleep 600 & wait"]}
			other: {image: busybox, command: [sh, -c, "echo three; exec sleep 600"]}
	`)
	b.ok(t, "up", "--detach")
	b.eventuallyLog(t, "web", "one")
	const sysctl = "fs.inotify.max_user_instances"
	// In a user namespace of its own, a command has as many as that one may.
	follow := func(instances int) *job {
		limited := *b
		limited.program = b.write(t, fmt.Sprintf("with-%d", instances), fmt.Sprintf(
			"#!/bin/sh\nexec unshare --user --map-root-user sh -c 'echo %d >/proc/sys/user/max_inotify_instances && exec %s \"$@\"' sh \"$@\"\n", instances, shared.Stack))
		must(t, os.Chmod(limited.program, 0o755))
		return limited.start(t, "logs", "--follow", "--no-log-prefix")
	}
	one, none := follow(1), follow(0)
	for _, j := range []*job{one, none} {
		j.out.until(t, 10*time.Second, "one\n")
		j.out.until(t, 10*time.Second, "three\n")
	}
	b.ok(t, "stop", "--timeout", "1")
	for j, told := range map[*job]int{one: 0, none: 1} {
		j.wait(t, 20*time.Second)
		if out := j.out.String(); strings.Count(out, "two\n") != 1 || strings.Count(out, sysctl) != told {
			t.Errorf("with %d instances: %s", 1-told, out)
		}
	}
	b.ok(t, "down", "--timeout", "0")
}

// diskUse is the size of all files below a directory.
func diskUse(t *testing.T, root string) (n int64) {
	t.Helper()
	must(t, filepath.WalkDir(root, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // rotated away meanwhile
		}
		if i, err := d.Info(); err == nil && i.Mode().IsRegular() {
			n += i.Size()
		}
		return nil
	}))
	return n
}

func TestForegroundUp(t *testing.T) {
	b := newBox(t, "probe", "busybox:latest")
	b.compose(t, `
		name: app
		services:
			web: {image: probe, command: [on-term, "0"]}
			stubborn: {image: probe, command: [deaf]}
	`)
	t.Run("it shows the logs, and --abort-on-container-exit ends with the code", func(t *testing.T) {
		j := b.start(t, "up", "--abort-on-container-exit", "--exit-code-from", "web", "--timeout", "1")
		j.out.until(t, 10*time.Second, "ready")
		b.ok(t, "kill", "--signal", "TERM", "web")
		if code := j.wait(t, 20*time.Second); code != 0 {
			t.Errorf("exit code %d", code)
		}
		if s := b.look(t, "app-stubborn-1").State; s.Running {
			t.Error("the other service still runs")
		}
	})
	t.Run("one interrupt stops gracefully, a second kills", func(t *testing.T) {
		j := b.start(t, "up")
		for _, from := range []string{"stubborn-1", "web-1     "} { // both have their handlers then
			j.out.until(t, 10*time.Second, from+"  | ready")
		}
		start := time.Now()
		interrupt(t, j)
		b.eventuallyState(t, "app-web-1", "exited")
		interrupt(t, j)
		j.wait(t, 8*time.Second)
		if took := time.Since(start); took > 8*time.Second {
			t.Errorf("it took %v", took)
		}
		if s := b.look(t, "app-stubborn-1").State; s.Running || s.ExitCode != 137 {
			t.Errorf("stubborn is %+v", s)
		}
	})
	t.Run("d on a terminal detaches", func(t *testing.T) {
		cmd := b.command(t.Context(), "up")
		tty, err := pty.StartWithSize(cmd, &pty.Winsize{Cols: 120, Rows: 40})
		must(t, err)
		defer tty.Close()
		out := collect(tty)
		out.until(t, 10*time.Second, "ready")
		_, err = tty.Write([]byte("d"))
		must(t, err)
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: %s", err, tail(out.String()))
		}
		if s := b.look(t, "app-web-1").State; !s.Running {
			t.Errorf("%+v", s)
		}
	})
	b.ok(t, "down", "--timeout", "0")
	b.nothingLeft(t, b.before)
}

// interruptSignal is what Ctrl-C sends.
const interruptSignal = syscall.SIGINT

func interrupt(t *testing.T, j *job) {
	t.Helper()
	j.signal(t, interruptSignal)
}

// An up in the foreground tells of an end after all that the container printed.
func TestUpTellsOfEndsInOrder(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.compose(t, `
	services:
	  job: {image: busybox, command: echo hello}
	  other: {image: busybox, command: sh -c "echo bye; usleep 40000; exit 4"}
	`)
	for range 20 { // the last end may come just as up begins to look
		out := b.ok(t, "up")
		for line, end := range map[string]string{"hello": "job-1 exited with code 0", "bye": "other-1 exited with code 4"} {
			if at := strings.Index(out, line); at < 0 || at > strings.Index(out, end) {
				t.Errorf("%q, then %q: %s", line, end, out)
			}
		}
	}
	b.ok(t, "down")
	b.nothingLeft(t, b.before)
}

// TestCrashLoop follows a container that ends three times, and one that heeds
// no signal.
func TestCrashLoop(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.compose(t, `
		name: crash
		services:
			loop:
				image: busybox
				command: [sh, -c, "echo oops >&2; exit 3"]
				restart: on-failure:2
			deaf:
				image: busybox
				command: [sh, -c, "trap '' INT TERM; echo deaf; while :; do sleep 1; done"]
				profiles: [deaf]
	`)
	t.Run("each end is told", func(t *testing.T) {
		r := b.stack(t, "up", "loop")
		for text, n := range map[string]int{"loop-1 exited with code 3 (restarting)\n": 2, "loop-1 exited with code 3\n": 1} {
			if err := count(r.stdout, text, n); err != nil {
				t.Errorf("%v\n%v", err, r)
			}
		}
	})
	t.Run("logs writes both streams to stdout", func(t *testing.T) {
		if r := b.stack(t, "logs", "loop"); strings.Count(r.stdout, "| oops\n") != 3 || r.stderr != "" {
			t.Errorf("%v", r)
		}
	})
	t.Run("the third signal leaves", func(t *testing.T) {
		j := b.start(t, "run", "--rm", "-T", "--name", "deaf", "deaf")
		eventually(t, 20*time.Second, func() error { return count(b.stack(t, "container", "logs", "deaf").stdout, "deaf\n", 1) })
		for range impatient {
			j.signal(t, syscall.SIGINT)
			time.Sleep(50 * time.Millisecond) // two at once are one to the kernel
		}
		if code := j.wait(t, 20*time.Second); code != 130 {
			t.Errorf("exit code %d", code)
		}
		b.ok(t, "container", "kill", "deaf")
	})
}

// impatient is how many signals end a command whose container goes on.
const impatient = 3

// What logging options name is said of each line where it is asked for.
func TestLogDetails(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.compose(t, `
		services:
			web:
				image: busybox
				command: sh -c 'echo one; printf two'
				labels: {team: "a b", app.kind: web, other: x}
				environment: [STAGE=live, STAGE_NAME=x, SECRET=no]
				logging:
					driver: json-file
					options: {labels: "team,none", labels-regex: "^app", env: STAGE, env-regex: "_NAME$$", tag: "{{.Name}}/{{.ImageName}}", max-size: 1m}
			plain: {image: busybox, command: echo three}
	`)
	if r := b.stack(t, "up"); r.code != 0 || strings.Contains(r.stderr, "no effect") {
		t.Errorf("%v", r)
	}
	const about = "STAGE=live,STAGE_NAME=x,app.kind=web,tag=app-web-1%2Fbusybox,team=a+b "
	if out := b.ok(t, "container", "logs", "--details", "app-web-1"); out != about+"one\n"+about+"two" {
		t.Errorf("%q", out)
	}
	if out := b.ok(t, "container", "logs", "--details", "--follow", "--timestamps", "--tail", "1", "app-web-1"); !strings.HasSuffix(out, "Z "+about+"two") {
		t.Errorf("%q", out)
	}
	if out := b.ok(t, "container", "logs", "--details", "app-plain-1"); out != " three\n" {
		t.Errorf("%q", out)
	}
	b.ok(t, "down")
	b.compose(t, `
		services:
			web: {image: busybox, logging: {options: {env-regex: "["}}}
	`)
	if r := b.fails(t, "up", "-d"); !strings.Contains(r.stderr, "compose.yaml:2: services.web.logging.options.env-regex: cannot use logging option env-regex: \"[\" is no pattern: error parsing regexp") {
		t.Errorf("%v", r)
	}
}
