package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/stack-run/stack/cmd/stack/internal/terminal"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/engine"
)

type execOptions struct {
	Name        string   // argument: service or container
	Command     []string // arguments
	Detach      bool
	DetachKeys  string // container exec
	Env         []string
	EnvFiles    []string // container exec
	Index       int
	Interactive bool
	Privileged  bool
	TTY         bool
	User        string
	Workdir     string
	container   bool // the name is a container's
}

func newExecCmd(a *app, runF func(context.Context, *app, *execOptions) error) *cobra.Command {
	if runF == nil {
		runF = runExec
	}
	o := &execOptions{}
	var tty, noTTY bool
	cmd := &cobra.Command{
		Use:   "exec [OPTIONS] SERVICE COMMAND [ARGS...]",
		Short: "Execute a command in a running container",
		Args:  requireArgs(2),
		RunE: a.runWithSignals(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			o.Name, o.Command = args[0], args[1:]
			var err error
			if o.TTY, err = a.wantTTY(cmd.Flags(), tty, noTTY, o.Interactive && !o.Detach); err != nil {
				return err
			}
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.completeFirstService,
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.BoolVarP(&o.Detach, "detach", "d", false, "Detached mode: Run command in the background")
	f.StringArrayVarP(&o.Env, "env", "e", nil, "Set environment variables")
	f.IntVar(&o.Index, "index", 0, "Index of the container if service has multiple replicas")
	f.BoolVar(&o.Privileged, "privileged", false, "Give extended privileges to the process")
	f.StringVarP(&o.User, "user", "u", "", "Run the command as this user")
	f.BoolVarP(&noTTY, "no-tty", "T", false, "Disable pseudo-TTY allocation (default: auto-detected)")
	f.StringVarP(&o.Workdir, "workdir", "w", "", "Path to workdir directory for this command")
	f.BoolVarP(&o.Interactive, "interactive", "i", true, "Keep STDIN open even if not attached")
	f.BoolVarP(&tty, "tty", "t", true, "Allocate a pseudo-TTY")
	f.Lookup("interactive").Hidden = true
	f.Lookup("tty").Hidden = true
	f.SetNormalizeFunc(normalizeTTY)
	return cmd
}

// normalizeTTY accepts the former name of --no-tty.
func normalizeTTY(_ *pflag.FlagSet, name string) pflag.NormalizedName {
	switch name {
	case "no-TTY":
		name = "no-tty"
	case "volumes":
		name = "volume"
	case "labels":
		name = "label"
	}
	return pflag.NormalizedName(name)
}

// wantTTY decides on a pseudo terminal as docker compose does: one is made when
// stdin and stdout are terminals, unless -T or -t say otherwise.
func (a *app) wantTTY(f *pflag.FlagSet, tty, noTTY, stdin bool) (bool, error) {
	switch {
	case f.Changed("tty") && f.Changed("no-tty"):
		return false, errors.New("--tty and --no-tty can't be used together")
	case f.Changed("no-tty"):
		return !noTTY, nil
	case f.Changed("tty") && !tty:
		return false, nil
	case f.Changed("tty"):
		return true, a.checkTTY(stdin)
	}
	return terminal.Is(a.in) && terminal.Is(a.out), nil
}

// checkTTY complains like docker where a terminal was asked for and stdin,
// which is to be connected, is none.
func (a *app) checkTTY(stdin bool) error {
	if stdin && !terminal.Is(a.in) {
		return errors.New("the input device is not a TTY")
	}
	return nil
}

func runExec(ctx context.Context, a *app, o *execOptions) error {
	v, err := a.api(ctx)
	if err != nil {
		return err
	}
	var id string
	if o.container {
		id = o.Name
	} else {
		c, err := a.one(ctx, v, "exec", o.Name, o.Index, true)
		if err != nil {
			return err
		}
		id = c.ID
	}
	env, err := a.environment(o.Env, o.EnvFiles)
	if err != nil {
		return err
	}
	e := compose.ExecOptions{
		Process: engine.Process{
			Env: env, WorkingDir: o.Workdir, User: o.User, TTY: o.TTY, Stdin: o.Interactive && !o.Detach,
		},
		Command: o.Command, Privileged: o.Privileged, Detach: o.Detach, DetachKeys: o.DetachKeys,
	}
	if !o.Detach {
		e.Stdout, e.Stderr = file(a.out), file(a.err)
		if o.Interactive {
			e.Stdin = file(a.in)
		}
	}
	defer a.rawTerminal(o.TTY && o.Interactive && !o.Detach)()
	code, err := v.Exec(ctx, id, e)
	return status(code, err)
}

// rawTerminal puts the terminal at stdin into raw mode, if wanted and if there
// is one. The returned function gives it back.
func (a *app) rawTerminal(want bool) (restore func()) {
	in := terminal.File(a.in)
	if !want || in == nil {
		return func() {}
	}
	restore, err := terminal.Raw(in)
	if err != nil {
		a.warn("cannot put the terminal into raw mode: %v", err)
	}
	return restore
}

// file is the file behind a stream, nil when it is not one.
func file(stream any) *os.File {
	f, _ := stream.(*os.File)
	return f
}

// environment merges -e KEY=VALUE, -e KEY (the value is our own) and
// --env-file, of which the flags win.
func (a *app) environment(flags, files []string) ([]string, error) {
	var out []string
	for _, name := range files {
		lines, err := a.readKeyValues(name)
		if err != nil {
			return nil, err
		}
		out = append(out, lines...)
	}
	for _, e := range flags {
		key, _, ok := strings.Cut(e, "=")
		if key == "" {
			return nil, fmt.Errorf("invalid environment variable: %q", e)
		}
		if !ok {
			value, set := a.env(key)
			if !set {
				continue
			}
			e = key + "=" + value
		}
		out = append(out, e)
	}
	return out, nil
}

// readKeyValues reads docker's --env-file and --label-file format: KEY=VALUE
// or KEY lines, no quotes, # begins a comment line.
func (a *app) readKeyValues(name string) ([]string, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("cannot read the environment file: %w", err)
	}
	var out []string
	for i, line := range strings.Split(strings.TrimPrefix(string(data), "\ufeff"), "\n") {
		line = strings.TrimLeft(strings.TrimSuffix(line, "\r"), " \t")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, _, ok := strings.Cut(line, "=")
		if key == "" || strings.ContainsAny(key, " \t") {
			return nil, fmt.Errorf("cannot read %s:%d: the variable name %q has white space or is empty", name, i+1, key)
		}
		if !ok {
			value, set := a.env(key)
			if !set {
				continue
			}
			line = key + "=" + value
		}
		out = append(out, line)
	}
	return out, nil
}

// requireArgs is cobra.MinimumNArgs with docker's words.
func requireArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) >= n {
			return nil
		}
		return argumentError(cmd, "at least", n)
	}
}

func exactArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == n {
			return nil
		}
		return argumentError(cmd, "exactly", n)
	}
}

func argumentError(cmd *cobra.Command, how string, n int) error {
	noun := "argument"
	if n > 1 {
		noun = "arguments"
	}
	return fmt.Errorf("%q requires %s %d %s.\nSee '%s --help'.\n\nUsage:  %s\n\n%s",
		cmd.CommandPath(), how, n, noun, cmd.CommandPath(), cmd.UseLine(), cmd.Short)
}
