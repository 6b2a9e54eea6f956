package project

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/mattn/go-shellwords"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/container"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/compose/spec"
)

type runOptions struct {
	createOptions
	Service      string   // argument
	Command      []string // arguments
	CapAdd       []string
	CapDrop      []string
	Detach       bool
	Entrypoint   []string // nil: the service's
	Env          []string
	EnvFromFile  []string
	Interactive  bool
	Labels       []string
	Name         string
	NoDeps       bool
	Publish      []string
	Quiet        bool
	Remove       bool
	ServicePorts bool
	TTY          bool
	UseAliases   bool
	User         string
	Volumes      []string
	Workdir      string
}

// NewRunCmd makes "stack run": a one-off of a service inside a project, a
// single container elsewhere, with the options of either.
func NewRunCmd(a *cli.App, runF func(context.Context, *cli.App, *runOptions) error) *cobra.Command {
	if runF == nil && !a.InsideProject() {
		return container.NewSingleRunCmd(a, nil)
	}
	if runF == nil {
		runF = runRun
	}
	o := &runOptions{}
	var tty, noTTY bool
	var entrypoint string
	cmd := &cobra.Command{
		Use:   "run [OPTIONS] SERVICE [COMMAND] [ARGS...]",
		Short: "Run a one-off command on a service",
		Long:  "Run a one-off command on a service, or a job. Where there is no Compose file, SERVICE is an image and the\noptions are those of \"stack container run\".",
		Args:  cli.RequireArgs(1),
		RunE: a.RunWithSignals(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			f := cmd.Flags()
			o.Service = args[0]
			if len(args) > 1 {
				o.Command = args[1:]
			}
			if len(o.Publish) > 0 && o.ServicePorts {
				return errors.New("--service-ports and --publish are incompatible")
			}
			if f.Changed("entrypoint") {
				words, err := shellwords.Parse(entrypoint)
				if err != nil {
					return fmt.Errorf("cannot split --entrypoint %q into words: %w", entrypoint, err)
				}
				o.Entrypoint = append([]string{}, words...)
			}
			var err error
			if o.TTY, err = a.WantTTY(f, tty, noTTY, o.Interactive && !o.Detach); err != nil {
				return err
			}
			if err := o.check(a, f); err != nil {
				return err
			}
			if o.Quiet {
				a.Global.Progress = "quiet"
			}
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.CompleteFirstToRun,
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.BoolVar(&o.Build, "build", false, "Build image before starting container")
	f.StringArrayVar(&o.CapAdd, "cap-add", nil, "Add Linux capabilities")
	f.StringArrayVar(&o.CapDrop, "cap-drop", nil, "Drop Linux capabilities")
	cli.DetachFlag(f, &o.Detach)
	f.StringVar(&entrypoint, "entrypoint", "", "Override the entrypoint of the image")
	cli.EnvFlag(f, &o.Env)
	f.StringArrayVar(&o.EnvFromFile, "env-from-file", nil, "Set environment variables from file")
	f.BoolVarP(&o.Interactive, "interactive", "i", true, "Keep STDIN open even if not attached")
	f.StringArrayVarP(&o.Labels, "label", "l", nil, "Add or override a label")
	f.StringVar(&o.Name, "name", "", "Assign a name to the container")
	cli.NoDepsFlag(f, &o.NoDeps)
	f.BoolVar(&o.NoRecreate, "no-recreate", false, "If dependent containers already exist, don't recreate them, even if their configuration diverged")
	cli.NoTTYFlag(f, &noTTY)
	f.StringArrayVarP(&o.Publish, "publish", "p", nil, "Publish a container's port(s) to the host")
	f.StringVar(&o.Pull, "pull", "policy", `Pull image before running ("always"|"missing"|"never")`)
	f.BoolVarP(&o.Quiet, "quiet", "q", false, "Don't print anything to STDOUT")
	f.BoolVar(&o.QuietBuild, "quiet-build", false, "Suppress progress output from the build process")
	cli.QuietPullFlag(f, &o.QuietPull)
	cli.RemoveOrphansFlag(f, &o.RemoveOrphans)
	f.BoolVar(&o.Remove, "rm", false, "Automatically remove the container when it exits")
	f.BoolVarP(&o.ServicePorts, "service-ports", "P", false, "Run command with all service's ports enabled and mapped to the host")
	f.BoolVarP(&tty, "tty", "t", true, "Allocate a pseudo-TTY")
	f.BoolVar(&o.UseAliases, "use-aliases", false, "Use the service's network useAliases in the network(s) the container connects to")
	f.StringVarP(&o.User, "user", "u", "", "Run as specified username or uid")
	f.StringArrayVarP(&o.Volumes, "volume", "v", nil, "Bind mount a volume")
	cli.WorkdirFlag(f, &o.Workdir)
	f.Lookup("tty").Hidden = true
	f.SetNormalizeFunc(func(f *pflag.FlagSet, name string) pflag.NormalizedName {
		switch name {
		case "volumes", "labels": // former names
			name = strings.TrimSuffix(name, "s")
		}
		return cli.NormalizeTTY(f, name)
	})
	return cmd
}

func runRun(ctx context.Context, a *cli.App, o *runOptions) error {
	var provide func(context.Context, *cli.Project) error
	if !a.Global.DryRun {
		provide = providing(a, []string{o.Service}, o.NoDeps)
	}
	p, err := a.LoadProject(ctx, cli.LoadRequest{Services: []string{o.Service}, Jobs: true, NoDeps: o.NoDeps, Verb: "run", Provide: provide})
	if err != nil {
		return err
	}
	o.apply(p.Desired)
	d, err := p.Desired.ForRun(o.Service, true)
	if err != nil {
		return err
	}
	labels := map[string]string{}
	for _, l := range o.Labels {
		key, value, ok := strings.Cut(l, "=")
		if !ok {
			return fmt.Errorf("cannot read the label %q; write KEY=VALUE", l)
		}
		labels[key] = value
	}
	var env []string
	for _, file := range o.EnvFromFile {
		lines, err := a.ReadKeyValues(file)
		if err != nil {
			return err
		}
		env = append(env, lines...)
	}
	s, err := spec.OneOff(d, o.Service, spec.Overrides{
		Name: o.Name, Command: o.Command, Entrypoint: o.Entrypoint, Env: append(env, o.Env...),
		User: o.User, WorkingDir: o.Workdir, Labels: labels, Volumes: o.Volumes, Publish: o.Publish,
		CapAdd: o.CapAdd, CapDrop: o.CapDrop, ServicePorts: o.ServicePorts, UseAliases: o.UseAliases,
		TTY: o.TTY, Interactive: o.Interactive, AutoRemove: o.Remove,
	})
	if err != nil {
		return err
	}
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	if a.Global.DryRun {
		_, err := v.Run(ctx, compose.RunOptions{Spec: s, Project: d.Project, Service: o.Service, Desired: p.Desired, NoDeps: o.NoDeps}, nil)
		return err
	}
	if err := interruptible(ctx, a, func(ctx context.Context) error {
		return ensureImages(ctx, a, v, d, &o.createOptions, []string{o.Service}, o.NoDeps, buildHook(a, p, o.QuietBuild || o.Quiet, false))
	}); err != nil {
		return err
	}
	r := compose.RunOptions{
		Spec: s, Project: d.Project, Service: o.Service, Desired: p.Desired, NoDeps: o.NoDeps, Detach: o.Detach,
	}
	container.Connect(a, &r, o.Interactive)
	if o.RemoveOrphans {
		defer func() {
			if err := a.Watch("Running", func(p compose.Progress) error { return removeOrphans(ctx, a, v, d.Project, p) }); err != nil {
				a.Warn("%v", err)
			}
		}()
	}
	return runContainer(ctx, a, v, r, cli.ExitGeneral)
}

// runContainer runs a container with the terminal in the mode it wants. An
// error of the engine's without an exit code gets the code fallback.
func runContainer(ctx context.Context, a *cli.App, v compose.API, r compose.RunOptions, fallback int) error {
	d := a.Display("Running")
	defer d.Done()
	restore := func() {}
	started := r.Started
	r.Started = func(id string) {
		// From here on the screen is the container's.
		d.Done()
		restore = a.RawTerminal(r.Spec.Process.TTY && r.Stdin != nil && !r.Detach)
		if started != nil {
			started(id)
		}
	}
	defer func() { restore() }()
	code, err := v.Run(ctx, r, d.Event)
	if err != nil && (code == 0 || code == cli.ExitEngine) {
		code = fallback
	}
	return cli.Status(code, err)
}
