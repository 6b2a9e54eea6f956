package e2e

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stack-run/stack/e2e/machine"
)

// A box is an installation of stack that is apart from all others: a data root,
// a run root and a working directory.
type box struct {
	root string // holds data, run and the directories of projects
	dir  string // working directory of commands
	env  []string
	// program is what is run, "" for the program under test.
	program string
	before  *machine.Snapshot // the machine when the box was made
}

// newBox returns an empty installation with the named images. At the end of the
// test it is taken down; what went wrong is shown when the test failed.
func newBox(t *testing.T, refs ...string) *box {
	t.Helper()
	if shared == nil {
		t.Skip("needs root")
	}
	root, err := os.MkdirTemp(shared.Temp, "")
	if err != nil {
		t.Fatal(err)
	}
	b := &box{root: root, dir: filepath.Join(root, "app")}
	if err := os.Mkdir(b.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	b.before = snap(t, b)
	t.Cleanup(func() {
		if t.Failed() {
			b.dump(t)
		}
		b.destroy(t)
	})
	for _, ref := range refs {
		b.load(t, ref)
	}
	return b
}

// load imports an image.
func (b *box) load(t *testing.T, ref string, changes ...string) {
	t.Helper()
	img, ok := shared.Images[ref]
	if !ok {
		t.Fatalf("there is no test image %q", ref)
	}
	args := []string{"image", "import"}
	for _, c := range append(img.Changes, changes...) {
		args = append(args, "--change", c)
	}
	b.ok(t, append(args, img.Tar, ref)...)
}

// loadAs imports an image with further changes under another name.
func (b *box) loadAs(t *testing.T, ref, as string, changes ...string) {
	t.Helper()
	img := shared.Images[ref]
	args := []string{"image", "import"}
	for _, c := range append(append([]string(nil), img.Changes...), changes...) {
		args = append(args, "--change", c)
	}
	b.ok(t, append(args, img.Tar, as)...)
}

// in returns the same installation with another working directory.
func (b *box) in(t *testing.T, name string) *box {
	t.Helper()
	c := *b
	c.dir = filepath.Join(b.root, name)
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return &c
}

// with returns the same installation with further environment variables.
func (b *box) with(env ...string) *box {
	c := *b
	c.env = append(append([]string(nil), b.env...), env...)
	return &c
}

func (b *box) installation() machine.Installation { return machine.Installation{Root: b.root} }

func (b *box) dataRoot() string { return b.installation().DataRoot() }
func (b *box) runRoot() string  { return b.installation().RunRoot() }

// write writes a file in the working directory.
func (b *box) write(t *testing.T, name, text string) string {
	t.Helper()
	p := filepath.Join(b.dir, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return p
}

// compose writes compose.yaml. Tabs may be used to indent the literal.
func (b *box) compose(t *testing.T, yaml string) {
	t.Helper()
	b.write(t, "compose.yaml", unindent(yaml))
}

// unindent takes the first line's indentation off all lines and turns the
// remaining tabs into two spaces each, which YAML accepts.
func unindent(s string) string {
	s = strings.TrimLeft(s, "\n")
	prefix := s[:len(s)-len(strings.TrimLeft(s, "\t"))]
	var out strings.Builder
	for line := range strings.Lines(s) {
		line = strings.TrimPrefix(line, prefix)
		rest := strings.TrimLeft(line, "\t")
		out.WriteString(strings.Repeat("  ", len(line)-len(rest)) + rest)
	}
	return strings.TrimRight(out.String(), "\t ")
}

// result is what a finished command left.
type result struct {
	args           []string
	stdout, stderr string
	code           int
	took           time.Duration
}

func (r result) String() string {
	return fmt.Sprintf("stack %s: exit %d after %v\nstdout: %s\nstderr: %s",
		strings.Join(r.args, " "), r.code, r.took.Round(time.Millisecond), tail(r.stdout), tail(r.stderr))
}

func tail(s string) string {
	if len(s) > 4000 {
		return "…" + s[len(s)-4000:]
	}
	return s
}

// limit is how long any one command may take.
const limit = 90 * time.Second

// command returns a stack command in the box.
func (b *box) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, cmp.Or(b.program, shared.Stack), args...)
	cmd.Dir = b.dir
	cmd.Env = append(b.installation().Environ(), b.env...)
	cmd.WaitDelay = 2 * time.Second
	return cmd
}

// stack runs a command to its end.
func (b *box) stack(t *testing.T, args ...string) result {
	t.Helper()
	return b.input(t, "", args...)
}

// input runs a command with text on its standard input.
func (b *box) input(t *testing.T, text string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := b.command(ctx, args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(text), &out, &errs
	start := time.Now()
	code, err := exitCode(cmd.Run())
	r := result{args, out.String(), errs.String(), code, time.Since(start)}
	switch {
	// Errorf, not Fatalf: tests run commands in goroutines too.
	case ctx.Err() != nil:
		t.Errorf("hangs: %v", r)
		r.code = -1
	case err != nil:
		t.Errorf("%v: %v", err, r)
		r.code = -1
	}
	return r
}

// ok runs a command that must succeed and returns its standard output.
func (b *box) ok(t *testing.T, args ...string) string {
	t.Helper()
	r := b.stack(t, args...)
	if r.code != 0 {
		t.Fatal(r)
	}
	return r.stdout
}

// fails runs a command that must not succeed.
func (b *box) fails(t *testing.T, args ...string) result {
	t.Helper()
	r := b.stack(t, args...)
	if r.code == 0 {
		t.Fatalf("succeeded, must fail: %v", r)
	}
	return r
}

// job is a command that runs beside the test.
type job struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	out    *buffer
	done   chan struct{}
	code   int
	cancel func()
}

// start starts a command whose output (both streams) is collected.
func (b *box) start(t *testing.T, args ...string) *job {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := b.command(ctx, args...)
	j := &job{cmd: cmd, out: newBuffer(), done: make(chan struct{}), cancel: cancel}
	cmd.Stdout, cmd.Stderr = j.out, j.out
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	j.stdin = stdin
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		j.code, _ = exitCode(cmd.Wait())
		j.out.Close()
		close(j.done)
	}()
	t.Cleanup(func() {
		cancel()
		<-j.done
		if t.Failed() {
			t.Logf("stack %s wrote: %s", strings.Join(args, " "), tail(j.out.String()))
		}
	})
	return j
}

// wait returns the exit code of a job that must end by itself.
func (j *job) wait(t *testing.T, d time.Duration) int {
	t.Helper()
	select {
	case <-j.done:
		return j.code
	case <-time.After(d):
		t.Fatalf("stack %s still runs after %v; it wrote: %s", strings.Join(j.cmd.Args[1:], " "), d, tail(j.out.String()))
		return 0
	}
}

func (j *job) signal(t *testing.T, s os.Signal) {
	t.Helper()
	if err := j.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
}

// info is the part of inspect's JSON that the tests look at.
type info struct {
	ID              string `json:"Id"`
	Name            string
	Image           string
	RestartCount    int
	State           state
	HostConfig      map[string]any
	Config          struct{ Labels map[string]string }
	Mounts          []struct{ Type, Name, Source, Destination string }
	NetworkSettings struct {
		Networks map[string]struct{ IPAddress, GlobalIPv6Address, Gateway string }
	}
}

type state struct {
	Status     string
	Running    bool
	Paused     bool
	OOMKilled  bool
	Pid        int
	ExitCode   int
	Error      string
	StartedAt  time.Time
	FinishedAt time.Time
	Health     *struct {
		Status        string
		FailingStreak int
		Log           []struct {
			ExitCode int
			Output   string
		}
	}
}

func (i info) health() string {
	if i.State.Health == nil {
		return ""
	}
	return i.State.Health.Status
}

// ip is the container's address on a network, or on its only one.
func (i info) ip(t *testing.T, network string) string {
	t.Helper()
	for name, n := range i.NetworkSettings.Networks {
		if network == "" || name == network {
			return n.IPAddress
		}
	}
	t.Fatalf("%s has no network %q: %v", i.Name, network, i.NetworkSettings.Networks)
	return ""
}

// look inspects a container by name or ID.
func (b *box) look(t *testing.T, name string) info {
	t.Helper()
	i, err := b.tryLook(t, name)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func (b *box) tryLook(t *testing.T, name string) (info, error) {
	t.Helper()
	r := b.stack(t, "inspect", name)
	if r.code != 0 {
		return info{}, fmt.Errorf("%v", r)
	}
	var list []info
	if err := json.Unmarshal([]byte(r.stdout), &list); err != nil || len(list) != 1 {
		return info{}, fmt.Errorf("inspect must print a list of one: %v: %v", err, r)
	}
	return list[0], nil
}

// ids lists the project's containers: name → ID.
func (b *box) ids(t *testing.T) map[string]string {
	t.Helper()
	m := map[string]string{}
	for _, p := range b.ps(t) {
		m[p.Name] = p.ID
	}
	return m
}

// listed is one container of ps --format json.
type listed struct {
	ID, Name, Service, State, Health string
	ExitCode                         int
}

// ps lists all containers of the project.
func (b *box) ps(t *testing.T) []listed {
	t.Helper()
	return jsonLines[listed](t, b.ok(t, "ps", "--all", "--format", "json"))
}

// jsonLines reads one JSON value per line, or one list.
func jsonLines[T any](t *testing.T, s string) []T {
	t.Helper()
	if strings.HasPrefix(strings.TrimSpace(s), "[") {
		var out []T
		if err := json.Unmarshal([]byte(s), &out); err != nil {
			t.Fatalf("not JSON: %v: %s", err, s)
		}
		return out
	}
	var out []T
	d := json.NewDecoder(strings.NewReader(s))
	for d.More() {
		var v T
		if err := d.Decode(&v); err != nil {
			t.Fatalf("not JSON lines: %v: %s", err, s)
		}
		out = append(out, v)
	}
	return out
}
