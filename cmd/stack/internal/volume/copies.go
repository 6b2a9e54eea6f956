package volume

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/volumes"
)

func addPause(f *pflag.FlagSet, o *compose.ReadVolumeOptions) {
	f.BoolVar(&o.Pause, "pause", false, "Pause the containers that may write to the volume while it is read")
}

type exportOptions struct {
	compose.ReadVolumeOptions
	Name   string // argument
	Output string
}

func newExportCmd(a *cli.App, runF func(context.Context, *cli.App, *exportOptions) error) *cobra.Command {
	if runF == nil {
		runF = runExport
	}
	o := &exportOptions{}
	cmd := &cobra.Command{
		Use:   "export [OPTIONS] VOLUME",
		Short: "Export a volume's content as a tar archive",
		Long: "Export a volume's content as a tar archive: owners, modes, times, extended attributes, links and\n" +
			"devices, also of a volume whose driver_opts mount it from elsewhere. Containers that may write to it\n" +
			"meanwhile are warned of; with --pause they rest, and go on even if this command is killed.",
		Args: cli.ExactArgs(1),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Name = args[0]
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: completeFirst(a),
	}
	cmd.Flags().StringVarP(&o.Output, "output", "o", "", "Write to a file, instead of STDOUT")
	addPause(cmd.Flags(), &o.ReadVolumeOptions)
	return cmd
}

func runExport(ctx context.Context, a *cli.App, o *exportOptions) error {
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	if a.Global.DryRun {
		return wouldTouch(ctx, a, v, "export", o.Name)
	}
	return a.WritePrivateOutput(o.Output, "the volume's content", func(w io.Writer) error {
		return v.ExportVolume(ctx, o.Name, w, o.ReadVolumeOptions)
	})
}

// wouldTouch tells what a dry run would do with a volume that has to be there.
func wouldTouch(ctx context.Context, a *cli.App, v compose.API, verb, name string) error {
	if _, err := v.Volume(ctx, name); err != nil {
		return err
	}
	fmt.Fprintln(a.Out, "Would", verb, name)
	return nil
}

type importOptions struct {
	Name    string // argument
	File    string // argument, may be empty
	Force   bool
	Devices bool
}

func newImportCmd(a *cli.App, runF func(context.Context, *cli.App, *importOptions) error) *cobra.Command {
	if runF == nil {
		runF = runImport
	}
	o := &importOptions{}
	cmd := &cobra.Command{
		Use:   "import [OPTIONS] VOLUME [FILE|-]",
		Short: "Fill a volume from a tar archive",
		Long: "Fill a volume from a tar archive, which may be compressed with gzip, zstd, bzip2 or xz. The volume is\n" +
			"made if there is none of that name. One that has content is refused without --force; then the archive\n" +
			"takes the place of all that is in it. Whatever fails, the volume is as it was. Nothing in the archive\n" +
			"leads out of the volume. One that is to be a project's is made by \"stack create\" first.",
		Args: cobra.RangeArgs(1, 2),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Name = args[0]
			if len(args) > 1 {
				o.File = args[1]
			}
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: cli.CompleteFirst(completeVolumes(a)),
	}
	cmd.Flags().BoolVarP(&o.Force, "force", "f", false, "Replace what is in the volume")
	cmd.Flags().BoolVar(&o.Devices, "devices", false, "Make the archive's character and block devices, too")
	return cmd
}

func runImport(ctx context.Context, a *cli.App, o *importOptions) error {
	r, err := a.ReadInput(o.File, "the archive")
	if err != nil {
		return err
	}
	defer r.Close()
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	if a.Global.DryRun {
		fmt.Fprintln(a.Out, "Would import into", o.Name)
		return nil
	}
	err = v.ImportVolume(ctx, o.Name, r, compose.ImportVolumeOptions{Replace: o.Force, Devices: o.Devices})
	var full *volumes.NotEmptyError
	if errors.As(err, &full) {
		return fmt.Errorf("cannot import: %w; --force replaces all that is in it", err)
	}
	if err != nil {
		return err
	}
	fmt.Fprintln(a.Out, o.Name)
	return nil
}

type cpOptions struct {
	compose.ReadVolumeOptions
	Source, Target string // arguments
}

func newCpCmd(a *cli.App, runF func(context.Context, *cli.App, *cpOptions) error) *cobra.Command {
	if runF == nil {
		runF = runCp
	}
	o := &cpOptions{}
	cmd := &cobra.Command{
		Use:     "cp [OPTIONS] SOURCE TARGET",
		Aliases: []string{"copy"},
		Short:   "Copy a volume into a new one",
		Long: "Copy a volume into a new one, or into one that is empty. Where the file system can (btrfs, xfs), blocks\n" +
			"are shared, so that it takes no time and no space. The new volume is a plain one, also where the\n" +
			"source's driver_opts mount it from elsewhere; it has the source's labels, but for those of Compose:\n" +
			"it belongs to no project. Containers that may write to the source meanwhile are warned of; with\n" +
			"--pause they rest, and go on even if this command is killed.",
		Args: cli.ExactArgs(2),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Source, o.Target = args[0], args[1]
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: completeFirst(a),
	}
	addPause(cmd.Flags(), &o.ReadVolumeOptions)
	return cmd
}

func runCp(ctx context.Context, a *cli.App, o *cpOptions) error {
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	if a.Global.DryRun {
		return wouldTouch(ctx, a, v, "copy", o.Source)
	}
	if err := v.CopyVolume(ctx, o.Source, o.Target, o.ReadVolumeOptions); err != nil {
		return err
	}
	fmt.Fprintln(a.Out, o.Target)
	return nil
}

type renameOptions struct {
	Name, To string // arguments
	Force    bool
}

func newRenameCmd(a *cli.App, runF func(context.Context, *cli.App, *renameOptions) error) *cobra.Command {
	if runF == nil {
		runF = runRename
	}
	o := &renameOptions{}
	cmd := &cobra.Command{
		Use:   "rename [OPTIONS] VOLUME NEW_NAME",
		Short: "Rename a volume",
		Long: "Rename a volume that no container refers to, running or stopped. That of a project is refused without\n" +
			"--force: its next \"stack up\" would make a new, empty one under the old name. Take the project down,\n" +
			"write \"name: NEW_NAME\" for the volume into the Compose file, rename it with --force, and bring the\n" +
			"project up again: the volume is still its own.",
		Args: cli.ExactArgs(2),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Name, o.To = args[0], args[1]
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: completeFirst(a),
	}
	cmd.Flags().BoolVarP(&o.Force, "force", "f", false, "Rename a volume of a project, too")
	return cmd
}

func runRename(ctx context.Context, a *cli.App, o *renameOptions) error {
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	if a.Global.DryRun {
		return wouldTouch(ctx, a, v, "rename", o.Name)
	}
	if err := v.RenameVolume(ctx, o.Name, o.To, o.Force); err != nil {
		return err
	}
	fmt.Fprintln(a.Out, o.To)
	return nil
}

// completeFirst completes the first argument; others are names to come.
func completeFirst(a *cli.App) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return completeVolumes(a)(cmd, args, word)
	}
}
