package project

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/image"
	"github.com/stack-run/stack/cmd/stack/internal/progress"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/compose/apply"
	"github.com/stack-run/stack/compose/spec"
	"github.com/stack-run/stack/engine/build/request"
)

type BuildOptions struct {
	Services         []string // arguments
	BuildArgs        []string
	Check            bool
	NoCache          bool
	Print            bool
	Progress         string
	Provenance, SBOM string
	Pull             bool
	Push             bool
	Quiet            bool
	SSH              string
	WithDependencies bool
}

func NewBuildCmd(a *cli.App, runF func(context.Context, *cli.App, *BuildOptions) error) *cobra.Command {
	if runF == nil {
		runF = runBuild
	}
	o := &BuildOptions{}
	cmd := &cobra.Command{
		Use:   "build [OPTIONS] [SERVICE...]",
		Short: "Build or rebuild services",
		RunE: a.Run(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			o.Services = args
			if cmd.Flags().Changed("ssh") && o.SSH == "" {
				o.SSH = "default"
			}
			if o.Print {
				return errors.New("--print is not supported: stack builds by itself, without bake; \"stack config\" prints what is built")
			}
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.CompleteServices,
	}
	f := cmd.Flags()
	f.StringArrayVar(&o.BuildArgs, "build-arg", nil, "Set build-time variables for services")
	f.String("builder", "", "Set builder to use")
	f.BoolVar(&o.Check, "check", false, "Check build configuration")
	f.Bool("compress", true, "Compress the build context using gzip. DEPRECATED")
	f.Bool("force-rm", true, "Always remove intermediate containers. DEPRECATED")
	f.StringP("memory", "m", "", "Set memory limit for the build container. Not supported by BuildKit.")
	f.BoolVar(&o.NoCache, "no-cache", false, "Do not use cache when building the image")
	f.Bool("no-rm", false, "Do not remove intermediate containers after a successful build. DEPRECATED")
	f.Bool("parallel", true, "Build images in parallel. DEPRECATED")
	f.BoolVar(&o.Print, "print", false, "Print equivalent bake file")
	f.StringVar(&o.Progress, "progress", "", "Set type of ui output (auto, tty, plain, json, quiet)")
	f.StringVar(&o.Provenance, "provenance", "", "Add a provenance attestation")
	f.BoolVar(&o.Pull, "pull", false, "Always attempt to pull a newer version of the image")
	f.BoolVar(&o.Push, "push", false, "Push service images")
	f.BoolVarP(&o.Quiet, "quiet", "q", false, "Suppress the build output")
	f.StringVar(&o.SBOM, "sbom", "", "Add a SBOM attestation")
	f.StringVar(&o.SSH, "ssh", "", "Set SSH authentications used when building service images. (use 'default' for using your default SSH Agent)")
	f.BoolVar(&o.WithDependencies, "with-dependencies", false, "Also build dependencies (transitively)")
	cli.Ignore(f, "builder", "compress", "force-rm", "memory", "no-rm", "parallel")
	for _, name := range []string{"compress", "force-rm", "no-rm", "parallel", "progress"} {
		f.Lookup(name).Hidden = true
	}
	return cmd
}

func runBuild(ctx context.Context, a *cli.App, o *BuildOptions) error {
	p, err := a.LoadProject(ctx, cli.LoadRequest{Services: o.Services, Jobs: true, NoDeps: !o.WithDependencies, Verb: "build"})
	if err != nil {
		return err
	}
	services := o.Services
	if o.WithDependencies {
		services = withDependencies(p.Desired.WithJobs(slices.Collect(maps.Keys(p.Desired.Jobs))...), services)
	}
	to := spec.TargetOptions{
		Services: services, Args: o.BuildArgs, NoCache: o.NoCache, Pull: o.Pull,
		Provenance: o.Provenance, SBOM: o.SBOM,
	}
	if o.SSH != "" {
		to.SSH = []string{o.SSH}
	}
	b, err := projectBuild(ctx, a, p, to, o.Progress, o.Quiet)
	if err != nil {
		return err
	}
	if o.Check {
		b.Call = "check"
	}
	if len(b.Targets) == 0 {
		a.Warn("no service to build")
		return nil
	}
	if a.Global.DryRun {
		for _, t := range b.Targets {
			fmt.Fprintf(a.Err, " DRY-RUN MODE -  Image %s  would be built\n", t.Names[0])
		}
		return nil
	}
	b.ProgressOut = true
	if err := makeImages(ctx, a, b, o.Quiet); err != nil || !o.Push || o.Check {
		return err
	}
	return image.PushImages(ctx, a, namesToPush(a, p.Desired, b.Targets), compose.PushOptions{Parallel: a.Parallel()}, o.Quiet)
}

// projectBuild is the request to build services of a project.
func projectBuild(ctx context.Context, a *cli.App, p *cli.Project, o spec.TargetOptions, mode string, quiet bool) (*request.Build, error) {
	o.Platform = a.Getenv("DOCKER_DEFAULT_PLATFORM")
	targets, warnings, err := spec.Targets(p.Project, spec.HostFacts{Locate: p.Locate, StackVersion: strings.TrimPrefix(cli.Version, "v"), Separator: a.Separator(), Stored: a.Stored(ctx)}, o)
	for _, w := range warnings {
		a.Warn("%s", w)
	}
	if err != nil {
		return nil, err
	}
	if mode == "" {
		mode = a.Global.Progress
	}
	return image.NewBuild(a, targets, mode, quiet)
}

// buildHook builds services before a project is brought up. It tells of it where
// "build" does, unless the standard output is a command's.
func buildHook(a *cli.App, p *cli.Project, quiet, out bool) func(context.Context, []string) error {
	return func(ctx context.Context, services []string) error {
		if len(services) == 0 {
			return nil
		}
		b, err := projectBuild(ctx, a, p, spec.TargetOptions{Services: services}, "", quiet)
		if err != nil {
			return err
		}
		b.ProgressOut = out
		return makeImages(ctx, a, b, quiet)
	}
}

// makeImages builds, and says of each image that it is being built and was. A live
// display comes behind the builder's own: both would draw on the same screen.
func makeImages(ctx context.Context, a *cli.App, b *request.Build, quiet bool) error {
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	mode, err := a.ProgressMode()
	if err != nil {
		return err
	}
	show := a.TransferDisplay("Building", quiet)
	defer show.Done()
	if mode != progress.TTY && b.Call == "" {
		for _, t := range b.Targets {
			show.Event(apply.Event{Kind: "Image", Name: t.Names[0], Status: "Building"})
		}
	}
	r, err := v.Build(ctx, b, a.Streams())
	if b.Call != "" {
		return err
	}
	for _, t := range b.Targets {
		if built, _ := r.Of(t.Name); err == nil || built.Digest != "" {
			show.Event(apply.Event{Kind: "Image", Name: t.Names[0], Status: "Built", Done: true})
		}
	}
	return err
}
