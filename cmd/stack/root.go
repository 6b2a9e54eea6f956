package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/container"
	"github.com/stack-run/stack/cmd/stack/internal/image"
	"github.com/stack-run/stack/cmd/stack/internal/network"
	"github.com/stack-run/stack/cmd/stack/internal/project"
	"github.com/stack-run/stack/cmd/stack/internal/secret"
	"github.com/stack-run/stack/cmd/stack/internal/system"
	"github.com/stack-run/stack/cmd/stack/internal/volume"
)

const (
	groupProject = "project"
	groupObjects = "objects"
	groupOther   = "other"
	// groupDocker has docker's verbs that no project has.
	groupDocker = "docker"
)

func verbTable() []cli.Verb {
	// Each constructor also takes the function to run, which tests replace.
	return []cli.Verb{
		{Name: "up", Group: groupProject, Build: func(a *cli.App) *cobra.Command { return project.NewUpCmd(a, nil) }},
		{Name: "down", Group: groupProject, Build: func(a *cli.App) *cobra.Command { return project.NewDownCmd(a, nil) }},
		{Name: "plan", Group: groupProject, Build: func(a *cli.App) *cobra.Command { return project.NewPlanCmd(a, nil) }},
		{Name: "ps", Group: groupProject, Build: func(a *cli.App) *cobra.Command { return project.NewPsCmd(a, nil) }},
		{Name: "why", Group: groupProject, Build: func(a *cli.App) *cobra.Command { return project.NewWhyCmd(a, nil) }},
		{Name: "blame", Aliases: []string{"critical-chain"}, Group: groupProject, Build: func(a *cli.App) *cobra.Command { return project.NewBlameCmd(a, nil) }},
		{Name: "logs", Group: groupProject, Build: func(a *cli.App) *cobra.Command { return container.NewLogsCmd(a, nil) }},
		{Name: "exec", Group: groupProject, Build: func(a *cli.App) *cobra.Command { return container.NewExecCmd(a, nil) }},
		{Name: "run", Group: groupProject, Build: func(a *cli.App) *cobra.Command { return project.NewRunCmd(a, nil) }},
		{Name: "build", Group: groupProject, Build: func(a *cli.App) *cobra.Command { return project.NewBuildCmd(a, nil) }},
		{Name: "create", Group: groupProject, Build: func(a *cli.App) *cobra.Command { return project.NewCreateCmd(a, nil) }},
		{Name: "start", Group: groupProject, Build: func(a *cli.App) *cobra.Command { return project.NewStartCmd(a, nil) }},
		{Name: "stop", Group: groupProject, Build: func(a *cli.App) *cobra.Command { return project.NewStopCmd(a, nil) }},
		{Name: "restart", Group: groupProject, Build: func(a *cli.App) *cobra.Command { return project.NewRestartCmd(a, nil) }},
		{Name: "kill", Group: groupProject, Build: func(a *cli.App) *cobra.Command { return project.NewKillCmd(a, nil) }},
		{Name: "pause", Group: groupProject, Build: func(a *cli.App) *cobra.Command { return project.NewPauseCmd(a, nil) }},
		{Name: "unpause", Group: groupProject, Build: func(a *cli.App) *cobra.Command { return project.NewUnpauseCmd(a, nil) }},
		{Name: "rm", Group: groupProject, Build: func(a *cli.App) *cobra.Command { return project.NewRmCmd(a, nil) }},
		{Name: "scale", Group: groupProject, Build: func(a *cli.App) *cobra.Command { return project.NewScaleCmd(a, nil) }},
		{Name: "attach", Group: groupProject, Build: func(a *cli.App) *cobra.Command { return container.NewAttachCmd(a, nil) }},
		{Name: "wait", Group: groupProject, Build: func(a *cli.App) *cobra.Command { return container.NewWaitCmd(a, nil) }},
		{Name: "cp", Group: groupProject, Build: func(a *cli.App) *cobra.Command { return container.NewCpCmd(a, nil) }},
		{Name: "commit", Group: groupProject, Build: func(a *cli.App) *cobra.Command { return container.NewCommitCmd(a, nil) }},
		{Name: "export", Group: groupProject, Build: func(a *cli.App) *cobra.Command { return container.NewExportCmd(a, nil) }},
		{Name: "top", Group: groupProject, Build: func(a *cli.App) *cobra.Command { return container.NewTopCmd(a, nil) }},
		{Name: "port", Group: groupProject, Build: func(a *cli.App) *cobra.Command { return container.NewPortCmd(a, nil) }},
		{Name: "stats", Group: groupProject, Build: func(a *cli.App) *cobra.Command { return container.NewStatsCmd(a, nil) }},
		{Name: "jobs", Group: groupProject, Build: func(a *cli.App) *cobra.Command { return project.NewJobsCmd(a, nil) }},
		{Name: "events", Group: groupProject, Build: func(a *cli.App) *cobra.Command { return system.NewEventsCmd(a, nil) }},
		{Name: "images", Group: groupProject, Build: func(a *cli.App) *cobra.Command { return project.NewImagesCmd(a, nil) }},
		{Name: "volumes", Group: groupProject, Build: func(a *cli.App) *cobra.Command { return project.NewVolumesCmd(a, nil) }},
		{Name: "pull", Group: groupProject, Build: func(a *cli.App) *cobra.Command { return project.NewPullCmd(a, nil) }},
		{Name: "push", Group: groupProject, Build: func(a *cli.App) *cobra.Command { return project.NewPushCmd(a, nil) }},
		{Name: "publish", Group: groupProject, Build: func(a *cli.App) *cobra.Command { return project.NewPublishCmd(a, nil) }},
		{Name: "watch", Group: groupProject, Build: func(a *cli.App) *cobra.Command { return project.NewWatchCmd(a, nil) }},
		{Name: "config", Aliases: []string{"convert"}, Group: groupProject, Build: func(a *cli.App) *cobra.Command { return project.NewConfigCmd(a, nil) }},
		{Name: "ls", Group: groupProject, Build: func(a *cli.App) *cobra.Command { return project.NewLsCmd(a, nil) }},

		{Name: "compose", Group: groupProject, Build: newComposeStub},

		{Name: "container", Group: groupObjects, Build: container.NewCmd},
		{Name: "image", Group: groupObjects, Build: image.NewCmd},
		{Name: "builder", Group: groupObjects, Build: image.NewBuilderCmd},
		{Name: "network", Group: groupObjects, Build: network.NewCmd},
		{Name: "secret", Group: groupObjects, Build: secret.NewCmd},
		{Name: "configs", Group: groupObjects, Build: secret.NewConfigsCmd},
		{Name: "volume", Group: groupObjects, Build: volume.NewCmd},
		{Name: "system", Group: groupObjects, Build: system.NewCmd},
		{Name: "inspect", Group: groupObjects, Build: system.NewInspectCmd},

		{Name: "login", Group: groupOther, Build: func(a *cli.App) *cobra.Command { return image.NewLoginCmd(a, nil) }},
		{Name: "logout", Group: groupOther, Build: func(a *cli.App) *cobra.Command { return image.NewLogoutCmd(a, nil) }},
		{Name: "version", Group: groupOther, Build: func(a *cli.App) *cobra.Command { return newVersionCmd(a, nil) }},

		{Name: "diff", Group: groupDocker},
		{Name: "history", Group: groupDocker},
		{Name: "import", Group: groupDocker},
		{Name: "info", Group: groupDocker},
		{Name: "load", Group: groupDocker},
		{Name: "rename", Group: groupDocker},
		{Name: "rmi", Group: groupDocker},
		{Name: "save", Group: groupDocker},
		{Name: "tag", Group: groupDocker},
		{Name: "update", Group: groupDocker},
	}
}

func newRootCmd(a *cli.App, is program, args []string) *cobra.Command {
	var global dockerOptions
	root := &cobra.Command{
		Use:              string(is),
		Annotations:      map[string]string{cobra.CommandDisplayNameAnnotation: string(is)},
		Short:            "Run Compose applications on one machine",
		Long:             "Run Compose applications on one machine, with no daemon.",
		TraverseChildren: true,
		SilenceUsage:     true,
		SilenceErrors:    true,
		Args:             cobra.ArbitraryArgs,
		RunE: a.Run(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			switch {
			case (a.Global.Version || global.Version) && (is == docker || is == dockerCompose):
				printDockerVersion(a, is)
				return nil
			case a.Global.Version:
				return printVersion(a, &versionOptions{})
			case len(args) == 0:
				return cmd.Help()
			}
			return cli.UnknownVerb(cmd, args[0])
		}),
	}
	root.Flags().SetInterspersed(false)
	if is == docker {
		root.Long = "Docker's command line, carried out by stack on this machine, with no daemon."
		addDockerFlags(root.Flags(), &global)
	} else {
		addGlobalFlags(root.Flags(), &a.Global)
		root.PersistentFlags().BoolVar(&a.Global.DryRun, "dry-run", false, "Execute command in dry run mode")
	}
	if is == docker || is == dockerCompose {
		root.PersistentPreRunE = func(*cobra.Command, []string) error { return global.check(a) }
	}
	a.ProjectMeant = is == stackCompose || is == dockerCompose
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		err = fmt.Errorf("%w\nSee '%s --help'", err, cmd.CommandPath())
		if _, engine := cmd.Annotations[engineAnnotation]; is == stackItself && !engine && cmd.Parent() == cmd.Root() && cmd.Name() != "run" {
			if form := cli.EngineForm(cmd.Name(), ""); form != "" {
				err = fmt.Errorf("%w; %s", err, form)
			}
		}
		if is == docker || ofDocker(cmd) || cmd.Name() == "run" && !a.ProjectMeant {
			return cli.ExitError{Code: cli.ExitEngine, Cause: err}
		}
		return err
	})

	table := is.verbs()
	v := chosen(a, is, table, args)
	if v != nil {
		cmd := is.build(a, *v)
		cmd.DisableFlagsInUseLine = true
		root.AddCommand(cmd)
		root.CompletionOptions.DisableDefaultCmd = true
		root.SetHelpCommand(&cobra.Command{Use: "no-help", Hidden: true})
		return root
	}
	for _, g := range []cobra.Group{
		{ID: groupProject, Title: "Project commands:"}, {ID: groupObjects, Title: "Object commands:"},
		{ID: groupDocker, Title: "Docker's commands:"}, {ID: groupOther, Title: "Other commands:"},
	} {
		if slices.ContainsFunc(table, func(v cli.Verb) bool { return v.Group == g.ID }) {
			root.AddGroup(&g)
		}
	}
	root.SetHelpCommandGroupID(groupOther)
	root.SetCompletionCommandGroupID(groupOther)
	for _, v := range table {
		cmd := is.build(a, v)
		cmd.GroupID = v.Group
		cmd.DisableFlagsInUseLine = true
		root.AddCommand(cmd)
	}
	if is != docker {
		registerGlobalCompletion(a, root)
	}
	if completes(args) {
		registerValues(a, root)
	}
	return root
}

// ofDocker tells whether a command is one of docker's and not of docker compose,
// which have exit codes of their own for wrong flags.
func ofDocker(cmd *cobra.Command) bool {
	for cmd.HasParent() && cmd.Parent().HasParent() {
		cmd = cmd.Parent()
	}
	if _, ok := cmd.Annotations[engineAnnotation]; ok {
		return true
	}
	i := slices.IndexFunc(verbTable(), func(v cli.Verb) bool { return v.Name == cmd.Name() })
	return i >= 0 && verbTable()[i].Group == groupObjects
}

// chosen finds the verb that args name, nil when all must be built: for help,
// completion, and to say what was meant. It leaves the flags before the verb in
// a.Global, because what a verb is (see project.NewRunCmd) and the defaults of its flags
// depend on the project that those name; cobra sets them again.
func chosen(a *cli.App, is program, table []cli.Verb, args []string) *cli.Verb {
	if completes(args) {
		chosen(a, is, nil, args[1:])
		return nil
	}
	given, rest, err := is.leading(args)
	a.SetGlobal(given)
	if err != nil || len(rest) == 0 {
		return nil
	}
	for i := range table {
		if table[i].Name == rest[0] || slices.Contains(table[i].Aliases, rest[0]) {
			a.Subcommand = ""
			if len(rest) > 1 {
				a.Subcommand = rest[1]
			}
			return &table[i]
		}
	}
	return nil
}

func addGlobalFlags(f *pflag.FlagSet, g *cli.GlobalOptions) {
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
	f.StringVar(&g.WorkDir, "workdir", "", "DEPRECATED! USE --project-directory INSTEAD.\nSpecify an alternate working directory\n(default: the path of the, first specified, Compose file)")
	for _, name := range []string{"insecure-registry", "no-ansi", "verbose", "version", "workdir"} {
		f.Lookup(name).Hidden = true
	}
}
