// Package system is what concerns the whole machine: "stack system", inspect and
// events.
package system

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

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/format"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/engine"
)

func NewCmd(a *cli.App) *cobra.Command {
	return cli.Group("system", "Manage the engine",
		newCheckCmd(a, nil),
		newDfCmd(a, nil),
		newSystemEventsCmd(a, nil),
		newInfoCmd(a, nil),
		newInstallLinkCmd(a),
		newPruneCmd(a, nil),
		newResumeCmd(a, nil),
	)
}

func newResumeCmd(a *cli.App, runF func(context.Context, *cli.App) error) *cobra.Command {
	if runF == nil {
		runF = runResume
	}
	return &cobra.Command{
		Use:   "resume",
		Short: "Bring up every project that ran before a crash or a boot",
		Long: `Bring up every project that ran before a crash or a boot, in the order and
under the conditions of its graph. This is what a boot unit calls.`,
		Args: cli.ExactArgs(0),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, _ []string) error {
			return runF(ctx, a)
		}),
	}
}

func runResume(ctx context.Context, a *cli.App) error {
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	return a.Watch("Running", func(p compose.Progress) error { return v.Resume(ctx, p) })
}

type infoOptions struct{ Format string }

func newInfoCmd(a *cli.App, runF func(context.Context, *cli.App, *infoOptions) error) *cobra.Command {
	if runF == nil {
		runF = runInfo
	}
	o := &infoOptions{}
	cmd := &cobra.Command{
		Use:   "info [OPTIONS]",
		Short: "Display system-wide information",
		Args:  cli.ExactArgs(0),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, _ []string) error {
			return runF(ctx, a, o)
		}),
	}
	cmd.Flags().StringVarP(&o.Format, "format", "f", "", cli.FormatHelp)
	return cmd
}

// info has the fields of docker's info that mean something here (Engine
// API, SystemInfo).
type info struct {
	Containers        int
	ContainersRunning int
	ContainersPaused  int
	ContainersStopped int
	Projects          int
	Images            int
	Driver            string
	LoggingDriver     string
	CgroupVersion     string
	// UsernsMode is that of containers that name none. The host's is what volumes
	// and bind mounts of other tools expect, and what Docker does.
	UsernsMode      string
	KernelVersion   string
	OperatingSystem string
	OSType          string
	Architecture    string
	NCPU            int
	MemTotal        int64
	Name            string
	DataRoot        string `json:"DockerRootDir"`
	RunRoot         string
	ServerVersion   string
}

func runInfo(ctx context.Context, a *cli.App, o *infoOptions) error {
	info, err := systemInfo(ctx, a)
	if err != nil {
		return err
	}
	if o.Format != "" {
		return format.Object(a.Out, o.Format, info)
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
		{"User Namespace", info.UsernsMode + " (another one by userns_mode or --userns: " + userNamespaces() + ")"},
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
		fmt.Fprintf(a.Out, "%s: %s\n", line[0], line[1])
	}
	return nil
}

func systemInfo(ctx context.Context, a *cli.App) (info, error) {
	r := a.Roots()
	info := info{
		Driver: "overlayfs", LoggingDriver: "local", CgroupVersion: cgroupVersion(), UsernsMode: "host", OSType: runtime.GOOS, Architecture: runtime.GOARCH,
		NCPU: runtime.NumCPU(), OperatingSystem: operatingSystem(), DataRoot: r.Data, RunRoot: r.Run, ServerVersion: strings.TrimPrefix(cli.Version, "v"),
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
	v, err := a.API(ctx)
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
	all, err := v.Images(ctx)
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

// userNamespaces says what is possible besides the host's user namespace.
func userNamespaces() string {
	most, err := os.ReadFile("/proc/sys/user/max_user_namespaces")
	if err != nil || strings.TrimSpace(string(most)) == "0" {
		return "not on this host; see /proc/sys/user/max_user_namespaces"
	}
	return "auto, keep-id, nomap, FIRST:SIZE"
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
