package faults

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/e2e/machine"
)

// limit is how long a command may take before it is called stuck.
func limit() time.Duration { return slower(60 * time.Second) }

// slower is a bound for a machine that has more to do than this test.
func slower(d time.Duration) time.Duration { return time.Duration(float64(d) * *slow) }

// An installation is a stack with the images that the projects need.
type installation struct {
	machine.Installation
	facts  string            // what payloads know of themselves
	before *machine.Snapshot // the machine when there was nothing
	clean  *machine.Snapshot // with images, without projects
}

func newInstallation() (*installation, error) { return newInstallationOn(nil) }

// newInstallationOn makes one after prepare has made its roots.
func newInstallationOn(prepare func(*installation) error) (*installation, error) {
	root, err := os.MkdirTemp(shared.Temp, "")
	if err != nil {
		return nil, err
	}
	in := &installation{Installation: machine.Installation{Root: root}, facts: filepath.Join(root, "facts")}
	for _, d := range []string{in.facts, filepath.Join(root, "app")} {
		if err := os.Mkdir(d, 0o777); err != nil {
			return nil, err
		}
	}
	if err := os.Chmod(in.facts, 0o777); err != nil {
		return nil, err
	}
	if in.before, err = in.Take(); err != nil {
		return nil, err
	}
	if prepare != nil {
		if err := prepare(in); err != nil {
			return nil, errors.Join(err, in.destroy())
		}
	}
	for ref, img := range shared.Images {
		args := []string{"image", "import"}
		for _, c := range img.Changes {
			args = append(args, "--change", c)
		}
		if err := in.run(append(args, img.Tar, ref)...).mustSucceed(); err != nil {
			return nil, errors.Join(err, in.destroy())
		}
	}
	in.clean, err = in.Take()
	return in, err
}

// destroy takes everything of the installation away, whatever state it is in.
func (in *installation) destroy() error {
	return errors.Join(in.Clear(in.before), os.RemoveAll(in.Root))
}

// result is what a finished command left.
type result struct {
	args           []string
	stdout, stderr string
	code           int
	took           time.Duration
	killed         bool // the harness killed it on purpose
	stuck          bool
}

func (r result) String() string {
	end := fmt.Sprintf("exit %d", r.code)
	switch {
	case r.stuck:
		end = "STUCK"
	case r.killed:
		end = "killed"
	}
	stderr, dump, _ := strings.Cut(withoutProgress(r.stderr), "SIGQUIT: quit")
	var out strings.Builder
	fmt.Fprintf(&out, "stack %s: %s after %v", strings.Join(r.args, " "), end, r.took.Round(time.Millisecond))
	for name, text := range map[string]string{"stdout": tail(r.stdout, 1500), "stderr": tail(stderr, 3000)} {
		if text != "" {
			fmt.Fprintf(&out, "\n  %s: %s", name, text)
		}
	}
	if dump != "" {
		fmt.Fprintf(&out, "\n  where it is:%s", dump[:min(len(dump), 8000)])
	}
	return out.String()
}

var progress = regexp.MustCompile(`(?m)^ *(Container|Network|Volume|Image) \S+ +[A-Z][a-z]+( +\S.*)?$`)

// withoutProgress leaves out the lines that tell of what went well.
func withoutProgress(s string) string {
	return progress.ReplaceAllStringFunc(s, func(l string) string {
		if strings.Contains(l, "Error") {
			return l
		}
		return ""
	})
}

var blank = regexp.MustCompile(`\n\s*\n`)

func tail(s string, n int) string {
	s = strings.TrimSpace(blank.ReplaceAllString(s, "\n"))
	if len(s) > n {
		s = "…" + s[len(s)-n:]
	}
	return strings.ReplaceAll(s, "\n", "\n    ")
}

// mustSucceed is an error unless the command ended with 0.
func (r result) mustSucceed() error {
	if r.code != 0 || r.stuck {
		return errors.New(r.String())
	}
	return nil
}

// mustEnd is an error if the command did not come to an end.
func (r result) mustEnd() error {
	if r.stuck {
		return fmt.Errorf("stuck: %v", r)
	}
	return nil
}

// A client is a command that runs.
type client struct {
	cmd      *exec.Cmd
	out, err bytes.Buffer
	begin    time.Time
	done     chan struct{} // closed when it has ended
	killed   bool
}

// start starts a command in the project's directory.
func (in *installation) start(env []string, args ...string) (*client, error) {
	c := in.prepare(env, args...)
	return c, c.begins()
}

func (in *installation) prepare(env []string, args ...string) *client {
	c := &client{cmd: exec.Command(shared.Stack, args...), done: make(chan struct{})}
	c.cmd.Dir = filepath.Join(in.Root, "app")
	c.cmd.Env = append(in.Environ(), env...)
	c.cmd.Stdout, c.cmd.Stderr = &c.out, &c.err
	// What it leaves behind with its output must not keep the harness.
	c.cmd.WaitDelay = 2 * time.Second
	return c
}

func (c *client) begins() error {
	c.begin = time.Now()
	if err := c.cmd.Start(); err != nil {
		return err
	}
	go func() { c.cmd.Wait(); close(c.done) }()
	return nil
}

// wait waits for a command's end. One that is stuck has to say where, and dies.
func (c *client) wait() result {
	stuck := false
	select {
	case <-c.done:
	case <-time.After(limit()):
		stuck = true
		c.cmd.Process.Signal(unix.SIGQUIT) // the Go runtime prints all goroutines
		select {
		case <-c.done:
		case <-time.After(5 * time.Second):
			c.cmd.Process.Kill()
			<-c.done
		}
	}
	return result{
		args: c.cmd.Args[1:], stdout: c.out.String(), stderr: c.err.String(),
		code: c.cmd.ProcessState.ExitCode(), took: time.Since(c.begin), killed: c.killed, stuck: stuck,
	}
}

// run runs a command to its end.
func (in *installation) run(args ...string) result { return in.runWith(nil, args...) }

// command runs a command that another one starts, if wrap is not empty.
func (in *installation) command(wrap []string, args ...string) result {
	if len(wrap) == 0 {
		return in.run(args...)
	}
	c := in.prepare(nil, args...)
	c.cmd.Args = append(append(slices.Clone(wrap), shared.Stack), args...)
	path, err := exec.LookPath(wrap[0])
	if err != nil {
		return result{args: args, code: -1, stderr: err.Error()}
	}
	c.cmd.Path = path
	if err := c.begins(); err != nil {
		return result{args: args, code: -1, stderr: err.Error()}
	}
	r := c.wait()
	r.args = args
	return r
}

func (in *installation) runWith(env []string, args ...string) result {
	c, err := in.start(env, args...)
	if err != nil {
		return result{args: args, code: -1, stderr: err.Error()}
	}
	return c.wait()
}

// nothingLeft is an error unless the machine is as it was with images only. The
// last process may take a moment to leave, and so may the kernel.
func (in *installation) nothingLeft(keep ...string) error {
	return eventually(10*time.Second, func() error {
		now, err := in.Take()
		if err != nil {
			return err
		}
		var left []string
	lines:
		for _, l := range now.Since(in.clean) {
			for _, k := range keep {
				if strings.HasPrefix(l, k) {
					continue lines
				}
			}
			left = append(left, l)
		}
		if len(left) > 0 {
			return fmt.Errorf("left behind:\n    %s", strings.Join(left, "\n    "))
		}
		return nil
	})
}

// eventually asks until ok returns nil: the kernel has no event for what is looked at.
func eventually(d time.Duration, ok func() error) error {
	d = slower(d)
	deadline := time.Now().Add(d)
	pause := time.NewTicker(20 * time.Millisecond)
	defer pause.Stop()
	for {
		err := ok()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not within %v: %w", d, err)
		}
		<-pause.C
	}
}

// row is one container of ps --format json.
type row struct {
	ID, Name, Service, State, Health, Status string
	ExitCode                                 int
}

func (r row) String() string {
	if r.State == "exited" {
		return fmt.Sprintf("%s exited(%d)", r.Name, r.ExitCode)
	}
	return r.Name + " " + r.State
}

// ps lists all containers of a project.
func (in *installation) ps(project string) ([]row, error) {
	r := in.run("-p", project, "ps", "--all", "--format", "json")
	if err := r.mustSucceed(); err != nil {
		return nil, err
	}
	return jsonLines[row](r.stdout)
}

// cutOff tells whether a container's last start did not come as far as its command.
func (in *installation) cutOff(id string) bool {
	r := in.run("container", "inspect", "--format", "{{.State.Error}}", id)
	return strings.Contains(r.stdout, "its start was cut off")
}

// jsonLines reads one JSON value a line, or one list.
func jsonLines[T any](s string) (out []T, err error) {
	if strings.HasPrefix(strings.TrimSpace(s), "[") {
		return out, json.Unmarshal([]byte(s), &out)
	}
	d := json.NewDecoder(strings.NewReader(s))
	for d.More() {
		var v T
		if err := d.Decode(&v); err != nil {
			return nil, fmt.Errorf("not JSON lines: %w: %s", err, s)
		}
		out = append(out, v)
	}
	return out, nil
}

// strays is an error if something of a container is there that is in none of the
// rows, which are those of all projects.
func (in *installation) strays(rows []row) (errs []error) {
	for _, dir := range []string{
		filepath.Join(in.DataRoot(), "containers"), filepath.Join(in.DataRoot(), "containers-rw"),
		filepath.Join(in.DataRoot(), "logs"), filepath.Join(in.RunRoot(), "containers"),
	} {
		entries, _ := os.ReadDir(dir) // an installation that had no container has none of them
		for _, e := range entries {
			known := slices.ContainsFunc(rows, func(r row) bool { return strings.HasPrefix(e.Name(), r.ID) })
			if len(e.Name()) == 64 && !known {
				errs = append(errs, fmt.Errorf("left of a container that there is not: %s", filepath.Join(dir, e.Name())))
			}
		}
	}
	return errs
}

// state shows what is needed to understand a failure.
func (in *installation) state() string {
	var out strings.Builder
	if now, err := in.Take(); err == nil {
		lines := slices.DeleteFunc(now.Since(in.clean), func(l string) bool {
			// One hierarchy says it all.
			return strings.HasPrefix(l, "cgroup ") && !strings.HasPrefix(l, "cgroup /pids/")
		})
		fmt.Fprintf(&out, "  on the machine (%d things):\n    %s\n", len(lines), strings.Join(lines[:min(len(lines), 25)], "\n    "))
	}
	for _, args := range [][]string{{"container", "ls", "--all"}, {"logs", "--tail", "12", "postgres"}} {
		fmt.Fprintf(&out, "  %v\n", in.runWith(nil, args...))
	}
	for _, root := range []string{in.RunRoot(), in.DataRoot()} {
		filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil
			}
			if d.IsDir() && machine.ImageStore(strings.TrimPrefix(p, in.Root+"/")) {
				return fs.SkipDir
			}
			if filepath.Base(p) == "supervisor.log" {
				if text, err := os.ReadFile(p); err == nil && len(text) > 0 {
					fmt.Fprintf(&out, "  %s:\n    %s\n", p, tail(string(text), 4000))
				}
			}
			return nil
		})
	}
	return out.String()
}
