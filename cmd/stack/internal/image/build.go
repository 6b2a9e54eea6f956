package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/engine/build/request"
)

// NewBuild is a request with what the surroundings say.
func NewBuild(a *cli.App, targets []request.Target, mode string, quiet bool) (*request.Build, error) {
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
	if (mode == "" || mode == "auto") && a.Global.ANSI == "never" {
		mode = "plain"
	}
	return &request.Build{Targets: targets, Progress: mode, Parallel: a.Parallel()}, nil
}

type buildOptions struct {
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

func newBuildCmd(a *cli.App, runF func(context.Context, *cli.App, *buildOptions) error) *cobra.Command {
	if runF == nil {
		runF = runBuild
	}
	o := &buildOptions{}
	cmd := &cobra.Command{
		Use:   "build [OPTIONS] PATH | URL | -",
		Short: "Build an image from a Dockerfile",
		Args:  cli.ExactArgs(1),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
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
	f.StringVar(&t.UserNS, "userns", "", `User namespace for the "RUN" instructions during build: host, auto, nomap, FIRST:SIZE`)
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
	cli.Ignore(f, ignored...)
	for _, name := range ignored {
		f.Lookup(name).Hidden = true
	}
	return cmd
}

func runBuild(ctx context.Context, a *cli.App, o *buildOptions) error {
	t, err := o.target(a)
	if err != nil {
		return err
	}
	b, err := NewBuild(a, []request.Target{t}, o.Progress, o.Quiet)
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
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	r, err := v.Build(ctx, b, a.Streams())
	if err != nil {
		return err
	}
	built, _ := r.Of(t.Name)
	if err := o.finish(a, b.Call, built); err != nil || !o.Push || b.Call != "" {
		return err
	}
	return PushImages(ctx, a, t.Names, compose.PushOptions{}, o.Quiet)
}

// target turns the flags of "image build" into a request's target.
func (o *buildOptions) target(a *cli.App) (request.Target, error) {
	t := o.Target
	t.Name, t.Context, t.Dockerfile = "image", o.Context, o.File
	dir, err := a.Cwd()
	if err != nil {
		return t, fmt.Errorf("cannot find the working directory: %w", err)
	}
	local := t.Context != "-" && !request.IsRemote(t.Context)
	if local && !filepath.IsAbs(t.Context) {
		t.Context = filepath.Join(dir, t.Context)
	}
	if local && t.Dockerfile != "" && t.Dockerfile != "-" && !filepath.IsAbs(t.Dockerfile) {
		t.Dockerfile = filepath.Join(dir, t.Dockerfile)
	}
	if err := request.CheckNetwork(t.Network); err != nil {
		return t, err
	}
	if t.UserNS, err = engine.AskedBuildUserNS(t.UserNS); err != nil {
		return t, fmt.Errorf("cannot use --userns: %w", err)
	}
	t.Args = map[string]string{}
	if v, ok := a.Env("SOURCE_DATE_EPOCH"); ok {
		t.Args["SOURCE_DATE_EPOCH"] = v
	}
	for _, arg := range o.Args {
		key, value, given := strings.Cut(arg, "=")
		if !given {
			if value, given = a.Env(key); !given {
				continue
			}
		}
		t.Args[key] = value
	}
	t.Labels = map[string]string{}
	for _, l := range o.Labels {
		key, value, _ := strings.Cut(l, "=")
		t.Labels[key] = value
	}
	if o.ShmSize != "" {
		if t.ShmSize, err = units.RAMInBytes(o.ShmSize); err != nil {
			return t, fmt.Errorf("cannot use --shm-size %q: %w", o.ShmSize, err)
		}
	}
	t.Contexts = map[string]string{}
	for _, c := range o.Contexts {
		name, value, ok := strings.Cut(c, "=")
		if !ok || name == "" || value == "" {
			return t, fmt.Errorf("cannot read the context %q; write NAME=PATH, such as res=./res", c)
		}
		if !request.HasScheme(value) && !filepath.IsAbs(value) {
			value = filepath.Join(dir, value)
		}
		t.Contexts[name] = value
	}
	return t, o.lists(&t, dir)
}

// lists parses the flags that are given once for each of several things.
func (o *buildOptions) lists(t *request.Target, dir string) error {
	var err error
	if t.Secrets, err = each(o.Secrets, request.ParseSecret); err != nil {
		return err
	}
	if t.SSH, err = each(o.SSH, request.ParseSSH); err != nil {
		return err
	}
	if t.ExtraHosts, err = each(o.Hosts, request.ParseHost); err != nil {
		return err
	}
	if t.Ulimits, err = each(o.Ulimits, request.ParseUlimit); err != nil {
		return err
	}
	if t.Outputs, err = each(o.Outputs, request.ParseOutput); err != nil {
		return err
	}
	if o.Load {
		t.Outputs = append(t.Outputs, request.Entry{Type: "image", Attrs: map[string]string{}})
	}
	cache := func(export bool) func(string) (request.Entry, error) {
		return func(s string) (request.Entry, error) { return request.ParseCache(s, export, dir) }
	}
	if t.CacheFrom, err = each(o.CacheFrom, cache(false)); err != nil {
		return err
	}
	if t.CacheTo, err = each(o.CacheTo, cache(true)); err != nil {
		return err
	}
	return o.attestations(t)
}

func (o *buildOptions) attestations(t *request.Target) error {
	t.Attestations = map[string]string{}
	for _, s := range o.Attest {
		kind, params, on, err := request.ParseAttest(s)
		if err != nil {
			return err
		}
		if on {
			t.Attestations[kind] = params
		}
	}
	for kind, value := range map[string]string{"provenance": o.Provenance, "sbom": o.SBOM} {
		if value == "" {
			continue
		}
		params, on, err := request.ShortAttest(kind, value)
		if err != nil {
			return err
		}
		delete(t.Attestations, kind)
		if on {
			t.Attestations[kind] = params
		}
	}
	return nil
}

func each[T any](list []string, parse func(string) (T, error)) ([]T, error) {
	var out []T
	for _, s := range list {
		v, err := parse(s)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

// finish writes what the flags ask for about a finished build.
func (o *buildOptions) finish(a *cli.App, call string, built request.Built) error {
	if call != "" {
		return nil
	}
	if o.IIDFile != "" {
		if err := os.WriteFile(o.IIDFile, []byte(built.ImageID), 0o644); err != nil {
			return fmt.Errorf("cannot write the image ID: %w", err)
		}
	}
	if o.MetadataFile != "" {
		data, err := json.MarshalIndent(built.Metadata, "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(o.MetadataFile, data, 0o644); err != nil {
			return fmt.Errorf("cannot write the metadata: %w", err)
		}
	}
	if o.Quiet && built.ImageID != "" {
		fmt.Fprintln(a.Out, built.ImageID)
	}
	return nil
}
