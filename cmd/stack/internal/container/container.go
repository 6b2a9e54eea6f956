// Package container is "stack container", and the verbs that exist for a service's
// container as well: attach, commit, cp, exec, export, logs, port, stats, top, wait.
package container

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/engine"
)

// verbs are the verbs of "stack container". As with those of the top
// level, only the one that is asked for is built.
func verbs() []cli.Verb {
	return []cli.Verb{
		{Name: "attach", Build: newContainerAttachCmd},
		{Name: "commit", Build: func(a *cli.App) *cobra.Command { return newContainerCommitCmd(a, nil) }},
		{Name: "cp", Build: newContainerCpCmd},
		{Name: "create", Build: func(a *cli.App) *cobra.Command { return newCreateCmd(a, nil) }},
		{Name: "diff", Build: func(a *cli.App) *cobra.Command { return newDiffCmd(a, nil) }},
		{Name: "exec", Build: func(a *cli.App) *cobra.Command { return newContainerExecCmd(a, nil) }},
		{Name: "export", Build: func(a *cli.App) *cobra.Command { return newContainerExportCmd(a, nil) }},
		{Name: "inspect", Build: newInspectCmd},
		{Name: "kill", Build: newKillCmd},
		{Name: "logs", Build: func(a *cli.App) *cobra.Command { return newContainerLogsCmd(a, nil) }},
		{Name: "ls", Build: func(a *cli.App) *cobra.Command { return newLsCmd(a, nil) }},
		{Name: "pause", Build: newPauseCmd},
		{Name: "port", Build: newContainerPortCmd},
		{Name: "prune", Build: func(a *cli.App) *cobra.Command { return newPruneCmd(a, nil) }},
		{Name: "rename", Build: func(a *cli.App) *cobra.Command { return newRenameCmd(a, nil) }},
		{Name: "restart", Build: newRestartCmd},
		{Name: "rm", Build: func(a *cli.App) *cobra.Command { return newRmCmd(a, nil) }},
		{Name: "run", Build: func(a *cli.App) *cobra.Command { return newRunCmd(a, nil) }},
		{Name: "start", Build: func(a *cli.App) *cobra.Command { return newStartCmd(a, nil) }},
		{Name: "stats", Build: newContainerStatsCmd},
		{Name: "stop", Build: newStopCmd},
		{Name: "top", Build: func(a *cli.App) *cobra.Command { return newContainerTopCmd(a, nil) }},
		{Name: "unpause", Build: newUnpauseCmd},
		{Name: "update", Build: func(a *cli.App) *cobra.Command { return newUpdateCmd(a, nil) }},
		{Name: "wait", Build: func(a *cli.App) *cobra.Command { return newContainerWaitCmd(a, nil) }},
	}
}

func NewCmd(a *cli.App) *cobra.Command {
	table := verbs()
	if i := slices.IndexFunc(table, func(v cli.Verb) bool { return v.Name == a.Subcommand }); i >= 0 {
		table = table[i : i+1]
	}
	var subcommands []*cobra.Command
	for _, v := range table {
		subcommands = append(subcommands, v.Build(a))
	}
	return cli.Group("container", "Manage containers", subcommands...)
}

// each is [cli.App.Each] or [cli.App.EachAtOnce].
type each func(names []string, work func(name string) (line string, err error)) error

// eachContainer runs work on containers, one after the other or at once, and prints each
// name as it was given, as docker does. It goes on after an error.
func eachContainer(ctx context.Context, a *cli.App, each each, names []string, missingIsFine bool, work func(compose.API, engine.Container) error) error {
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	return each(names, func(name string) (string, error) {
		c, err := a.Target(ctx, v, "", name, 0, true)
		if err == nil {
			err = work(v, c)
		}
		if missingIsFine && errors.Is(err, engine.ErrNotFound) {
			err = cli.Remark{Err: err}
		}
		return name, err
	})
}

// idSelector selects one container.
func idSelector(c engine.Container) compose.Selector {
	return compose.Selector{IDs: []string{c.ID}, All: true}
}

// simple makes a command that does one thing to each of its containers.
func simple(a *cli.App, each each, use, short string, work func(context.Context, compose.API, compose.Selector) error) *cobra.Command {
	return &cobra.Command{
		Use:   use + " CONTAINER [CONTAINER...]",
		Short: short,
		Args:  cli.RequireArgs(1),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			return eachContainer(ctx, a, each, args, false, func(v compose.API, c engine.Container) error {
				return work(ctx, v, idSelector(c))
			})
		}),
		ValidArgsFunction: a.CompleteContainers,
	}
}

func newPauseCmd(a *cli.App) *cobra.Command {
	cmd := simple(a, a.EachAtOnce, "pause", "Pause all processes within one or more containers", func(ctx context.Context, v compose.API, s compose.Selector) error {
		return v.Pause(ctx, s, nil)
	})
	cmd.ValidArgsFunction = a.CompleteContainersThat(func(c engine.Container) bool { return c.State.Phase == engine.Running })
	return cmd
}

func newUnpauseCmd(a *cli.App) *cobra.Command {
	cmd := simple(a, a.EachAtOnce, "unpause", "Unpause all processes within one or more containers", func(ctx context.Context, v compose.API, s compose.Selector) error {
		return v.Unpause(ctx, s, nil)
	})
	cmd.ValidArgsFunction = a.CompleteContainersThat(func(c engine.Container) bool { return c.State.Phase == engine.Paused })
	return cmd
}

func newStopCmd(a *cli.App) *cobra.Command {
	cmd := stopping(a, a.EachAtOnce, "stop [OPTIONS]", "Stop one or more running containers", func(ctx context.Context, v compose.API, s compose.Selector, o compose.StopOptions) error {
		return v.Stop(ctx, s, o, nil)
	})
	cmd.ValidArgsFunction = a.CompleteContainersThat(cli.Live)
	return cmd
}

func newRestartCmd(a *cli.App) *cobra.Command {
	return stopping(a, a.Each, "restart [OPTIONS]", "Restart one or more containers", func(ctx context.Context, v compose.API, s compose.Selector, o compose.StopOptions) error {
		o.NoDeps = true
		return v.Restart(ctx, s, o, nil)
	})
}

// stopping makes a simple command with a signal and a timeout.
func stopping(a *cli.App, each each, use, short string, work func(context.Context, compose.API, compose.Selector, compose.StopOptions) error) *cobra.Command {
	var o compose.StopOptions
	var timeout int
	var cmd *cobra.Command
	cmd = simple(a, each, use, short, func(ctx context.Context, v compose.API, s compose.Selector) error {
		if o.Signal != "" {
			if err := cli.CheckSignal(o.Signal); err != nil {
				return err
			}
		}
		o.Timeout = cli.Seconds(cmd, "timeout", timeout)
		return work(ctx, v, s, o)
	})
	cmd.Flags().StringVarP(&o.Signal, "signal", "s", "", "Signal to send to the container")
	cmd.Flags().IntVarP(&timeout, "timeout", "t", 0, "Seconds to wait before killing the container")
	cmd.Flags().SetNormalizeFunc(formerTime)
	return cmd
}

func newKillCmd(a *cli.App) *cobra.Command {
	var signal string
	cmd := simple(a, a.EachAtOnce, "kill [OPTIONS]", "Kill one or more running containers", func(ctx context.Context, v compose.API, s compose.Selector) error {
		if err := cli.CheckSignal(signal); err != nil {
			return err
		}
		cs, err := v.Containers(ctx, s)
		if err != nil {
			return err
		}
		for _, c := range cs {
			if !cli.Live(c) {
				return fmt.Errorf("cannot kill container %s: it is not running", c.Spec.Name)
			}
		}
		return v.Kill(ctx, s, compose.StopOptions{Signal: signal}, nil)
	})
	cmd.Flags().StringVarP(&signal, "signal", "s", "SIGKILL", "Signal to send to the container")
	return cmd
}

type RmOptions struct {
	Names   []string // arguments
	Force   bool
	Link    bool
	Volumes bool
}

func newRmCmd(a *cli.App, runF func(context.Context, *cli.App, *RmOptions) error) *cobra.Command {
	if runF == nil {
		runF = RunRm
	}
	o := &RmOptions{}
	cmd := &cobra.Command{
		Use:     "rm [OPTIONS] CONTAINER [CONTAINER...]",
		Aliases: []string{"remove"},
		Short:   "Remove one or more containers",
		Args:    cli.RequireArgs(1),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Names = args
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.CompleteContainers,
	}
	f := cmd.Flags()
	f.BoolVarP(&o.Force, "force", "f", false, "Force the removal of a running container (uses SIGKILL)")
	f.BoolVarP(&o.Link, "link", "l", false, "Remove the specified link")
	f.BoolVarP(&o.Volumes, "volumes", "v", false, "Remove anonymous volumes associated with the container")
	cli.Ignore(f, "link")
	return cmd
}

func RunRm(ctx context.Context, a *cli.App, o *RmOptions) error {
	names, err := removeBroken(ctx, a, o.Names)
	if err != nil || len(names) == 0 {
		return err
	}
	return eachContainer(ctx, a, a.EachAtOnce, names, o.Force, func(v compose.API, c engine.Container) error {
		running := c.State.Phase == engine.Running || c.State.Phase == engine.Paused || c.State.Phase == engine.Restarting
		if running && !o.Force {
			return fmt.Errorf("cannot remove container %q: container is running: stop the container before removing or force remove", c.Spec.Name)
		}
		return v.Remove(ctx, idSelector(c), compose.StopOptions{Force: o.Force, Volumes: o.Volumes}, nil)
	})
}

// removeBroken removes the containers whose record cannot be read, of which nothing
// else can be asked, and returns the other names.
func removeBroken(ctx context.Context, a *cli.App, names []string) (rest []string, err error) {
	v, err := a.API(ctx)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		s := compose.Selector{IDs: []string{name}, All: true}
		var broken *engine.Broken
		if _, err := v.Containers(ctx, s); !errors.As(err, &broken) {
			rest = append(rest, name)
			continue
		}
		if err := v.Remove(ctx, s, compose.StopOptions{Force: true}, nil); err != nil {
			return nil, err
		}
		fmt.Fprintln(a.Out, name)
	}
	return rest, nil
}

type startOptions struct {
	Names       []string // arguments
	Attach      bool
	DetachKeys  string
	Interactive bool
}

func newStartCmd(a *cli.App, runF func(context.Context, *cli.App, *startOptions) error) *cobra.Command {
	if runF == nil {
		runF = runStart
	}
	o := &startOptions{}
	cmd := &cobra.Command{
		Use:   "start [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Start one or more stopped containers",
		Args:  cli.RequireArgs(1),
		RunE: a.RunWithSignals(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Names = args
			if (o.Attach || o.Interactive) && len(args) > 1 {
				return fmt.Errorf("you cannot start and attach multiple containers at once")
			}
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.CompleteContainersThat(func(c engine.Container) bool { return !cli.Live(c) }),
	}
	f := cmd.Flags()
	f.BoolVarP(&o.Attach, "attach", "a", false, "Attach STDOUT/STDERR and forward signals")
	cli.DetachKeysFlag(f, &o.DetachKeys)
	f.BoolVarP(&o.Interactive, "interactive", "i", false, "Attach container's STDIN")
	f.String("checkpoint", "", "Restore from this checkpoint")
	f.String("checkpoint-dir", "", "Use a custom checkpoint storage directory")
	f.Lookup("checkpoint").Hidden, f.Lookup("checkpoint-dir").Hidden = true, true
	cli.Ignore(f, "checkpoint", "checkpoint-dir")
	return cmd
}

// runStart starts containers. Attached, the container's log from its
// start on is what a terminal would have shown.
func runStart(ctx context.Context, a *cli.App, o *startOptions) error {
	if !o.Attach && !o.Interactive {
		return eachContainer(ctx, a, a.Each, o.Names, false, func(v compose.API, c engine.Container) error {
			return v.Start(ctx, idSelector(c), compose.StartOptions{NoDeps: true}, nil)
		})
	}
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	c, err := a.Target(ctx, v, "", o.Names[0], 0, true)
	if err != nil {
		return err
	}
	r := compose.RunOptions{Spec: c.Spec, DetachKeys: o.DetachKeys}
	Connect(a, &r, o.Interactive && c.Spec.Process.Stdin)
	defer a.RawTerminal(c.Spec.Process.TTY && r.Stdin != nil)()
	code, err := v.StartAttached(ctx, c.ID, r)
	return cli.Status(code, err)
}

type containerWaitOptions struct {
	Names []string // arguments
}

func newContainerWaitCmd(a *cli.App, runF func(context.Context, *cli.App, *containerWaitOptions) error) *cobra.Command {
	if runF == nil {
		runF = runContainerWait
	}
	return &cobra.Command{
		Use:   "wait CONTAINER [CONTAINER...]",
		Short: "Block until one or more containers stop, then print their exit codes",
		Args:  cli.RequireArgs(1),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			return runF(ctx, a, &containerWaitOptions{Names: args})
		}),
		ValidArgsFunction: a.CompleteContainers,
	}
}

func runContainerWait(ctx context.Context, a *cli.App, o *containerWaitOptions) error {
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	return a.Each(o.Names, func(name string) (string, error) {
		code, err := v.Wait(ctx, name)
		return strconv.Itoa(code), err
	})
}

type renameOptions struct{ Name, NewName string }

func newRenameCmd(a *cli.App, runF func(context.Context, *cli.App, *renameOptions) error) *cobra.Command {
	if runF == nil {
		runF = runRename
	}
	return &cobra.Command{
		Use:   "rename CONTAINER NEW_NAME",
		Short: "Rename a container",
		Args:  cli.ExactArgs(2),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			return runF(ctx, a, &renameOptions{Name: args[0], NewName: args[1]})
		}),
		ValidArgsFunction: a.CompleteContainers,
	}
}

func runRename(ctx context.Context, a *cli.App, o *renameOptions) error {
	name := strings.TrimPrefix(o.NewName, "/")
	if name == "" {
		return fmt.Errorf("cannot rename container %s: the new name is empty", o.Name)
	}
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	return v.Rename(ctx, o.Name, name)
}
