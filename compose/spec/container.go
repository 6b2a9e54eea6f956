package spec

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/distribution/reference"

	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/engine/image"
	"github.com/stack-run/stack/healthcheck"
)

// container is the spec of replica index of a service.
func (b *builder) container(d *Desired, s types.ServiceConfig, index int) engine.Spec {
	path := "services." + s.Name
	name := b.containerName(s, index)
	spec := engine.Spec{
		Name:        name,
		Image:       ImageName(b.project.Name, s, b.host.Separator),
		Platform:    s.Platform,
		Labels:      b.containerLabels(s, index),
		Annotations: maps.Clone(map[string]string(s.Annotations)),
		Expose:      b.expose(s),
		Process: engine.Process{
			Entrypoint: slices.Clone(s.Entrypoint),
			Command:    slices.Clone(s.Command),
			Env:        environment(s.Environment),
			WorkingDir: s.WorkingDir,
			User:       s.User,
			GroupAdd:   slices.Clone(s.GroupAdd),
			Umask:      s.Umask,
			TTY:        s.Tty,
			Stdin:      s.StdinOpen,
		},
		Hostname:    s.Hostname,
		Domain:      s.DomainName,
		Init:        s.Init != nil && *s.Init,
		Limits:      b.limits(s),
		Mounts:      b.mounts(s),
		VolumesFrom: b.volumesFrom(s),
		ReadOnly:    s.ReadOnly,
		ShmSize:     int64(s.ShmSize),
		Network:     b.endpoint(d, s, index, name),
		Health:      b.health(s),
		OnUnhealthy: b.onUnhealthy(s),
		Restart:     b.restart(s),
		StopSignal:  s.StopSignal,
		StopGrace:   stopGrace(s.StopGracePeriod),
		Log:         b.logging(s),
	}
	spec.Isolation = b.isolation(s)
	b.names(path, s)
	for _, key := range slices.Sorted(maps.Keys(s.Sysctls)) {
		if !strings.HasPrefix(key, "net.") {
			continue
		}
		if spec.Network.Mode == "host" {
			b.fail(path+".sysctls", "%s cannot be set: the container uses the host's network; set it on the host", key)
			continue
		}
		if spec.Network.Sysctls == nil {
			spec.Network.Sysctls = map[string]string{}
		}
		spec.Network.Sysctls[key] = s.Sysctls[key]
	}
	for _, f := range engine.Faults(spec) {
		b.fail(path+"."+f.Attribute, "%w", f.Err)
	}
	return spec
}

// names checks what is a name, and would be found to be none much later.
func (b *builder) names(path string, s types.ServiceConfig) {
	if _, err := reference.ParseAnyReference(s.Image); s.Image != "" && err != nil {
		b.fail(path+".image", "%q is no name of an image: %w; write it like nginx:1.27 or registry.example.com/team/app:2", s.Image, err)
	}
	if _, err := image.ParsePlatform(s.Platform); err != nil {
		b.fail(path+".platform", "%w", err)
	}
	if _, ok := s.Environment[""]; ok {
		b.fail(path+".environment", "a variable has no name; write NAME=VALUE")
	}
	if _, ok := s.Labels[""]; ok {
		b.fail(path+".labels", "a label has no name; write NAME=VALUE")
	}
}

// stopGrace keeps an explicit 0s apart from "not set": it becomes 1 ns, which
// is as good as at once.
func stopGrace(d *types.Duration) time.Duration {
	if d == nil {
		return 0
	}
	return max(time.Duration(*d), 1)
}

func (b *builder) expose(s types.ServiceConfig) []string {
	var out []string
	for i, e := range s.Expose {
		ports, err := engine.ParseExpose(e)
		if err != nil {
			b.fail(fmt.Sprintf("services.%s.expose[%d]", s.Name, i), "%w", err)
		}
		out = append(out, ports...)
	}
	for _, p := range s.Ports {
		protocol := p.Protocol
		if protocol == "" {
			protocol = "tcp"
		}
		out = append(out, strconv.Itoa(int(p.Target))+"/"+protocol)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (b *builder) health(s types.ServiceConfig) *healthcheck.Spec {
	h := s.HealthCheck
	direct := b.directCheck(s)
	if h == nil {
		if direct != nil {
			return &healthcheck.Spec{Test: direct}
		}
		return nil
	}
	path := "services." + s.Name + ".healthcheck"
	if h.Disable {
		return &healthcheck.Spec{Test: []string{"NONE"}}
	}
	if len(h.Test) > 0 {
		switch kind := h.Test[0]; kind {
		case "NONE":
			return &healthcheck.Spec{Test: []string{"NONE"}}
		case "CMD", "CMD-SHELL":
			if len(h.Test) < 2 {
				b.fail(path+".test", "%s is followed by no command; add it, or write NONE for no check", kind)
			}
		default:
			b.fail(path+".test", `a list must begin with "CMD", "CMD-SHELL" or "NONE", not %q; did you mean ["CMD", %s]?`, kind, quoteAll(h.Test))
		}
	}
	out := &healthcheck.Spec{Test: slices.Clone(h.Test)}
	if direct != nil {
		if len(h.Test) > 0 {
			b.fail("services."+s.Name+"."+DirectCheck, "a service has one check, and healthcheck.test is another; remove one of them")
		}
		out.Test = direct
	}
	for _, d := range []struct {
		name string
		from *types.Duration
		to   *time.Duration
	}{
		{"interval", h.Interval, &out.Interval},
		{"timeout", h.Timeout, &out.Timeout},
		{"start_period", h.StartPeriod, &out.StartPeriod},
		{"start_interval", h.StartInterval, &out.StartInterval},
	} {
		if d.from == nil {
			continue
		}
		// Docker's rule: zero means the default, anything else is at least 1 ms.
		*d.to = time.Duration(*d.from)
		if *d.to < 0 || *d.to > 0 && *d.to < time.Millisecond {
			b.fail(path+"."+d.name, "%s is too short; use 1ms or more", *d.to)
		}
	}
	if h.Retries != nil {
		out.Retries = int(*h.Retries)
	}
	return out
}

func quoteAll(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = strconv.Quote(w)
	}
	return strings.Join(quoted, ", ")
}

func (b *builder) restart(s types.ServiceConfig) engine.Restart {
	path := "services." + s.Name
	var out engine.Restart
	if s.Restart != "" {
		policy, retries, _ := strings.Cut(s.Restart, ":")
		out.Policy = policy
		switch policy {
		case "no", "always", "unless-stopped":
			if retries != "" {
				b.fail(path+".restart", "only on-failure takes a number of retries, not %s", policy)
			}
		case "on-failure":
			if retries != "" {
				n, err := strconv.Atoi(retries)
				if err != nil || n < 0 {
					b.fail(path+".restart", "%q is no number of retries; write on-failure:3", retries)
				}
				out.MaxRetries = n
			}
		default:
			b.fail(path+".restart", "unknown restart policy %q; use no, always, on-failure[:N] or unless-stopped%s", policy, didYouMean(policy, []string{"no", "always", "on-failure", "unless-stopped"}))
		}
	}
	if s.Deploy == nil || s.Deploy.RestartPolicy == nil {
		return out
	}
	policy := s.Deploy.RestartPolicy
	out = engine.Restart{}
	switch policy.Condition {
	case "", "any", "always":
		out.Policy = "always"
	case "none", "no":
		out.Policy = "no"
	case "on-failure", "unless-stopped":
		out.Policy = policy.Condition
	default:
		b.fail(path+".deploy.restart_policy.condition", "unknown condition %q; use none, on-failure or any", policy.Condition)
	}
	if policy.MaxAttempts != nil {
		out.MaxRetries = int(min(*policy.MaxAttempts, math.MaxInt32))
	}
	if policy.Delay != nil {
		out.Delay = time.Duration(*policy.Delay)
	}
	if policy.Window != nil {
		out.Window = time.Duration(*policy.Window)
	}
	return out
}

func (b *builder) logging(s types.ServiceConfig) engine.LogConfig {
	driver, options := s.LogDriver, s.LogOpt
	if s.Logging != nil {
		driver, options = s.Logging.Driver, s.Logging.Options
	}
	out := engine.LogConfig{Driver: driver, Options: maps.Clone(options)}
	warnings, _ := engine.CheckLog(out) // the error is one of Faults
	for _, w := range warnings {
		b.warn("services."+s.Name+".logging", "%s", w)
	}
	return out
}

func (b *builder) isolation(s types.ServiceConfig) engine.Isolation {
	path := "services." + s.Name
	out := engine.Isolation{
		Privileged:        s.Privileged,
		CapAdd:            capabilities(s.CapAdd),
		CapDrop:           capabilities(s.CapDrop),
		DeviceCgroupRules: slices.Clone(s.DeviceCgroupRules),
		PIDMode:           s.Pid,
		IPCMode:           s.Ipc,
		UTSMode:           s.Uts,
		UserNSMode:        s.UserNSMode,
		CgroupNSMode:      s.Cgroup,
		CgroupParent:      s.CgroupParent,
		Runtime:           s.Runtime,
	}
	b.checkCapabilities(path+".cap_add", s.CapAdd)
	b.checkCapabilities(path+".cap_drop", s.CapDrop)
	b.securityOptions(s, &out)
	for i, device := range s.Devices {
		at := fmt.Sprintf("%s.devices[%d]", path, i)
		if device.Source == device.Target && engine.IsCDI(device.Source) {
			out.CDI = append(out.CDI, device.Source)
			continue
		}
		d := engine.Device{Source: device.Source, Target: device.Target, Permissions: device.Permissions}
		if d.Target == "" {
			d.Target = d.Source
		}
		if d.Permissions == "" {
			d.Permissions = "rwm"
		}
		if strings.Trim(d.Permissions, "rwm") != "" {
			b.fail(at+".permissions", "permissions %q may only have the letters r, w and m", d.Permissions)
		}
		out.Devices = append(out.Devices, d)
	}
	for i, r := range s.Gpus {
		if len(r.Capabilities) == 0 {
			r.Capabilities = []string{"gpu"}
		}
		b.deviceRequest(fmt.Sprintf("%s.gpus[%d]", path, i), r, &out)
	}
	if s.Deploy != nil && s.Deploy.Resources.Reservations != nil {
		for i, r := range s.Deploy.Resources.Reservations.Devices {
			b.deviceRequest(fmt.Sprintf("%s.deploy.resources.reservations.devices[%d]", path, i), r, &out)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(s.Sysctls)) {
		if strings.HasPrefix(key, "net.") {
			continue // with the network namespace
		}
		if out.Sysctls == nil {
			out.Sysctls = map[string]string{}
		}
		out.Sysctls[key] = s.Sysctls[key]
	}
	for _, name := range slices.Sorted(maps.Keys(s.Ulimits)) {
		b.ulimit(path+".ulimits."+name, name, s.Ulimits[name], &out)
	}
	return out
}

func (b *builder) ulimit(path, name string, u *types.UlimitsConfig, out *engine.Isolation) {
	if u == nil {
		return
	}
	known := []string{"as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio", "rttime", "sigpending", "stack"}
	if !slices.Contains(known, name) {
		b.fail(path, "unknown ulimit %q%s", name, didYouMean(name, known))
		return
	}
	limit := engine.Rlimit{Soft: int64(u.Single), Hard: int64(u.Single)}
	if u.Soft != 0 {
		limit.Soft = int64(u.Soft)
	}
	if u.Hard != 0 {
		limit.Hard = int64(u.Hard)
	}
	if limit.Hard != -1 && (limit.Soft == -1 || limit.Soft > limit.Hard) {
		b.fail(path, "the soft limit %d is above the hard limit %d; raise the one or lower the other", limit.Soft, limit.Hard)
		return
	}
	if out.Rlimits == nil {
		out.Rlimits = map[string]engine.Rlimit{}
	}
	out.Rlimits[name] = limit
}

func (b *builder) securityOptions(s types.ServiceConfig, out *engine.Isolation) {
	for i, opt := range s.SecurityOpt {
		at := fmt.Sprintf("services.%s.security_opt[%d]", s.Name, i)
		// Both "name=value" and the older "name:value" are accepted, as in Docker.
		name, value, ok := strings.Cut(opt, "=")
		if !ok {
			name, value, ok = strings.Cut(opt, ":")
		}
		switch name {
		case "no-new-privileges":
			if !ok {
				value = "true"
			}
			on, err := strconv.ParseBool(value)
			if err != nil {
				b.fail(at, "no-new-privileges is true or false, not %q", value)
			}
			if on {
				out.SecurityOpt = append(out.SecurityOpt, "no-new-privileges")
			}
			continue
		case "seccomp":
			if value == "" {
				b.fail(at, "seccomp= names no profile; use seccomp=unconfined or seccomp=FILE")
				continue
			}
			if value != "unconfined" && value != "builtin" && !strings.HasPrefix(value, "{") {
				b.seccompProfile(at, value, out)
			}
		case "apparmor", "label", "systempaths", "unmask", "mask", "writable-cgroups":
			if !ok {
				b.fail(at, "%q needs a value: %s=VALUE", name, name)
			}
		default:
			b.fail(at, "unknown security option %q%s", opt, didYouMean(name, []string{"no-new-privileges", "seccomp", "apparmor", "label", "systempaths", "unmask", "writable-cgroups"}))
			continue
		}
		out.SecurityOpt = append(out.SecurityOpt, name+"="+value)
	}
	slices.Sort(out.SecurityOpt)
	out.SecurityOpt = slices.Compact(out.SecurityOpt)
}

func (b *builder) seccompProfile(path, file string, out *engine.Isolation) {
	data, err := b.readFile(b.relative(file))
	if err != nil {
		b.fail(path, "cannot read seccomp profile: %w; create it, or correct the path", err)
		return
	}
	var compact json.RawMessage
	if err := json.Unmarshal(data, &compact); err != nil {
		b.fail(path, "seccomp profile %s is not valid JSON: %w", file, err)
		return
	}
	compacted, err := json.Marshal(compact)
	if err != nil {
		b.fail(path, "seccomp profile %s is not valid JSON: %w", file, err)
		return
	}
	out.SeccompProfile = string(compacted)
}

// deviceRequest takes devices that are asked for by kind. What is wrong with it on any
// machine is told at its place.
func (b *builder) deviceRequest(path string, r types.DeviceRequest, out *engine.Isolation) {
	request := engine.DeviceRequest{Driver: r.Driver, Count: int(r.Count), IDs: slices.Clone(r.IDs), Capabilities: slices.Clone(r.Capabilities)}
	if err := engine.CheckDeviceRequest(request); err != nil {
		b.fail(path, "%w", err)
		return
	}
	if len(r.Options) > 0 {
		b.warn(path+".options", "has no effect: no driver of devices has options here")
	}
	out.DeviceRequests = append(out.DeviceRequests, request)
}

// capabilities puts a list in one form and order: the order has no meaning.
func capabilities(list []string) []string {
	if len(list) == 0 {
		return nil
	}
	out := make([]string, len(list))
	for i, c := range list {
		out[i] = strings.TrimPrefix(strings.ToUpper(c), "CAP_")
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (b *builder) checkCapabilities(path string, names []string) {
	known := append(engine.Capabilities(), "ALL")
	for i, name := range names {
		if short := strings.TrimPrefix(strings.ToUpper(name), "CAP_"); !slices.Contains(known, short) {
			b.fail(fmt.Sprintf("%s[%d]", path, i), "unknown capability %q; capabilities(7) lists them%s", name, didYouMean(short, known))
		}
	}
}

func (b *builder) limits(s types.ServiceConfig) engine.Limits {
	out := engine.Limits{
		Memory:             int64(s.MemLimit),
		MemoryReservation:  int64(s.MemReservation),
		MemorySwap:         int64(s.MemSwapLimit),
		NanoCPUs:           nanoCPUs(s.CPUS),
		CPUShares:          s.CPUShares,
		CPUQuota:           s.CPUQuota,
		CPUPeriod:          s.CPUPeriod,
		CPURealtimeRuntime: s.CPURTRuntime,
		CPURealtimePeriod:  s.CPURTPeriod,
		CpusetCPUs:         s.CPUSet,
		PIDs:               s.PidsLimit,
		OOMKillDisable:     s.OomKillDisable,
		OOMScoreAdj:        int(s.OomScoreAdj),
		StorageOpt:         maps.Clone(s.StorageOpt),
	}
	if s.MemSwappiness != 0 {
		out.Swappiness = new(int64)
		*out.Swappiness = int64(s.MemSwappiness)
	}
	if io := s.BlkioConfig; io != nil {
		out.BlkioWeight = io.Weight
		for _, w := range io.WeightDevice {
			out.BlkioWeightDevice = append(out.BlkioWeightDevice, engine.BlkioDevice{Path: w.Path, Rate: uint64(w.Weight)})
		}
		out.ReadBps = throttle(io.DeviceReadBps)
		out.WriteBps = throttle(io.DeviceWriteBps)
		out.ReadIOps = throttle(io.DeviceReadIOps)
		out.WriteIOps = throttle(io.DeviceWriteIOps)
	}
	if s.Deploy != nil {
		if l := s.Deploy.Resources.Limits; l != nil {
			if l.NanoCPUs != 0 {
				out.NanoCPUs = nanoCPUs(l.NanoCPUs.Value())
			}
			if l.MemoryBytes != 0 {
				out.Memory = int64(l.MemoryBytes)
			}
			if l.Pids != 0 {
				out.PIDs = l.Pids
			}
		}
		if r := s.Deploy.Resources.Reservations; r != nil && r.MemoryBytes != 0 {
			out.MemoryReservation = int64(r.MemoryBytes)
		}
	}
	return out
}

// nanoCPUs goes through the shortest decimal form, so that 0.1 (which no float
// holds exactly) is 100 million and not 100,000,001.
func nanoCPUs(cpus float32) int64 {
	f, err := strconv.ParseFloat(strconv.FormatFloat(float64(cpus), 'f', -1, 32), 64)
	if err != nil {
		return 0
	}
	return int64(math.Round(f * 1e9))
}

func throttle(in []types.ThrottleDevice) []engine.BlkioDevice {
	var out []engine.BlkioDevice
	for _, t := range in {
		out = append(out, engine.BlkioDevice{Path: t.Path, Rate: uint64(t.Rate)})
	}
	return out
}
