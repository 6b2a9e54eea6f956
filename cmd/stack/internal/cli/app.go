// Package cli is what the rooms of the command line share: App (the process's
// surroundings, the global flags and the door to the engine), the project that a
// command line is about, and how arguments, filters, templates, errors, warnings and
// the output of prune and inspect look. It has no verb of its own and knows none of
// the rooms.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/stack-run/stack/cmd/stack/internal/progress"
	"github.com/stack-run/stack/cmd/stack/internal/terminal"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/compose/load"
	"github.com/stack-run/stack/compose/plan"
	"github.com/stack-run/stack/internal/lock"
)

// App is what all verbs share: the process's surroundings, the global flags,
// and the ways into the engine. Tests make one with other surroundings.
type App struct {
	In      io.Reader
	Out     io.Writer
	Err     io.Writer
	Environ []string // KEY=VALUE
	Now     func() time.Time
	Cwd     func() (string, error)

	Global GlobalOptions
	// Subcommand is the argument behind the verb, where only that is to be built.
	Subcommand string
	// ProjectMeant says that verbs are a project's, also where there is none.
	ProjectMeant bool

	// Open opens the door to the engine.
	Open func(*App) (compose.API, error)

	// settings are the environment with .env behind it, nil until they are asked for.
	settings map[string]string

	door compose.API // opened once per process
}

// GlobalOptions are the flags that stand before the verb.
type GlobalOptions struct {
	Files            []string
	ProjectName      string
	ProjectDirectory string
	WorkDir          string
	Profiles         []string
	EnvFiles         []string
	ANSI             string
	NoANSI           bool
	Progress         string
	Parallel         int
	DryRun           bool
	Compatibility    bool
	AllResources     bool
	Insecure         []string
	Verbose          bool
	Version          bool
}

// Roots are the two directories everything is kept below.
type Roots struct{ Data, Run string }

// Env looks up a variable.
func (a *App) Env(name string) (string, bool) {
	for i := len(a.Environ) - 1; i >= 0; i-- {
		if value, ok := strings.CutPrefix(a.Environ[i], name+"="); ok {
			return value, true
		}
	}
	return "", false
}

// Getenv returns a variable, empty when it is not set. As with docker compose,
// those that set this program up (COMPOSE_…) may also stand in .env.
func (a *App) Getenv(name string) string {
	v, ok := a.Env(name)
	if ok || !strings.HasPrefix(name, "COMPOSE_") {
		return v
	}
	if a.settings == nil {
		a.settings = map[string]string{}
		if o, err := a.LoadOptions(); err == nil {
			maps.Copy(a.settings, load.Environment(o))
		}
	}
	return a.settings[name]
}

// Flagged reads a variable as a boolean the lenient way docker compose does.
func (a *App) Flagged(name string) bool {
	switch strings.ToLower(a.Getenv(name)) {
	case "1", "t", "true", "y", "yes", "on":
		return true
	}
	return false
}

// Roots are STACK_DATA_ROOT and STACK_RUN_ROOT; without root rights the
// defaults are in the user's XDG directories.
func (a *App) Roots() Roots {
	r := Roots{Data: "/var/lib/stack", Run: "/run/stack"}
	if os.Geteuid() != 0 {
		data := a.Getenv("XDG_DATA_HOME")
		if data == "" {
			data = a.Getenv("HOME") + "/.local/share"
		}
		run := a.Getenv("XDG_RUNTIME_DIR")
		if run == "" {
			run = "/run/user/" + strconv.Itoa(os.Geteuid())
		}
		r = Roots{Data: data + "/stack", Run: run + "/stack"}
	}
	if v := a.Getenv("STACK_DATA_ROOT"); v != "" {
		r.Data = v
	}
	if v := a.Getenv("STACK_RUN_ROOT"); v != "" {
		r.Run = v
	}
	return r
}

// API is the door to the engine, opened at the first call.
func (a *App) API(context.Context) (compose.API, error) {
	if a.door == nil {
		v, err := a.Open(a)
		if err != nil {
			return nil, err
		}
		if a.Global.DryRun {
			v = v.Rehearse(func(p *plan.Plan) error { return PrintPlan(a, p) })
		}
		a.door = v
	}
	return a.door, nil
}

// settle checks the global flags against each other and the environment.
func (a *App) settle(cmd *cobra.Command) error {
	g := &a.Global
	root := cmd.Root().Flags()
	if g.NoANSI {
		if root.Changed("ansi") {
			return fmt.Errorf(`cannot use --no-ansi and --ansi together; use --ansi alone`)
		}
		a.Warn("--no-ansi is deprecated; use --ansi never")
		g.ANSI = "never"
	}
	if v := a.Getenv("COMPOSE_ANSI"); v != "" && !root.Changed("ansi") && !g.NoANSI {
		g.ANSI = v
	}
	switch g.ANSI {
	case "never", "always", "auto":
	default:
		return fmt.Errorf("cannot use --ansi %q; use never, always or auto", g.ANSI)
	}
	if !root.Changed("progress") {
		g.Progress = a.Getenv("COMPOSE_PROGRESS")
	}
	if _, err := a.ProgressMode(); err != nil {
		return err
	}
	if v := a.Getenv("COMPOSE_PARALLEL_LIMIT"); v != "" && !root.Changed("parallel") {
		n, err := strconv.Atoi(v)
		if err != nil {
			return fmt.Errorf("cannot use COMPOSE_PARALLEL_LIMIT=%q: it is not a number", v)
		}
		g.Parallel = n
	}
	if g.WorkDir != "" {
		if g.ProjectDirectory != "" {
			return fmt.Errorf("cannot use --workdir and --project-directory together; use --project-directory alone")
		}
		a.Warn("--workdir is deprecated; use --project-directory")
		g.ProjectDirectory = g.WorkDir
	}
	if g.Compatibility || a.Flagged("COMPOSE_COMPATIBILITY") {
		g.Compatibility = true
	}
	if len(g.EnvFiles) == 0 {
		list, _ := a.Env("COMPOSE_ENV_FILES") // which an env file cannot set
		g.EnvFiles = strings.FieldsFunc(list, func(r rune) bool { return r == ',' })
	}
	return nil
}

// SetGlobal sets the global flags, on which depends where .env is.
func (a *App) SetGlobal(g GlobalOptions) { a.Global, a.settings = g, nil }

// Parallel is the limit as the engine wants it: 0 for none.
func (a *App) Parallel() int { return max(a.Global.Parallel, 0) }

// Paints reports whether output to w is coloured: --ansi, then NO_COLOR
// (https://no-color.org), then whether w is a terminal.
func (a *App) Paints(w io.Writer) bool {
	switch a.Global.ANSI {
	case "never":
		return false
	case "always":
		return true
	}
	return a.Getenv("NO_COLOR") == "" && terminal.Is(w)
}

func (a *App) ProgressMode() (progress.Mode, error) {
	switch m := a.Global.Progress; m {
	case "", "auto":
		if a.Global.ANSI != "never" && terminal.Is(a.Err) {
			return progress.TTY, nil
		}
		return progress.Plain, nil
	case "tty":
		if a.Global.ANSI == "never" {
			return "", fmt.Errorf("cannot use --progress tty with --ansi never")
		}
		return progress.TTY, nil
	case "plain", "json", "quiet":
		return progress.Mode(m), nil
	case "none":
		return progress.Quiet, nil
	default:
		return "", fmt.Errorf("cannot use --progress %q; use auto, tty, plain, json or quiet", m)
	}
}

// Display starts a progress display. It writes to stderr, as docker compose does.
func (a *App) Display(title string) progress.Display {
	mode, _ := a.ProgressMode()
	w := a.Err
	if a.Flagged("COMPOSE_STATUS_STDOUT") {
		w = a.Out
	}
	return progress.New(mode, w, progress.Options{
		Title: title, Colour: a.Paints(w), DryRun: a.Global.DryRun, Now: a.Now,
	})
}

// Watch runs work with a progress display around it.
func (a *App) Watch(title string, work func(compose.Progress) error) error {
	d := a.Display(title)
	defer d.Done()
	return work(d.Event)
}

// Warn prints one warning to stderr.
func (a *App) Warn(format string, args ...any) {
	prefix := "Warning: "
	if a.Paints(a.Err) {
		prefix = terminal.Yellow.Paint("Warning:") + " "
	}
	fmt.Fprintf(a.Err, prefix+format+"\n", args...)
}

// Run adapts a verb to cobra: settled global flags, and a context that the
// first SIGINT or SIGTERM ends.
func (a *App) Run(work func(ctx context.Context, cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return a.RunWithSignals(func(ctx context.Context, cmd *cobra.Command, args []string) error {
		ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		err := work(ctx, cmd, args)
		if ctx.Err() != nil && cmd.Context().Err() == nil {
			return ExitError{Code: ExitInterrupted}
		}
		return err
	})
}

// RunWithSignals is run for verbs that treat signals in their own way.
func (a *App) RunWithSignals(work func(ctx context.Context, cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if err := a.settle(cmd); err != nil {
			return err
		}
		a.warnIgnored(cmd)
		ctx := cmd.Context()
		if ctx == nil {
			ctx = context.Background()
		}
		ctx = lock.WithNotice(ctx, func(text string) { a.Warn("%s", text) })
		return work(ctx, cmd, args)
	}
}

// Streams are this process's.
func (a *App) Streams() compose.Streams { return compose.Streams{In: a.In, Out: a.Out, Err: a.Err} }

// Each does work on one name after the other and prints what it returns, if that is
// not empty, as docker does. It goes on after an error.
func (a *App) Each(names []string, work func(name string) (line string, err error)) error {
	return a.tell(len(names), func(i int) (string, error) { return work(names[i]) })
}

// Remark is an error that [App.Each] tells and does not fail for.
type Remark struct{ Err error }

func (r Remark) Error() string { return r.Err.Error() }

// atOnce is how many names [App.EachAtOnce] works on at a time, as docker does.
const atOnce = 50

// EachAtOnce is [App.Each] for work that may have to wait long, such as for the end of a
// grace period. What it returns is printed in the order of the names all the same. A dry
// run tells of one after the other.
func (a *App) EachAtOnce(names []string, work func(name string) (line string, err error)) error {
	if a.Global.DryRun {
		return a.Each(names, work)
	}
	type result struct {
		line string
		err  error
	}
	results := make([]chan result, len(names))
	for i := range results {
		results[i] = make(chan result, 1)
	}
	go func() {
		var g errgroup.Group
		g.SetLimit(atOnce)
		for i, name := range names {
			g.Go(func() error {
				line, err := work(name)
				results[i] <- result{line, err}
				return nil
			})
		}
	}()
	return a.tell(len(names), func(i int) (string, error) {
		r := <-results[i]
		return r.line, r.err
	})
}

// tell prints what became of n names, one after the other.
func (a *App) tell(n int, result func(i int) (line string, err error)) error {
	failed := false
	for i := range n {
		line, err := result(i)
		switch remark := (Remark{}); {
		case errors.As(err, &remark):
			fmt.Fprintln(a.Err, remark)
		case err != nil:
			failed = true
			fmt.Fprintln(a.Err, err)
		case line != "":
			fmt.Fprintln(a.Out, line)
		}
	}
	if failed {
		return ExitError{Code: ExitGeneral}
	}
	return nil
}
