package e2e

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
)

// A container's standard input is a pipe as it is elsewhere: it can be opened again, keeps
// what was not read, and ends.
func TestStandardInput(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.compose(t, "name: app\nservices: {web: {image: busybox, command: sleep infinity, init: true}}\n")
	ways := map[string][]string{
		"run":                         {"run", "--rm", "-T", "web"},
		"container run":               {"container", "run", "--rm", "-i", "busybox"},
		"container run, another user": {"container", "run", "--rm", "-i", "--user", "70:71", "busybox"},
		"container run, own users":    {"container", "run", "--rm", "-i", "--userns", "auto", "--user", "70", "busybox"},
	}
	b.ok(t, "up", "--detach")
	ways["exec"] = []string{"exec", "-T", "web"}
	large := strings.Repeat("0123456789abcdef", 1<<16)
	for name, way := range ways {
		for _, c := range []struct{ what, input, script, want string }{
			{"a late reader", "x\n", "sleep 0.3; cat /dev/stdin", "x\n"},
			{"one that reads a part", "one\ntwo\n", "read a; sleep 0.3; cat </proc/self/fd/0", "two\n"},
			{"one that reads to the end first", "x\n", "cat; cat /dev/stdin; cat", "x\n"},
			{"without data", "", "cat /dev/stdin; cat", ""},
			{"one that never reads", large, "true", ""},
			{"much data", large, "sleep 0.1; wc -c </dev/stdin", fmt.Sprintln(len(large))},
		} {
			t.Run(name+": "+c.what, func(t *testing.T) {
				if c.what == "one that reads a part" {
					// A shell reads byte by byte, so that the rest is left.
					c.script = strings.ReplaceAll(c.script, "; ", "\n")
				}
				if r := b.input(t, c.input, append(way, "sh", "-c", c.script)...); r.code != 0 || r.stdout != c.want {
					t.Error(r)
				}
			})
		}
	}
	b.ok(t, "down")
}

// The input goes on whatever is killed, but for who gives it.
func TestStandardInputAndKills(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.compose(t, "name: app\nservices: {web: {image: busybox, init: true}}\n")
	shows := func(t *testing.T, j *job, want string) {
		t.Helper()
		eventually(t, 20*time.Second, func() error {
			if out := j.out.String(); !strings.Contains(out, want) {
				return fmt.Errorf("no %q in %q", want, out)
			}
			return nil
		})
	}
	type point struct {
		name string
		kill []string
	}
	for _, p := range []point{{"the supervisor", []string{"supervisor"}}, {"all that keep it", []string{"warden", "guardian", "supervisor"}}} {
		t.Run(p.name, func(t *testing.T) {
			j := b.start(t, "run", "--rm", "-T", "web", "sh", "-c", "cat; cat /dev/stdin; echo over")
			io.WriteString(j.stdin, "one\n")
			shows(t, j, "one\n")
			b.killKeepers(t, "app", p.kill...)
			b.eventuallyKept(t, "app")
			io.WriteString(j.stdin, "two\n")
			shows(t, j, "two\n")
			must(t, j.stdin.Close())
			if code := j.wait(t, 20*time.Second); code != 0 || !strings.Contains(j.out.String(), "over\n") {
				t.Errorf("exit code %d: %q", code, j.out.String())
			}
		})
	}
	t.Run("the client", func(t *testing.T) {
		j := b.start(t, "run", "-T", "--name", "fed", "web", "sh", "-c", "cat; cat /dev/stdin; echo over")
		io.WriteString(j.stdin, "one\n")
		shows(t, j, "one\n")
		must(t, j.cmd.Process.Kill())
		<-j.done
		b.eventuallyState(t, "fed", "exited")
		if out := b.ok(t, "container", "logs", "fed"); out != "one\nover\n" {
			t.Errorf("%q", out)
		}
	})
	t.Run("a client that gives no input", func(t *testing.T) {
		j := b.start(t, "container", "run", "-i", "--name", "other", "busybox", "cat")
		io.WriteString(j.stdin, "one\n")
		shows(t, j, "one\n")
		looks := b.start(t, "container", "attach", "--no-stdin", "other")
		eventually(t, 20*time.Second, func() error {
			io.WriteString(j.stdin, "two\n") // until it looks
			if out := looks.out.String(); !strings.Contains(out, "two\n") {
				return fmt.Errorf("it sees %q", out)
			}
			return nil
		})
		must(t, looks.cmd.Process.Kill())
		<-looks.done
		io.WriteString(j.stdin, "three\n")
		shows(t, j, "three\n")
		must(t, j.stdin.Close())
		if code := j.wait(t, 20*time.Second); code != 0 {
			t.Errorf("exit code %d", code)
		}
	})
	t.Run("an input that stays open can be given after all that kept it were killed", func(t *testing.T) {
		b.compose(t, "name: app\nservices: {web: {image: busybox, stdin_open: true, command: [sh, -c, 'trap : USR1; sleep infinity & wait; cat']}}\n")
		b.ok(t, "up", "--detach")
		b.killKeepers(t, "app", "warden", "guardian", "supervisor")
		j := b.start(t, "attach", "web")
		io.WriteString(j.stdin, "one\n")
		b.ok(t, "kill", "--signal", "USR1")
		shows(t, j, "one\n")
		must(t, j.stdin.Close())
		b.ok(t, "kill")
	})
	b.ok(t, "container", "rm", "--force", "fed", "other")
	b.ok(t, "down")
}
