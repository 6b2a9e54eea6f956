package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/network"
	"github.com/stack-run/stack/cmd/stack/internal/runspec"
	"github.com/stack-run/stack/cmd/stack/internal/terminal"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/compose/spec"
	"github.com/stack-run/stack/engine"
)

type runOptions struct {
	runspec.Flags
	Image      string   // argument
	Command    []string // arguments
	Detach     bool
	DetachKeys string
	SigProxy   bool
	CreateOnly bool
}

func newRunCmd(a *cli.App, runF func(context.Context, *cli.App, *runOptions) error) *cobra.Command {
	if runF == nil {
		runF = runRun
	}
	o := &runOptions{}
	cmd := runCmd(a, o, "run [OPTIONS] IMAGE [COMMAND] [ARG...]", "Create and run a new container from an image", runF)
	addRunOnly(cmd.Flags(), o)
	return cmd
}

func newCreateCmd(a *cli.App, runF func(context.Context, *cli.App, *runOptions) error) *cobra.Command {
	if runF == nil {
		runF = runRun
	}
	o := &runOptions{CreateOnly: true}
	return runCmd(a, o, "create [OPTIONS] IMAGE [COMMAND] [ARG...]", "Create a new container", runF)
}

// NewSingleRunCmd is "stack run IMAGE" where there is no project: container run
// whose terminal is decided as "stack run SERVICE" does.
func NewSingleRunCmd(a *cli.App, runF func(context.Context, *cli.App, *runOptions) error) *cobra.Command {
	if runF == nil {
		runF = runRun
	}
	o := &runOptions{}
	var noTTY bool
	cmd := runCmd(a, o, "run [OPTIONS] IMAGE [COMMAND] [ARG...]", "Run a container from an image (with a Compose file: a one-off command on a service)",
		func(ctx context.Context, a *cli.App, o *runOptions) error { return runF(ctx, a, o) })
	f := cmd.Flags()
	addRunOnly(f, o)
	cli.NoTTYFlag(f, &noTTY)
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		if o.Detach {
			o.TTY = o.TTY && !noTTY
			return nil
		}
		if !f.Changed("interactive") {
			o.Interactive = true
		}
		var err error
		o.TTY, err = a.WantTTY(f, o.TTY, noTTY, o.Interactive)
		return err
	}
	return cmd
}

func addRunOnly(f *pflag.FlagSet, o *runOptions) {
	cli.DetachFlag(f, &o.Detach)
	cli.DetachKeysFlag(f, &o.DetachKeys)
	f.BoolVar(&o.SigProxy, "sig-proxy", true, "Proxy received signals to the process")
}

func runCmd(a *cli.App, o *runOptions, use, short string, runF func(context.Context, *cli.App, *runOptions) error) *cobra.Command {
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cli.RequireArgs(1),
		RunE: a.RunWithSignals(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			o.Image = args[0]
			if len(args) > 1 {
				o.Command = args[1:]
			}
			o.EntrypointSet = cmd.Flags().Changed("entrypoint")
			o.StopTimeoutSet = cmd.Flags().Changed("stop-timeout")
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: cli.CompleteFirst(a.CompleteImages),
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	o.Flags.Add(f)
	// -h is the host name, as in docker.
	f.Bool("help", false, "Print usage")
	cli.Ignore(f, runspec.Ignored()...)
	return cmd
}

// attached are the streams that --attach asks for; all of them, and stdin if it
// is kept open, when it is not given.
func (o *runOptions) attached() (stdin, stdout, stderr bool, err error) {
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

func runRun(ctx context.Context, a *cli.App, o *runOptions) error {
	r, err := o.engineOptions(ctx, a)
	if err != nil {
		return cli.ExitError{Code: cli.ExitEngine, Cause: err}
	}
	v, err := a.API(ctx)
	if err != nil {
		return cli.ExitError{Code: cli.ExitEngine, Cause: err}
	}
	if a.Global.DryRun {
		_, err := v.Run(ctx, compose.RunOptions{Spec: r.Spec, CreateOnly: o.CreateOnly}, nil)
		return err
	}
	failed := cli.ExitEngine
	if o.CreateOnly {
		failed = cli.ExitGeneral // as docker, whose create has other codes than its run
	}
	if err := ensureImage(ctx, a, v, r.Spec, o.Pull, o.Quiet); err != nil {
		return cli.ExitError{Code: failed, Cause: err}
	}
	if o.CreateOnly || o.Detach {
		r.Started = func(id string) {
			if o.CreateOnly {
				fmt.Fprintln(a.Out, id)
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
			fmt.Fprintln(a.Out, id)
		}
		return cli.Status(code, err)
	}
	defer a.RawTerminal(r.Spec.Process.TTY && terminal.Is(r.Stdin))()
	code, err := v.Run(ctx, r, nil)
	if err != nil && code == 0 {
		code = cli.ExitEngine
	}
	return cli.Status(code, err)
}

// engineOptions are the engine's words for the flags.
func (o *runOptions) engineOptions(ctx context.Context, a *cli.App) (compose.RunOptions, error) {
	stdin, stdout, stderr, err := o.attached()
	switch {
	case err != nil:
		return compose.RunOptions{}, err
	case o.Detach && len(o.Attach) > 0:
		return compose.RunOptions{}, errors.New("conflicting options: cannot specify both --attach and --detach")
	}
	if o.TTY && stdin && !o.Detach && !o.CreateOnly {
		if err := a.CheckTTY(true); err != nil {
			return compose.RunOptions{}, err
		}
	}
	if err := checkIDFile(o.CIDFile); err != nil {
		return compose.RunOptions{}, err
	}
	env, err := a.Environment(o.Env, o.EnvFile)
	if err != nil {
		return compose.RunOptions{}, err
	}
	var labels []string
	for _, file := range o.LabelFile {
		lines, err := a.ReadKeyValues(file)
		if err != nil {
			return compose.RunOptions{}, err
		}
		labels = append(labels, lines...)
	}
	dir, err := a.Cwd()
	if err != nil {
		return compose.RunOptions{}, err
	}
	s, err := o.Build(runspec.Facts{Image: o.Image, Command: o.Command, Env: env, Labels: labels, Dir: dir})
	if err != nil {
		return compose.RunOptions{}, err
	}
	warnings, _ := engine.CheckLog(s.Log) // Build returned the error
	for _, w := range warnings {
		a.Warn("%s", w)
	}
	for i := range s.Network.Networks {
		at := &s.Network.Networks[i]
		network.WarnOptions(a, *at)
		if at.Network, err = network.NetworkName(ctx, a, at.Network); err != nil {
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
			r.Stdin = cli.File(a.In)
		}
		if stdout {
			r.Stdout = cli.File(a.Out)
		}
		if stderr {
			r.Stderr = cli.File(a.Err)
		}
	}
	return r, nil
}

// ensureImage pulls the image of a single container as --pull says.
func ensureImage(ctx context.Context, a *cli.App, v compose.API, s engine.Spec, policy string, quiet bool) error {
	switch policy {
	case "always", "never":
	case "missing", "":
		policy = ""
	default:
		return fmt.Errorf("invalid --pull %q; use always, missing or never", policy)
	}
	only := &spec.Service{Name: s.Name, Replicas: []spec.Replica{{Index: 1, Spec: s}}, PullPolicy: policy}
	show := a.ImageDisplay(quiet)
	defer show.Done()
	return v.EnsureImages(ctx, &spec.Desired{Services: map[string]*spec.Service{only.Name: only}}, compose.ImageOptions{}, show.Event)
}

// checkIDFile refuses to overwrite the ID of another container.
func checkIDFile(path string) error {
	if path == "" {
		return nil
	}
	if _, err := os.Stat(path); err == nil {
		return fmt.Errorf("container ID file found, make sure the other container isn't running or delete %s", path)
	}
	return nil
}
