package container

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/engine"
)

func newContainerExecCmd(a *cli.App, runF func(context.Context, *cli.App, *execOptions) error) *cobra.Command {
	if runF == nil {
		runF = runExec
	}
	o := &execOptions{container: true}
	cmd := &cobra.Command{
		Use:   "exec [OPTIONS] CONTAINER COMMAND [ARG...]",
		Short: "Execute a command in a running container",
		Args:  cli.RequireArgs(2),
		RunE: a.RunWithSignals(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Name, o.Command = args[0], args[1:]
			if o.TTY {
				if err := a.CheckTTY(o.Interactive && !o.Detach); err != nil {
					return err
				}
			}
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: cli.CompleteFirst(a.CompleteContainersThat(cli.Live)),
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.BoolVarP(&o.Detach, "detach", "d", false, "Detached mode: run command in the background")
	cli.DetachKeysFlag(f, &o.DetachKeys)
	cli.EnvFlag(f, &o.Env)
	f.StringArrayVar(&o.EnvFiles, "env-file", nil, "Read in a file of environment variables")
	f.BoolVarP(&o.Interactive, "interactive", "i", false, "Keep STDIN open even if not attached")
	f.BoolVar(&o.Privileged, "privileged", false, "Give extended privileges to the command")
	f.BoolVarP(&o.TTY, "tty", "t", false, "Allocate a pseudo-TTY")
	f.StringVarP(&o.User, "user", "u", "", "Username or UID (format: <name|uid>[:<group|gid>])")
	cli.WorkdirFlag(f, &o.Workdir)
	return cmd
}

type execOptions struct {
	Name        string   // argument: service or container
	Command     []string // arguments
	Detach      bool
	DetachKeys  string // container exec
	Env         []string
	EnvFiles    []string // container exec
	Index       int
	Interactive bool
	Privileged  bool
	TTY         bool
	User        string
	Workdir     string
	container   bool // the name is a container's
}

func NewExecCmd(a *cli.App, runF func(context.Context, *cli.App, *execOptions) error) *cobra.Command {
	if runF == nil {
		runF = runExec
	}
	o := &execOptions{}
	var tty, noTTY bool
	cmd := &cobra.Command{
		Use:   "exec [OPTIONS] SERVICE COMMAND [ARGS...]",
		Short: "Execute a command in a running container",
		Args:  cli.RequireArgs(2),
		RunE: a.RunWithSignals(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			o.Name, o.Command = args[0], args[1:]
			var err error
			if o.TTY, err = a.WantTTY(cmd.Flags(), tty, noTTY, o.Interactive && !o.Detach); err != nil {
				return err
			}
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.CompleteFirstService,
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.BoolVarP(&o.Detach, "detach", "d", false, "Detached mode: Run command in the background")
	cli.EnvFlag(f, &o.Env)
	cli.IndexFlag(f, &o.Index)
	f.BoolVar(&o.Privileged, "privileged", false, "Give extended privileges to the process")
	f.StringVarP(&o.User, "user", "u", "", "Run the command as this user")
	cli.NoTTYFlag(f, &noTTY)
	f.StringVarP(&o.Workdir, "workdir", "w", "", "Path to workdir directory for this command")
	f.BoolVarP(&o.Interactive, "interactive", "i", true, "Keep STDIN open even if not attached")
	f.BoolVarP(&tty, "tty", "t", true, "Allocate a pseudo-TTY")
	f.Lookup("interactive").Hidden = true
	f.Lookup("tty").Hidden = true
	f.SetNormalizeFunc(cli.NormalizeTTY)
	return cmd
}

func runExec(ctx context.Context, a *cli.App, o *execOptions) error {
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	var id string
	if o.container {
		id = o.Name
	} else {
		c, err := a.One(ctx, v, "exec", o.Name, o.Index, true)
		if err != nil {
			return err
		}
		id = c.ID
	}
	env, err := a.Environment(o.Env, o.EnvFiles)
	if err != nil {
		return err
	}
	e := compose.ExecOptions{
		Process: engine.Process{
			Env: env, WorkingDir: o.Workdir, User: o.User, TTY: o.TTY, Stdin: o.Interactive && !o.Detach,
		},
		Command: o.Command, Privileged: o.Privileged, Detach: o.Detach, DetachKeys: o.DetachKeys,
	}
	if !o.Detach {
		e.Stdout, e.Stderr = cli.File(a.Out), cli.File(a.Err)
		if o.Interactive {
			e.Stdin = cli.File(a.In)
		}
	}
	defer a.RawTerminal(o.TTY && o.Interactive && !o.Detach)()
	code, err := v.Exec(ctx, id, e)
	return cli.Status(code, err)
}
