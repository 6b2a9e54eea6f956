// Package container is what a container is asked to be and is: plain data, which
// packages may speak of that run none.
package container

import (
	"time"

	"github.com/stack-run/stack/healthcheck/health"
	"github.com/stack-run/stack/netns/endpoint"
	"github.com/stack-run/stack/volumes/volume"
)

// Spec is everything the engine must know to create one container. It is
// resolved (names instead of Compose keys, absolute paths) and free of host
// state, so that two specs are equal exactly when nothing must be recreated.
// Pointers and nil slices mean "as the image says".
type Spec struct {
	Name string `json:"name"` // unique on this machine
	// Image is the reference as the user wrote it, ImageID the digest of the
	// image's config, which pins what is run.
	Image    string            `json:"image"`
	ImageID  string            `json:"imageID,omitempty"`
	Platform string            `json:"platform,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`
	// Annotations are the OCI annotations.
	Annotations map[string]string `json:"annotations,omitempty"`
	// Expose lists ports such as "80/tcp" for inspect; it opens nothing.
	Expose []string `json:"expose,omitempty"`
	// PublishAll publishes what is exposed on host ports that are free.
	PublishAll bool `json:"publishAll,omitempty"`

	Process   Process   `json:"process"`
	Hostname  string    `json:"hostname,omitempty"`
	Domain    string    `json:"domainname,omitempty"`
	Init      bool      `json:"init,omitempty"`
	Isolation Isolation `json:"isolation"`
	Limits    Limits    `json:"limits"`

	Mounts []volume.Mount `json:"mounts,omitempty"`
	// VolumesFrom names containers (or IDs), with ":ro" or ":rw".
	VolumesFrom []string `json:"volumesFrom,omitempty"`
	ReadOnly    bool     `json:"readOnly,omitempty"`
	ShmSize     int64    `json:"shmSize,omitempty"` // bytes, default 64 MiB

	// Network's ID and Key are filled in by the engine.
	Network endpoint.Spec `json:"network"`

	Health *health.Spec `json:"health,omitempty"` // nil: as the image says
	// OnUnhealthy is what happens when the container turns unhealthy.
	OnUnhealthy OnUnhealthy `json:"onUnhealthy,omitempty"`
	Restart     Restart     `json:"restart"`
	// StopSignal is a name or number, "" for the image's, then SIGTERM.
	StopSignal string        `json:"stopSignal,omitempty"`
	StopGrace  time.Duration `json:"stopGrace,omitempty"` // default 10 s
	AutoRemove bool          `json:"autoRemove,omitempty"`
	// PreStart is a fingerprint of what runs before the container starts first.
	PreStart string `json:"preStart,omitempty"`

	Log LogConfig `json:"log"`
}

// Process is what runs in a container or in an exec.
type Process struct {
	Entrypoint []string `json:"entrypoint"` // nil: the image's; empty: none
	Command    []string `json:"command"`    // nil: the image's, unless Entrypoint is set
	Env        []string `json:"env,omitempty"`
	WorkingDir string   `json:"workingDir,omitempty"`
	User       string   `json:"user,omitempty"` // user[:group], names or numbers
	GroupAdd   []string `json:"groupAdd,omitempty"`
	Umask      *uint32  `json:"umask,omitempty"` // nil: 0022
	TTY        bool     `json:"tty,omitempty"`
	Stdin      bool     `json:"stdin,omitempty"` // stdin stays open
	StdinOnce  bool     `json:"stdinOnce,omitempty"`
}

// Isolation is what the container may see and do.
type Isolation struct {
	Privileged  bool     `json:"privileged,omitempty"`
	CapAdd      []string `json:"capAdd,omitempty"`
	CapDrop     []string `json:"capDrop,omitempty"`
	SecurityOpt []string `json:"securityOpt,omitempty"` // no-new-privileges, seccomp=…, apparmor=…, label=…, systempaths=unconfined
	// SeccompProfile is the content of the profile a seccomp= option names.
	SeccompProfile string   `json:"seccompProfile,omitempty"`
	Devices        []Device `json:"devices,omitempty"`
	// CDI are devices by their names, VENDOR/CLASS=NAME, and DeviceRequests ask for some
	// of a kind, see engine/cdi.
	CDI               []string          `json:"cdi,omitempty"`
	DeviceRequests    []DeviceRequest   `json:"deviceRequests,omitempty"`
	DeviceCgroupRules []string          `json:"deviceCgroupRules,omitempty"`
	Sysctls           map[string]string `json:"sysctls,omitempty"`
	Rlimits           map[string]Rlimit `json:"rlimits,omitempty"`      // by ulimit name: nofile, nproc …
	PIDMode           string            `json:"pidMode,omitempty"`      // "", "host", "container:ID"
	IPCMode           string            `json:"ipcMode,omitempty"`      // "", "private", "shareable", "host", "none", "container:ID"
	UTSMode           string            `json:"utsMode,omitempty"`      // "", "host"
	UserNSMode        string            `json:"usernsMode,omitempty"`   // "", "host"
	CgroupNSMode      string            `json:"cgroupnsMode,omitempty"` // "", "private", "host"
	CgroupParent      string            `json:"cgroupParent,omitempty"`
	Runtime           string            `json:"runtime,omitempty"`
}

// Device maps a host device; Permissions is out of "rwm".
type Device struct {
	Source      string `json:"source"`
	Target      string `json:"target"`
	Permissions string `json:"permissions"`
}

// DeviceRequest asks for devices of a kind: so many of them, -1 for all, or some by ID.
type DeviceRequest struct {
	Driver       string   `json:"driver,omitempty"`
	Count        int      `json:"count,omitempty"`
	IDs          []string `json:"ids,omitempty"`
	Capabilities []string `json:"capabilities,omitempty"`
}

// Rlimit is a resource limit; -1 is unlimited.
type Rlimit struct {
	Soft int64 `json:"soft"`
	Hard int64 `json:"hard"`
}

// Limits are resource limits in the kernel's terms. Zero means unlimited.
type Limits struct {
	Memory             int64             `json:"memory,omitempty"`            // bytes
	MemoryReservation  int64             `json:"memoryReservation,omitempty"` // bytes
	MemorySwap         int64             `json:"memorySwap,omitempty"`        // bytes, memory plus swap; -1 unlimited; 0 twice Memory
	Swappiness         *int64            `json:"swappiness,omitempty"`
	NanoCPUs           int64             `json:"nanoCPUs,omitempty"` // 1e9 is one CPU
	CPUShares          int64             `json:"cpuShares,omitempty"`
	CPUQuota           int64             `json:"cpuQuota,omitempty"`  // µs
	CPUPeriod          int64             `json:"cpuPeriod,omitempty"` // µs
	CPURealtimeRuntime int64             `json:"cpuRealtimeRuntime,omitempty"`
	CPURealtimePeriod  int64             `json:"cpuRealtimePeriod,omitempty"`
	CpusetCPUs         string            `json:"cpusetCPUs,omitempty"`
	CpusetMems         string            `json:"cpusetMems,omitempty"`
	PIDs               int64             `json:"pids,omitempty"` // -1 unlimited
	OOMKillDisable     bool              `json:"oomKillDisable,omitempty"`
	OOMScoreAdj        int               `json:"oomScoreAdj,omitempty"`
	BlkioWeight        uint16            `json:"blkioWeight,omitempty"`
	BlkioWeightDevice  []BlkioDevice     `json:"blkioWeightDevice,omitempty"`
	ReadBps            []BlkioDevice     `json:"readBps,omitempty"`
	WriteBps           []BlkioDevice     `json:"writeBps,omitempty"`
	ReadIOps           []BlkioDevice     `json:"readIOps,omitempty"`
	WriteIOps          []BlkioDevice     `json:"writeIOps,omitempty"`
	StorageOpt         map[string]string `json:"storageOpt,omitempty"`
}

// BlkioDevice is a rate (bytes or operations per second) or weight of a device.
type BlkioDevice struct {
	Path string `json:"path"`
	Rate uint64 `json:"rate"`
}

// Restart is a restart policy.
type Restart struct {
	Policy     string        `json:"policy,omitempty"` // "", "no", "always", "on-failure", "unless-stopped"
	MaxRetries int           `json:"maxRetries,omitempty"`
	Delay      time.Duration `json:"delay,omitempty"`  // deploy.restart_policy; 0: exponential from 100 ms
	Window     time.Duration `json:"window,omitempty"` // a run this long resets the count; default 10 s
}

// LogConfig is the logging driver with its options, see engine/logs/driver.
type LogConfig struct {
	Driver  string            `json:"driver,omitempty"`
	Options map[string]string `json:"options,omitempty"`
}

// Phase is a container's state, in Docker's words.
type Phase string

const (
	Created    Phase = "created"
	Running    Phase = "running"
	Paused     Phase = "paused"
	Restarting Phase = "restarting"
	Removing   Phase = "removing"
	Exited     Phase = "exited"
	Dead       Phase = "dead"
)

// Record is a container's record: what was asked for and what is so.
type Record struct {
	Version int    `json:"version"` // of this schema, now 1
	ID      string `json:"id"`      // 64 hex digits
	Spec    Spec   `json:"spec"`
	// Hash is a fingerprint of what the spec was made from, "v1:…".
	Hash    string    `json:"hash,omitempty"`
	Project string    `json:"project"`
	Service string    `json:"service,omitempty"`
	Index   int       `json:"index,omitempty"`
	OneOff  bool      `json:"oneOff,omitempty"`
	Created time.Time `json:"created"`
	// Args is the command with its arguments, the image's defaults filled in.
	Args []string `json:"args,omitempty"`
	// Base is what the image said when the container was created.
	Base *ImageConfig `json:"base,omitempty"`
	// Volumes are the names of the anonymous volumes, by target.
	Volumes map[string]string `json:"volumes,omitempty"`
	// Inherited are the mounts of volumes_from.
	Inherited []volume.Mount `json:"inherited,omitempty"`
	State     State          `json:"-"` // lives in a file of its own
	// ConsoleSize is the rows and columns of the terminal for the next start.
	ConsoleSize [2]uint16 `json:"-"`
}

// OnUnhealthy is what happens to a container whose health checks have failed.
type OnUnhealthy string

const (
	// UnhealthyRestart stops it and starts it again, whatever its restart policy is,
	// with the delays of one and within its number of attempts.
	UnhealthyRestart OnUnhealthy = "restart"
	// UnhealthyStop stops it as somebody would by hand.
	UnhealthyStop OnUnhealthy = "stop"
	// UnhealthyKill kills it; what follows is up to its restart policy.
	UnhealthyKill OnUnhealthy = "kill"
)

// State is the part of a record that changes while the container lives.
type State struct {
	Phase        Phase     `json:"phase"`
	Pid          int       `json:"pid,omitempty"`
	StartTicks   uint64    `json:"startTicks,omitempty"` // field 22 of /proc/PID/stat
	ExitCode     int       `json:"exitCode"`
	Error        string    `json:"error,omitempty"`
	OOMKilled    bool      `json:"oomKilled,omitempty"`
	StartedAt    time.Time `json:"startedAt,omitzero"`
	FinishedAt   time.Time `json:"finishedAt,omitzero"`
	RestartCount int       `json:"restartCount,omitempty"`
	// SetUp says that the process is being set up and has not been seen to run the
	// container's command.
	SetUp bool `json:"setUp,omitempty"`
	// StoppedByUser says that a stop was asked for, which restart policies respect.
	StoppedByUser bool `json:"stoppedByUser,omitempty"`
	// Stopping says that a stop is under way: StopSignal was sent, and at StopBy, if
	// it is set, all processes are killed. With StartAgain the container is started
	// once it has ended.
	Stopping   bool      `json:"stopping,omitempty"`
	StopSignal int       `json:"stopSignal,omitempty"`
	StopBy     time.Time `json:"stopBy,omitzero"`
	StartAgain bool      `json:"startAgain,omitempty"`
	// RestartAt is when the restart policy starts it again, RestartDelay the last
	// delay, from which the next one is reckoned.
	RestartAt    time.Time     `json:"restartAt,omitzero"`
	RestartDelay time.Duration `json:"restartDelay,omitempty"`
	// Unwell says that the container ended, or is about to, because it was unhealthy.
	Unwell bool `json:"unwell,omitempty"`
	// Recovered says that it was started again after that, and that those that restart
	// with it have not been yet.
	Recovered bool `json:"recovered,omitempty"`
	// StartBy is set on a container that was made to be run at once and to be removed
	// afterwards: if it was not started by then, nobody wants it any more.
	StartBy time.Time `json:"startBy,omitzero"`
	// Aside says that it runs beside the container that it is to replace, or that has
	// replaced it: it has neither the service's names nor its published ports.
	Aside bool `json:"aside,omitempty"`
	// Doomed says that it is removed once it has ended, with DoomedVolumes its
	// anonymous volumes too.
	Doomed        bool          `json:"doomed,omitempty"`
	DoomedVolumes bool          `json:"doomedVolumes,omitempty"`
	Health        health.Status `json:"health,omitempty"`
	// HealthyAt is when it first became healthy in its run.
	HealthyAt     time.Time          `json:"healthyAt,omitzero"`
	FailingStreak int                `json:"failingStreak,omitempty"`
	HealthLog     []health.Result    `json:"healthLog,omitempty"`
	Endpoint      *endpoint.Endpoint `json:"endpoint,omitempty"`
	BootID        string             `json:"bootID,omitempty"`
}

// ImageConfig is what an image says about running it.
type ImageConfig struct {
	Entrypoint   []string          `json:"entrypoint,omitempty"`
	Cmd          []string          `json:"cmd,omitempty"`
	Env          []string          `json:"env,omitempty"`
	User         string            `json:"user,omitempty"`
	WorkingDir   string            `json:"workingDir,omitempty"`
	Volumes      []string          `json:"volumes,omitempty"`
	ExposedPorts []string          `json:"exposedPorts,omitempty"` // "80/tcp"
	StopSignal   string            `json:"stopSignal,omitempty"`
	Labels       map[string]string `json:"labels,omitempty"`
}
