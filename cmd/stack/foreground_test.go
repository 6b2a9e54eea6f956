package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/project"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/compose/apply"
	"github.com/stack-run/stack/engine"
)

// started is what a fake up tells.
func started(_ context.Context, p compose.Progress) error {
	for _, name := range []string{"shop-db-1", "shop-migrate-1", "shop-web-1", "shop-web-2"} {
		p(apply.Event{Kind: "Container", Name: name, Status: "Started", Done: true})
	}
	return nil
}

// end makes a container exited now.
func (f *fakeVerbs) end(i, code int) engine.Container {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := &f.containers[i]
	c.State = engine.State{Phase: engine.Exited, ExitCode: code, StartedAt: clock(), FinishedAt: clock()}
	return *c
}

func TestForegroundUpEndsWithItsContainers(t *testing.T) {
	s := newSession(t, "shop")
	s.fake.up = started
	s.fake.follow = func(ctx context.Context, o compose.LogOptions, line func(compose.LogLine) error) error {
		for i, c := range shop()[:4] {
			line(compose.LogLine{Container: c, Stream: "stdout", Text: []byte("bye")})
			o.Ended(s.fake.end(i, i), i)
		}
		<-ctx.Done()
		return ctx.Err()
	}
	out, errOut, code := s.do(t, "up", "--no-color")
	if code != 0 {
		t.Errorf("exit code %d\n%s", code, errOut)
	}
	want := `Attaching to db-1, migrate-1, web-1, web-2
web-1      | bye
web-1 exited with code 0
web-2      | bye
web-2 exited with code 1
db-1       | bye
db-1 exited with code 2
migrate-1  | bye
migrate-1 exited with code 3
`
	if out != want {
		t.Errorf("got\n%s\nwant\n%s", out, want)
	}
	if want := " Container shop-db-1 Started \n"; !strings.HasPrefix(errOut, want) {
		t.Errorf("stderr %q", errOut)
	}
}

func TestForegroundUpAborts(t *testing.T) {
	for name, test := range map[string]struct {
		flags   []string
		ends    int // index in shop()
		with    int
		code    int
		goesOn  bool
		message string
	}{
		"on exit":              {flags: []string{"--abort-on-container-exit"}, ends: 3, with: 3, code: 3},
		"on clean exit":        {flags: []string{"--abort-on-container-exit"}, ends: 3, with: 0, code: 0},
		"on failure":           {flags: []string{"--abort-on-container-failure"}, ends: 3, with: 4, code: 4},
		"not on success":       {flags: []string{"--abort-on-container-failure"}, ends: 3, with: 0, goesOn: true},
		"with the code of web": {flags: []string{"--exit-code-from", "web"}, ends: 3, with: 3, code: 143},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSession(t, "shop")
			s.fake.up = started
			s.fake.stop = func(context.Context) error {
				s.fake.end(0, 143)
				return nil
			}
			ctx, cancel := context.WithCancel(t.Context())
			s.fake.follow = func(ctx context.Context, o compose.LogOptions, _ func(compose.LogLine) error) error {
				o.Ended(s.fake.end(test.ends, test.with), test.with)
				if test.goesOn {
					cancel()
				}
				<-ctx.Done()
				return ctx.Err()
			}
			code := run(ctx, s.App, "stack", append([]string{"up"}, test.flags...))
			stopped := slices.Contains(s.fake.noted(), "stop shop:")
			if test.goesOn {
				if stopped {
					t.Error("stopped")
				}
				return
			}
			if code != test.code || !stopped || !strings.Contains(s.out.String(), "Aborting on container exit...\n") {
				t.Errorf("exit code %d, want %d; %q; %s", code, test.code, s.fake.noted(), s.out.String())
			}
		})
	}
}

func TestForegroundUpFails(t *testing.T) {
	s := newSession(t, "shop")
	s.fake.up = func(_ context.Context, p compose.Progress) error {
		p(apply.Event{Kind: "Container", Name: "shop-db-1", Status: "Error", Text: "no such image: postgres:16", Done: true})
		return errors.New("no such image: postgres:16")
	}
	_, errOut, code := s.do(t, "up")
	if want := " Container shop-db-1 Error no such image: postgres:16\nno such image: postgres:16\n"; code != 1 || errOut != want {
		t.Errorf("exit code %d, stderr %q", code, errOut)
	}
}

func TestForegroundUpSignals(t *testing.T) {
	s := newSession(t, "shop")
	s.fake.up = started
	stopping := make(chan struct{})
	s.fake.stop = func(ctx context.Context) error {
		close(stopping)
		<-ctx.Done() // a container that takes its time
		return ctx.Err()
	}
	d := s.desired(t)
	o := &project.UpOptions{}
	s.App.Global.Progress = "quiet"
	f := project.NewForeground(s.App, door{fakeVerbs: s.fake}, d, o, []string{"web"})
	following := make(chan struct{})
	s.fake.follow = func(ctx context.Context, _ compose.LogOptions, _ func(compose.LogLine) error) error {
		close(following)
		<-ctx.Done()
		return nil
	}
	result := make(chan error, 1)
	go func() { result <- f.Run(t.Context()) }()
	<-following
	f.Signals <- os.Interrupt
	<-stopping
	f.Signals <- os.Interrupt
	err := <-result
	var e cli.ExitError
	if !errors.As(err, &e) || e.Code != cli.ExitInterrupted {
		t.Errorf("ended with %v", err)
	}
	if calls := s.fake.noted(); !slices.Contains(calls, "stop shop:") || !slices.Contains(calls, "kill shop: signal=SIGKILL") {
		t.Errorf("calls %q", calls)
	}
	if !strings.Contains(s.out.String(), "Gracefully Stopping... press Ctrl+C again to force\n") {
		t.Errorf("stdout %q", s.out.String())
	}
}

func TestForegroundUpDetaches(t *testing.T) {
	user, tty := openPTY(t)
	before := localFlags(t, tty)
	s := newSession(t, "shop")
	s.App.In, s.App.Out = tty, tty
	s.fake.up = started
	s.fake.follow = func(ctx context.Context, _ compose.LogOptions, line func(compose.LogLine) error) error {
		line(compose.LogLine{Container: shop()[0], Stream: "stdout", Text: []byte("working")})
		<-ctx.Done()
		return nil
	}
	var screen strings.Builder
	var mu sync.Mutex
	menu := make(chan struct{})
	go func() {
		told := false
		buf := make([]byte, 4096)
		for {
			n, err := user.Read(buf)
			if err != nil {
				return
			}
			mu.Lock()
			screen.Write(buf[:n])
			if !told && strings.Contains(screen.String(), "Detach") && strings.Contains(screen.String(), "working") {
				told = true
				close(menu)
			}
			mu.Unlock()
		}
	}()
	go func() {
		<-menu
		user.WriteString("xd")
	}()
	s.App.Global = cli.GlobalOptions{}
	if code := run(t.Context(), s.App, "stack", []string{"up"}); code != 0 {
		t.Errorf("exit code %d: %s", code, s.err.String())
	}
	if after := localFlags(t, tty); after != before {
		t.Errorf("the terminal's flags are %#x, were %#x", after, before)
	}
	if slices.ContainsFunc(s.fake.noted(), func(c string) bool { return strings.HasPrefix(c, "stop") }) {
		t.Error("detaching stopped the project")
	}
	mu.Lock()
	defer mu.Unlock()
	if got := screen.String(); !strings.Contains(got, "working") {
		t.Errorf("no log line on the screen: %q", got)
	}
}

func TestTTYChoice(t *testing.T) {
	for _, test := range []struct {
		args     []string
		terminal bool
		tty      bool
		stdin    bool
		code     int
	}{
		{args: []string{"exec", "db", "sh"}, terminal: true, tty: true, stdin: true},
		{args: []string{"exec", "-T", "db", "sh"}, terminal: true, tty: false, stdin: true},
		{args: []string{"exec", "db", "sh"}, terminal: false, tty: false, stdin: true},
		{args: []string{"exec", "-t", "db", "sh"}, terminal: false, code: 1},
		{args: []string{"exec", "-d", "db", "sh"}, terminal: true, tty: true},
		{args: []string{"container", "exec", "shop-db-1", "sh"}, terminal: true},
		{args: []string{"container", "exec", "-it", "shop-db-1", "sh"}, terminal: true, tty: true, stdin: true},
		{args: []string{"container", "exec", "-it", "shop-db-1", "sh"}, terminal: false, code: 1},
		{args: []string{"run", "web"}, terminal: true, tty: true, stdin: true},
		{args: []string{"run", "-T", "web"}, terminal: true, stdin: true},
		{args: []string{"run", "-i=false", "web"}, terminal: true, tty: true},
		{args: []string{"container", "run", "debian"}, terminal: true},
		{args: []string{"container", "run", "-ti", "debian"}, terminal: true, tty: true, stdin: true},
		{args: []string{"container", "run", "-ti", "debian"}, terminal: false, code: 125},
	} {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			s := newSession(t, "shop")
			_, tty := openPTY(t)
			before := localFlags(t, tty)
			in, out := tty, tty
			if !test.terminal {
				var err error
				if in, err = os.Open(os.DevNull); err != nil {
					t.Fatal(err)
				}
				defer in.Close()
				out = in
			}
			s.App.In, s.App.Out = in, out
			check := func(wantTTY bool, stdin *os.File) {
				if wantTTY != test.tty || (stdin != nil) != test.stdin {
					t.Errorf("tty %t, stdin %t", wantTTY, stdin != nil)
				}
				raw := localFlags(t, tty)&unix.ICANON == 0
				if raw != (test.terminal && test.tty && test.stdin) {
					t.Errorf("the terminal is in raw mode: %t", raw)
				}
			}
			s.fake.exec = func(o compose.ExecOptions) (int, error) {
				check(o.Process.TTY, o.Stdin)
				return 0, nil
			}
			s.fake.run = func(o compose.RunOptions) (int, error) {
				check(o.Spec.Process.TTY, o.Stdin)
				return 0, nil
			}
			if code := run(t.Context(), s.App, "stack", test.args); code != test.code {
				t.Errorf("exit code %d, want %d: %s", code, test.code, s.err.String())
			}
			if after := localFlags(t, tty); after != before {
				t.Errorf("the terminal's flags are %#x, were %#x", after, before)
			}
		})
	}
}

func TestExitCodes(t *testing.T) {
	for _, test := range []struct {
		args []string
		fake int
		err  error
		code int
	}{
		{args: []string{"exec", "db", "x"}, fake: 3, code: 3},
		{args: []string{"exec", "db", "x"}, fake: 127, err: errors.New("not found"), code: 127},
		{args: []string{"exec", "db", "x"}, err: errors.New("broken"), code: 1},
		{args: []string{"run", "web"}, fake: 42, code: 42},
		{args: []string{"run", "web"}, err: errors.New("broken"), code: 1},
		{args: []string{"container", "run", "x"}, fake: 126, err: errors.New("not executable"), code: 126},
		{args: []string{"container", "run", "x"}, err: errors.New("broken"), code: 125},
		{args: []string{"container", "run", "-d", "x"}, err: errors.New("broken"), code: 125},
		{args: []string{"wait", "web"}, fake: 5, code: 5},
	} {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			s := newSession(t, "shop")
			s.fake.exec = func(compose.ExecOptions) (int, error) { return test.fake, test.err }
			s.fake.run = func(compose.RunOptions) (int, error) { return test.fake, test.err }
			s.fake.wait = func(string) (int, error) { return test.fake, test.err }
			_, errOut, code := s.do(t, test.args...)
			if code != test.code {
				t.Errorf("exit code %d, want %d", code, test.code)
			}
			if test.err != nil && strings.TrimSpace(errOut) != test.err.Error() {
				t.Errorf("stderr %q", errOut)
			}
		})
	}
}

// What stops a project in the foreground stops what its providers made, too.
func TestForegroundUpStopsProviders(t *testing.T) {
	file, err := os.ReadFile("testdata/shop/compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	dir := lay(t, map[string]string{
		"compose.yaml": strings.Replace(string(file), "services:\n", "services:\n  mail:\n    provider: {type: mailer}\n", 1),
		"bin/mailer": `#!/bin/sh
case "$2" in metadata) echo '{"description": "mails", "stop": {}}'; exit;; esac
echo "$3" >>"$CALLS"
`,
	})
	if err := os.Chmod(filepath.Join(dir, "bin/mailer"), 0o755); err != nil {
		t.Fatal(err)
	}
	s := newSession(t, dir)
	calls := filepath.Join(t.TempDir(), "calls")
	s.Environ = append(s.Environ, "PATH="+filepath.Join(dir, "bin")+":"+os.Getenv("PATH"), "CALLS="+calls)
	s.fake.up = started
	s.fake.stop = func(context.Context) error {
		s.fake.end(0, 143)
		return nil
	}
	s.fake.follow = func(ctx context.Context, o compose.LogOptions, _ func(compose.LogLine) error) error {
		o.Ended(s.fake.end(3, 0), 0)
		<-ctx.Done()
		return ctx.Err()
	}
	code := run(t.Context(), s.App, "stack", []string{"up", "--abort-on-container-exit"})
	if got, _ := os.ReadFile(calls); code != 0 || string(got) != "up\nstop\n" {
		t.Errorf("exit code %d, the provider was called for %q", code, got)
	}
}
