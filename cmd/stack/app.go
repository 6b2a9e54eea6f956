package main

import (
	"context"
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

	"github.com/stack-run/stack/cmd/stack/internal/progress"
	"github.com/stack-run/stack/cmd/stack/internal/terminal"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/compose/load"
	"github.com/stack-run/stack/compose/plan"
	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/internal/lock"
)

// app is what all verbs share: the process's surroundings, the global flags,
// and the ways into the engine. Tests make one with other surroundings.
type app struct {
	in      io.Reader
	out     io.Writer
	err     io.Writer
	environ []string // KEY=VALUE
	now     func() time.Time
	cwd     func() (string, error)

	global globalOptions
	// subcommand is the argument behind the verb, where only that is to be built.
	subcommand string

	// open gives the verbs, objects the stores of images, networks and volumes.
	open    func(roots, func(warning string)) (compose.API, error)
	objects func(roots, func(warning string)) (*engine.Engine, error)
	// builder runs a verb of the builder program.
	builder func(ctx context.Context, a *app, verb string, ask, result any) error

	// settings are the environment with .env behind it, nil until they are asked for.
	settings map[string]string

	verbs compose.API    // opened once per process
	store *engine.Engine // the same
}

// globalOptions are the flags that stand before the verb.
type globalOptions struct {
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

// roots are the two directories everything is kept below.
type roots struct{ Data, Run string }

func newApp() *app {
	return &app{
		in: os.Stdin, out: os.Stdout, err: os.Stderr,
		environ: os.Environ(), now: time.Now, cwd: os.Getwd,
		open: openVerbs, objects: openObjects, builder: runBuilder,
	}
}

// env looks up a variable.
func (a *app) env(name string) (string, bool) {
	for i := len(a.environ) - 1; i >= 0; i-- {
		if value, ok := strings.CutPrefix(a.environ[i], name+"="); ok {
			return value, true
		}
	}
	return "", false
}

// getenv returns a variable, empty when it is not set. As with docker compose,
// those that set this program up (COMPOSE_…) may also stand in .env.
func (a *app) getenv(name string) string {
	v, ok := a.env(name)
	if ok || !strings.HasPrefix(name, "COMPOSE_") {
		return v
	}
	if a.settings == nil {
		a.settings = map[string]string{}
		if o, err := a.loadOptions(); err == nil {
			maps.Copy(a.settings, load.Environment(o))
		}
	}
	return a.settings[name]
}

// flagged reads a variable as a boolean the lenient way docker compose does.
func (a *app) flagged(name string) bool {
	switch strings.ToLower(a.getenv(name)) {
	case "1", "t", "true", "y", "yes", "on":
		return true
	}
	return false
}

// roots are STACK_DATA_ROOT and STACK_RUN_ROOT; without root rights the
// defaults are in the user's XDG directories.
func (a *app) roots() roots {
	r := roots{Data: "/var/lib/stack", Run: "/run/stack"}
	if os.Geteuid() != 0 {
		data := a.getenv("XDG_DATA_HOME")
		if data == "" {
			data = a.getenv("HOME") + "/.local/share"
		}
		run := a.getenv("XDG_RUNTIME_DIR")
		if run == "" {
			run = "/run/user/" + strconv.Itoa(os.Geteuid())
		}
		r = roots{Data: data + "/stack", Run: run + "/stack"}
	}
	if v := a.getenv("STACK_DATA_ROOT"); v != "" {
		r.Data = v
	}
	if v := a.getenv("STACK_RUN_ROOT"); v != "" {
		r.Run = v
	}
	return r
}

// api is the door to the engine, opened at the first call.
func (a *app) api(context.Context) (compose.API, error) {
	if a.verbs == nil {
		v, err := a.open(a.roots(), func(w string) { a.warn("%s", w) })
		if err != nil {
			return nil, err
		}
		if a.global.DryRun {
			v = v.Rehearse(func(p *plan.Plan) error { return printPlan(a, p) })
		}
		a.verbs = v
	}
	return a.verbs, nil
}

// settle checks the global flags against each other and the environment.
func (a *app) settle(cmd *cobra.Command) error {
	g := &a.global
	root := cmd.Root().Flags()
	if g.NoANSI {
		if root.Changed("ansi") {
			return fmt.Errorf(`cannot use --no-ansi and --ansi together; use --ansi alone`)
		}
		a.warn("--no-ansi is deprecated; use --ansi never")
		g.ANSI = "never"
	}
	if v := a.getenv("COMPOSE_ANSI"); v != "" && !root.Changed("ansi") && !g.NoANSI {
		g.ANSI = v
	}
	switch g.ANSI {
	case "never", "always", "auto":
	default:
		return fmt.Errorf("cannot use --ansi %q; use never, always or auto", g.ANSI)
	}
	if !root.Changed("progress") {
		g.Progress = a.getenv("COMPOSE_PROGRESS")
	}
	if _, err := a.progressMode(); err != nil {
		return err
	}
	if v := a.getenv("COMPOSE_PARALLEL_LIMIT"); v != "" && !root.Changed("parallel") {
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
		a.warn("--workdir is deprecated; use --project-directory")
		g.ProjectDirectory = g.WorkDir
	}
	if g.Compatibility || a.flagged("COMPOSE_COMPATIBILITY") {
		g.Compatibility = true
	}
	if len(g.EnvFiles) == 0 {
		list, _ := a.env("COMPOSE_ENV_FILES") // which an env file cannot set
		g.EnvFiles = strings.FieldsFunc(list, func(r rune) bool { return r == ',' })
	}
	return nil
}

// parallel is the limit as the engine wants it: 0 for none.
func (a *app) parallel() int { return max(a.global.Parallel, 0) }

// paints reports whether output to w is coloured: --ansi, then NO_COLOR
// (https://no-color.org), then whether w is a terminal.
func (a *app) paints(w io.Writer) bool {
	switch a.global.ANSI {
	case "never":
		return false
	case "always":
		return true
	}
	return a.getenv("NO_COLOR") == "" && terminal.Is(w)
}

func (a *app) progressMode() (progress.Mode, error) {
	switch m := a.global.Progress; m {
	case "", "auto":
		if a.global.ANSI != "never" && terminal.Is(a.err) {
			return progress.TTY, nil
		}
		return progress.Plain, nil
	case "tty":
		if a.global.ANSI == "never" {
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

// display starts a progress display. It writes to stderr, as docker compose does.
func (a *app) display(title string) progress.Display {
	mode, _ := a.progressMode()
	w := a.err
	if a.flagged("COMPOSE_STATUS_STDOUT") {
		w = a.out
	}
	return progress.New(mode, w, progress.Options{
		Title: title, Colour: a.paints(w), DryRun: a.global.DryRun, Now: a.now,
	})
}

// watch runs work with a progress display around it.
func (a *app) watch(title string, work func(compose.Progress) error) error {
	d := a.display(title)
	defer d.Done()
	return work(d.Event)
}

// warn prints one warning to stderr.
func (a *app) warn(format string, args ...any) {
	prefix := "Warning: "
	if a.paints(a.err) {
		prefix = terminal.Yellow.Paint("Warning:") + " "
	}
	fmt.Fprintf(a.err, prefix+format+"\n", args...)
}

// run adapts a verb to cobra: settled global flags, and a context that the
// first SIGINT or SIGTERM ends.
func (a *app) run(work func(ctx context.Context, cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return a.runWithSignals(func(ctx context.Context, cmd *cobra.Command, args []string) error {
		ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		err := work(ctx, cmd, args)
		if ctx.Err() != nil && cmd.Context().Err() == nil {
			return exitError{code: exitInterrupted}
		}
		return err
	})
}

// runWithSignals is run for verbs that treat signals in their own way.
func (a *app) runWithSignals(work func(ctx context.Context, cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if err := a.settle(cmd); err != nil {
			return err
		}
		a.warnIgnored(cmd)
		ctx := cmd.Context()
		if ctx == nil {
			ctx = context.Background()
		}
		ctx = lock.WithNotice(ctx, func(text string) { a.warn("%s", text) })
		return work(ctx, cmd, args)
	}
}

// engine opens what is behind the door, for the images, which have no part of it yet.
func (a *app) engine() (*engine.Engine, error) {
	if a.store == nil {
		e, err := a.objects(a.roots(), func(w string) { a.warn("%s", w) })
		if err != nil {
			return nil, err
		}
		a.store = e
	}
	return a.store, nil
}
