package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/compose/spec"
	"github.com/stack-run/stack/engine/build/request"
)

type buildOptions struct {
	Services         []string // arguments
	BuildArgs        []string
	Check            bool
	NoCache          bool
	Progress         string
	Provenance, SBOM string
	Pull             bool
	Push             bool
	Quiet            bool
	SSH              string
	WithDependencies bool
}

func newBuildCmd(a *app, runF func(context.Context, *app, *buildOptions) error) *cobra.Command {
	if runF == nil {
		runF = runBuild
	}
	o := &buildOptions{}
	cmd := &cobra.Command{
		Use:   "build [OPTIONS] [SERVICE...]",
		Short: "Build or rebuild services",
		RunE: a.run(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			o.Services = args
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.completeServices,
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
	f.StringVar(&o.Progress, "progress", "", "Set type of ui output (auto, tty, plain, json, quiet)")
	f.StringVar(&o.Provenance, "provenance", "", "Add a provenance attestation")
	f.BoolVar(&o.Pull, "pull", false, "Always attempt to pull a newer version of the image")
	f.BoolVar(&o.Push, "push", false, "Push service images")
	f.BoolVarP(&o.Quiet, "quiet", "q", false, "Suppress the build output")
	f.StringVar(&o.SBOM, "sbom", "", "Add a SBOM attestation")
	f.StringVar(&o.SSH, "ssh", "", "Set SSH authentications used when building service images. (use 'default' for using your default SSH Agent)")
	f.BoolVar(&o.WithDependencies, "with-dependencies", false, "Also build dependencies (transitively)")
	ignore(f, "builder", "compress", "force-rm", "memory", "no-rm", "parallel")
	for _, name := range []string{"compress", "force-rm", "no-rm", "parallel", "progress"} {
		f.Lookup(name).Hidden = true
	}
	return cmd
}

func runBuild(ctx context.Context, a *app, o *buildOptions) error {
	p, err := a.loadProject(ctx, loadRequest{Services: o.Services, NoDeps: !o.WithDependencies})
	if err != nil {
		return err
	}
	services := o.Services
	if o.WithDependencies {
		services = withDependencies(p.Desired, services)
	}
	to := spec.TargetOptions{
		Services: services, Args: o.BuildArgs, NoCache: o.NoCache, Pull: o.Pull,
		Provenance: o.Provenance, SBOM: o.SBOM,
	}
	if o.SSH != "" {
		to.SSH = []string{o.SSH}
	}
	b, err := a.projectBuild(p, to, o.Progress, o.Quiet)
	if err != nil {
		return err
	}
	if o.Check {
		b.Call = "check"
	}
	if len(b.Targets) == 0 {
		a.warn("no service to build")
		return nil
	}
	if a.global.DryRun {
		for _, t := range b.Targets {
			fmt.Fprintf(a.err, " DRY-RUN MODE -  Image %s  would be built\n", t.Names[0])
		}
		return nil
	}
	var r request.Result
	if err := a.builder(ctx, a, "build", b, &r); err != nil || !o.Push || o.Check {
		return err
	}
	return a.pushImages(ctx, a.namesToPush(p.Desired, b.Targets), compose.PushOptions{Parallel: a.parallel()}, o.Quiet)
}

// projectBuild is the request to build services of a project.
func (a *app) projectBuild(p *project, o spec.TargetOptions, mode string, quiet bool) (*request.Build, error) {
	o.Platform = a.getenv("DOCKER_DEFAULT_PLATFORM")
	targets, warnings, err := spec.Targets(p.Project, spec.HostFacts{Locate: p.Locate, StackVersion: strings.TrimPrefix(version, "v"), Separator: a.separator()}, o)
	for _, w := range warnings {
		a.warn("%s", w)
	}
	if err != nil {
		return nil, err
	}
	if mode == "" {
		mode = a.global.Progress
	}
	return a.newBuild(targets, mode, quiet)
}

// newBuild is a request with what the surroundings say.
func (a *app) newBuild(targets []request.Target, mode string, quiet bool) (*request.Build, error) {
	if quiet {
		mode = "quiet"
	}
	switch mode {
	case "", "auto", "tty", "plain", "quiet", "rawjson", "none":
	case "json":
		mode = "rawjson"
	default:
		return nil, fmt.Errorf("cannot use --progress %q; use auto, tty, plain, quiet, rawjson or none", mode)
	}
	if (mode == "" || mode == "auto") && a.global.ANSI == "never" {
		mode = "plain"
	}
	return &request.Build{
		DataRoot: a.roots().Data, RunRoot: a.roots().Run, Targets: targets, Progress: mode, Parallel: a.parallel(),
	}, nil
}

// buildHook builds services before a project is brought up.
func (a *app) buildHook(p *project, quiet bool) func(context.Context, []string) error {
	return func(ctx context.Context, services []string) error {
		if len(services) == 0 {
			return nil
		}
		b, err := a.projectBuild(p, spec.TargetOptions{Services: services}, "", quiet)
		if err != nil {
			return err
		}
		var r request.Result
		return a.builder(ctx, a, "build", b, &r)
	}
}

type imageBuildOptions struct {
	Context      string // argument
	File         string
	Target       request.Target
	Args         []string
	Labels       []string
	Secrets      []string
	SSH          []string
	CacheFrom    []string
	CacheTo      []string
	Contexts     []string
	Outputs      []string
	Hosts        []string
	Ulimits      []string
	Attest       []string
	Provenance   string
	SBOM         string
	ShmSize      string
	Load         bool
	Push         bool
	Quiet        bool
	Check        bool
	Call         string
	Progress     string
	IIDFile      string
	MetadataFile string
}

func newImageBuildCmd(a *app, runF func(context.Context, *app, *imageBuildOptions) error) *cobra.Command {
	if runF == nil {
		runF = runImageBuild
	}
	o := &imageBuildOptions{}
	cmd := &cobra.Command{
		Use:   "build [OPTIONS] PATH | URL | -",
		Short: "Build an image from a Dockerfile",
		Args:  exactArgs(1),
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Context = args[0]
			return runF(ctx, a, o)
		}),
	}
	f := cmd.Flags()
	t := &o.Target
	f.StringSliceVar(&o.Hosts, "add-host", nil, `Add a custom host-to-IP mapping (format: "host:ip")`)
	f.StringArrayVar(&t.Entitlements, "allow", nil, `Allow extra privileged entitlement (e.g., "network.host", "security.insecure")`)
	f.StringArrayVar(&t.Annotations, "annotation", nil, "Add annotation to the image")
	f.StringArrayVar(&o.Attest, "attest", nil, `Attestation parameters (format: "type=sbom,generator=image")`)
	f.StringArrayVar(&o.Args, "build-arg", nil, "Set build-time variables")
	f.StringArrayVar(&o.Contexts, "build-context", nil, "Additional build contexts (e.g., name=path)")
	f.StringArrayVar(&o.CacheFrom, "cache-from", nil, `External cache sources (e.g., "user/app:cache", "type=local,src=path/to/dir")`)
	f.StringArrayVar(&o.CacheTo, "cache-to", nil, `Cache export destinations (e.g., "user/app:cache", "type=local,dest=path/to/dir")`)
	f.StringVar(&o.Call, "call", "build", `Set method for evaluating build ("check", "outline", "targets")`)
	f.StringVar(&t.CgroupParent, "cgroup-parent", "", `Set the parent cgroup for the "RUN" instructions during build`)
	f.BoolVar(&o.Check, "check", false, `Shorthand for "--call=check"`)
	f.StringVarP(&o.File, "file", "f", "", `Name of the Dockerfile (default: "PATH/Dockerfile")`)
	f.StringVar(&o.IIDFile, "iidfile", "", "Write the image ID to a file")
	f.StringArrayVar(&o.Labels, "label", nil, "Set metadata for an image")
	f.BoolVar(&o.Push, "push", false, "Push the image under its tags")
	f.BoolVar(&o.Load, "load", false, `Shorthand for "--output=type=docker"`)
	f.StringVar(&o.MetadataFile, "metadata-file", "", "Write build result metadata to a file")
	f.StringVar(&t.Network, "network", "default", `Set the networking mode for the "RUN" instructions during build`)
	f.BoolVar(&t.NoCache, "no-cache", false, "Do not use cache when building the image")
	f.StringArrayVar(&t.NoCacheStages, "no-cache-filter", nil, "Do not cache specified stages")
	f.StringArrayVarP(&o.Outputs, "output", "o", nil, `Output destination (format: "type=local,dest=path")`)
	f.StringSliceVar(&t.Platforms, "platform", nil, "Set target platform for build")
	f.StringVar(&o.Progress, "progress", "auto", `Set type of progress output ("auto", "none", "plain", "quiet", "rawjson", "tty")`)
	f.StringVar(&o.Provenance, "provenance", "", `Shorthand for "--attest=type=provenance"`)
	f.BoolVar(&t.Pull, "pull", false, "Always attempt to pull all referenced images")
	f.BoolVarP(&o.Quiet, "quiet", "q", false, "Suppress the build output and print image ID on success")
	f.StringVar(&o.SBOM, "sbom", "", `Shorthand for "--attest=type=sbom"`)
	f.StringArrayVar(&o.Secrets, "secret", nil, `Secret to expose to the build (format: "id=mysecret[,src=/local/secret]")`)
	f.StringVar(&o.ShmSize, "shm-size", "", "Shared memory size for build containers")
	f.StringArrayVar(&o.SSH, "ssh", nil, `SSH agent socket or keys to expose to the build (format: "default|<id>[=<socket>|<key>[,<key>]]")`)
	f.StringArrayVarP(&t.Names, "tag", "t", nil, `Image identifier (format: "[registry/]repository[:tag]")`)
	f.StringVar(&t.Stage, "target", "", "Set the target build stage to build")
	f.StringArrayVar(&o.Ulimits, "ulimit", nil, "Ulimit options")
	// What BuildKit has no use for.
	f.String("builder", "", "Override the configured builder instance")
	f.Bool("compress", false, "Compress the build context using gzip")
	f.Bool("force-rm", false, "Always remove intermediate containers")
	f.Bool("rm", true, "Remove intermediate containers after a successful build")
	f.Bool("squash", false, "Squash newly built layers into a single new layer")
	f.String("isolation", "", "Container isolation technology")
	f.StringP("memory", "m", "", "Memory limit")
	f.String("memory-swap", "", "Swap limit equal to memory plus swap: -1 to enable unlimited swap")
	f.Int64("cpu-period", 0, "Limit the CPU CFS (Completely Fair Scheduler) period")
	f.Int64("cpu-quota", 0, "Limit the CPU CFS (Completely Fair Scheduler) quota")
	f.Int64P("cpu-shares", "c", 0, "CPU shares (relative weight)")
	f.String("cpuset-cpus", "", "CPUs in which to allow execution (0-3, 0,1)")
	f.String("cpuset-mems", "", "MEMs in which to allow execution (0-3, 0,1)")
	f.StringSlice("security-opt", nil, "Security options")
	ignored := []string{"builder", "compress", "force-rm", "rm", "squash", "isolation", "memory", "memory-swap", "cpu-period", "cpu-quota", "cpu-shares", "cpuset-cpus", "cpuset-mems", "security-opt"}
	ignore(f, ignored...)
	for _, name := range ignored {
		f.Lookup(name).Hidden = true
	}
	return cmd
}

func runImageBuild(ctx context.Context, a *app, o *imageBuildOptions) error {
	t, err := o.target(a)
	if err != nil {
		return err
	}
	b, err := a.newBuild([]request.Target{t}, o.Progress, o.Quiet)
	if err != nil {
		return err
	}
	switch {
	case o.Check:
		b.Call = "check"
	case o.Call != "build":
		b.Call = o.Call
	}
	if o.Push && len(t.Names) == 0 {
		return errors.New("cannot push an image without a name; give --tag")
	}
	if o.IIDFile != "" {
		// An ID of an earlier build must not be taken for this one's.
		if err := os.Remove(o.IIDFile); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	var r request.Result
	if err := a.builder(ctx, a, "build", b, &r); err != nil {
		return err
	}
	built, _ := r.Of(t.Name)
	if err := o.finish(a, b.Call, built); err != nil || !o.Push || b.Call != "" {
		return err
	}
	return a.pushImages(ctx, t.Names, compose.PushOptions{}, o.Quiet)
}
