// Package runspec turns the options of "docker container run" into the spec of
// one container. It reads no state of the machine except the files that the
// options name.
package runspec

import (
	"time"

	"github.com/spf13/pflag"
)

// Flags are the options of container run and create, as they were written.
type Flags struct {
	AddHost, Annotation, Attach                             []string
	BlkioWeight                                             uint16
	BlkioWeightDevice, CapAdd, CapDrop                      []string
	CgroupParent, CgroupNS, CIDFile                         string
	CPUPeriod, CPUQuota, CPURTPeriod, CPURTRuntime          int64
	CPUShares                                               int64
	CPUs, CpusetCPUs, CpusetMems                            string
	Device, DeviceCgroupRule                                []string
	DeviceReadBps, DeviceReadIOps                           []string
	DeviceWriteBps, DeviceWriteIOps                         []string
	DNS, DNSOption, DNSSearch                               []string
	Domainname                                              string
	Entrypoint                                              string
	EntrypointSet                                           bool
	Env, EnvFile, Expose                                    []string
	GPUs                                                    string
	GroupAdd                                                []string
	HealthCmd                                               string
	HealthInterval, HealthTimeout, HealthStartPeriod        time.Duration
	HealthStartInterval                                     time.Duration
	HealthRetries                                           int
	Hostname                                                string
	Init, Interactive                                       bool
	IP, IP6, IPC                                            string
	Label, LabelFile, Link, LinkLocalIP                     []string
	LogDriver                                               string
	LogOpt                                                  []string
	MACAddress, Memory, MemoryReservation, MemorySwap       string
	MemorySwappiness                                        int64
	Mount                                                   []string
	Name                                                    string
	Network, NetworkAlias                                   []string
	NoHealthcheck, OOMKillDisable                           bool
	OOMScoreAdj                                             int
	PID                                                     string
	PIDsLimit                                               int64
	Platform                                                string
	Privileged                                              bool
	Publish                                                 []string
	PublishAll                                              bool
	Pull                                                    string
	Quiet, ReadOnly                                         bool
	Restart                                                 string
	Remove                                                  bool
	Runtime                                                 string
	SecurityOpt                                             []string
	ShmSize, StopSignal                                     string
	StopTimeout                                             int
	StopTimeoutSet                                          bool
	StorageOpt, Sysctl, Tmpfs                               []string
	TTY                                                     bool
	Ulimit                                                  []string
	User, UserNS, UTS                                       string
	Volume, VolumesFrom                                     []string
	VolumeDriver, Workdir                                   string
	IOMaxBandwidth, IOMaxIOps, Isolation, CPUCount, CPUPart string
	UseAPISocket, DisableContentTrust                       bool
}

// Ignored are the flags that are accepted and have no effect on Linux.
func Ignored() []string {
	return []string{"cpu-count", "cpu-percent", "io-maxbandwidth", "io-maxiops", "isolation", "volume-driver",
		"disable-content-trust"}
}

// Add defines the flags. Those of run alone (--detach, --sig-proxy …) are the
// caller's.
func (f *Flags) Add(fs *pflag.FlagSet) {
	fs.StringArrayVar(&f.AddHost, "add-host", nil, "Add a custom host-to-IP mapping (host:ip)")
	fs.StringArrayVar(&f.Annotation, "annotation", nil, "Add an annotation to the container (passed through to the OCI runtime)")
	fs.StringArrayVarP(&f.Attach, "attach", "a", nil, "Attach to STDIN, STDOUT or STDERR")
	fs.Uint16Var(&f.BlkioWeight, "blkio-weight", 0, "Block IO (relative weight), between 10 and 1000, or 0 to disable (default 0)")
	fs.StringArrayVar(&f.BlkioWeightDevice, "blkio-weight-device", nil, "Block IO weight (relative device weight)")
	fs.StringArrayVar(&f.CapAdd, "cap-add", nil, "Add Linux capabilities")
	fs.StringArrayVar(&f.CapDrop, "cap-drop", nil, "Drop Linux capabilities")
	fs.StringVar(&f.CgroupParent, "cgroup-parent", "", "Optional parent cgroup for the container")
	fs.StringVar(&f.CgroupNS, "cgroupns", "", "Cgroup namespace to use (host|private)")
	fs.StringVar(&f.CIDFile, "cidfile", "", "Write the container ID to the file")
	fs.StringVar(&f.CPUCount, "cpu-count", "", "CPU count (Windows only)")
	fs.StringVar(&f.CPUPart, "cpu-percent", "", "CPU percent (Windows only)")
	fs.Int64Var(&f.CPUPeriod, "cpu-period", 0, "Limit CPU CFS (Completely Fair Scheduler) period")
	fs.Int64Var(&f.CPUQuota, "cpu-quota", 0, "Limit CPU CFS (Completely Fair Scheduler) quota")
	fs.Int64Var(&f.CPURTPeriod, "cpu-rt-period", 0, "Limit CPU real-time period in microseconds")
	fs.Int64Var(&f.CPURTRuntime, "cpu-rt-runtime", 0, "Limit CPU real-time runtime in microseconds")
	fs.Int64VarP(&f.CPUShares, "cpu-shares", "c", 0, "CPU shares (relative weight)")
	fs.StringVar(&f.CPUs, "cpus", "", "Number of CPUs")
	fs.StringVar(&f.CpusetCPUs, "cpuset-cpus", "", "CPUs in which to allow execution (0-3, 0,1)")
	fs.StringVar(&f.CpusetMems, "cpuset-mems", "", "MEMs in which to allow execution (0-3, 0,1)")
	fs.StringArrayVar(&f.Device, "device", nil, "Add a host device to the container")
	fs.StringArrayVar(&f.DeviceCgroupRule, "device-cgroup-rule", nil, "Add a rule to the cgroup allowed devices list")
	fs.StringArrayVar(&f.DeviceReadBps, "device-read-bps", nil, "Limit read rate (bytes per second) from a device")
	fs.StringArrayVar(&f.DeviceReadIOps, "device-read-iops", nil, "Limit read rate (IO per second) from a device")
	fs.StringArrayVar(&f.DeviceWriteBps, "device-write-bps", nil, "Limit write rate (bytes per second) to a device")
	fs.StringArrayVar(&f.DeviceWriteIOps, "device-write-iops", nil, "Limit write rate (IO per second) to a device")
	fs.BoolVar(&f.DisableContentTrust, "disable-content-trust", true, "Skip image verification")
	fs.StringArrayVar(&f.DNS, "dns", nil, "Set custom DNS servers")
	fs.StringArrayVar(&f.DNSOption, "dns-option", nil, "Set DNS options")
	fs.StringArrayVar(&f.DNSSearch, "dns-search", nil, "Set custom DNS search domains")
	fs.StringVar(&f.Domainname, "domainname", "", "Container NIS domain name")
	fs.StringVar(&f.Entrypoint, "entrypoint", "", "Overwrite the default ENTRYPOINT of the image")
	fs.StringArrayVarP(&f.Env, "env", "e", nil, "Set environment variables")
	fs.StringArrayVar(&f.EnvFile, "env-file", nil, "Read in a file of environment variables")
	fs.StringArrayVar(&f.Expose, "expose", nil, "Expose a port or a range of ports")
	fs.StringVar(&f.GPUs, "gpus", "", "GPU devices to add to the container ('all' to pass all GPUs)")
	fs.StringArrayVar(&f.GroupAdd, "group-add", nil, "Add additional groups to join")
	fs.StringVar(&f.HealthCmd, "health-cmd", "", "Command to run to check health")
	fs.DurationVar(&f.HealthInterval, "health-interval", 0, "Time between running the check (ms|s|m|h) (default 0s)")
	fs.IntVar(&f.HealthRetries, "health-retries", 0, "Consecutive failures needed to report unhealthy")
	fs.DurationVar(&f.HealthStartInterval, "health-start-interval", 0, "Time between running the check during the start period (ms|s|m|h) (default 0s)")
	fs.DurationVar(&f.HealthStartPeriod, "health-start-period", 0, "Start period for the container to initialize before starting health-retries countdown (ms|s|m|h) (default 0s)")
	fs.DurationVar(&f.HealthTimeout, "health-timeout", 0, "Maximum time to allow one check to run (ms|s|m|h) (default 0s)")
	fs.StringVarP(&f.Hostname, "hostname", "h", "", "Container host name")
	fs.BoolVar(&f.Init, "init", false, "Run an init inside the container that forwards signals and reaps processes")
	fs.BoolVarP(&f.Interactive, "interactive", "i", false, "Keep STDIN open even if not attached")
	fs.StringVar(&f.IOMaxBandwidth, "io-maxbandwidth", "", "Maximum IO bandwidth limit for the system drive (Windows only)")
	fs.StringVar(&f.IOMaxIOps, "io-maxiops", "", "Maximum IOps limit for the system drive (Windows only)")
	fs.StringVar(&f.IP, "ip", "", "IPv4 address (e.g., 172.30.100.104)")
	fs.StringVar(&f.IP6, "ip6", "", "IPv6 address (e.g., 2001:db8::33)")
	fs.StringVar(&f.IPC, "ipc", "", "IPC mode to use")
	fs.StringVar(&f.Isolation, "isolation", "", "Container isolation technology")
	fs.StringArrayVarP(&f.Label, "label", "l", nil, "Set meta data on a container")
	fs.StringArrayVar(&f.LabelFile, "label-file", nil, "Read in a line delimited file of labels")
	fs.StringArrayVar(&f.Link, "link", nil, "Add link to another container")
	fs.StringArrayVar(&f.LinkLocalIP, "link-local-ip", nil, "Container IPv4/IPv6 link-local addresses")
	fs.StringVar(&f.LogDriver, "log-driver", "", "Logging driver for the container")
	fs.StringArrayVar(&f.LogOpt, "log-opt", nil, "Log driver options")
	fs.StringVar(&f.MACAddress, "mac-address", "", "Container MAC address (e.g., 92:d0:c6:0a:29:33)")
	fs.StringVarP(&f.Memory, "memory", "m", "", "Memory limit")
	fs.StringVar(&f.MemoryReservation, "memory-reservation", "", "Memory soft limit")
	fs.StringVar(&f.MemorySwap, "memory-swap", "", "Swap limit equal to memory plus swap: '-1' to enable unlimited swap")
	fs.Int64Var(&f.MemorySwappiness, "memory-swappiness", -1, "Tune container memory swappiness (0 to 100)")
	fs.StringArrayVar(&f.Mount, "mount", nil, "Attach a filesystem mount to the container")
	fs.StringVar(&f.Name, "name", "", "Assign a name to the container")
	fs.StringArrayVar(&f.Network, "network", nil, "Connect a container to a network")
	fs.StringArrayVar(&f.NetworkAlias, "network-alias", nil, "Add network-scoped alias for the container")
	fs.BoolVar(&f.NoHealthcheck, "no-healthcheck", false, "Disable any container-specified HEALTHCHECK")
	fs.BoolVar(&f.OOMKillDisable, "oom-kill-disable", false, "Disable OOM Killer")
	fs.IntVar(&f.OOMScoreAdj, "oom-score-adj", 0, "Tune host's OOM preferences (-1000 to 1000)")
	fs.StringVar(&f.PID, "pid", "", "PID namespace to use")
	fs.Int64Var(&f.PIDsLimit, "pids-limit", 0, "Tune container pids limit (set -1 for unlimited)")
	fs.StringVar(&f.Platform, "platform", "", "Set platform if server is multi-platform capable")
	fs.BoolVar(&f.Privileged, "privileged", false, "Give extended privileges to this container")
	fs.StringArrayVarP(&f.Publish, "publish", "p", nil, "Publish a container's port(s) to the host")
	fs.BoolVarP(&f.PublishAll, "publish-all", "P", false, "Publish all exposed ports to random ports")
	fs.StringVar(&f.Pull, "pull", "missing", `Pull image before running ("always", "missing", "never")`)
	fs.BoolVarP(&f.Quiet, "quiet", "q", false, "Suppress the pull output")
	fs.BoolVar(&f.ReadOnly, "read-only", false, "Mount the container's root filesystem as read only")
	fs.StringVar(&f.Restart, "restart", "no", "Restart policy to apply when a container exits")
	fs.BoolVar(&f.Remove, "rm", false, "Automatically remove the container and its associated anonymous volumes when it exits")
	fs.StringVar(&f.Runtime, "runtime", "", "Runtime to use for this container")
	fs.StringArrayVar(&f.SecurityOpt, "security-opt", nil, "Security Options")
	fs.StringVar(&f.ShmSize, "shm-size", "", "Size of /dev/shm")
	fs.StringVar(&f.StopSignal, "stop-signal", "", "Signal to stop the container")
	fs.IntVar(&f.StopTimeout, "stop-timeout", 0, "Timeout (in seconds) to stop a container")
	fs.StringArrayVar(&f.StorageOpt, "storage-opt", nil, "Storage driver options for the container")
	fs.StringArrayVar(&f.Sysctl, "sysctl", nil, "Sysctl options")
	fs.StringArrayVar(&f.Tmpfs, "tmpfs", nil, "Mount a tmpfs directory")
	fs.BoolVarP(&f.TTY, "tty", "t", false, "Allocate a pseudo-TTY")
	fs.StringArrayVar(&f.Ulimit, "ulimit", nil, "Ulimit options")
	fs.BoolVar(&f.UseAPISocket, "use-api-socket", false, "Bind mount Docker API socket and required auth")
	fs.StringVarP(&f.User, "user", "u", "", "Username or UID (format: <name|uid>[:<group|gid>])")
	fs.StringVar(&f.UserNS, "userns", "", "User namespace to use: host, auto, keep-id, nomap, FIRST:SIZE")
	fs.StringVar(&f.UTS, "uts", "", "UTS namespace to use")
	fs.StringArrayVarP(&f.Volume, "volume", "v", nil, "Bind mount a volume")
	fs.StringVar(&f.VolumeDriver, "volume-driver", "", "Optional volume driver for the container")
	fs.StringArrayVar(&f.VolumesFrom, "volumes-from", nil, "Mount volumes from the specified container(s)")
	fs.StringVarP(&f.Workdir, "workdir", "w", "", "Working directory inside the container")
	for _, name := range []string{"disable-content-trust", "isolation", "cpu-count", "cpu-percent", "io-maxbandwidth", "io-maxiops", "volume-driver"} {
		fs.Lookup(name).Hidden = true
	}
	fs.SetNormalizeFunc(former)
}

// former accepts the names that options once had.
func former(_ *pflag.FlagSet, name string) pflag.NormalizedName {
	switch name {
	case "net":
		name = "network"
	case "net-alias":
		name = "network-alias"
	case "dns-opt":
		name = "dns-option"
	}
	return pflag.NormalizedName(name)
}
