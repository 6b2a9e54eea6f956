package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/cmd/stack/internal/format"
	"github.com/stack-run/stack/cmd/stack/internal/summary"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/engine/image"
	"github.com/stack-run/stack/volumes"
)

func newSystemCmd(a *app) *cobra.Command {
	return group("system", "Manage the engine",
		newSystemDfCmd(a, nil),
		newSystemEventsCmd(a, nil),
		newSystemInfoCmd(a, nil),
		newSystemPruneCmd(a, nil),
		newSystemResumeCmd(a, nil),
	)
}

func newSystemResumeCmd(a *app, runF func(context.Context, *app) error) *cobra.Command {
	if runF == nil {
		runF = runSystemResume
	}
	return &cobra.Command{
		Use:   "resume",
		Short: "Bring up every project that ran before a crash or a boot",
		Long: `Bring up every project that ran before a crash or a boot, in the order and
under the conditions of its graph. This is what a boot unit calls.`,
		Args: exactArgs(0),
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, _ []string) error {
			return runF(ctx, a)
		}),
	}
}

func runSystemResume(ctx context.Context, a *app) error {
	v, err := a.engine(ctx)
	if err != nil {
		return err
	}
	return a.watch("Running", func(p compose.Progress) error { return v.Resume(ctx, p) })
}

type systemInfoOptions struct{ Format string }

func newSystemInfoCmd(a *app, runF func(context.Context, *app, *systemInfoOptions) error) *cobra.Command {
	if runF == nil {
		runF = runSystemInfo
	}
	o := &systemInfoOptions{}
	cmd := &cobra.Command{
		Use:   "info [OPTIONS]",
		Short: "Display system-wide information",
		Args:  exactArgs(0),
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, _ []string) error {
			return runF(ctx, a, o)
		}),
	}
	cmd.Flags().StringVarP(&o.Format, "format", "f", "", formatHelp)
	return cmd
}

// systemInfo has the fields of docker's info that mean something here (Engine
// API, SystemInfo).
type systemInfo struct {
	Containers        int
	ContainersRunning int
	ContainersPaused  int
	ContainersStopped int
	Projects          int
	Images            int
	Driver            string
	LoggingDriver     string
	CgroupVersion     string
	KernelVersion     string
	OperatingSystem   string
	OSType            string
	Architecture      string
	NCPU              int
	MemTotal          int64
	Name              string
	DataRoot          string `json:"DockerRootDir"`
	RunRoot           string
	ServerVersion     string
}

func runSystemInfo(ctx context.Context, a *app, o *systemInfoOptions) error {
	info, err := a.systemInfo(ctx)
	if err != nil {
		return err
	}
	if o.Format != "" {
		return format.Object(a.out, o.Format, info)
	}
	for _, line := range [][2]string{
		{"Version", info.ServerVersion},
		{"Projects", strconv.Itoa(info.Projects)},
		{"Containers", strconv.Itoa(info.Containers)},
		{" Running", strconv.Itoa(info.ContainersRunning)},
		{" Paused", strconv.Itoa(info.ContainersPaused)},
		{" Stopped", strconv.Itoa(info.ContainersStopped)},
		{"Images", strconv.Itoa(info.Images)},
		{"Storage Driver", info.Driver},
		{"Logging Driver", info.LoggingDriver},
		{"Cgroup Version", info.CgroupVersion},
		{"Kernel Version", info.KernelVersion},
		{"Operating System", info.OperatingSystem},
		{"OSType", info.OSType},
		{"Architecture", info.Architecture},
		{"CPUs", strconv.Itoa(info.NCPU)},
		{"Total Memory", units.BytesSize(float64(info.MemTotal))},
		{"Name", info.Name},
		{"Data Root", info.DataRoot},
		{"Run Root", info.RunRoot},
	} {
		fmt.Fprintf(a.out, "%s: %s\n", line[0], line[1])
	}
	return nil
}

func (a *app) systemInfo(ctx context.Context) (systemInfo, error) {
	r := a.roots()
	info := systemInfo{
		Driver: "overlayfs", LoggingDriver: "local", CgroupVersion: cgroupVersion(), OSType: runtime.GOOS, Architecture: runtime.GOARCH,
		NCPU: runtime.NumCPU(), OperatingSystem: operatingSystem(), DataRoot: r.Data, RunRoot: r.Run, ServerVersion: strings.TrimPrefix(version, "v"),
	}
	info.Name, _ = os.Hostname()
	var uts unix.Utsname
	if unix.Uname(&uts) == nil {
		info.KernelVersion = unix.ByteSliceToString(uts.Release[:])
		info.Architecture = unix.ByteSliceToString(uts.Machine[:])
	}
	var mem unix.Sysinfo_t
	if unix.Sysinfo(&mem) == nil {
		info.MemTotal = int64(mem.Totalram) * int64(mem.Unit)
	}
	v, err := a.engine(ctx)
	if err != nil {
		return info, err
	}
	cs, err := v.Containers(ctx, compose.Selector{All: true, OneOff: true})
	if err != nil {
		return info, err
	}
	for _, c := range cs {
		switch c.State.Phase {
		case engine.Running, engine.Restarting:
			info.ContainersRunning++
		case engine.Paused:
			info.ContainersPaused++
		default:
			info.ContainersStopped++
		}
	}
	info.Containers = len(cs)
	projects, err := v.Projects(ctx)
	if err != nil {
		return info, err
	}
	info.Projects = len(projects)
	_, store, err := a.images()
	if err != nil {
		return info, err
	}
	all, err := store.List(ctx)
	info.Images = len(all)
	return info, err
}

func cgroupVersion() string {
	var fs unix.Statfs_t
	if unix.Statfs("/sys/fs/cgroup", &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
		return "2"
	}
	return "1"
}

// operatingSystem is os-release(5)'s PRETTY_NAME.
func operatingSystem() string {
	f, err := os.Open("/etc/os-release")
	if err != nil {
		return "Linux"
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if value, ok := strings.CutPrefix(s.Text(), "PRETTY_NAME="); ok {
			return strings.Trim(value, `"'`)
		}
	}
	return "Linux"
}

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

type systemPruneOptions struct {
	All     bool
	Filter  []string
	Force   bool
	Volumes bool
}

func newSystemPruneCmd(a *app, runF func(context.Context, *app, *systemPruneOptions) error) *cobra.Command {
	if runF == nil {
		runF = runSystemPrune
	}
	o := &systemPruneOptions{}
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove unused data",
		Args:  exactArgs(0),
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, _ []string) error {
			return runF(ctx, a, o)
		}),
	}
	f := cmd.Flags()
	f.BoolVarP(&o.All, "all", "a", false, "Remove all unused images not just dangling ones")
	f.StringArrayVar(&o.Filter, "filter", nil, `Provide filter values (e.g. "label=<key>=<value>")`)
	f.BoolVarP(&o.Force, "force", "f", false, "Do not prompt for confirmation")
	f.BoolVar(&o.Volumes, "volumes", false, "Prune anonymous volumes")
	return cmd
}

func (o *systemPruneOptions) question() string {
	what := []string{"all stopped containers", "all networks not used by at least one container"}
	if o.Volumes {
		what = append(what, "all anonymous volumes not used by at least one container")
	}
	if o.All {
		what = append(what, "all images without at least one container associated to them")
	} else {
		what = append(what, "all dangling images")
	}
	text := "WARNING! This will remove:\n"
	for _, w := range what {
		text += "  - " + w + "\n"
	}
	if len(o.Filter) > 0 {
		text += "\n  Items to be pruned will be filtered with:\n"
		for _, f := range slices.Sorted(slices.Values(o.Filter)) {
			text += "  - " + f + "\n"
		}
	}
	return text + "\nAre you sure you want to continue? [y/N] "
}

func runSystemPrune(ctx context.Context, a *app, o *systemPruneOptions) error {
	if o.Volumes && slices.ContainsFunc(o.Filter, func(f string) bool { return strings.HasPrefix(f, "until=") }) {
		return fmt.Errorf(`the "until" filter is not supported with "--volumes"`)
	}
	if !o.Force {
		ok, err := a.confirm(o.question())
		if err != nil || !ok {
			return err
		}
	}
	list := func(title string, names []string) {
		if len(names) == 0 {
			return
		}
		fmt.Fprintf(a.out, "Deleted %s:\n%s\n\n", title, strings.Join(names, "\n"))
	}
	deleted, err := a.pruneContainers(ctx, o.Filter)
	list("Containers", deleted)
	if err != nil {
		return err
	}
	deleted, err = a.pruneNetworks(ctx, o.Filter)
	list("Networks", deleted)
	if err != nil {
		return err
	}
	var reclaimed int64
	if o.Volumes {
		report, err := a.pruneVolumes(ctx, false, o.Filter)
		list("Volumes", report.Deleted)
		reclaimed += report.Reclaimed
		if err != nil {
			return err
		}
	}
	removed, err := a.pruneImages(ctx, o.All, o.Filter)
	if len(removed.Untagged)+len(removed.Deleted) > 0 {
		fmt.Fprintln(a.out, "Deleted Images:")
		a.printRemovedLower(removed)
		fmt.Fprintln(a.out)
	}
	if err != nil {
		return err
	}
	fmt.Fprintln(a.out, "Total reclaimed space:", units.HumanSize(float64(reclaimed+removed.Bytes)))
	return nil
}
