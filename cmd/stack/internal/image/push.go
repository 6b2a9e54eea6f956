package image

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/distribution/reference"
	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/compose"
)

type pushOptions struct {
	Name     string // argument
	AllTags  bool
	Platform string
	Quiet    bool
}

func newPushCmd(a *cli.App, runF func(context.Context, *cli.App, *pushOptions) error) *cobra.Command {
	if runF == nil {
		runF = runPush
	}
	o := &pushOptions{}
	cmd := &cobra.Command{
		Use:   "push [OPTIONS] NAME[:TAG]",
		Short: "Upload an image to a registry",
		Args:  cli.ExactArgs(1),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Name = args[0]
			return runF(ctx, a, o)
		}),
	}
	f := cmd.Flags()
	f.BoolVarP(&o.AllTags, "all-tags", "a", false, "Push all tags of an image to the repository")
	f.StringVar(&o.Platform, "platform", "", "Push a platform-specific manifest as a single-platform image to the registry")
	cli.QuietTransferFlag(f, &o.Quiet)
	f.Bool("disable-content-trust", true, "Skip image signing")
	f.Lookup("disable-content-trust").Hidden = true
	cli.Ignore(f, "disable-content-trust")
	return cmd
}

func runPush(ctx context.Context, a *cli.App, o *pushOptions) error {
	name, err := repository(o.Name, o.AllTags)
	if err != nil {
		return err
	}
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	names := []string{reference.TagNameOnly(name).String()}
	if o.AllTags {
		if names, err = localTags(ctx, v, name); err != nil {
			return err
		}
	}
	if !o.Quiet {
		fmt.Fprintf(a.Out, "The push refers to repository [%s]\n", name.Name())
	}
	for _, n := range names {
		show := a.TransferDisplay("Pushing", o.Quiet)
		pushed, err := v.PushImage(ctx, n, o.Platform, show.Event)
		show.Done()
		if err != nil {
			return err
		}
		if pushed.Partial {
			a.Warn("only the platform that is here was pushed of %s", n)
		}
		if o.Quiet {
			fmt.Fprintln(a.Out, n)
			continue
		}
		fmt.Fprintf(a.Out, "%s: digest: %s size: %d\n", pushed.Tag, pushed.Digest, pushed.Size)
	}
	return nil
}

// repository reads a name, which must have no tag if all tags are meant.
func repository(name string, allTags bool) (reference.Named, error) {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return nil, fmt.Errorf("cannot read image name %q: %w", name, err)
	}
	if allTags && !reference.IsNameOnly(ref) {
		return nil, errors.New("tag can't be used with --all-tags/-a")
	}
	return ref, nil
}

// localTags are the full names of a repository's images that are here.
func localTags(ctx context.Context, v compose.API, name reference.Named) ([]string, error) {
	all, err := v.Images(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, img := range all {
		for _, n := range img.Names {
			ref, err := reference.ParseNormalizedNamed(n)
			if err != nil || ref.Name() != name.Name() {
				continue
			}
			if _, ok := ref.(reference.Tagged); ok {
				names = append(names, ref.String())
			}
		}
	}
	slices.Sort(names) // an image of several platforms has its names for each
	names = slices.Compact(names)
	if len(names) == 0 {
		return nil, fmt.Errorf("cannot push %s: an image of that name does not exist locally", reference.FamiliarName(name))
	}
	return names, nil
}

func PushImages(ctx context.Context, a *cli.App, names []string, o compose.PushOptions, quiet bool) error {
	if a.Global.DryRun {
		for _, name := range names {
			fmt.Fprintf(a.Err, " DRY-RUN MODE -  Image %s  would be pushed\n", name)
		}
		return nil
	}
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	show := a.TransferDisplay("Pushing", quiet)
	defer show.Done()
	return v.Push(ctx, names, o, show.Event)
}
