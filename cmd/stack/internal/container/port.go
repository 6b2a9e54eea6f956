package container

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/summary"
	"github.com/stack-run/stack/engine"
)

func newContainerPortCmd(a *cli.App) *cobra.Command {
	return &cobra.Command{
		Use:   "port CONTAINER [PRIVATE_PORT[/PROTO]]",
		Short: "List port mappings or a specific mapping for the container",
		Args:  cobra.RangeArgs(1, 2),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o := &portOptions{Name: args[0], container: true}
			if len(args) > 1 {
				o.Protocol = "tcp"
				if err := o.parse(args[1]); err != nil {
					return err
				}
			}
			return runPort(ctx, a, o)
		}),
		ValidArgsFunction: a.CompleteContainers,
	}
}

type portOptions struct {
	Name      string // argument: service or container
	Port      int    // argument, 0: all
	Index     int
	Protocol  string // "": any
	container bool   // the name is a container's
}

func NewPortCmd(a *cli.App, runF func(context.Context, *cli.App, *portOptions) error) *cobra.Command {
	if runF == nil {
		runF = runPort
	}
	o := &portOptions{}
	cmd := &cobra.Command{
		Use:   "port [OPTIONS] SERVICE [PRIVATE_PORT]",
		Short: "List port mappings or print the public port for a specific mapping for the service",
		Args:  cobra.RangeArgs(1, 2),
		RunE: a.Run(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			o.Name = args[0]
			if len(args) > 1 {
				if err := o.parse(args[1]); err != nil {
					return err
				}
			} else if !cmd.Flags().Changed("protocol") {
				o.Protocol = ""
			}
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.CompleteFirstService,
	}
	cli.IndexFlag(cmd.Flags(), &o.Index)
	cmd.Flags().StringVar(&o.Protocol, "protocol", "tcp", "tcp or udp")
	return cmd
}

// parse reads PORT[/PROTOCOL].
func (o *portOptions) parse(text string) error {
	number, protocol, ok := strings.Cut(text, "/")
	if ok {
		o.Protocol = protocol
	}
	o.Protocol = strings.ToLower(o.Protocol)
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil || n == 0 {
		return fmt.Errorf("invalid port %q; write a number from 1 to 65535", text)
	}
	o.Port = int(n)
	return nil
}

func runPort(ctx context.Context, a *cli.App, o *portOptions) error {
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	c, err := a.Target(ctx, v, "port", o.Name, o.Index, o.container)
	if err != nil {
		return err
	}
	return printPorts(a, c, o)
}

func printPorts(a *cli.App, c engine.Container, o *portOptions) error {
	all := slices.DeleteFunc(summary.Publishers(c), func(p summary.Publisher) bool { return p.URL == "" })
	found := false
	for _, p := range all {
		if o.Port != 0 && p.TargetPort != o.Port || o.Protocol != "" && p.Protocol != o.Protocol {
			continue
		}
		found = true
		if o.Port == 0 {
			fmt.Fprintf(a.Out, "%d/%s -> %s\n", p.TargetPort, p.Protocol, p.HostPort())
			continue
		}
		fmt.Fprintln(a.Out, p.HostPort())
		if !o.container {
			break
		}
	}
	if o.Port == 0 || found {
		return nil
	}
	ports := summary.FormatPorts(all)
	if ports == "" {
		ports = "it publishes none"
	}
	return fmt.Errorf("no port %d/%s for container %s: %s", o.Port, o.Protocol, c.Spec.Name, ports)
}
