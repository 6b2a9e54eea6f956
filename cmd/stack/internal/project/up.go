// Package project is the verbs on a whole Compose project: up, down, plan, ps, run,
// build and the like. Those that look at one container are in package container.
package project

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/terminal"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/compose/load"
	"github.com/stack-run/stack/compose/plan"
	"github.com/stack-run/stack/compose/spec"
)

// createOptions are the flags that up, create, run and scale share.
type createOptions struct {
	Build              bool
	NoBuild            bool
	Pull               string
	QuietPull          bool
	QuietBuild         bool
	ForceRecreate      bool
	NoRecreate         bool
	AlwaysRecreateDeps bool
	RenewAnonVolumes   bool
	RemoveOrphans      bool
	Scale              []string
	Timeout            *time.Duration // nil: each container's own
	Yes                bool
	recreateVolumes    []string // keys of changed ones, as the user said

	// build builds services, rebuild those that a watch saw change; they are set
	// once the project is loaded.
	build   func(ctx context.Context, services []string) error
	rebuild func(say func(string)) func(ctx context.Context, services []string) error
	// provides runs the project's providers when it is loaded.
	provides bool
}

type UpOptions struct {
	createOptions
	Services                []string // arguments
	Detach                  bool
	NoStart                 bool
	NoDeps                  bool
	AbortOnContainerExit    bool
	AbortOnContainerFailure bool
	ExitCodeFrom            string
	NoColor                 bool
	NoLogPrefix             bool
	Attach                  []string
	AttachDependencies      bool
	NoAttach                []string
	Timestamps              bool
	Wait                    bool
	WaitTimeout             int // seconds
	Watch                   bool
	Menu                    bool
}

func NewUpCmd(a *cli.App, runF func(context.Context, *cli.App, *UpOptions) error) *cobra.Command {
	if runF == nil {
		runF = runUp
	}
	o := &UpOptions{}
	var timeout int
	cmd := &cobra.Command{
		Use:   "up [OPTIONS] [SERVICE...]",
		Short: "Create and start containers",
		RunE: a.RunWithSignals(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			o.Services, o.Timeout = args, cli.Seconds(cmd, "timeout", timeout)
			if !cmd.Flags().Changed("menu") {
				o.Menu = a.Getenv("COMPOSE_MENU") == "" || a.Flagged("COMPOSE_MENU")
			}
			if err := o.check(a, cmd.Flags()); err != nil {
				return err
			}
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.CompleteServices,
	}
	f := cmd.Flags()
	f.BoolVarP(&o.Detach, "detach", "d", false, "Detached mode: Run containers in the background")
	f.BoolVar(&o.Build, "build", false, "Build images before starting containers")
	f.BoolVar(&o.NoBuild, "no-build", false, "Don't build an image, even if it's policy")
	f.StringVar(&o.Pull, "pull", "policy", `Pull image before running ("always"|"missing"|"never")`)
	cli.RemoveOrphansFlag(f, &o.RemoveOrphans)
	cli.ScaleFlag(f, &o.Scale)
	f.BoolVar(&o.NoColor, "no-color", false, "Produce monochrome output")
	f.BoolVar(&o.NoLogPrefix, "no-log-prefix", false, "Don't print prefix in logs")
	cli.ForceRecreateFlag(f, &o.ForceRecreate)
	cli.NoRecreateFlag(f, &o.NoRecreate)
	f.BoolVar(&o.NoStart, "no-start", false, "Don't start the services after creating them")
	f.BoolVar(&o.AbortOnContainerExit, "abort-on-container-exit", false, "Stops all containers if any container was stopped. Incompatible with -d")
	f.BoolVar(&o.AbortOnContainerFailure, "abort-on-container-failure", false, "Stops all containers if any container exited with failure. Incompatible with -d")
	f.StringVar(&o.ExitCodeFrom, "exit-code-from", "", "Return the exit code of the selected service container. Implies --abort-on-container-exit")
	f.IntVarP(&timeout, "timeout", "t", 0, "Use this timeout in seconds for container shutdown when attached or when containers are already running")
	f.BoolVar(&o.Timestamps, "timestamps", false, "Show timestamps")
	cli.NoDepsFlag(f, &o.NoDeps)
	f.BoolVar(&o.AlwaysRecreateDeps, "always-recreate-deps", false, "Recreate dependent containers. Incompatible with --no-recreate.")
	f.BoolVarP(&o.RenewAnonVolumes, "renew-anon-volumes", "V", false, "Recreate anonymous volumes instead of retrieving data from the previous containers")
	cli.QuietPullFlag(f, &o.QuietPull)
	f.BoolVar(&o.QuietBuild, "quiet-build", false, "Suppress the build output")
	f.StringArrayVar(&o.Attach, "attach", nil, "Restrict attaching to the specified services. Incompatible with --attach-dependencies.")
	f.StringArrayVar(&o.NoAttach, "no-attach", nil, "Do not attach (stream logs) to the specified services")
	f.BoolVar(&o.AttachDependencies, "attach-dependencies", false, "Automatically attach to log output of dependent services")
	f.BoolVar(&o.Wait, "wait", false, "Wait for services to be running|healthy. Implies detached mode.")
	f.IntVar(&o.WaitTimeout, "wait-timeout", 0, "Maximum duration in seconds to wait for the project to be running|healthy")
	f.BoolVarP(&o.Watch, "watch", "w", false, "Watch source code and rebuild/refresh containers when files are updated.")
	f.BoolVar(&o.Menu, "menu", false, "Enable interactive shortcuts when running attached. Incompatible with --detach. Can also be enable/disable by setting COMPOSE_MENU environment var.")
	f.BoolVarP(&o.Yes, "yes", "y", false, `Assume "yes" as answer to all prompts and run non-interactively`)
	f.SetNormalizeFunc(assumeYes)
	return cmd
}

// assumeYes accepts the former name of --yes.
func assumeYes(_ *pflag.FlagSet, name string) pflag.NormalizedName {
	if name == "y" {
		name = "yes"
	}
	return pflag.NormalizedName(name)
}

// check rejects flags that exclude each other.
func (o *UpOptions) check(a *cli.App, f *pflag.FlagSet) error {
	if o.WaitTimeout < 0 {
		return errors.New("--wait-timeout must be a non-negative integer")
	}
	if o.ExitCodeFrom != "" && !o.AbortOnContainerFailure {
		o.AbortOnContainerExit = true
	}
	attached := o.AttachDependencies || o.AbortOnContainerExit || o.AbortOnContainerFailure || len(o.Attach) > 0 || o.Watch
	const attachedFlags = "--abort-on-container-exit, --abort-on-container-failure, --attach, --attach-dependencies or --watch"
	switch {
	case o.AbortOnContainerExit && o.AbortOnContainerFailure:
		return errors.New("--abort-on-container-failure cannot be combined with --abort-on-container-exit")
	case o.Wait && attached:
		return errors.New("--wait cannot be combined with " + attachedFlags)
	case o.Detach && attached:
		return errors.New("--detach cannot be combined with " + attachedFlags)
	case len(o.Attach) > 0 && o.AttachDependencies:
		return errors.New("cannot combine --attach and --attach-dependencies")
	case o.NoRecreate && o.RenewAnonVolumes:
		return errors.New("--no-recreate and --renew-anon-volumes are incompatible")
	}
	if o.Wait {
		o.Detach = true
	}
	return o.createOptions.check(a, f)
}

func (o *createOptions) check(a *cli.App, f *pflag.FlagSet) error {
	switch {
	case o.Build && o.NoBuild:
		return errors.New("--build and --no-build are incompatible")
	case o.ForceRecreate && o.NoRecreate:
		return errors.New("--force-recreate and --no-recreate are incompatible")
	case o.AlwaysRecreateDeps && o.NoRecreate:
		return errors.New("--always-recreate-deps and --no-recreate are incompatible")
	}
	switch o.Pull {
	case "", "policy", "always", "missing", "never", "build", "if_not_present":
	default:
		return fmt.Errorf("cannot use --pull %q; use always, missing or never", o.Pull)
	}
	if f.Lookup("remove-orphans") != nil && !f.Changed("remove-orphans") {
		o.RemoveOrphans = a.Flagged("COMPOSE_REMOVE_ORPHANS")
	}
	if o.RemoveOrphans && a.Flagged("COMPOSE_IGNORE_ORPHANS") {
		return errors.New("cannot combine COMPOSE_IGNORE_ORPHANS and --remove-orphans")
	}
	return nil
}

// apply puts the image flags into the services, where pull_policy is.
func (o *createOptions) apply(d *spec.Desired) {
	for _, s := range d.All() {
		switch o.Pull {
		case "", "policy":
		case "if_not_present":
			s.PullPolicy, s.PullEvery = "missing", 0
		default:
			s.PullPolicy, s.PullEvery = o.Pull, 0
		}
		if o.Build && s.HasBuild {
			s.PullPolicy = "build"
		}
	}
}

// loadDesired loads the project as the flags ask for it.
func (o *createOptions) loadDesired(ctx context.Context, a *cli.App, services []string, noDeps bool) (*spec.Desired, error) {
	var provide func(context.Context, *cli.Project) error
	if o.provides && !a.Global.DryRun {
		provide = providing(a, services, noDeps)
	}
	scale, err := parseScale(o.Scale)
	if err != nil {
		return nil, err
	}
	p, err := a.LoadProject(ctx, cli.LoadRequest{Services: services, NoDeps: noDeps, Scale: scale, Provide: provide})
	if err != nil {
		return nil, err
	}
	// Where no service is declared at all, networks and volumes are meant.
	if len(p.Desired.Services) == 0 && len(p.Desired.Providers) == 0 && len(p.Desired.Scheduled()) == 0 && len(p.Desired.Disabled)+len(p.Desired.Jobs) > 0 && !a.Global.AllResources {
		return nil, errors.New("no service selected")
	}
	o.apply(p.Desired)
	o.build = buildHook(a, p, o.QuietBuild, true)
	o.rebuild = func(say func(string)) func(context.Context, []string) error {
		return rebuildHook(a, p, o.QuietBuild, say)
	}
	return p.Desired, nil
}

// options are the engine's words for the flags.
func (o *UpOptions) options(a *cli.App) compose.UpOptions {
	return compose.UpOptions{
		Services:       o.Services,
		NoDeps:         o.NoDeps,
		ForceRecreate:  o.ForceRecreate,
		NoRecreate:     o.NoRecreate,
		RecreateDeps:   o.AlwaysRecreateDeps,
		NoStart:        o.NoStart,
		RemoveOrphans:  o.RemoveOrphans,
		IgnoreOrphans:  a.Flagged("COMPOSE_IGNORE_ORPHANS"),
		RenewAnonymous: o.RenewAnonVolumes,
		StopTimeout:    o.Timeout,
		Wait:           o.Wait,
		WaitTimeout:    time.Duration(o.WaitTimeout) * time.Second,
		Parallel:       a.Parallel(),

		AssumeYes: o.Yes, RecreateVolumes: o.recreateVolumes,
	}
}

// plan says what up would do, with the images that it would pull and build.
func (o *UpOptions) plan(ctx context.Context, a *cli.App, v compose.API, d *spec.Desired) (*plan.Plan, error) {
	build := o.build
	if o.NoBuild {
		build = nil
	}
	images, err := v.PlanImages(ctx, d, compose.ImageOptions{Services: o.Services, NoDeps: o.NoDeps, Build: build})
	if err != nil {
		return nil, err
	}
	p, err := v.Plan(ctx, d, o.options(a))
	if err == nil {
		p.Images = images
	}
	return p, err
}

// askForVolumes asks, on a terminal, for each volume whose definition changed
// whether it is to be made anew.
func (o *UpOptions) askForVolumes(ctx context.Context, a *cli.App, v compose.API, d *spec.Desired) error {
	own := func(v *spec.Volume) bool { return !v.External }
	if o.Yes || !terminal.Is(a.In) || !slices.ContainsFunc(slices.Collect(maps.Values(d.Volumes)), own) {
		return nil
	}
	p, err := v.Plan(ctx, d, o.options(a))
	if err != nil {
		return err
	}
	for _, q := range p.Confirm {
		yes, err := a.Confirm(q.Text + ". Recreate it (its data will be lost)? [y/N] ")
		if err != nil {
			return err
		}
		if yes {
			o.recreateVolumes = append(o.recreateVolumes, q.Volume)
		}
	}
	return nil
}

func runUp(ctx context.Context, a *cli.App, o *UpOptions) error {
	o.provides = !o.NoStart
	if err := o.askForVariables(ctx, a); err != nil {
		return err
	}
	attached := !o.Detach && !o.NoStart && !a.Global.DryRun
	if !attached {
		return interruptible(ctx, a, func(ctx context.Context) error { return runUpDetached(ctx, a, o) })
	}
	d, err := o.loadDesired(ctx, a, o.Services, o.NoDeps)
	if err != nil {
		return err
	}
	var none bool
	if o.Services, none = withoutProviders(d, o.Services); none {
		return nil
	}
	attach, err := o.attachTo(d)
	if err != nil {
		return err
	}
	if o.Watch {
		if err := o.checkWatch(d, withDependencies(d, o.Services)); err != nil {
			return err
		}
	}
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	err = interruptible(ctx, a, func(ctx context.Context) error {
		return ensureImages(ctx, a, v, d, &o.createOptions, o.Services, o.NoDeps, o.build)
	})
	if err != nil {
		return err
	}
	if err := o.askForVolumes(ctx, a, v, d); err != nil {
		return err
	}
	return NewForeground(a, v, d, o, attach).Run(ctx)
}

// askForVariables asks whether a project that others wrote may have the variables that
// it asks for.
func (o *UpOptions) askForVariables(ctx context.Context, a *cli.App) error {
	if o.Yes || a.Global.DryRun || !slices.ContainsFunc(a.Global.Files, load.IsRemote) {
		return nil
	}
	lo, err := a.LoadOptions()
	if err != nil {
		return err
	}
	variables, err := load.Variables(ctx, lo)
	if err != nil || len(variables) == 0 {
		return err
	}
	known := load.Environment(lo)
	var b strings.Builder
	b.WriteString("Found the following variables in configuration:\n")
	for _, v := range variables {
		value, source := known[v.Name], "environment"
		if value == "" {
			value, source = v.Default, "the project"
		}
		fmt.Fprintf(&b, "  %s=%q (%s)\n", v.Name, value, source)
	}
	if a.Refused(b.String() + "Do you want to proceed with these variables? [Y/n]: ") {
		return errors.New("operation cancelled by user")
	}
	return nil
}

func runUpDetached(ctx context.Context, a *cli.App, o *UpOptions) error {
	d, err := o.loadDesired(ctx, a, o.Services, o.NoDeps)
	if err != nil {
		return err
	}
	var none bool
	if o.Services, none = withoutProviders(d, o.Services); none {
		return nil
	}
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	if a.Global.DryRun {
		p, err := o.plan(ctx, a, v, d)
		if err != nil {
			return err
		}
		return cli.PrintPlan(a, p)
	}
	if err := ensureImages(ctx, a, v, d, &o.createOptions, o.Services, o.NoDeps, o.build); err != nil {
		return err
	}
	if err := o.askForVolumes(ctx, a, v, d); err != nil {
		return err
	}
	return a.Watch("Running", func(p compose.Progress) error { return v.Up(ctx, d, o.options(a), p) })
}

// attachTo chooses the services whose logs a foreground up shows: those asked
// for, or those being started, without what the file or the flags leave out.
func (o *UpOptions) attachTo(d *spec.Desired) ([]string, error) {
	known := slices.Sorted(maps.Keys(d.Services))
	for _, name := range append(slices.Clone(o.Attach), o.ExitCodeFrom) {
		if name != "" && d.Services[name] == nil {
			return nil, cli.NoSuchService("", name, known)
		}
	}
	chosen := o.Attach
	if len(chosen) == 0 {
		chosen = o.Services
		if len(chosen) == 0 {
			chosen = known
		} else if o.AttachDependencies {
			chosen = withDependencies(d, chosen)
		}
		chosen = slices.DeleteFunc(slices.Clone(chosen), func(n string) bool {
			return d.Services[n] == nil || d.Services[n].NoAttach
		})
	}
	return slices.DeleteFunc(slices.Clone(chosen), func(n string) bool { return slices.Contains(o.NoAttach, n) }), nil
}

// withDependencies adds what services depend on, directly or not.
func withDependencies(d *spec.Desired, services []string) []string {
	out := slices.Clone(services)
	for i := 0; i < len(out); i++ {
		if s := d.Services[out[i]]; s != nil {
			for _, name := range slices.Sorted(maps.Keys(s.DependsOn)) {
				if !slices.Contains(out, name) {
					out = append(out, name)
				}
			}
		}
	}
	return out
}

// shortNames are the containers' names as log prefixes have them.
func shortNames(d *spec.Desired, services []string) []string {
	var names []string
	for _, s := range services {
		for _, r := range d.Services[s].Replicas {
			names = append(names, strings.TrimPrefix(r.Spec.Name, d.Project+"-"))
		}
	}
	return names
}
