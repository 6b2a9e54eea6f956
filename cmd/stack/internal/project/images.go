package project

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/format"
	"github.com/stack-run/stack/cmd/stack/internal/summary"
	"github.com/stack-run/stack/cmd/stack/internal/volume"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/volumes"
)

type imagesOptions struct {
	Services []string // arguments
	Format   string
	Quiet    bool
}

func NewImagesCmd(a *cli.App, runF func(context.Context, *cli.App, *imagesOptions) error) *cobra.Command {
	if runF == nil {
		runF = runImages
	}
	o := &imagesOptions{}
	cmd := &cobra.Command{
		Use:   "images [OPTIONS] [SERVICE...]",
		Short: "List images used by the created containers",
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Services = args
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.CompleteServices,
	}
	cmd.Flags().StringVar(&o.Format, "format", "table", "Format the output. Values: [table | json]")
	cmd.Flags().BoolVarP(&o.Quiet, "quiet", "q", false, "Only display IDs")
	return cmd
}

// usedImage is one container's image in docker compose's JSON.
type usedImage struct {
	ID            string
	ContainerName string
	Repository    string
	Tag           string
	Platform      string
	Size          int64
	Created       *time.Time `json:",omitempty"`
	LastTagTime   time.Time  `json:",omitzero"`
}

func runImages(ctx context.Context, a *cli.App, o *imagesOptions) error {
	v, s, err := a.OfProject(ctx, "images", o.Services)
	if err != nil {
		return err
	}
	cs, err := v.Containers(ctx, compose.Selector{Project: s.Name, Services: o.Services, All: true})
	if err != nil {
		return err
	}
	slices.SortStableFunc(cs, func(x, y engine.Container) int { return strings.Compare(x.Spec.Name, y.Spec.Name) })
	list := []usedImage{}
	for _, c := range cs {
		list = append(list, useOf(ctx, v, c))
	}
	switch {
	case o.Quiet:
		seen := map[string]bool{}
		for _, u := range list {
			if !seen[u.ID] {
				seen[u.ID] = true
				fmt.Fprintln(a.Out, strings.TrimPrefix(u.ID, "sha256:"))
			}
		}
		return nil
	case o.Format == "json":
		line, err := json.Marshal(list)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(a.Out, string(line))
		return err
	case o.Format != "" && o.Format != "table":
		return fmt.Errorf("cannot use --format %q; use table or json", o.Format)
	}
	rows := make([][]string, len(list))
	for i, u := range list {
		age := "N/A"
		if u.Created != nil {
			age = summary.Ago(*u.Created, a.Now())
		}
		rows[i] = []string{u.ContainerName, none(u.Repository), none(u.Tag), u.Platform, summary.ID(u.ID, false),
			units.HumanSizeWithPrecision(float64(u.Size), 3), age}
	}
	return format.Columns(a.Out, rows, "CONTAINER", "REPOSITORY", "TAG", "PLATFORM", "IMAGE ID", "SIZE", "CREATED")
}

func none(s string) string {
	if s == "" {
		return "<none>"
	}
	return s
}

// useOf describes the image of a container; of one whose image is gone only
// what the record says.
func useOf(ctx context.Context, v compose.API, c engine.Container) usedImage {
	u := usedImage{ID: c.Spec.ImageID, ContainerName: c.Spec.Name}
	name, _, _ := strings.Cut(c.Spec.Image, "@")
	if repository, tag := cli.SplitName(name); tag != "<none>" {
		u.Repository, u.Tag = repository, tag
	} else {
		u.Repository, u.Tag = name, "latest"
	}
	img, err := v.Image(ctx, c.Spec.ImageID, "")
	if err != nil {
		return u
	}
	u.ID, u.Platform, u.Size, u.LastTagTime = img.ID, img.Platform, img.Disk, img.Tagged
	if img.Created.Unix() > 0 {
		u.Created = &img.Created
	}
	if len(img.Names) == 0 {
		u.Repository, u.Tag = "", ""
	} else if !slices.Contains(img.Names, u.Repository+":"+u.Tag) {
		u.Repository, u.Tag = cli.SplitName(img.Names[0])
	}
	return u
}

type volumesOptions struct {
	Services []string // arguments
	Format   string
	Quiet    bool
}

func NewVolumesCmd(a *cli.App, runF func(context.Context, *cli.App, *volumesOptions) error) *cobra.Command {
	if runF == nil {
		runF = runVolumes
	}
	o := &volumesOptions{}
	cmd := &cobra.Command{
		Use:   "volumes [OPTIONS] [SERVICE...]",
		Short: "List volumes",
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Services = args
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.CompleteServices,
	}
	cmd.Flags().StringVar(&o.Format, "format", "table", cli.FormatHelp)
	cmd.Flags().BoolVarP(&o.Quiet, "quiet", "q", false, "Only display volume names")
	return cmd
}

func runVolumes(ctx context.Context, a *cli.App, o *volumesOptions) error {
	v, s, err := a.OfProject(ctx, "images", o.Services)
	if err != nil {
		return err
	}
	cs, err := v.Containers(ctx, compose.Selector{Project: s.Name, Services: o.Services, All: true})
	if err != nil {
		return err
	}
	used := map[string]bool{}
	for _, c := range cs {
		for _, name := range summary.MountSources(c) {
			used[name] = true
		}
	}
	all, err := v.Volumes(ctx)
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(x volumes.Volume) bool {
		return !used[x.Name] && (x.Project != s.Name || len(o.Services) > 0)
	})
	return volume.PrintVolumes(a, all, cs, o.Format, o.Quiet)
}
