package engine

import (
	"context"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/storage"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stack-run/stack/healthcheck"
	"github.com/stack-run/stack/netns"
	"github.com/stack-run/stack/volumes"
)

// Inspect returns a container in the shape of "docker container inspect".
func (e *Engine) Inspect(c *Container) container.InspectResponse {
	img := e.base(c)
	argv, err := args(c.Spec.Process, img)
	if err != nil || len(argv) == 0 {
		argv = []string{""}
	}
	const driver = "overlayfs"
	host := inspectHostConfig(c)
	host.NetworkMode = container.NetworkMode(e.donorMode(c, string(host.NetworkMode)))
	host.IpcMode = container.IpcMode(e.donorMode(c, string(host.IpcMode)))
	host.PidMode = container.PidMode(e.donorMode(c, string(host.PidMode)))
	return container.InspectResponse{
		ID:              c.ID,
		Created:         stamp(c.Created),
		Path:            argv[0],
		Args:            list(argv[1:]),
		State:           inspectState(c),
		Image:           c.Spec.ImageID,
		ResolvConfPath:  filepath.Join(e.Records.RunDir(c.ID), "resolv.conf"),
		HostnamePath:    filepath.Join(e.Records.RunDir(c.ID), "hostname"),
		HostsPath:       filepath.Join(e.Records.RunDir(c.ID), "hosts"),
		LogPath:         e.LogDir(c.ID),
		Name:            "/" + c.Spec.Name,
		RestartCount:    c.State.RestartCount,
		Driver:          driver,
		Platform:        "linux",
		HostConfig:      host,
		Storage:         &storage.Storage{RootFS: &storage.RootFSStorage{Snapshot: &storage.RootFSStorageSnapshot{Name: driver}}},
		Mounts:          e.inspectMounts(c),
		Config:          e.inspectConfig(c, img, e.Health(c)),
		NetworkSettings: e.inspectNetwork(c),

		ImageManifestDescriptor: e.manifestOf(c),
	}
}

// manifestOf describes the manifest that a container's image has for its platform,
// nil where the image is gone.
func (e *Engine) manifestOf(c *Container) *ocispec.Descriptor {
	images, err := e.Images()
	if err != nil {
		return nil
	}
	img, err := images.Resolve(context.Background(), c.Spec.ImageID)
	if err != nil || img.Manifest.Digest == "" {
		return nil
	}
	d := img.Manifest
	d.Platform = &img.Platform
	return &d
}

// donorMode names the container whose namespace a mode shares by its ID, as Docker
// does. One that is gone stays as it was asked for.
func (e *Engine) donorMode(c *Container, mode string) string {
	if !isShared(mode) {
		return mode
	}
	donor, err := e.peer(c, mode)
	if err != nil {
		return mode
	}
	return "container:" + donor.ID
}

func stamp(t time.Time) string {
	return t.UTC().Format(time.RFC3339Nano)
}

// list is s, never null in JSON.
func list[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// given is nil for what nobody asked for: templates take a pointer to false as true.
func given[T comparable](v T) *T {
	if v == *new(T) {
		return nil
	}
	return &v
}

func inspectState(c *Container) *container.State {
	st := c.State
	out := &container.State{
		Status:     container.ContainerState(st.Phase),
		Running:    st.Phase == Running || st.Phase == Paused || st.Phase == Restarting,
		Paused:     st.Phase == Paused,
		Restarting: st.Phase == Restarting,
		OOMKilled:  st.OOMKilled,
		Dead:       st.Phase == Dead,
		Pid:        st.Pid,
		ExitCode:   st.ExitCode,
		Error:      st.Error,
		StartedAt:  stamp(st.StartedAt),
		FinishedAt: stamp(st.FinishedAt),
	}
	if st.Health != healthcheck.None {
		probes := []*container.HealthcheckResult{}
		for _, r := range st.HealthLog {
			probes = append(probes, &container.HealthcheckResult{Start: r.Start.UTC(), End: r.End.UTC(), ExitCode: r.ExitCode, Output: r.Output})
		}
		out.Health = &container.Health{Status: container.HealthStatus(st.Health), FailingStreak: st.FailingStreak, Log: probes}
	}
	return out
}

func (e *Engine) inspectConfig(c *Container, img ImageConfig, check *healthcheck.Spec) *container.Config {
	p := c.Spec.Process
	entry, cmd := p.Entrypoint, p.Command
	if entry == nil {
		entry = img.Entrypoint
		if cmd == nil {
			cmd = img.Cmd
		}
	}
	vols := map[string]struct{}{}
	for _, v := range img.Volumes {
		vols[v] = struct{}{}
	}
	labels := maps.Clone(nonNil(img.Labels))
	maps.Copy(labels, c.Spec.Labels)
	out := &container.Config{
		Hostname: e.hostname(c), Domainname: c.Spec.Domain, User: first(p.User, img.User),
		AttachStdout: true, AttachStderr: true,
		ExposedPorts: network.PortSet{}, Tty: p.TTY, OpenStdin: p.Stdin, StdinOnce: p.StdinOnce,
		Env: list(mergeEnv(mergeEnv([]string{defaultPath}, img.Env), p.Env)), Cmd: cmd, Image: c.Spec.Image,
		Volumes: vols, WorkingDir: first(p.WorkingDir, img.WorkingDir), Entrypoint: entry, Labels: labels,
		StopSignal: first(c.Spec.StopSignal, img.StopSignal),
	}
	for _, port := range exposed(c) {
		out.ExposedPorts[port] = struct{}{}
	}
	if c.Spec.StopGrace > 0 {
		out.StopTimeout = new(int(c.Spec.StopGrace.Seconds()))
	}
	if check != nil {
		out.Healthcheck = &container.HealthConfig{
			Test: check.Test, Interval: check.Interval, Timeout: check.Timeout,
			StartPeriod: check.StartPeriod, StartInterval: check.StartInterval, Retries: check.Retries,
		}
	}
	return out
}

// exposed are the exposed ports that are ports: an image may say what it likes.
func exposed(c *Container) []network.Port {
	var out []network.Port
	for _, text := range c.Exposed() {
		if port, err := network.ParsePort(text); err == nil {
			out = append(out, port)
		}
	}
	return out
}

func containerPort(p netns.Port) network.Port {
	port, _ := network.PortFrom(p.ContainerPort, network.IPProtocol(p.Transport()))
	return port
}

func inspectHostConfig(c *Container) *container.HostConfig {
	s, l, iso := c.Spec, c.Spec.Limits, c.Spec.Isolation
	binds := []string{}
	tmpfs := map[string]string{}
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
	mode := s.Network.Mode
	if mode == "" && len(s.Network.Networks) > 0 {
		mode = s.Network.Networks[0].Network
	}
	devices := []container.DeviceMapping{}
	for _, d := range iso.Devices {
		devices = append(devices, container.DeviceMapping{PathOnHost: d.Source, PathInContainer: first(d.Target, d.Source), CgroupPermissions: first(d.Permissions, "rwm")})
	}
	ulimits := []*container.Ulimit{}
	for _, name := range slices.Sorted(maps.Keys(iso.Rlimits)) {
		ulimits = append(ulimits, &container.Ulimit{Name: strings.ToLower(name), Soft: iso.Rlimits[name].Soft, Hard: iso.Rlimits[name].Hard})
	}
	weights := []*blkiodev.WeightDevice{}
	for _, d := range l.BlkioWeightDevice {
		weights = append(weights, &blkiodev.WeightDevice{Path: d.Path, Weight: uint16(d.Rate)})
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
	return &container.HostConfig{
		Binds: binds, LogConfig: container.LogConfig{Type: first(s.Log.Driver, "local"), Config: nonNil(s.Log.Options)},
		NetworkMode: container.NetworkMode(first(mode, "default")), PortBindings: portBindings(s.Network.Ports),
		RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyMode(first(s.Restart.Policy, "no")), MaximumRetryCount: s.Restart.MaxRetries},
		AutoRemove:    s.AutoRemove, VolumesFrom: s.VolumesFrom,
		CapAdd: iso.CapAdd, CapDrop: iso.CapDrop, CgroupnsMode: container.CgroupnsMode(first(iso.CgroupNSMode, "private")),
		DNS: list(s.Network.DNS), DNSOptions: list(s.Network.DNSOptions), DNSSearch: list(s.Network.DNSSearch), ExtraHosts: extra,
		GroupAdd: s.Process.GroupAdd, IpcMode: container.IpcMode(first(iso.IPCMode, "private")),
		OomScoreAdj: l.OOMScoreAdj, PidMode: container.PidMode(iso.PIDMode), Privileged: iso.Privileged, PublishAllPorts: s.PublishAll,
		Annotations: s.Annotations, StorageOpt: l.StorageOpt,
		ReadonlyRootfs: s.ReadOnly, SecurityOpt: iso.SecurityOpt, Tmpfs: tmpfs,
		UTSMode: container.UTSMode(iso.UTSMode), UsernsMode: container.UsernsMode(iso.UserNSMode),
		ShmSize: shm, Sysctls: sysctls, Runtime: "stack", Init: given(s.Init),
		Resources: container.Resources{
			CPUShares: l.CPUShares, Memory: l.Memory, NanoCPUs: l.NanoCPUs, CgroupParent: iso.CgroupParent,
			BlkioWeight: l.BlkioWeight, BlkioWeightDevice: weights,
			BlkioDeviceReadBps: throttled(l.ReadBps), BlkioDeviceWriteBps: throttled(l.WriteBps),
			BlkioDeviceReadIOps: throttled(l.ReadIOps), BlkioDeviceWriteIOps: throttled(l.WriteIOps),
			CPUPeriod: l.CPUPeriod, CPUQuota: l.CPUQuota, CPURealtimePeriod: l.CPURealtimePeriod, CPURealtimeRuntime: l.CPURealtimeRuntime,
			CpusetCpus: l.CpusetCPUs, CpusetMems: l.CpusetMems,
			Devices: devices, DeviceRequests: deviceRequests(iso), DeviceCgroupRules: iso.DeviceCgroupRules, MemoryReservation: l.MemoryReservation, MemorySwap: swap,
			MemorySwappiness: l.Swappiness, OomKillDisable: given(l.OOMKillDisable), PidsLimit: given(max(l.PIDs, 0)), Ulimits: ulimits,
		},
		MaskedPaths: masked, ReadonlyPaths: readonly,
	}
}

func deviceRequests(iso Isolation) (out []container.DeviceRequest) {
	if len(iso.CDI) > 0 {
		out = append(out, container.DeviceRequest{Driver: "cdi", DeviceIDs: iso.CDI})
	}
	for _, r := range iso.DeviceRequests {
		out = append(out, container.DeviceRequest{Driver: r.Driver, Count: r.Count, DeviceIDs: r.IDs, Capabilities: [][]string{r.Capabilities}})
	}
	return out
}

func throttled(devices []BlkioDevice) []*blkiodev.ThrottleDevice {
	out := []*blkiodev.ThrottleDevice{}
	for _, d := range devices {
		out = append(out, &blkiodev.ThrottleDevice{Path: d.Path, Rate: d.Rate})
	}
	return out
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

func portBindings(ports []netns.Port) network.PortMap {
	out := network.PortMap{}
	for _, p := range ports {
		host := ""
		if p.HostPort != 0 {
			host = fmt.Sprint(p.HostPort)
		}
		if p.HostPortEnd > p.HostPort {
			host += fmt.Sprint("-", p.HostPortEnd)
		}
		port := containerPort(p)
		out[port] = append(out[port], network.PortBinding{HostIP: p.HostIP, HostPort: host})
	}
	return out
}

func (e *Engine) inspectMounts(c *Container) []container.MountPoint {
	out := []container.MountPoint{}
	for _, m := range slices.Concat(c.Spec.Mounts, c.Inherited) {
		o := container.MountPoint{Type: mount.Type(m.Type), Source: m.Source, Destination: m.Target, RW: !m.ReadOnly, Propagation: mount.Propagation(m.Propagation)}
		switch m.Type {
		case volumes.TypeVolume:
			name := m.Source
			if name == "" {
				name = c.Volumes[filepath.Clean(m.Target)]
			}
			e.describeVolume(&o, name)
		case volumes.TypeBind:
			if m.Propagation == "" {
				o.Propagation = mount.PropagationRPrivate
			}
		case volumes.TypeFile: // a config or secret, which Docker binds
			o.Type, o.Propagation = mount.TypeBind, mount.PropagationRPrivate
		}
		out = append(out, o)
	}
	for target, name := range c.Volumes {
		if slices.ContainsFunc(c.Spec.Mounts, func(m volumes.Mount) bool { return m.Target == target }) {
			continue
		}
		o := container.MountPoint{Type: mount.TypeVolume, Destination: target, RW: true}
		e.describeVolume(&o, name)
		out = append(out, o)
	}
	slices.SortFunc(out, func(a, b container.MountPoint) int { return strings.Compare(a.Destination, b.Destination) })
	return out
}

func (e *Engine) describeVolume(o *container.MountPoint, name string) {
	o.Name, o.Driver, o.Source, o.Mode = name, "local", "", "z" // Docker's mode of all volumes
	if vols, err := e.Volumes(); err == nil {
		if v, err := vols.Get(name); err == nil {
			o.Source = v.Mountpoint
		}
	}
}

func (e *Engine) inspectNetwork(c *Container) *container.NetworkSettings {
	out := &container.NetworkSettings{Ports: network.PortMap{}, Networks: map[string]*network.EndpointSettings{}}
	if ep := c.State.Endpoint; ep != nil {
		out.SandboxKey = ep.NetNS
		if ep.Spec.Mode == "" && c.State.Pid != 0 {
			for _, port := range exposed(c) {
				out.Ports[port] = nil
			}
		}
		for _, p := range ep.Ports {
			port := containerPort(p)
			for _, host := range p.Bindings() {
				out.Ports[port] = append(out.Ports[port], network.PortBinding{HostIP: host, HostPort: fmt.Sprint(p.HostPort)})
			}
		}
		for _, l := range ep.Links {
			out.Networks[l.Network] = inspectLink(c, l)
		}
	}
	if c.Spec.Network.Mode == "host" || c.Spec.Network.Mode == "none" {
		out.Networks[c.Spec.Network.Mode] = inspectLink(c, netns.Link{})
	}
	if len(out.Networks) == 0 {
		for _, a := range c.Spec.Network.Networks {
			out.Networks[a.Network] = inspectLink(c, netns.Link{Network: a.Network, Aliases: a.Aliases})
		}
	}
	return out
}

// links are names that a container has for others, as Docker writes them.
func links(synonyms []netns.Synonym) []string {
	var out []string
	for _, y := range synonyms {
		out = append(out, strings.TrimPrefix(y.Of, "service:")+":"+y.Name)
	}
	return out
}

func inspectLink(c *Container, l netns.Link) *network.EndpointSettings {
	mac, _ := net.ParseMAC(l.MAC) // there is none before the start
	out := &network.EndpointSettings{
		Links: links(c.Spec.Network.Synonyms), Aliases: l.Aliases, NetworkID: l.NetworkID, MacAddress: network.HardwareAddr(mac),
		Gateway: l.Gateway4, IPAddress: l.IPv4, IPPrefixLen: l.Bits4,
		IPv6Gateway: l.Gateway6, GlobalIPv6Address: l.IPv6, GlobalIPv6PrefixLen: l.Bits6,
		DNSNames: append(slices.Clone(c.Spec.Network.Names), l.Aliases...),
	}
	for _, a := range c.Spec.Network.Networks {
		if a.Network != l.Network {
			continue
		}
		out.DriverOpts, out.GwPriority = a.DriverOpts, a.GatewayPrio
		out.Links = append(out.Links, links(a.Links)...)
		if a.IPv4.IsValid() || a.IPv6.IsValid() || len(a.LinkLocal) > 0 {
			out.IPAMConfig = &network.EndpointIPAMConfig{IPv4Address: a.IPv4, IPv6Address: a.IPv6, LinkLocalIPs: a.LinkLocal}
		}
	}
	return out
}
