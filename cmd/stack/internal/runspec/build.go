package runspec

import (
	"crypto/rand"
	"encoding/csv"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"

	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/healthcheck"
)

// Facts are what Build needs besides the flags.
type Facts struct {
	Image   string
	Command []string // nil: the image's
	Env     []string // KEY=VALUE of --env-file and --env, in order
	Labels  []string // KEY=VALUE of --label-file
	Dir     string   // for relative paths
	// Name is used when there is no --name.
	Name func() string
	// ReadFile reads seccomp profiles; nil: os.ReadFile.
	ReadFile func(string) ([]byte, error)
}

// Name returns a random name for a container without one.
func Name() string {
	var b [6]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	return "run-" + hex.EncodeToString(b[:])
}

// Build makes the spec. All faults are returned together.
func (f *Flags) Build(x Facts) (engine.Spec, error) {
	b := &builder{f: f, x: x}
	s := b.spec()
	return s, errors.Join(b.errs...)
}

// builder collects the faults.
type builder struct {
	f    *Flags
	x    Facts
	errs []error
}

func (b *builder) fail(flag, value, format string, args ...any) {
	b.errs = append(b.errs, fmt.Errorf("invalid --%s %q: %s", flag, value, fmt.Sprintf(format, args...)))
}

func (b *builder) spec() engine.Spec {
	f := b.f
	if b.x.ReadFile == nil {
		b.x.ReadFile = os.ReadFile
	}
	s := engine.Spec{
		Name:     f.Name,
		Image:    b.x.Image,
		Platform: f.Platform,
		Labels:   b.labels(),

		Annotations: b.pairs("annotation", f.Annotation),
		Process: engine.Process{
			Command: b.x.Command, Env: b.x.Env, WorkingDir: f.Workdir, User: f.User, GroupAdd: f.GroupAdd,
			TTY: f.TTY, Stdin: f.Interactive, StdinOnce: f.Interactive,
		},
		Hostname:    f.Hostname,
		Domain:      f.Domainname,
		Init:        f.Init,
		Isolation:   b.isolation(),
		Limits:      b.limits(),
		Mounts:      b.mounts(),
		VolumesFrom: f.VolumesFrom,
		ReadOnly:    f.ReadOnly,
		ShmSize:     b.bytes("shm-size", f.ShmSize),
		Health:      b.health(),
		Restart:     b.restart(),
		StopSignal:  f.StopSignal,
		AutoRemove:  f.Remove,
		Log:         engine.LogConfig{Driver: f.LogDriver, Options: b.pairs("log-opt", f.LogOpt)},
	}
	if f.EntrypointSet {
		s.Process.Entrypoint = []string{}
		if f.Entrypoint != "" {
			s.Process.Entrypoint = []string{f.Entrypoint}
		}
		if s.Process.Command == nil {
			s.Process.Command = []string{}
		}
	}
	if f.StopTimeoutSet {
		// 0 means at once; the spec's zero means the default.
		s.StopGrace = max(time.Duration(f.StopTimeout)*time.Second, 1)
		if f.StopTimeout < 0 {
			s.StopGrace = time.Duration(math.MaxInt64)
		}
	}
	if s.Name == "" {
		name := b.x.Name
		if name == nil {
			name = Name
		}
		s.Name = name()
	}
	if f.Remove && s.Restart.Policy != "" && s.Restart.Policy != "no" {
		b.errs = append(b.errs, errors.New("conflicting options: cannot specify both --restart and --rm"))
	}
	if f.UseAPISocket {
		b.errs = append(b.errs, errors.New("invalid --use-api-socket: there is no API server whose socket could be given to a container; leave it out, or run a Docker daemon and mount its socket with --volume"))
	}
	s.Expose = b.expose()
	s.PublishAll = f.PublishAll
	b.network(&s)
	for _, fault := range engine.Faults(s) {
		flag, ok := map[string]string{
			"logging": "log-driver", "cpuset": "cpuset-cpus", "blkio_config.weight": "blkio-weight", "userns_mode": "userns", "cgroup": "cgroupns",
			"mem_limit": "memory", "memswap_limit": "memory-swap", "mem_reservation": "memory-reservation", "mem_swappiness": "memory-swappiness",
		}[fault.Attribute]
		if !ok {
			flag = strings.ReplaceAll(fault.Attribute, "_", "-")
		}
		switch {
		case strings.HasPrefix(flag, "sysctls."):
			flag = "sysctl"
		case strings.HasPrefix(flag, "logging."):
			flag = "log-opt"
		case strings.HasPrefix(flag, "device-requests"):
			flag = "gpus"
		}
		b.errs = append(b.errs, fmt.Errorf("invalid --%s: %w", flag, fault.Err))
	}
	return s
}

func (b *builder) labels() map[string]string {
	out := map[string]string{}
	for _, l := range append(slices.Clone(b.x.Labels), b.f.Label...) {
		key, value, _ := strings.Cut(l, "=")
		if key == "" {
			b.fail("label", l, "it has no key")
		}
		out[key] = value
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

func (b *builder) pairs(flag string, list []string) map[string]string {
	var out map[string]string
	for _, item := range list {
		key, value, ok := strings.Cut(item, "=")
		if !ok || key == "" {
			b.fail(flag, item, "write KEY=VALUE")
			continue
		}
		if out == nil {
			out = map[string]string{}
		}
		out[key] = value
	}
	return out
}

func (b *builder) bytes(flag, value string) int64 {
	if value == "" {
		return 0
	}
	n, err := units.RAMInBytes(value)
	if err != nil {
		b.fail(flag, value, "it is no size; write it like 512m")
	}
	return n
}

func (b *builder) isolation() engine.Isolation {
	f := b.f
	i := engine.Isolation{
		Privileged: f.Privileged, CapAdd: f.CapAdd, CapDrop: f.CapDrop, SecurityOpt: f.SecurityOpt,
		DeviceCgroupRules: f.DeviceCgroupRule, Sysctls: b.pairs("sysctl", f.Sysctl),
		PIDMode: f.PID, IPCMode: f.IPC, UTSMode: f.UTS, UserNSMode: f.UserNS, CgroupNSMode: f.CgroupNS,
		CgroupParent: f.CgroupParent, Runtime: f.Runtime,
	}
	for _, d := range f.Device {
		if engine.IsCDI(d) {
			i.CDI = append(i.CDI, d)
			continue
		}
		i.Devices = append(i.Devices, b.device(d))
	}
	if f.GPUs != "" {
		i.DeviceRequests = append(i.DeviceRequests, b.gpus(f.GPUs))
	}
	for _, u := range f.Ulimit {
		limit, err := units.ParseUlimit(u)
		if err != nil {
			b.fail("ulimit", u, "%v; write it like nofile=1024:2048", err)
			continue
		}
		if i.Rlimits == nil {
			i.Rlimits = map[string]engine.Rlimit{}
		}
		i.Rlimits[limit.Name] = engine.Rlimit{Soft: limit.Soft, Hard: limit.Hard}
	}
	for n, opt := range f.SecurityOpt {
		file, ok := strings.CutPrefix(opt, "seccomp=")
		if !ok {
			file, ok = strings.CutPrefix(opt, "seccomp:")
		}
		if !ok || file == "unconfined" || file == "builtin" {
			continue
		}
		profile, err := b.x.ReadFile(b.abs(file))
		if err != nil {
			b.fail("security-opt", opt, "cannot read the profile: %v", err)
			continue
		}
		i.SecurityOpt = slices.Clone(i.SecurityOpt)
		i.SecurityOpt[n] = "seccomp=" + b.abs(file)
		i.SeccompProfile = string(profile)
	}
	return i
}

// gpus reads "all", a number, or a list of NAME=VALUE in which a value with commas is in
// quotes, as in device=0,"capabilities=gpu,utility".
func (b *builder) gpus(text string) engine.DeviceRequest {
	r := engine.DeviceRequest{Capabilities: []string{"gpu"}}
	fields, err := csv.NewReader(strings.NewReader(text)).Read()
	if err != nil {
		b.fail("gpus", text, "write all, a number, or NAME=VALUE with quotes around those that have commas: %v", err)
		return r
	}
	for _, field := range fields {
		name, value, ok := strings.Cut(field, "=")
		if !ok && len(fields) == 1 {
			name, value, ok = "count", field, true
		}
		switch {
		case !ok:
			b.fail("gpus", text, "%q is no NAME=VALUE", field)
		case name == "count" && value == "all":
			r.Count = -1
		case name == "count":
			if r.Count, err = strconv.Atoi(value); err != nil || r.Count < 1 {
				b.fail("gpus", text, "%q is no number of GPUs; write all, or 1 and more", value)
			}
		case name == "device":
			r.IDs = strings.Split(value, ",")
		case name == "driver":
			r.Driver = value
		case name == "capabilities":
			r.Capabilities = append(r.Capabilities, strings.Split(value, ",")...)
		case name == "options":
			b.fail("gpus", text, "no driver of devices has options here; remove them")
		default:
			b.fail("gpus", text, "%q is not known; use count, device, driver and capabilities", name)
		}
	}
	return r
}

// device reads SOURCE[:TARGET][:PERMISSIONS].
func (b *builder) device(text string) engine.Device {
	d := engine.Device{Permissions: "rwm"}
	parts := strings.Split(text, ":")
	permissions := func(s string) bool { return s != "" && strings.Trim(s, "rwm") == "" }
	switch {
	case len(parts) == 1:
	case len(parts) == 2 && permissions(parts[1]):
		d.Permissions = parts[1]
	case len(parts) == 2:
		d.Target = parts[1]
	case len(parts) == 3 && permissions(parts[2]):
		d.Target, d.Permissions = parts[1], parts[2]
	default:
		b.fail("device", text, "write SOURCE[:TARGET][:PERMISSIONS], with permissions out of rwm")
		return d
	}
	d.Source = parts[0]
	if d.Target == "" {
		d.Target = d.Source
	}
	if !filepath.IsAbs(d.Source) || !filepath.IsAbs(d.Target) {
		b.fail("device", text, "both paths must be absolute")
	}
	return d
}

func (b *builder) limits() engine.Limits {
	f := b.f
	l := engine.Limits{
		Memory:             b.bytes("memory", f.Memory),
		MemoryReservation:  b.bytes("memory-reservation", f.MemoryReservation),
		CPUShares:          f.CPUShares,
		CPUQuota:           f.CPUQuota,
		CPUPeriod:          f.CPUPeriod,
		CPURealtimeRuntime: f.CPURTRuntime,
		CPURealtimePeriod:  f.CPURTPeriod,
		CpusetCPUs:         f.CpusetCPUs,
		CpusetMems:         f.CpusetMems,
		PIDs:               f.PIDsLimit,
		OOMKillDisable:     f.OOMKillDisable,
		OOMScoreAdj:        f.OOMScoreAdj,
		BlkioWeight:        f.BlkioWeight,
		BlkioWeightDevice:  b.rates("blkio-weight-device", f.BlkioWeightDevice, plainNumber),
		ReadBps:            b.rates("device-read-bps", f.DeviceReadBps, units.RAMInBytes),
		WriteBps:           b.rates("device-write-bps", f.DeviceWriteBps, units.RAMInBytes),
		ReadIOps:           b.rates("device-read-iops", f.DeviceReadIOps, plainNumber),
		WriteIOps:          b.rates("device-write-iops", f.DeviceWriteIOps, plainNumber),
		StorageOpt:         b.pairs("storage-opt", f.StorageOpt),
	}
	if f.MemorySwap == "-1" {
		l.MemorySwap = -1
	} else {
		l.MemorySwap = b.bytes("memory-swap", f.MemorySwap)
	}
	if f.MemorySwappiness >= 0 {
		l.Swappiness = &f.MemorySwappiness
	}
	if f.CPUs != "" {
		n, err := NanoCPUs(f.CPUs)
		if err != nil {
			b.fail("cpus", f.CPUs, "%v", err)
		}
		l.NanoCPUs = n
	}
	return l
}

// NanoCPUs reads a decimal number of CPUs exactly.
func NanoCPUs(text string) (int64, error) {
	r, ok := new(big.Rat).SetString(text)
	if !ok || r.Sign() < 0 {
		return 0, errors.New("it is no number of CPUs; write it like 1.5")
	}
	r.Mul(r, big.NewRat(1e9, 1))
	if !r.IsInt() || !r.Num().IsInt64() {
		return 0, errors.New("it is more precise than a billionth, or too large")
	}
	return r.Num().Int64(), nil
}

func plainNumber(s string) (int64, error) { return strconv.ParseInt(s, 10, 64) }

func (b *builder) rates(flag string, list []string, parse func(string) (int64, error)) []engine.BlkioDevice {
	var out []engine.BlkioDevice
	for _, item := range list {
		path, rate, ok := strings.Cut(item, ":")
		n, err := parse(rate)
		if !ok || err != nil || n < 0 || !strings.HasPrefix(path, "/dev/") {
			b.fail(flag, item, "write DEVICE:NUMBER, such as /dev/sda:1000")
			continue
		}
		out = append(out, engine.BlkioDevice{Path: path, Rate: uint64(n)})
	}
	return out
}

func (b *builder) health() *healthcheck.Spec {
	f := b.f
	h := healthcheck.Spec{
		Interval: f.HealthInterval, Timeout: f.HealthTimeout, StartPeriod: f.HealthStartPeriod,
		StartInterval: f.HealthStartInterval, Retries: f.HealthRetries,
	}
	set := h.Interval != 0 || h.Timeout != 0 || h.StartPeriod != 0 || h.StartInterval != 0 || h.Retries != 0 || f.HealthCmd != ""
	switch {
	case f.NoHealthcheck && set:
		b.errs = append(b.errs, errors.New("--no-healthcheck conflicts with --health-* options"))
		return nil
	case f.NoHealthcheck:
		return &healthcheck.Spec{Test: []string{"NONE"}}
	case !set:
		return nil
	}
	for flag, d := range map[string]time.Duration{
		"health-interval": h.Interval, "health-timeout": h.Timeout, "health-start-period": h.StartPeriod, "health-start-interval": h.StartInterval,
	} {
		if d != 0 && d < time.Millisecond {
			b.fail(flag, d.String(), "it cannot be less than 1ms")
		}
	}
	if h.Retries < 0 {
		b.fail("health-retries", strconv.Itoa(h.Retries), "it cannot be negative")
	}
	if f.HealthCmd != "" {
		h.Test = []string{"CMD-SHELL", f.HealthCmd}
	}
	return &h
}

func (b *builder) restart() engine.Restart {
	r, err := ParseRestart(b.f.Restart)
	if err != nil {
		b.fail("restart", b.f.Restart, "%v", err)
	}
	return r
}

// ParseRestart reads no, always, unless-stopped, on-failure[:MAX].
func ParseRestart(text string) (engine.Restart, error) {
	policy, number, counted := strings.Cut(text, ":")
	r := engine.Restart{Policy: policy}
	switch policy {
	case "", "no", "always", "unless-stopped", "on-failure":
	default:
		return r, errors.New("use no, always, unless-stopped or on-failure[:MAX]")
	}
	if counted {
		n, err := strconv.Atoi(number)
		if err != nil || n < 0 || policy != "on-failure" {
			return r, errors.New("only on-failure takes a number of retries, of 0 or more")
		}
		r.MaxRetries = n
	}
	return r, nil
}

func (b *builder) abs(path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(b.x.Dir, path)
}
