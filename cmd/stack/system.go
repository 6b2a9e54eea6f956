package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/cmd/stack/internal/format"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/engine"
)

func newSystemCmd(a *app) *cobra.Command {
	return group("system", "Manage the engine",
		newSystemCheckCmd(a, nil),
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
	v, err := a.api(ctx)
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
	v, err := a.api(ctx)
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
