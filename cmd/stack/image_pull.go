package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/compose/plan"
	"github.com/stack-run/stack/compose/spec"
	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/engine/registry"
)

type imagePullOptions struct {
	Name     string // argument
	AllTags  bool
	Platform string
	Quiet    bool
}

func newImagePullCmd(a *app, runF func(context.Context, *app, *imagePullOptions) error) *cobra.Command {
	if runF == nil {
		runF = runImagePull
	}
	o := &imagePullOptions{}
	cmd := &cobra.Command{
		Use:   "pull [OPTIONS] NAME[:TAG|@DIGEST]",
		Short: "Download an image from a registry",
		Args:  exactArgs(1),
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Name = args[0]
			return runF(ctx, a, o)
		}),
	}
	f := cmd.Flags()
	f.BoolVarP(&o.AllTags, "all-tags", "a", false, "Download all tagged images in the repository")
	f.StringVar(&o.Platform, "platform", "", "Set platform if server is multi-platform capable")
	f.BoolVarP(&o.Quiet, "quiet", "q", false, "Suppress verbose output")
	return cmd
}

func runImagePull(ctx context.Context, a *app, o *imagePullOptions) error {
	client, err := a.registryClient()
	if err != nil {
		return err
	}
	if !o.AllTags {
		return a.pullAndTell(ctx, client, o, o.Name)
	}
	name, err := repository(o.Name, true)
	if err != nil {
		return err
	}
	tags, err := client.Tags(ctx, o.Name)
	if err != nil {
		return err
	}
	for _, tag := range tags {
		if err := a.pullAndTell(ctx, client, o, name.Name()+":"+tag); err != nil {
			return err
		}
	}
	return nil
}

// pullAndTell pulls one image and says what has become of it.
func (a *app) pullAndTell(ctx context.Context, client *registry.Client, o *imagePullOptions, ref string) error {
	got, err := a.pull(ctx, client, ref, o.Platform, o.Quiet)
	if err != nil {
		return err
	}
	if !o.Quiet {
		state := "Image is up to date for "
		if got.New {
			state = "Downloaded newer image for "
		}
		fmt.Fprintf(a.out, "Digest: %s\nStatus: %s%s\n", got.Digest, state, got.Name)
	}
	name, err := registry.ParseName(ref)
	if err != nil {
		return err
	}
	fmt.Fprintln(a.out, name)
	return nil
}

// pull pulls one image and shows its layers on stderr.
func (a *app) pull(ctx context.Context, client *registry.Client, name, platform string, quiet bool) (registry.Pulled, error) {
	e, err := a.engine()
	if err != nil {
		return registry.Pulled{}, err
	}
	to, err := compose.RegistryTarget(e)
	if err != nil {
		return registry.Pulled{}, err
	}
	show := a.imageDisplay(quiet)
	defer show.Done()
	return client.Pull(ctx, to, name, registry.PullOptions{
		Platform: platform,
		Event:    func(event registry.Event) { show.Event(compose.LayerEvent(event)) },
	})
}

// ensureImage pulls the image of a single container as --pull says.
func (a *app) ensureImage(ctx context.Context, v compose.API, s engine.Spec, policy string, quiet bool) error {
	switch policy {
	case "always", "never":
	case "missing", "":
		policy = ""
	default:
		return fmt.Errorf("invalid --pull %q; use always, missing or never", policy)
	}
	only := &spec.Service{Name: s.Name, Replicas: []spec.Replica{{Index: 1, Spec: s}}, PullPolicy: policy}
	show := a.imageDisplay(quiet)
	defer show.Done()
	return v.EnsureImages(ctx, &spec.Desired{Services: map[string]*spec.Service{only.Name: only}}, compose.ImageOptions{}, show.Event)
}

type pullOptions struct {
	Services           []string // arguments
	IgnoreBuildable    bool
	IgnorePullFailures bool
	IncludeDeps        bool
	Policy             string
	Quiet              bool
}

func newPullCmd(a *app, runF func(context.Context, *app, *pullOptions) error) *cobra.Command {
	if runF == nil {
		runF = runPull
	}
	o := &pullOptions{}
	cmd := &cobra.Command{
		Use:   "pull [OPTIONS] [SERVICE...]",
		Short: "Pull service images",
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Services = args
			switch o.Policy {
			case "", "missing", "always":
			default:
				return fmt.Errorf("invalid --policy %q; use missing or always", o.Policy)
			}
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.completeServices,
	}
	f := cmd.Flags()
	f.BoolVar(&o.IgnoreBuildable, "ignore-buildable", false, "Ignore images that can be built")
	f.BoolVar(&o.IgnorePullFailures, "ignore-pull-failures", false, "Pull what it can and ignores images with pull failures")
	f.BoolVar(&o.IncludeDeps, "include-deps", false, "Also pull services declared as dependencies")
	f.StringVar(&o.Policy, "policy", "", `Apply pull policy ("missing"|"always")`)
	f.BoolVarP(&o.Quiet, "quiet", "q", false, "Pull without printing progress information")
	for _, name := range []string{"parallel", "no-parallel"} {
		f.Bool(name, true, "DEPRECATED")
		f.Lookup(name).Hidden = true
	}
	ignore(f, "parallel", "no-parallel")
	return cmd
}

func runPull(ctx context.Context, a *app, o *pullOptions) error {
	p, err := a.loadProject(ctx, loadRequest{Services: o.Services, NoDeps: !o.IncludeDeps})
	if err != nil {
		return err
	}
	e, images, err := a.images()
	if err != nil {
		return err
	}
	ops, err := plan.Pulls(p.Desired, plan.PullOptions{
		Services: o.Services, NoDeps: !o.IncludeDeps, Policy: o.Policy, IgnoreBuildable: o.IgnoreBuildable,
	}, compose.LocalImages(ctx, images))
	if err != nil {
		return err
	}
	show := a.imageDisplay(o.Quiet)
	defer show.Done()
	if a.global.DryRun {
		for _, op := range ops {
			fmt.Fprintf(a.err, " DRY-RUN MODE -  Image %s  would be pulled\n", op.Image)
		}
		return nil
	}
	_, err = compose.Pull(ctx, e, ops, compose.PullOptions{KeepGoing: o.IgnorePullFailures, Parallel: a.parallel()}, show.Event)
	if err != nil && o.IgnorePullFailures {
		a.warn("%v", err)
		return nil
	}
	return err
}
