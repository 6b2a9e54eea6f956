package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/stack-run/stack/compose/spec"
)

// verb is one command of the top level. Only the one that is asked for is
// built: the flags of all of them cost more time than "stack version" may take.
type verb struct {
	name    string
	aliases []string
	group   string
	build   func(*app) *cobra.Command
}

const (
	groupProject = "project"
	groupObjects = "objects"
	groupOther   = "other"
)

func verbTable() []verb {
	// Each constructor also takes the function to run, which tests replace.
	return []verb{
		{name: "up", group: groupProject, build: func(a *app) *cobra.Command { return newUpCmd(a, nil) }},
		{name: "down", group: groupProject, build: func(a *app) *cobra.Command { return newDownCmd(a, nil) }},
		{name: "plan", group: groupProject, build: func(a *app) *cobra.Command { return newPlanCmd(a, nil) }},
		{name: "ps", group: groupProject, build: func(a *app) *cobra.Command { return newPsCmd(a, nil) }},
		{name: "logs", group: groupProject, build: func(a *app) *cobra.Command { return newLogsCmd(a, nil) }},
		{name: "exec", group: groupProject, build: func(a *app) *cobra.Command { return newExecCmd(a, nil) }},
		{name: "run", group: groupProject, build: func(a *app) *cobra.Command { return newRunCmd(a, nil) }},
		{name: "build", group: groupProject, build: func(a *app) *cobra.Command { return newBuildCmd(a, nil) }},
		{name: "create", group: groupProject, build: func(a *app) *cobra.Command { return newCreateCmd(a, nil) }},
		{name: "start", group: groupProject, build: func(a *app) *cobra.Command { return newStartCmd(a, nil) }},
		{name: "stop", group: groupProject, build: func(a *app) *cobra.Command { return newStopCmd(a, nil) }},
		{name: "restart", group: groupProject, build: func(a *app) *cobra.Command { return newRestartCmd(a, nil) }},
		{name: "kill", group: groupProject, build: func(a *app) *cobra.Command { return newKillCmd(a, nil) }},
		{name: "pause", group: groupProject, build: func(a *app) *cobra.Command { return newPauseCmd(a, nil) }},
		{name: "unpause", group: groupProject, build: func(a *app) *cobra.Command { return newUnpauseCmd(a, nil) }},
		{name: "rm", group: groupProject, build: func(a *app) *cobra.Command { return newRmCmd(a, nil) }},
		{name: "scale", group: groupProject, build: func(a *app) *cobra.Command { return newScaleCmd(a, nil) }},
		{name: "attach", group: groupProject, build: func(a *app) *cobra.Command { return newAttachCmd(a, nil) }},
		{name: "wait", group: groupProject, build: func(a *app) *cobra.Command { return newWaitCmd(a, nil) }},
		{name: "cp", group: groupProject, build: func(a *app) *cobra.Command { return newCpCmd(a, nil) }},
		{name: "commit", group: groupProject, build: func(a *app) *cobra.Command { return newCommitCmd(a, nil) }},
		{name: "export", group: groupProject, build: func(a *app) *cobra.Command { return newExportCmd(a, nil) }},
		{name: "top", group: groupProject, build: func(a *app) *cobra.Command { return newTopCmd(a, nil) }},
		{name: "port", group: groupProject, build: func(a *app) *cobra.Command { return newPortCmd(a, nil) }},
		{name: "stats", group: groupProject, build: func(a *app) *cobra.Command { return newStatsCmd(a, nil) }},
		{name: "events", group: groupProject, build: func(a *app) *cobra.Command { return newEventsCmd(a, nil) }},
		{name: "images", group: groupProject, build: func(a *app) *cobra.Command { return newImagesCmd(a, nil) }},
		{name: "volumes", group: groupProject, build: func(a *app) *cobra.Command { return newVolumesCmd(a, nil) }},
		{name: "pull", group: groupProject, build: func(a *app) *cobra.Command { return newPullCmd(a, nil) }},
		{name: "push", group: groupProject, build: func(a *app) *cobra.Command { return newPushCmd(a, nil) }},
		{name: "config", aliases: []string{"convert"}, group: groupProject, build: func(a *app) *cobra.Command { return newConfigCmd(a, nil) }},
		{name: "ls", group: groupProject, build: func(a *app) *cobra.Command { return newLsCmd(a, nil) }},

		{name: "container", group: groupObjects, build: newContainerCmd},
		{name: "image", group: groupObjects, build: newImageCmd},
		{name: "builder", group: groupObjects, build: newBuilderCmd},
		{name: "network", group: groupObjects, build: newNetworkCmd},
		{name: "volume", group: groupObjects, build: newVolumeCmd},
		{name: "system", group: groupObjects, build: newSystemCmd},
		{name: "inspect", group: groupObjects, build: func(a *app) *cobra.Command { return newInspectCmd(a, nil) }},

		{name: "login", group: groupOther, build: func(a *app) *cobra.Command { return newLoginCmd(a, nil) }},
		{name: "logout", group: groupOther, build: func(a *app) *cobra.Command { return newLogoutCmd(a, nil) }},
		{name: "version", group: groupOther, build: func(a *app) *cobra.Command { return newVersionCmd(a, nil) }},
	}
}

func newRootCmd(a *app, args []string) *cobra.Command {
	root := &cobra.Command{
		Use:              "stack",
		Short:            "Run Compose applications on one machine",
		Long:             "Run Compose applications on one machine, with no daemon.",
		TraverseChildren: true,
		SilenceUsage:     true,
		SilenceErrors:    true,
		Args:             cobra.ArbitraryArgs,
		RunE: a.run(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			switch {
			case a.global.Version:
				return printVersion(a, &versionOptions{})
			case len(args) == 0:
				return cmd.Help()
			}
			return unknownVerb(cmd, args[0])
		}),
	}
	root.Flags().SetInterspersed(false)
	addGlobalFlags(root.Flags(), &a.global)
	root.PersistentFlags().BoolVar(&a.global.DryRun, "dry-run", false, "Execute command in dry run mode")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		err = fmt.Errorf("%w\nSee '%s --help'", err, cmd.CommandPath())
		if ofDocker(cmd) || cmd.Name() == "run" {
			return exitError{code: exitEngine, cause: err}
		}
		return err
	})

	table := verbTable()
	v := a.chosen(table, args)
	if v != nil {
		cmd := v.build(a)
		cmd.DisableFlagsInUseLine = true
		root.AddCommand(cmd)
		root.CompletionOptions.DisableDefaultCmd = true
		root.SetHelpCommand(&cobra.Command{Use: "no-help", Hidden: true})
		return root
	}
	root.AddGroup(
		&cobra.Group{ID: groupProject, Title: "Project commands:"},
		&cobra.Group{ID: groupObjects, Title: "Object commands:"},
		&cobra.Group{ID: groupOther, Title: "Other commands:"},
	)
	root.SetHelpCommandGroupID(groupOther)
	root.SetCompletionCommandGroupID(groupOther)
	for _, v := range table {
		cmd := v.build(a)
		cmd.GroupID = v.group
		cmd.DisableFlagsInUseLine = true
		root.AddCommand(cmd)
	}
	registerGlobalCompletion(a, root)
	return root
}

// ofDocker tells whether a command is one of docker's and not of docker compose,
// which have exit codes of their own for wrong flags.
func ofDocker(cmd *cobra.Command) bool {
	for cmd.HasParent() && cmd.Parent().HasParent() {
		cmd = cmd.Parent()
	}
	i := slices.IndexFunc(verbTable(), func(v verb) bool { return v.name == cmd.Name() })
	return i >= 0 && verbTable()[i].group == groupObjects
}

// chosen finds the verb that args name, nil when all must be built: for help,
// completion, and to say what was meant. It leaves the flags before the verb in
// a.global, because what a verb is (see newRunCmd) and the defaults of its flags
// depend on the project that those name; cobra sets them again.
func (a *app) chosen(table []verb, args []string) *verb {
	if len(args) > 0 && (args[0] == cobra.ShellCompRequestCmd || args[0] == cobra.ShellCompNoDescRequestCmd) {
		a.chosen(nil, args[1:])
		return nil
	}
	var given globalOptions
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	fs.SetInterspersed(false)
	addGlobalFlags(fs, &given)
	fs.BoolVar(&given.DryRun, "dry-run", false, "")
	fs.Usage = func() {}
	err := fs.Parse(args)
	a.global, a.settings = given, nil
	if err != nil || fs.NArg() == 0 {
		return nil
	}
	for i := range table {
		if table[i].name == fs.Arg(0) || slices.Contains(table[i].aliases, fs.Arg(0)) {
			a.subcommand = fs.Arg(1)
			return &table[i]
		}
	}
	return nil
}

func addGlobalFlags(f *pflag.FlagSet, g *globalOptions) {
	f.BoolVar(&g.AllResources, "all-resources", false, "Include all resources, even those not used by services")
	f.StringVar(&g.ANSI, "ansi", "auto", `Control when to print ANSI control characters ("never"|"always"|"auto")`)
	f.BoolVar(&g.Compatibility, "compatibility", false, "Run compose in backward compatibility mode")
	f.StringArrayVar(&g.EnvFiles, "env-file", nil, "Specify an alternate environment file")
	f.StringArrayVarP(&g.Files, "file", "f", nil, "Compose configuration files")
	f.StringArrayVar(&g.Insecure, "insecure-registry", nil, "Use insecure registry to pull Compose OCI artifacts. Doesn't apply to images")
	f.BoolVar(&g.NoANSI, "no-ansi", false, "Do not print ANSI control characters (DEPRECATED)")
	f.IntVar(&g.Parallel, "parallel", -1, "Control max parallelism, -1 for unlimited")
	f.StringArrayVar(&g.Profiles, "profile", nil, "Specify a profile to enable")
	f.StringVar(&g.Progress, "progress", "", "Set type of progress output (auto, tty, plain, json, quiet)")
	f.StringVar(&g.ProjectDirectory, "project-directory", "", "Specify an alternate working directory\n(default: the path of the, first specified, Compose file)")
	f.StringVarP(&g.ProjectName, "project-name", "p", "", "Project name")
	f.BoolVar(&g.Verbose, "verbose", false, "Show more output")
	f.BoolVarP(&g.Version, "version", "v", false, "Show the version information")
	f.StringVar(&g.WorkDir, "workdir", "", "DEPRECATED! USE --project-directory INSTEAD.")
	for _, name := range []string{"insecure-registry", "no-ansi", "verbose", "version", "workdir"} {
		f.Lookup(name).Hidden = true
	}
}

// unknownVerb says what was probably meant.
func unknownVerb(parent *cobra.Command, name string) error {
	text := fmt.Sprintf("unknown command: %q", parent.CommandPath()+" "+name)
	var names []string
	for _, c := range parent.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	if near := spec.Nearest(name, names); near != "" {
		text += fmt.Sprintf("; did you mean %q?", parent.CommandPath()+" "+near)
	}
	return fmt.Errorf("%s\n\nRun '%s --help' for the list of commands", text, parent.CommandPath())
}
