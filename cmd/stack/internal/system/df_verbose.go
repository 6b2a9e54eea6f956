package system

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/container"
	"github.com/stack-run/stack/cmd/stack/internal/format"
	"github.com/stack-run/stack/cmd/stack/internal/image"
	"github.com/stack-run/stack/cmd/stack/internal/summary"
	"github.com/stack-run/stack/cmd/stack/internal/volume"
	"github.com/stack-run/stack/engine"
)

// diskDetails are the lists of "system df -v" in docker's shape.
type diskDetails struct {
	Images     []imageUse
	Containers []summary.Container
	Volumes    []volumeUse
	BuildCache []cacheUse
	cacheSize  string
}

type imageUse struct{ Repository, Tag, ID, CreatedSince, Size, SharedSize, UniqueSize, Containers string }

type volumeUse struct{ Name, Links, Size string }

type cacheUse struct{ ID, CacheType, Size, CreatedSince, LastUsedSince, UsageCount, Shared, InUse, Description string }

func (u *diskUse) details(now time.Time) diskDetails {
	size := func(n int64) string { return units.HumanSizeWithPrecision(float64(n), 3) }
	d := diskDetails{Images: []imageUse{}, Containers: []summary.Container{}, Volumes: []volumeUse{}, BuildCache: []cacheUse{}}
	for _, img := range u.images.Images {
		repository, tag := "<none>", "<none>"
		if len(img.Names) > 0 {
			repository, tag = cli.SplitName(img.Names[0])
		}
		d.Images = append(d.Images, imageUse{
			Repository: repository, Tag: tag, ID: summary.ID(img.ID, false), CreatedSince: image.Created(img.Created, now),
			Size: size(img.Disk), SharedSize: size(img.Shared), UniqueSize: size(img.Disk - img.Shared),
			Containers: strconv.Itoa(u.imageUsers[img.ID]),
		})
	}
	own := func(c engine.Container) (int64, int64) { n, _ := u.sizes(c); return n, 0 }
	for _, c := range u.containers {
		d.Containers = append(d.Containers, summary.OfContainer(c, summary.Options{Now: now, Size: own}))
	}
	for _, v := range u.volumes {
		d.Volumes = append(d.Volumes, volumeUse{v.Name, strconv.Itoa(len(volume.Users(v.Name, u.containers))), size(u.volumeSize[v.Name])})
	}
	for _, r := range u.cache.Records {
		c := cacheUse{
			ID: r.ID, CacheType: r.Type, Size: size(r.Size), CreatedSince: image.Created(r.CreatedAt, now), UsageCount: strconv.Itoa(r.UsageCount),
			Shared: strconv.FormatBool(r.Shared), InUse: strconv.FormatBool(r.InUse), Description: r.Description,
		}
		if r.LastUsedAt != nil {
			c.LastUsedSince = summary.Ago(*r.LastUsedAt, now)
		}
		d.BuildCache = append(d.BuildCache, c)
	}
	slices.SortFunc(d.BuildCache, func(a, b cacheUse) int { return strings.Compare(a.ID, b.ID) })
	d.cacheSize = units.HumanSize(float64(u.cacheSize()))
	return d
}

// writeDiskUse prints four tables, or, as docker does with a format, one value.
func writeDiskUse(a *cli.App, d diskDetails, as string) error {
	if as != "" && as != "table" {
		return format.Write(a.Out, format.Layout{}, format.Options{Format: as}, []diskDetails{d})
	}
	fmt.Fprint(a.Out, "Images space usage:\n\n")
	err := format.Write(a.Out, format.Layout{
		Table: "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t{{.SharedSize}}\t{{.UniqueSize}}\t{{.Containers}}",
		Headers: map[string]string{
			"Repository": "REPOSITORY", "Tag": "TAG", "ID": "IMAGE ID", "CreatedSince": "CREATED", "Size": "SIZE",
			"SharedSize": "SHARED SIZE", "UniqueSize": "UNIQUE SIZE", "Containers": "CONTAINERS",
		},
	}, format.Options{}, d.Images)
	if err != nil {
		return err
	}
	fmt.Fprint(a.Out, "\nContainers space usage:\n\n")
	l := container.Layout(false)
	l.Table = "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}\t{{.RunningFor}}\t{{.Status}}\t{{.Names}}"
	if err := format.Write(a.Out, l, format.Options{}, d.Containers); err != nil {
		return err
	}
	fmt.Fprint(a.Out, "\nLocal Volumes space usage:\n\n")
	err = format.Write(a.Out, format.Layout{
		Table: "{{.Name}}\t{{.Links}}\t{{.Size}}", Headers: map[string]string{"Name": "VOLUME NAME", "Links": "LINKS", "Size": "SIZE"},
	}, format.Options{}, d.Volumes)
	if err != nil {
		return err
	}
	fmt.Fprintf(a.Out, "\nBuild cache usage: %s\n\n", d.cacheSize)
	return format.Write(a.Out, format.Layout{
		Table: "{{.ID}}\t{{.CacheType}}\t{{.Size}}\t{{.CreatedSince}}\t{{.LastUsedSince}}\t{{.UsageCount}}\t{{.Shared}}",
		Headers: map[string]string{
			"ID": "CACHE ID", "CacheType": "CACHE TYPE", "Size": "SIZE", "CreatedSince": "CREATED", "LastUsedSince": "LAST USED",
			"UsageCount": "USAGE", "Shared": "SHARED",
		},
	}, format.Options{}, d.BuildCache)
}
