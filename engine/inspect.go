package engine

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/stack-run/stack/healthcheck"
	"github.com/stack-run/stack/netns"
	"github.com/stack-run/stack/volumes"
)

// object is a JSON object whose shape is Docker's, not ours.
type object = map[string]any

// Inspect returns a container in the shape of "docker container inspect"
// (Engine API, ContainerInspect).
func (e *Engine) Inspect(c *Container) (any, error) {
	img := e.base(c)
	argv, err := args(c.Spec.Process, img)
	if err != nil || len(argv) == 0 {
		argv = []string{""}
	}
	return []object{{
		"Id":              c.ID,
		"Created":         stamp(c.Created),
		"Path":            argv[0],
		"Args":            list(argv[1:]),
		"State":           inspectState(c),
		"Image":           c.Spec.ImageID,
		"ResolvConfPath":  filepath.Join(e.Records.RunDir(c.ID), "resolv.conf"),
		"HostnamePath":    filepath.Join(e.Records.RunDir(c.ID), "hostname"),
		"HostsPath":       filepath.Join(e.Records.RunDir(c.ID), "hosts"),
		"LogPath":         e.LogDir(c.ID),
		"Name":            "/" + c.Spec.Name,
		"RestartCount":    c.State.RestartCount,
		"Driver":          "overlayfs",
		"Platform":        "linux",
		"MountLabel":      "",
		"ProcessLabel":    "",
		"AppArmorProfile": "",
		"ExecIDs":         nil,
		"HostConfig":      inspectHostConfig(c),
		"Mounts":          e.inspectMounts(c),
		"Config":          e.inspectConfig(c, img, e.Health(c)),
		"NetworkSettings": e.inspectNetwork(c),
	}}, nil
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return "0001-01-01T00:00:00Z"
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// list is s, never null in JSON.
func list(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

func inspectState(c *Container) object {
	st := c.State
	out := object{
		"Status":     string(st.Phase),
		"Running":    st.Phase == Running || st.Phase == Paused || st.Phase == Restarting,
		"Paused":     st.Phase == Paused,
		"Restarting": st.Phase == Restarting,
		"OOMKilled":  st.OOMKilled,
		"Dead":       st.Phase == Dead,
		"Pid":        st.Pid,
		"ExitCode":   st.ExitCode,
		"Error":      st.Error,
		"StartedAt":  stamp(st.StartedAt),
		"FinishedAt": stamp(st.FinishedAt),
	}
	if st.Health != healthcheck.None {
		probes := []object{}
		for _, r := range st.HealthLog {
			probes = append(probes, object{"Start": stamp(r.Start), "End": stamp(r.End), "ExitCode": r.ExitCode, "Output": r.Output})
		}
		out["Health"] = object{"Status": string(st.Health), "FailingStreak": st.FailingStreak, "Log": probes}
	}
	return out
}

func (e *Engine) inspectConfig(c *Container, img ImageConfig, check *healthcheck.Spec) object {
	p := c.Spec.Process
	entry, cmd := p.Entrypoint, p.Command
	if entry == nil {
		entry = img.Entrypoint
		if cmd == nil {
			cmd = img.Cmd
		}
	}
	ports := object{}
	for _, port := range c.Exposed() {
		ports[port] = object{}
	}
	vols := object{}
	for _, v := range img.Volumes {
		vols[v] = object{}
	}
	labels := map[string]string{}
	for k, v := range img.Labels {
		labels[k] = v
	}
	for k, v := range c.Spec.Labels {
		labels[k] = v
	}
	out := object{
		"Hostname": e.hostname(c), "Domainname": c.Spec.Domain, "User": first(p.User, img.User),
		"AttachStdin": false, "AttachStdout": true, "AttachStderr": true,
		"ExposedPorts": ports, "Tty": p.TTY, "OpenStdin": p.Stdin, "StdinOnce": p.StdinOnce,
		"Env": list(mergeEnv(mergeEnv([]string{defaultPath}, img.Env), p.Env)), "Cmd": cmd, "Image": c.Spec.Image,
		"Volumes": vols, "WorkingDir": first(p.WorkingDir, img.WorkingDir), "Entrypoint": entry, "Labels": labels,
	}
	if s := first(c.Spec.StopSignal, img.StopSignal); s != "" {
		out["StopSignal"] = s
	}
	if c.Spec.StopGrace > 0 {
		out["StopTimeout"] = int(c.Spec.StopGrace.Seconds())
	}
	if check != nil {
		out["Healthcheck"] = object{
			"Test": check.Test, "Interval": check.Interval, "Timeout": check.Timeout,
			"StartPeriod": check.StartPeriod, "StartInterval": check.StartInterval, "Retries": check.Retries,
		}
	}
	return out
}

func portKey(p netns.Port) string {
	return fmt.Sprintf("%d/%s", p.ContainerPort, first(p.Protocol, "tcp"))
}

func inspectHostConfig(c *Container) object {
	s, l, iso := c.Spec, c.Spec.Limits, c.Spec.Isolation
	binds := []string{}
	tmpfs := object{}
	for _, m := range s.Mounts {
		switch m.Type {
		case volumes.TypeBind, volumes.TypeVolume:
			if m.Source != "" {
				mode := "rw"
				if m.ReadOnly {
					mode = "ro"
				}
				binds = append(binds, m.Source+":"+m.Target+":"+mode)
			}
		case volumes.TypeTmpfs:
			tmpfs[m.Target] = strings.Join(tmpfsOptions(m), ",")
		}
	}
	network := s.Network.Mode
	if network == "" && len(s.Network.Networks) > 0 {
		network = s.Network.Networks[0].Network
	}
	devices := []object{}
	for _, d := range iso.Devices {
		devices = append(devices, object{"PathOnHost": d.Source, "PathInContainer": first(d.Target, d.Source), "CgroupPermissions": first(d.Permissions, "rwm")})
	}
	ulimits := []object{}
	for _, r := range rlimits(iso.Rlimits) {
		ulimits = append(ulimits, object{"Name": strings.ToLower(strings.TrimPrefix(r.Type, "RLIMIT_")), "Soft": int64(r.Soft), "Hard": int64(r.Hard)})
	}
	extra := []string{}
	for _, h := range s.Network.ExtraHosts {
		extra = append(extra, h.Name+":"+h.Addr)
	}
	shm := s.ShmSize
	if shm == 0 {
		shm = 64 << 20
	}
	sysctls := maps.Clone(nonNil(iso.Sysctls))
	maps.Copy(sysctls, s.Network.Sysctls)
	swap := l.MemorySwap
	if swap == 0 {
		swap = 2 * l.Memory // Docker's default
	}
	masked, readonly := []string{}, []string{}
	if !iso.Privileged {
		masked, readonly = MaskedPaths(), readonlyPaths()
	}
	return object{
		"Binds": binds, "ContainerIDFile": "", "LogConfig": object{"Type": first(s.Log.Driver, "local"), "Config": nonNil(s.Log.Options)},
		"NetworkMode": first(network, "default"), "PortBindings": portBindings(s.Network.Ports),
		"RestartPolicy": object{"Name": first(s.Restart.Policy, "no"), "MaximumRetryCount": s.Restart.MaxRetries},
		"AutoRemove":    s.AutoRemove, "VolumeDriver": "", "VolumesFrom": s.VolumesFrom,
		"CapAdd": iso.CapAdd, "CapDrop": iso.CapDrop, "CgroupnsMode": first(iso.CgroupNSMode, "private"),
		"Dns": addrs(s.Network), "DnsOptions": list(s.Network.DNSOptions), "DnsSearch": list(s.Network.DNSSearch), "ExtraHosts": extra,
		"GroupAdd": s.Process.GroupAdd, "IpcMode": first(iso.IPCMode, "private"), "Cgroup": "", "Links": nil,
		"OomScoreAdj": l.OOMScoreAdj, "PidMode": iso.PIDMode, "Privileged": iso.Privileged, "PublishAllPorts": s.PublishAll,
		"Annotations": nonNil(s.Annotations), "StorageOpt": l.StorageOpt,
		"ReadonlyRootfs": s.ReadOnly, "SecurityOpt": iso.SecurityOpt, "Tmpfs": tmpfs, "UTSMode": iso.UTSMode, "UsernsMode": iso.UserNSMode,
		"ShmSize": shm, "Sysctls": sysctls, "Runtime": "stack", "Init": s.Init,
		"CpuShares": l.CPUShares, "Memory": l.Memory, "NanoCpus": l.NanoCPUs, "CgroupParent": iso.CgroupParent, "BlkioWeight": l.BlkioWeight,
		"CpuPeriod": l.CPUPeriod, "CpuQuota": l.CPUQuota, "CpusetCpus": l.CpusetCPUs, "CpusetMems": l.CpusetMems,
		"Devices": devices, "DeviceCgroupRules": iso.DeviceCgroupRules, "MemoryReservation": l.MemoryReservation, "MemorySwap": swap,
		"MemorySwappiness": l.Swappiness, "OomKillDisable": l.OOMKillDisable, "PidsLimit": l.PIDs, "Ulimits": ulimits,
		"MaskedPaths": masked, "ReadonlyPaths": readonly,
	}
}

// tmpfsOptions are a tmpfs' options in mount(8)'s form.
func tmpfsOptions(m volumes.Mount) []string {
	var out []string
	if m.ReadOnly {
		out = append(out, "ro")
	}
	if m.Size > 0 {
		out = append(out, fmt.Sprintf("size=%d", m.Size))
	}
	if m.Mode != 0 {
		out = append(out, fmt.Sprintf("mode=%o", m.Mode))
	}
	return append(out, m.Options...)
}

func nonNil(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

func addrs(n netns.EndpointSpec) []string {
	out := []string{}
	for _, a := range n.DNS {
		out = append(out, a.String())
	}
	return out
}

func portBindings(ports []netns.Port) object {
	out := map[string][]object{}
	for _, p := range ports {
		ip := ""
		if p.HostIP.IsValid() {
			ip = p.HostIP.String()
		}
		host := ""
		if p.HostPort != 0 {
			host = fmt.Sprint(p.HostPort)
		}
		if p.HostPortEnd > p.HostPort {
			host += fmt.Sprint("-", p.HostPortEnd)
		}
		out[portKey(p)] = append(out[portKey(p)], object{"HostIp": ip, "HostPort": host})
	}
	res := object{}
	for k, v := range out {
		res[k] = v
	}
	return res
}

func (e *Engine) inspectMounts(c *Container) []object {
	out := []object{}
	for _, m := range slices.Concat(c.Spec.Mounts, c.Inherited) {
		o := object{"Type": string(m.Type), "Source": m.Source, "Destination": m.Target, "Mode": "", "RW": !m.ReadOnly, "Propagation": m.Propagation}
		switch m.Type {
		case volumes.TypeVolume:
			name := m.Source
			if name == "" {
				name = c.Volumes[filepath.Clean(m.Target)]
			}
			e.describeVolume(o, name)
		case volumes.TypeBind:
			if m.Propagation == "" {
				o["Propagation"] = "rprivate"
			}
		case volumes.TypeFile:
			continue
		}
		out = append(out, o)
	}
	for target, name := range c.Volumes {
		if slices.ContainsFunc(c.Spec.Mounts, func(m volumes.Mount) bool { return m.Target == target }) {
			continue
		}
		o := object{"Type": "volume", "Destination": target, "Mode": "", "RW": true, "Propagation": ""}
		e.describeVolume(o, name)
		out = append(out, o)
	}
	slices.SortFunc(out, func(a, b object) int {
		return strings.Compare(a["Destination"].(string), b["Destination"].(string))
	})
	return out
}

func (e *Engine) describeVolume(o object, name string) {
	o["Name"], o["Driver"], o["Source"] = name, "local", ""
	if vols, err := e.Volumes(); err == nil {
		if v, err := vols.Get(name); err == nil {
			o["Source"] = v.Mountpoint
		}
	}
}

func (e *Engine) inspectNetwork(c *Container) object {
	ports := object{}
	nets := object{}
	sandbox := ""
	if ep := c.State.Endpoint; ep != nil {
		sandbox = ep.NetNS
		bound := map[string][]object{}
		for _, p := range ep.Ports {
			hosts := []string{"0.0.0.0", "::"}
			if p.HostIP.IsValid() {
				hosts = []string{p.HostIP.String()}
			}
			for _, h := range hosts {
				bound[portKey(p)] = append(bound[portKey(p)], object{"HostIp": h, "HostPort": fmt.Sprint(p.HostPort)})
			}
		}
		if ep.Spec.Mode == "" && c.State.Pid != 0 {
			for _, port := range c.Exposed() {
				ports[port] = nil
			}
		}
		for k, v := range bound {
			ports[k] = v
		}
		for _, l := range ep.Links {
			nets[l.Network] = inspectLink(c, l)
		}
	}
	if c.Spec.Network.Mode == "host" || c.Spec.Network.Mode == "none" {
		nets[c.Spec.Network.Mode] = inspectLink(c, netns.Link{})
	}
	if len(nets) == 0 {
		for _, a := range c.Spec.Network.Networks {
			nets[a.Network] = inspectLink(c, netns.Link{Network: a.Network, Aliases: a.Aliases})
		}
	}
	return object{"SandboxID": "", "SandboxKey": sandbox, "Ports": ports, "Networks": nets}
}

// links are the synonyms of a container, as Docker writes them.
func links(c *Container) []string {
	var out []string
	for _, y := range c.Spec.Network.Synonyms {
		out = append(out, strings.TrimPrefix(y.Of, "service:")+":"+y.Name)
	}
	return out
}

func inspectLink(c *Container, l netns.Link) object {
	o := object{
		"IPAMConfig": nil, "Links": links(c), "Aliases": l.Aliases, "DriverOpts": nil, "GwPriority": 0,
		"NetworkID": l.NetworkID, "EndpointID": "", "Gateway": "", "IPAddress": "", "MacAddress": l.MAC,
		"IPPrefixLen": l.Bits4, "IPv6Gateway": "", "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": l.Bits6,
		"DNSNames": append(slices.Clone(c.Spec.Network.Names), l.Aliases...),
	}
	for key, a := range map[string]interface{ IsValid() bool }{
		"Gateway": l.Gateway4, "IPAddress": l.IPv4, "IPv6Gateway": l.Gateway6, "GlobalIPv6Address": l.IPv6,
	} {
		if a.IsValid() {
			o[key] = fmt.Sprint(a)
		}
	}
	return o
}
