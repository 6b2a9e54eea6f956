package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/stack-run/stack/cmd/stack/internal/runspec"
	"github.com/stack-run/stack/cmd/stack/internal/terminal"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/engine"
)

type containerRunOptions struct {
	runspec.Flags
	Image      string   // argument
	Command    []string // arguments
	Detach     bool
	DetachKeys string
	SigProxy   bool
	CreateOnly bool
}

func newContainerRunCmd(a *app, runF func(context.Context, *app, *containerRunOptions) error) *cobra.Command {
	if runF == nil {
		runF = runContainerRun
	}
	o := &containerRunOptions{}
	cmd := containerRunCmd(a, o, "run [OPTIONS] IMAGE [COMMAND] [ARG...]", "Create and run a new container from an image", runF)
	addRunOnly(cmd.Flags(), o)
	return cmd
}

func newContainerCreateCmd(a *app, runF func(context.Context, *app, *containerRunOptions) error) *cobra.Command {
	if runF == nil {
		runF = runContainerRun
	}
	o := &containerRunOptions{CreateOnly: true}
	return containerRunCmd(a, o, "create [OPTIONS] IMAGE [COMMAND] [ARG...]", "Create a new container", runF)
}

// newSingleRunCmd is "stack run IMAGE" where there is no project: container run
// whose terminal is decided as "stack run SERVICE" does.
func newSingleRunCmd(a *app, runF func(context.Context, *app, *containerRunOptions) error) *cobra.Command {
	if runF == nil {
		runF = runContainerRun
	}
	o := &containerRunOptions{}
	var noTTY bool
	cmd := containerRunCmd(a, o, "run [OPTIONS] IMAGE [COMMAND] [ARG...]", "Run a container from an image (with a Compose file: a one-off command on a service)",
		func(ctx context.Context, a *app, o *containerRunOptions) error { return runF(ctx, a, o) })
	f := cmd.Flags()
	addRunOnly(f, o)
	f.BoolVarP(&noTTY, "no-tty", "T", false, "Disable pseudo-TTY allocation (default: auto-detected)")
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		if o.Detach {
			o.TTY = o.TTY && !noTTY
			return nil
		}
		if !f.Changed("interactive") {
			o.Interactive = true
		}
		var err error
		o.TTY, err = a.wantTTY(f, o.TTY, noTTY, o.Interactive)
		return err
	}
	return cmd
}

func addRunOnly(f *pflag.FlagSet, o *containerRunOptions) {
	f.BoolVarP(&o.Detach, "detach", "d", false, "Run container in background and print container ID")
	f.StringVar(&o.DetachKeys, "detach-keys", "", "Override the key sequence for detaching a container")
	f.BoolVar(&o.SigProxy, "sig-proxy", true, "Proxy received signals to the process")
}

func containerRunCmd(a *app, o *containerRunOptions, use, short string, runF func(context.Context, *app, *containerRunOptions) error) *cobra.Command {
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  requireArgs(1),
		RunE: a.runWithSignals(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			o.Image = args[0]
			if len(args) > 1 {
				o.Command = args[1:]
			}
			o.EntrypointSet = cmd.Flags().Changed("entrypoint")
			o.StopTimeoutSet = cmd.Flags().Changed("stop-timeout")
			return runF(ctx, a, o)
		}),
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	o.Flags.Add(f)
	// -h is the host name, as in docker.
	f.Bool("help", false, "Print usage")
	ignore(f, runspec.Ignored()...)
	return cmd
}

// attached are the streams that --attach asks for; all of them, and stdin if it
// is kept open, when it is not given.
func (o *containerRunOptions) attached() (stdin, stdout, stderr bool, err error) {
	if len(o.Attach) == 0 {
		return o.Interactive, true, true, nil
	}
	var names []string
	for _, name := range o.Attach {
		names = append(names, strings.ToLower(name))
	}
	if i := slices.IndexFunc(names, func(n string) bool { return n != "stdin" && n != "stdout" && n != "stderr" }); i >= 0 {
		return false, false, false, fmt.Errorf("invalid --attach %q; use stdin, stdout or stderr", o.Attach[i])
	}
	return slices.Contains(names, "stdin"), slices.Contains(names, "stdout"), slices.Contains(names, "stderr"), nil
}

func runContainerRun(ctx context.Context, a *app, o *containerRunOptions) error {
	r, err := o.engineOptions(ctx, a)
	if err != nil {
		return exitError{code: exitEngine, cause: err}
	}
	v, err := a.api(ctx)
	if err != nil {
		return exitError{code: exitEngine, cause: err}
	}
	if a.global.DryRun {
		_, err := v.Run(ctx, compose.RunOptions{Spec: r.Spec, CreateOnly: o.CreateOnly}, nil)
		return err
	}
	failed := exitEngine
	if o.CreateOnly {
		failed = exitGeneral // as docker, whose create has other codes than its run
	}
	if err := a.ensureImage(ctx, v, r.Spec, o.Pull, o.Quiet); err != nil {
		return exitError{code: failed, cause: err}
	}
	if o.CreateOnly || o.Detach {
		r.Started = func(id string) {
			if o.CreateOnly {
				fmt.Fprintln(a.out, id)
			}
		}
		id := ""
		if o.Detach {
			r.Started = func(created string) { id = created }
		}
		code, err := v.Run(ctx, r, nil)
		if err != nil && (code == 0 || o.CreateOnly) {
			code = failed
		}
		if err == nil && id != "" {
			fmt.Fprintln(a.out, id)
		}
		return status(code, err)
	}
	defer a.rawTerminal(r.Spec.Process.TTY && terminal.Is(r.Stdin))()
	code, err := v.Run(ctx, r, nil)
	if err != nil && code == 0 {
		code = exitEngine
	}
	return status(code, err)
}

// engineOptions are the engine's words for the flags.
func (o *containerRunOptions) engineOptions(ctx context.Context, a *app) (compose.RunOptions, error) {
	stdin, stdout, stderr, err := o.attached()
	switch {
	case err != nil:
		return compose.RunOptions{}, err
	case o.Detach && len(o.Attach) > 0:
		return compose.RunOptions{}, errors.New("conflicting options: cannot specify both --attach and --detach")
	}
	if o.TTY && stdin && !o.Detach && !o.CreateOnly {
		if err := a.checkTTY(true); err != nil {
			return compose.RunOptions{}, err
		}
	}
	if err := checkIDFile(o.CIDFile); err != nil {
		return compose.RunOptions{}, err
	}
	env, err := a.environment(o.Env, o.EnvFile)
	if err != nil {
		return compose.RunOptions{}, err
	}
	var labels []string
	for _, file := range o.LabelFile {
		lines, err := a.readKeyValues(file)
		if err != nil {
			return compose.RunOptions{}, err
		}
		labels = append(labels, lines...)
	}
	dir, err := a.cwd()
	if err != nil {
		return compose.RunOptions{}, err
	}
	s, err := o.Build(runspec.Facts{Image: o.Image, Command: o.Command, Env: env, Labels: labels, Dir: dir})
	if err != nil {
		return compose.RunOptions{}, err
	}
	warnings, _ := engine.CheckLog(s.Log) // Build returned the error
	for _, w := range warnings {
		a.warn("%s", w)
	}
	for i := range s.Network.Networks {
		at := &s.Network.Networks[i]
		if at.Network, err = a.networkName(ctx, at.Network); err != nil {
			return compose.RunOptions{}, err
		}
	}
	s.Process.Stdin = o.Interactive || slices.ContainsFunc(o.Attach, func(n string) bool { return strings.EqualFold(n, "stdin") })
	r := compose.RunOptions{
		Spec: s, CreateOnly: o.CreateOnly, Detach: o.Detach, DetachKeys: o.DetachKeys,
		NoSigProxy: !o.SigProxy && !o.CreateOnly, IDFile: o.CIDFile,
	}
	if !o.Detach && !o.CreateOnly {
		if stdin {
			r.Stdin = file(a.in)
		}
		if stdout {
			r.Stdout = file(a.out)
		}
		if stderr {
			r.Stderr = file(a.err)
		}
	}
	return r, nil
}

func newContainerExecCmd(a *app, runF func(context.Context, *app, *execOptions) error) *cobra.Command {
	if runF == nil {
		runF = runExec
	}
	o := &execOptions{container: true}
	cmd := &cobra.Command{
		Use:   "exec [OPTIONS] CONTAINER COMMAND [ARG...]",
		Short: "Execute a command in a running container",
		Args:  requireArgs(2),
		RunE: a.runWithSignals(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Name, o.Command = args[0], args[1:]
			if o.TTY {
				if err := a.checkTTY(o.Interactive && !o.Detach); err != nil {
					return err
				}
			}
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveDefault
			}
			return a.completeContainers(cmd, args, word)
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.BoolVarP(&o.Detach, "detach", "d", false, "Detached mode: run command in the background")
	f.StringVar(&o.DetachKeys, "detach-keys", "", "Override the key sequence for detaching a container")
	f.StringArrayVarP(&o.Env, "env", "e", nil, "Set environment variables")
	f.StringArrayVar(&o.EnvFiles, "env-file", nil, "Read in a file of environment variables")
	f.BoolVarP(&o.Interactive, "interactive", "i", false, "Keep STDIN open even if not attached")
	f.BoolVar(&o.Privileged, "privileged", false, "Give extended privileges to the command")
	f.BoolVarP(&o.TTY, "tty", "t", false, "Allocate a pseudo-TTY")
	f.StringVarP(&o.User, "user", "u", "", "Username or UID (format: <name|uid>[:<group|gid>])")
	f.StringVarP(&o.Workdir, "workdir", "w", "", "Working directory inside the container")
	return cmd
}

func newContainerAttachCmd(a *app) *cobra.Command {
	o := &attachOptions{container: true}
	cmd := &cobra.Command{
		Use:   "attach [OPTIONS] CONTAINER",
		Short: "Attach local standard input, output, and error streams to a running container",
		Args:  exactArgs(1),
		RunE: a.runWithSignals(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Name = args[0]
			return runAttach(ctx, a, o)
		}),
		ValidArgsFunction: a.completeContainers,
	}
	f := cmd.Flags()
	f.StringVar(&o.DetachKeys, "detach-keys", "", "Override the key sequence for detaching a container")
	f.BoolVar(&o.NoStdin, "no-stdin", false, "Do not attach STDIN")
	f.BoolVar(&o.SigProxy, "sig-proxy", true, "Proxy all received signals to the process")
	return cmd
}
