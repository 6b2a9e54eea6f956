package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/format"
	"github.com/stack-run/stack/cmd/stack/internal/summary"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/engine/image"
	"github.com/stack-run/stack/volumes"
)

type systemDfOptions struct {
	Format  string
	Verbose bool
}

func newSystemDfCmd(a *app, runF func(context.Context, *app, *systemDfOptions) error) *cobra.Command {
	if runF == nil {
		runF = runSystemDf
	}
	o := &systemDfOptions{}
	cmd := &cobra.Command{
		Use:   "df [OPTIONS]",
		Short: "Show disk usage",
		Args:  exactArgs(0),
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, _ []string) error {
			return runF(ctx, a, o)
		}),
	}
	cmd.Flags().StringVar(&o.Format, "format", "", formatHelp)
	cmd.Flags().BoolVarP(&o.Verbose, "verbose", "v", false, "Show detailed information on space usage")
	return cmd
}

// diskRow is a row of "system df" in docker's shape.
type diskRow struct {
	Active      string
	Reclaimable string
	Size        string
	TotalCount  string
	Type        string
}

// diskUse is what "system df" knows.
type diskUse struct {
	images     []image.Image
	containers []engine.Container
	volumes    []volumes.Volume
	imageUsers map[string]int
	sizes      func(engine.Container) (own, virtual int64)
	volumeSize map[string]int64
}

func runSystemDf(ctx context.Context, a *app, o *systemDfOptions) error {
	u, err := a.diskUse(ctx)
	if err != nil {
		return err
	}
	if o.Verbose {
		return a.printDiskUse(u)
	}
	return format.Write(a.out, format.Layout{
		Table: "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}",
		Headers: map[string]string{
			"Type": "TYPE", "TotalCount": "TOTAL", "Active": "ACTIVE", "Size": "SIZE", "Reclaimable": "RECLAIMABLE",
		},
	}, format.Options{Format: o.Format}, u.rows())
}

func (a *app) diskUse(ctx context.Context) (*diskUse, error) {
	e, store, err := a.images()
	if err != nil {
		return nil, err
	}
	u := &diskUse{imageUsers: map[string]int{}, volumeSize: map[string]int64{}}
	if u.images, err = store.List(ctx); err != nil {
		return nil, err
	}
	v, err := a.engine(ctx)
	if err != nil {
		return nil, err
	}
	if u.containers, err = v.Containers(ctx, compose.Selector{All: true, OneOff: true}); err != nil {
		return nil, err
	}
	for _, c := range u.containers {
		u.imageUsers[c.Spec.ImageID]++
	}
	if u.sizes, err = a.containerSizes(ctx); err != nil {
		return nil, err
	}
	vols, err := e.Volumes()
	if err != nil {
		return nil, err
	}
	if u.volumes, err = vols.List(); err != nil {
		return nil, err
	}
	for _, vol := range u.volumes {
		if u.volumeSize[vol.Name], err = vols.Usage(vol.Name); err != nil {
			a.warn("%v", err)
		}
	}
	return u, nil
}

func (u *diskUse) rows() []diskRow {
	row := func(kind string, total, active int, size, reclaimable int64) diskRow {
		r := diskRow{
			Type: kind, TotalCount: strconv.Itoa(total), Active: strconv.Itoa(active),
			Size: units.HumanSize(float64(size)), Reclaimable: units.HumanSize(float64(reclaimable)),
		}
		if size > 0 {
			r.Reclaimable += fmt.Sprintf(" (%d%%)", reclaimable*100/size)
		}
		return r
	}
	var imageSize, imageFree int64
	active := 0
	for _, img := range u.images {
		imageSize += img.Size
		if u.imageUsers[img.ID.String()] > 0 {
			active++
		} else {
			imageFree += img.Size
		}
	}
	rows := []diskRow{row("Images", len(u.images), active, imageSize, imageFree)}
	var size, free int64
	active = 0
	for _, c := range u.containers {
		own, _ := u.sizes(c)
		size += own
		switch c.State.Phase {
		case engine.Running, engine.Paused, engine.Restarting:
			active++
		default:
			free += own
		}
	}
	rows = append(rows, row("Containers", len(u.containers), active, size, free))
	size, free, active = 0, 0, 0
	for _, v := range u.volumes {
		size += u.volumeSize[v.Name]
		if len(volumeUsers(v.Name, u.containers)) > 0 {
			active++
		} else {
			free += u.volumeSize[v.Name]
		}
	}
	return append(rows, row("Local Volumes", len(u.volumes), active, size, free), row("Build Cache", 0, 0, 0, 0))
}

func (a *app) printDiskUse(u *diskUse) error {
	type imageUse struct{ Repository, Tag, ID, CreatedSince, Size, Containers string }
	var images []imageUse
	for _, img := range u.images {
		repository, tag := "<none>", "<none>"
		if len(img.Names) > 0 {
			repository, tag = splitName(img.Names[0])
		}
		images = append(images, imageUse{repository, tag, summary.ID(img.ID.String(), false), created(img.Created, a.now()),
			units.HumanSizeWithPrecision(float64(img.Size), 3), strconv.Itoa(u.imageUsers[img.ID.String()])})
	}
	fmt.Fprint(a.out, "Images space usage:\n\n")
	err := format.Write(a.out, format.Layout{
		Table:   "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t{{.Containers}}",
		Headers: map[string]string{"Repository": "REPOSITORY", "Tag": "TAG", "ID": "IMAGE ID", "CreatedSince": "CREATED", "Size": "SIZE", "Containers": "CONTAINERS"},
	}, format.Options{}, images)
	if err != nil {
		return err
	}
	fmt.Fprint(a.out, "\nContainers space usage:\n\n")
	var rows []summary.Container
	for _, c := range u.containers {
		own := func(c engine.Container) (int64, int64) { n, _ := u.sizes(c); return n, 0 }
		rows = append(rows, summary.OfContainer(c, summary.Options{Now: a.now(), Size: own}))
	}
	l := containerLayout(false)
	l.Table = "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}\t{{.RunningFor}}\t{{.Status}}\t{{.Names}}"
	if err := format.Write(a.out, l, format.Options{}, rows); err != nil {
		return err
	}
	type volumeUse struct{ Name, Links, Size string }
	var vols []volumeUse
	for _, v := range u.volumes {
		vols = append(vols, volumeUse{v.Name, strconv.Itoa(len(volumeUsers(v.Name, u.containers))), units.HumanSizeWithPrecision(float64(u.volumeSize[v.Name]), 3)})
	}
	fmt.Fprint(a.out, "\nLocal Volumes space usage:\n\n")
	return format.Write(a.out, format.Layout{
		Table: "{{.Name}}\t{{.Links}}\t{{.Size}}", Headers: map[string]string{"Name": "VOLUME NAME", "Links": "LINKS", "Size": "SIZE"},
	}, format.Options{}, vols)
}

// containerSizes measures containers: their own files, and those with the image's.
func (a *app) containerSizes(ctx context.Context) (func(engine.Container) (own, virtual int64), error) {
	e, store, err := a.images()
	if err != nil {
		return nil, err
	}
	layers, err := e.Layers()
	if err != nil {
		return nil, err
	}
	return func(c engine.Container) (int64, int64) {
		own, err := layers.Usage(ctx, c.ID)
		if err != nil {
			return 0, 0
		}
		if img, err := store.Resolve(ctx, c.Spec.ImageID); err == nil {
			return own, own + img.Size
		}
		return own, own
	}, nil
}
