package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/engine"
)

// group makes a command that only has subcommands.
func group(name, short string, subcommands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use:   name + " COMMAND",
		Short: short,
		Args:  cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return unknownVerb(cmd, args[0])
		},
	}
	for _, sub := range subcommands {
		sub.DisableFlagsInUseLine = true
		cmd.AddCommand(sub)
	}
	return cmd
}

// containerVerbs are the verbs of "stack container". As with those of the top
// level, only the one that is asked for is built.
func containerVerbs() []verb {
	return []verb{
		{name: "attach", build: newContainerAttachCmd},
		{name: "commit", build: func(a *app) *cobra.Command { return newContainerCommitCmd(a, nil) }},
		{name: "cp", build: newContainerCpCmd},
		{name: "create", build: func(a *app) *cobra.Command { return newContainerCreateCmd(a, nil) }},
		{name: "diff", build: func(a *app) *cobra.Command { return newContainerDiffCmd(a, nil) }},
		{name: "exec", build: func(a *app) *cobra.Command { return newContainerExecCmd(a, nil) }},
		{name: "export", build: func(a *app) *cobra.Command { return newContainerExportCmd(a, nil) }},
		{name: "inspect", build: newContainerInspectCmd},
		{name: "kill", build: newContainerKillCmd},
		{name: "logs", build: func(a *app) *cobra.Command { return newContainerLogsCmd(a, nil) }},
		{name: "ls", build: func(a *app) *cobra.Command { return newContainerLsCmd(a, nil) }},
		{name: "pause", build: newContainerPauseCmd},
		{name: "port", build: newContainerPortCmd},
		{name: "prune", build: func(a *app) *cobra.Command { return newContainerPruneCmd(a, nil) }},
		{name: "rename", build: func(a *app) *cobra.Command { return newContainerRenameCmd(a, nil) }},
		{name: "restart", build: newContainerRestartCmd},
		{name: "rm", build: func(a *app) *cobra.Command { return newContainerRmCmd(a, nil) }},
		{name: "run", build: func(a *app) *cobra.Command { return newContainerRunCmd(a, nil) }},
		{name: "start", build: func(a *app) *cobra.Command { return newContainerStartCmd(a, nil) }},
		{name: "stats", build: newContainerStatsCmd},
		{name: "stop", build: newContainerStopCmd},
		{name: "top", build: func(a *app) *cobra.Command { return newContainerTopCmd(a, nil) }},
		{name: "unpause", build: newContainerUnpauseCmd},
		{name: "update", build: func(a *app) *cobra.Command { return newContainerUpdateCmd(a, nil) }},
		{name: "wait", build: func(a *app) *cobra.Command { return newContainerWaitCmd(a, nil) }},
	}
}

func newContainerCmd(a *app) *cobra.Command {
	table := containerVerbs()
	if i := slices.IndexFunc(table, func(v verb) bool { return v.name == a.subcommand }); i >= 0 {
		table = table[i : i+1]
	}
	var subcommands []*cobra.Command
	for _, v := range table {
		subcommands = append(subcommands, v.build(a))
	}
	return group("container", "Manage containers", subcommands...)
}

// eachContainer runs work on one container after the other and prints each name
// as it was given, as docker does. It goes on after an error.
func (a *app) eachContainer(ctx context.Context, names []string, missingIsFine bool, work func(compose.API, engine.Container) error) error {
	v, err := a.api(ctx)
	if err != nil {
		return err
	}
	failed := false
	for _, name := range names {
		c, err := a.target(ctx, v, "", name, 0, true)
		if err == nil {
			err = work(v, c)
		}
		if err != nil {
			failed = failed || !missingIsFine || !errors.Is(err, engine.ErrNotFound)
			fmt.Fprintln(a.err, err)
			continue
		}
		fmt.Fprintln(a.out, name)
	}
	if failed {
		return exitError{code: exitGeneral}
	}
	return nil
}

// idSelector selects one container.
func idSelector(c engine.Container) compose.Selector {
	return compose.Selector{IDs: []string{c.ID}, All: true}
}

// simple makes a command that does one thing to each of its containers.
func (a *app) simple(use, short string, work func(context.Context, compose.API, compose.Selector) error) *cobra.Command {
	return &cobra.Command{
		Use:   use + " CONTAINER [CONTAINER...]",
		Short: short,
		Args:  requireArgs(1),
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			return a.eachContainer(ctx, args, false, func(v compose.API, c engine.Container) error {
				return work(ctx, v, idSelector(c))
			})
		}),
		ValidArgsFunction: a.completeContainers,
	}
}

func newContainerPauseCmd(a *app) *cobra.Command {
	return a.simple("pause", "Pause all processes within one or more containers", func(ctx context.Context, v compose.API, s compose.Selector) error {
		return v.Pause(ctx, s, nil)
	})
}

func newContainerUnpauseCmd(a *app) *cobra.Command {
	return a.simple("unpause", "Unpause all processes within one or more containers", func(ctx context.Context, v compose.API, s compose.Selector) error {
		return v.Unpause(ctx, s, nil)
	})
}

func newContainerStopCmd(a *app) *cobra.Command {
	return a.stopping("stop [OPTIONS]", "Stop one or more running containers", func(ctx context.Context, v compose.API, s compose.Selector, o compose.StopOptions) error {
		return v.Stop(ctx, s, o, nil)
	})
}

func newContainerRestartCmd(a *app) *cobra.Command {
	return a.stopping("restart [OPTIONS]", "Restart one or more containers", func(ctx context.Context, v compose.API, s compose.Selector, o compose.StopOptions) error {
		o.NoDeps = true
		return v.Restart(ctx, s, o, nil)
	})
}

// stopping makes a simple command with a signal and a timeout.
func (a *app) stopping(use, short string, work func(context.Context, compose.API, compose.Selector, compose.StopOptions) error) *cobra.Command {
	var o compose.StopOptions
	var timeout int
	var cmd *cobra.Command
	cmd = a.simple(use, short, func(ctx context.Context, v compose.API, s compose.Selector) error {
		if o.Signal != "" {
			if err := checkSignal(o.Signal); err != nil {
				return err
			}
		}
		o.Timeout = seconds(cmd, "timeout", timeout)
		return work(ctx, v, s, o)
	})
	cmd.Flags().StringVarP(&o.Signal, "signal", "s", "", "Signal to send to the container")
	cmd.Flags().IntVarP(&timeout, "timeout", "t", 0, "Seconds to wait before killing the container")
	cmd.Flags().SetNormalizeFunc(formerTime)
	return cmd
}

func newContainerKillCmd(a *app) *cobra.Command {
	var signal string
	cmd := a.simple("kill [OPTIONS]", "Kill one or more running containers", func(ctx context.Context, v compose.API, s compose.Selector) error {
		if err := checkSignal(signal); err != nil {
			return err
		}
		cs, err := v.Containers(ctx, s)
		if err != nil {
			return err
		}
		for _, c := range cs {
			if !slices.Contains([]engine.Phase{engine.Running, engine.Paused, engine.Restarting}, c.State.Phase) {
				return fmt.Errorf("cannot kill container %s: it is not running", c.Spec.Name)
			}
		}
		return v.Kill(ctx, s, compose.StopOptions{Signal: signal}, nil)
	})
	cmd.Flags().StringVarP(&signal, "signal", "s", "SIGKILL", "Signal to send to the container")
	return cmd
}

type containerRmOptions struct {
	Names   []string // arguments
	Force   bool
	Link    bool
	Volumes bool
}

func newContainerRmCmd(a *app, runF func(context.Context, *app, *containerRmOptions) error) *cobra.Command {
	if runF == nil {
		runF = runContainerRm
	}
	o := &containerRmOptions{}
	cmd := &cobra.Command{
		Use:     "rm [OPTIONS] CONTAINER [CONTAINER...]",
		Aliases: []string{"remove"},
		Short:   "Remove one or more containers",
		Args:    requireArgs(1),
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Names = args
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.completeContainers,
	}
	f := cmd.Flags()
	f.BoolVarP(&o.Force, "force", "f", false, "Force the removal of a running container (uses SIGKILL)")
	f.BoolVarP(&o.Link, "link", "l", false, "Remove the specified link")
	f.BoolVarP(&o.Volumes, "volumes", "v", false, "Remove anonymous volumes associated with the container")
	ignore(f, "link")
	return cmd
}

func runContainerRm(ctx context.Context, a *app, o *containerRmOptions) error {
	names, err := a.removeBroken(ctx, o.Names)
	if err != nil || len(names) == 0 {
		return err
	}
	return a.eachContainer(ctx, names, o.Force, func(v compose.API, c engine.Container) error {
		running := c.State.Phase == engine.Running || c.State.Phase == engine.Paused || c.State.Phase == engine.Restarting
		if running && !o.Force {
			return fmt.Errorf("cannot remove container %q: container is running: stop the container before removing or force remove", c.Spec.Name)
		}
		return v.Remove(ctx, idSelector(c), compose.StopOptions{Force: o.Force, Volumes: o.Volumes}, nil)
	})
}

// removeBroken removes the containers whose record cannot be read, of which nothing
// else can be asked, and returns the other names.
func (a *app) removeBroken(ctx context.Context, names []string) (rest []string, err error) {
	v, err := a.api(ctx)
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
		fmt.Fprintln(a.out, name)
	}
	return rest, nil
}

type containerStartOptions struct {
	Names       []string // arguments
	Attach      bool
	DetachKeys  string
	Interactive bool
}

func newContainerStartCmd(a *app, runF func(context.Context, *app, *containerStartOptions) error) *cobra.Command {
	if runF == nil {
		runF = runContainerStart
	}
	o := &containerStartOptions{}
	cmd := &cobra.Command{
		Use:   "start [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Start one or more stopped containers",
		Args:  requireArgs(1),
		RunE: a.runWithSignals(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Names = args
			if (o.Attach || o.Interactive) && len(args) > 1 {
				return fmt.Errorf("you cannot start and attach multiple containers at once")
			}
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.completeContainers,
	}
	f := cmd.Flags()
	f.BoolVarP(&o.Attach, "attach", "a", false, "Attach STDOUT/STDERR and forward signals")
	f.StringVar(&o.DetachKeys, "detach-keys", "", "Override the key sequence for detaching a container")
	f.BoolVarP(&o.Interactive, "interactive", "i", false, "Attach container's STDIN")
	f.String("checkpoint", "", "Restore from this checkpoint")
	f.String("checkpoint-dir", "", "Use a custom checkpoint storage directory")
	f.Lookup("checkpoint").Hidden, f.Lookup("checkpoint-dir").Hidden = true, true
	ignore(f, "checkpoint", "checkpoint-dir")
	return cmd
}

// runContainerStart starts containers. Attached, the container's log from its
// start on is what a terminal would have shown.
func runContainerStart(ctx context.Context, a *app, o *containerStartOptions) error {
	if !o.Attach && !o.Interactive {
		return a.eachContainer(ctx, o.Names, false, func(v compose.API, c engine.Container) error {
			return v.Start(ctx, idSelector(c), compose.StartOptions{NoDeps: true}, nil)
		})
	}
	v, err := a.api(ctx)
	if err != nil {
		return err
	}
	c, err := a.target(ctx, v, "", o.Names[0], 0, true)
	if err != nil {
		return err
	}
	r := compose.RunOptions{Spec: c.Spec, DetachKeys: o.DetachKeys}
	a.connect(&r, o.Interactive && c.Spec.Process.Stdin)
	defer a.rawTerminal(c.Spec.Process.TTY && r.Stdin != nil)()
	code, err := v.StartAttached(ctx, c.ID, r)
	return status(code, err)
}

type containerWaitOptions struct {
	Names []string // arguments
}

func newContainerWaitCmd(a *app, runF func(context.Context, *app, *containerWaitOptions) error) *cobra.Command {
	if runF == nil {
		runF = runContainerWait
	}
	return &cobra.Command{
		Use:   "wait CONTAINER [CONTAINER...]",
		Short: "Block until one or more containers stop, then print their exit codes",
		Args:  requireArgs(1),
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			return runF(ctx, a, &containerWaitOptions{Names: args})
		}),
		ValidArgsFunction: a.completeContainers,
	}
}

func runContainerWait(ctx context.Context, a *app, o *containerWaitOptions) error {
	v, err := a.api(ctx)
	if err != nil {
		return err
	}
	failed := false
	for _, name := range o.Names {
		code, err := v.Wait(ctx, name)
		if err != nil {
			failed = true
			fmt.Fprintln(a.err, err)
			continue
		}
		fmt.Fprintln(a.out, code)
	}
	if failed {
		return exitError{code: exitGeneral}
	}
	return nil
}

type containerRenameOptions struct{ Name, NewName string }

func newContainerRenameCmd(a *app, runF func(context.Context, *app, *containerRenameOptions) error) *cobra.Command {
	if runF == nil {
		runF = runContainerRename
	}
	return &cobra.Command{
		Use:   "rename CONTAINER NEW_NAME",
		Short: "Rename a container",
		Args:  exactArgs(2),
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			return runF(ctx, a, &containerRenameOptions{Name: args[0], NewName: args[1]})
		}),
		ValidArgsFunction: a.completeContainers,
	}
}

func runContainerRename(ctx context.Context, a *app, o *containerRenameOptions) error {
	name := strings.TrimPrefix(o.NewName, "/")
	if name == "" {
		return fmt.Errorf("cannot rename container %s: the new name is empty", o.Name)
	}
	v, err := a.api(ctx)
	if err != nil {
		return err
	}
	return v.Rename(ctx, o.Name, name)
}
