package container

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/terminal"
	"github.com/stack-run/stack/compose"
)

func newContainerAttachCmd(a *cli.App) *cobra.Command {
	o := &attachOptions{container: true}
	cmd := &cobra.Command{
		Use:   "attach [OPTIONS] CONTAINER",
		Short: "Attach local standard input, output, and error streams to a running container",
		Args:  cli.ExactArgs(1),
		RunE: a.RunWithSignals(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Name = args[0]
			return runAttach(ctx, a, o)
		}),
		ValidArgsFunction: cli.CompleteFirst(a.CompleteContainersThat(cli.Live)),
	}
	f := cmd.Flags()
	cli.DetachKeysFlag(f, &o.DetachKeys)
	cli.NoStdinFlag(f, &o.NoStdin)
	cli.SigProxyFlag(f, &o.SigProxy)
	return cmd
}

// Connect sets the streams of an attached container, and prints the ID of a
// detached one.
func Connect(a *cli.App, r *compose.RunOptions, stdin bool) {
	if r.Detach {
		r.Started = func(id string) { fmt.Fprintln(a.Out, id) }
		return
	}
	r.Stdout, r.Stderr = cli.File(a.Out), cli.File(a.Err)
	if stdin {
		r.Stdin = cli.File(a.In)
	}
}

type attachOptions struct {
	Name       string // argument: service or container
	DetachKeys string
	Index      int
	NoStdin    bool
	SigProxy   bool
	container  bool // the name is a container's
}

func NewAttachCmd(a *cli.App, runF func(context.Context, *cli.App, *attachOptions) error) *cobra.Command {
	if runF == nil {
		runF = runAttach
	}
	o := &attachOptions{}
	cmd := &cobra.Command{
		Use:   "attach [OPTIONS] SERVICE",
		Short: "Attach local standard input, output, and error streams to a service's running container",
		Args:  cli.ExactArgs(1),
		RunE: a.RunWithSignals(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Name = args[0]
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.CompleteFirstService,
	}
	f := cmd.Flags()
	f.StringVar(&o.DetachKeys, "detach-keys", "", "Override the key sequence for detaching from a container.")
	f.IntVar(&o.Index, "index", 0, "index of the container if service has multiple replicas.")
	cli.NoStdinFlag(f, &o.NoStdin)
	cli.SigProxyFlag(f, &o.SigProxy)
	return cmd
}

func runAttach(ctx context.Context, a *cli.App, o *attachOptions) error {
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	c, err := a.Target(ctx, v, "attach", o.Name, o.Index, o.container)
	if err != nil {
		return err
	}
	tty, stdin := c.Spec.Process.TTY, c.Spec.Process.Stdin && !o.NoStdin
	if tty && stdin && !terminal.Is(a.In) {
		return errors.New("the input device is not a TTY")
	}
	r := compose.RunOptions{Spec: c.Spec, DetachKeys: o.DetachKeys, NoSigProxy: !o.SigProxy}
	Connect(a, &r, stdin)
	defer a.RawTerminal(tty && stdin)()
	code, err := v.Attach(ctx, c.ID, r)
	return cli.Status(code, err)
}
