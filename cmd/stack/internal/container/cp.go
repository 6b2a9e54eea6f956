package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/copying"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/engine"
)

func newContainerCpCmd(a *cli.App) *cobra.Command {
	o := &cpOptions{container: true}
	cmd := &cobra.Command{
		Use:   "cp [OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n  stack container cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
		Short: "Copy files/folders between a container and the local filesystem",
		Args:  cli.ExactArgs(2),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Source, o.Destination = args[0], args[1]
			return runCp(ctx, a, o)
		}),
	}
	f := cmd.Flags()
	f.BoolVarP(&o.Archive, "archive", "a", false, "Archive mode (copy all uid/gid information)")
	f.BoolVarP(&o.FollowLink, "follow-link", "L", false, "Always follow symbol link in SRC_PATH")
	f.BoolVarP(&o.Quiet, "quiet", "q", false, "Suppress progress output during copy. Progress output is automatically suppressed if no terminal is attached")
	return cmd
}

type cpOptions struct {
	Source, Destination string // arguments
	All                 bool   // all containers of the service, one-offs too
	Archive             bool
	FollowLink          bool
	Index               int
	Quiet               bool
	container           bool // the names are containers'
}

func NewCpCmd(a *cli.App, runF func(context.Context, *cli.App, *cpOptions) error) *cobra.Command {
	if runF == nil {
		runF = runCp
	}
	o := &cpOptions{}
	cmd := &cobra.Command{
		Use:   "cp [OPTIONS] SERVICE:SRC_PATH DEST_PATH|-\n  stack cp [OPTIONS] SRC_PATH|- SERVICE:DEST_PATH",
		Short: "Copy files/folders between a service container and the local filesystem",
		Args:  cli.ExactArgs(2),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Source, o.Destination = args[0], args[1]
			return runF(ctx, a, o)
		}),
	}
	f := cmd.Flags()
	f.BoolVar(&o.All, "all", false, "Include containers created by the run command")
	f.BoolVarP(&o.Archive, "archive", "a", false, "Archive mode (copy all uid/gid information)")
	f.BoolVarP(&o.FollowLink, "follow-link", "L", false, "Always follow symbol link in SRC_PATH")
	cli.IndexFlag(f, &o.Index)
	return cmd
}

// splitCopyArg splits NAME:PATH; what begins with / or . is a path.
func splitCopyArg(arg string) (name, path string) {
	if filepath.IsAbs(arg) || strings.HasPrefix(arg, ".") {
		return "", arg
	}
	name, path, ok := strings.Cut(arg, ":")
	if !ok {
		return "", arg
	}
	return name, path
}

func runCp(ctx context.Context, a *cli.App, o *cpOptions) error {
	from, source := splitCopyArg(o.Source)
	to, destination := splitCopyArg(o.Destination)
	switch {
	case from != "" && to != "":
		return errors.New("cannot copy from one container to another; copy to the host first")
	case from == "" && to == "":
		if o.container {
			return errors.New("unknown copy direction; write one side as CONTAINER:PATH")
		}
		return errors.New("unknown copy direction; write one side as SERVICE:PATH")
	case source == "" || destination == "":
		return errors.New("cannot copy: a path is empty")
	}
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	if from != "" {
		c, err := a.Target(ctx, v, "cp", from, o.Index, o.container)
		if err != nil {
			return err
		}
		return copyFrom(ctx, a, v, c, source, destination, o)
	}
	targets, err := copyTargets(ctx, a, v, to, o)
	if err != nil {
		return err
	}
	for _, c := range targets {
		if err := copyTo(ctx, a, v, c, source, destination, o); err != nil {
			return err
		}
	}
	return nil
}

// copyTargets are the containers that a copy goes to: all of the service's
// unless one is chosen.
func copyTargets(ctx context.Context, a *cli.App, v compose.API, name string, o *cpOptions) ([]engine.Container, error) {
	first, err := a.Target(ctx, v, "cp", name, o.Index, o.container)
	if err != nil || o.container || o.Index > 0 {
		return []engine.Container{first}, err
	}
	return v.Containers(ctx, compose.Selector{Project: first.Project, Services: []string{first.Service}, All: true, OneOff: o.All})
}

func copyFrom(ctx context.Context, a *cli.App, v compose.API, c engine.Container, source, destination string, o *cpOptions) error {
	if destination == "-" {
		return v.CopyFrom(ctx, c.ID, source, o.FollowLink, a.Out)
	}
	return copying.From(ctx, remote{v, c.ID}, source, destination, copying.Options{FollowLinks: o.FollowLink, KeepOwner: o.Archive})
}

func copyTo(ctx context.Context, a *cli.App, v compose.API, c engine.Container, source, destination string, o *cpOptions) error {
	if source == "-" {
		return v.CopyTo(ctx, c.ID, destination, a.In, o.Archive)
	}
	if _, err := os.Lstat(source); err != nil {
		return fmt.Errorf("cannot copy %s: %w", source, err)
	}
	return copying.To(ctx, remote{v, c.ID}, source, destination, copying.Options{FollowLinks: o.FollowLink, KeepOwner: o.Archive})
}

// remote is a container's side of a copy.
type remote struct {
	v  compose.API
	id string
}

func (r remote) Read(ctx context.Context, name string, followLinks bool, w io.Writer) error {
	return r.v.CopyFrom(ctx, r.id, name, followLinks, w)
}

func (r remote) Write(ctx context.Context, dir string, content io.Reader, keepOwner bool) error {
	return r.v.CopyTo(ctx, r.id, dir, content, keepOwner)
}
