package plan

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stack-run/stack/compose/desired"
	"github.com/stack-run/stack/engine/container"
	"github.com/stack-run/stack/netns/endpoint"
	"github.com/stack-run/stack/volumes/volume"
)

// diffSpecs compares what a container was made from with what is wanted, field
// by field, in the words of the Compose file.
func diffSpecs(old, new *container.Spec) []FieldDiff {
	return diffFields(specFields(old), specFields(new))
}

func diffFields(old, new map[string]string) []FieldDiff {
	keys := slices.AppendSeq(slices.Collect(maps.Keys(old)), maps.Keys(new))
	slices.Sort(keys)
	var diffs []FieldDiff
	for _, key := range slices.Compact(keys) {
		if old[key] == new[key] {
			continue
		}
		d := FieldDiff{Path: key, Old: old[key], New: new[key]}
		if hidden(key) {
			d.Old, d.New = "", "" // the fact is enough, the value is nobody's business
		}
		diffs = append(diffs, d)
	}
	return diffs
}

// hidden says whether a field holds what should not reach a terminal.
func hidden(path string) bool {
	name, ok := strings.CutPrefix(path, "environment.")
	if !ok {
		return false
	}
	name = strings.ToUpper(name)
	for _, word := range []string{"PASSW", "SECRET", "TOKEN", "KEY", "CREDENTIAL", "DSN"} {
		if strings.Contains(name, word) {
			return true
		}
	}
	return strings.Contains(name, "PWD") && name != "PWD"
}

// specFields flattens what matters of a spec into path → value. A field that
// gets no name of its own here keeps its JSON path, so that none is missed.
func specFields(s *container.Spec) map[string]string {
	c := desired.Comparable(s)
	out := map[string]string{}
	for _, e := range c.Process.Env {
		key, value, ok := strings.Cut(e, "=")
		if !ok {
			out["environment."+key] = "(unset)"
			continue
		}
		out["environment."+key] = strconv.Quote(value)
	}
	for _, m := range c.Mounts {
		out[mountPath(m)] = mountValue(m)
	}
	for _, p := range c.Network.Ports {
		key := fmt.Sprintf("ports.%d/%s", p.ContainerPort, p.Protocol)
		out[key] = strings.TrimPrefix(out[key]+", "+portValue(p), ", ")
	}
	for i, a := range c.Network.Networks {
		a.Priority = 0 // only the order that it makes counts
		flatten(out, "networks."+a.Network, a, "network")
		out["networks."+a.Network] = "attached"
		if i == 0 && len(c.Network.Networks) > 1 {
			out["networks (first)"] = a.Network
		}
	}
	for name, l := range c.Isolation.Rlimits {
		out["ulimits."+name] = fmt.Sprintf("%d:%d", l.Soft, l.Hard)
	}
	for _, d := range c.Isolation.Devices {
		out["devices."+d.Target] = d.Source + ":" + d.Permissions
	}
	for _, h := range c.Network.ExtraHosts {
		key := "extra_hosts." + h.Name
		out[key] = strings.TrimPrefix(out[key]+", "+h.Addr, ", ")
	}
	c.Process.Env, c.Mounts, c.Network.Ports, c.Network.Networks = nil, nil, nil, nil
	c.Isolation.Rlimits, c.Isolation.Devices, c.Network.ExtraHosts = nil, nil, nil
	if c.StopGrace != 0 {
		out["stop_grace_period"] = c.StopGrace.String()
		c.StopGrace = 0
	}
	if h := c.Health; h != nil {
		copied := *h
		for name, d := range map[string]*time.Duration{"interval": &copied.Interval, "timeout": &copied.Timeout, "start_period": &copied.StartPeriod, "start_interval": &copied.StartInterval} {
			if *d != 0 {
				out["healthcheck."+name] = d.String()
				*d = 0
			}
		}
		if h.Direct() {
			out["x-healthcheck."+strings.ToLower(h.Test[0])] = h.Test[1]
			copied.Test = nil
		}
		c.Health = &copied
	}
	if c.PreStart != "" {
		out["pre_start"] = short(c.PreStart)
		c.PreStart = ""
	}
	flatten(out, "", c)
	return out
}

func mountPath(m volume.Mount) string {
	switch m.Type {
	case volume.TypeFile:
		if m.Secret {
			return "secrets." + m.Target
		}
		return "configs." + m.Target
	case volume.TypeTmpfs:
		return "tmpfs." + m.Target
	}
	return "volumes." + m.Target
}

func mountValue(m volume.Mount) string {
	var parts []string
	add := func(condition bool, part string) {
		if condition {
			parts = append(parts, part)
		}
	}
	add(m.Type != volume.TypeFile && m.Type != volume.TypeTmpfs, string(m.Type)+" "+m.Source)
	add(m.Source == "" && m.Type == volume.TypeVolume, "(anonymous)")
	add(m.Type == volume.TypeFile, "content "+short(m.ContentDigest))
	add(m.ReadOnly && m.Type != volume.TypeFile, "ro")
	add(m.Subpath != "", "subpath "+m.Subpath)
	add(m.NoCopy, "nocopy")
	add(m.Propagation != "", m.Propagation)
	add(m.Type == volume.TypeBind && !m.CreateHostPath, "create_host_path: false")
	add(m.Recursive != "", "recursive "+m.Recursive)
	add(m.SELinux != "", m.SELinux)
	add(m.Size != 0, fmt.Sprintf("size %d", m.Size))
	add(m.Mode != 0, fmt.Sprintf("mode %04o", m.Mode))
	add(len(m.Options) > 0, strings.Join(m.Options, ","))
	add(m.UID != "", "uid "+m.UID)
	add(m.GID != "", "gid "+m.GID)
	for _, k := range slices.Sorted(maps.Keys(m.Labels)) {
		parts = append(parts, "label "+k+"="+m.Labels[k])
	}
	if len(parts) == 0 {
		return string(m.Type)
	}
	return strings.Join(parts, " ")
}

func portValue(p endpoint.Port) string {
	host := ""
	if p.HostIP.IsValid() {
		host = p.HostIP.String() + ":"
		if p.HostIP.Is6() {
			host = "[" + p.HostIP.String() + "]:"
		}
	}
	switch {
	case p.HostPort == 0:
		return host + "(any)"
	case p.HostPortEnd != 0:
		return fmt.Sprintf("%s%d-%d", host, p.HostPort, p.HostPortEnd)
	}
	return fmt.Sprintf("%s%d", host, p.HostPort)
}

// composeName gives fields of container.Spec the name that the user wrote.
func composeName(path string) string {
	for _, r := range []struct{ from, to string }{
		{"process.entrypoint", "entrypoint"}, {"process.command", "command"}, {"process.workingDir", "working_dir"},
		{"process.user", "user"}, {"process.groupAdd", "group_add"}, {"process.umask", "umask"}, {"process.tty", "tty"}, {"process.stdinOnce", "stdin_once"}, {"process.stdin", "stdin_open"},
		{"isolation.privileged", "privileged"}, {"isolation.capAdd", "cap_add"}, {"isolation.capDrop", "cap_drop"},
		{"isolation.securityOpt", "security_opt"}, {"isolation.seccompProfile", "security_opt.seccomp profile"},
		{"isolation.deviceCgroupRules", "device_cgroup_rules"}, {"isolation.sysctls", "sysctls"}, {"network.sysctls", "sysctls"},
		{"isolation.pidMode", "pid"}, {"isolation.ipcMode", "ipc"}, {"isolation.utsMode", "uts"}, {"isolation.usernsMode", "userns_mode"},
		{"isolation.cgroupnsMode", "cgroup"}, {"isolation.cgroupParent", "cgroup_parent"}, {"isolation.runtime", "runtime"},
		{"limits.memoryReservation", "mem_reservation"}, {"limits.memorySwap", "memswap_limit"}, {"limits.memory", "mem_limit"},
		{"limits.swappiness", "mem_swappiness"}, {"limits.nanoCPUs", "cpus (nano)"}, {"limits.cpuShares", "cpu_shares"},
		{"limits.cpuQuota", "cpu_quota"}, {"limits.cpuPeriod", "cpu_period"}, {"limits.cpusetCPUs", "cpuset"}, {"limits.pids", "pids_limit"},
		{"limits.oomKillDisable", "oom_kill_disable"}, {"limits.oomScoreAdj", "oom_score_adj"}, {"limits.storageOpt", "storage_opt"},
		{"limits.", "blkio_config."},
		{"volumesFrom", "volumes_from"}, {"readOnly", "read_only"}, {"shmSize", "shm_size"},
		{"network.mode", "network_mode"}, {"network.names", "names"}, {"network.synonyms", "links"}, {"network.hostname", "hostname"}, {"network.dnsSearch", "dns_search"},
		{"network.dnsOptions", "dns_opt"}, {"network.dns", "dns"},
		{"health.", "healthcheck."}, {"onUnhealthy", "x-on-unhealthy"}, {"restart.policy", "restart"}, {"restart.maxRetries", "restart.max_attempts"}, {"stopSignal", "stop_signal"}, {"log.", "logging."},
		{"name", "container_name"}, {"driverOpts", "driver_opts"},
	} {
		if rest, ok := strings.CutPrefix(path, r.from); ok && (rest == "" || strings.HasSuffix(r.from, ".") || rest[0] == '.') {
			return r.to + rest
		}
	}
	return path
}

// flatten adds the non-zero fields of v to out, below path.
func flatten(out map[string]string, path string, v any, skip ...string) {
	data, err := json.Marshal(v)
	if err != nil {
		return // plain data: cannot happen
	}
	var tree map[string]any
	if json.Unmarshal(data, &tree) != nil {
		return
	}
	for _, key := range skip {
		delete(tree, key)
	}
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case nil, bool:
			if v == true {
				out[composeName(path)] = "true"
			}
		case map[string]any:
			for k, e := range v {
				walk(strings.TrimPrefix(path+"."+k, "."), e)
			}
		case []any:
			// nil and empty differ for entrypoint and command.
			items := make([]string, len(v))
			for i, e := range v {
				if s, ok := e.(string); ok {
					items[i] = strconv.Quote(s)
				} else {
					b, _ := json.Marshal(e)
					items[i] = string(b)
				}
			}
			out[composeName(path)] = "[" + strings.Join(items, ", ") + "]"
		case string:
			if v != "" {
				if strings.HasSuffix(path, "seccompProfile") {
					v = fmt.Sprintf("%d bytes, %s", len(v), fingerprint(v))
				}
				out[composeName(path)] = strconv.Quote(v)
			}
		case float64:
			if v != 0 {
				out[composeName(path)] = strconv.FormatFloat(v, 'f', -1, 64)
			}
		}
	}
	walk(path, tree)
}

// fingerprint tells long texts apart in a print (FNV-1a, 32 bits).
func fingerprint(s string) string {
	h := uint32(2166136261)
	for i := range len(s) {
		h = (h ^ uint32(s[i])) * 16777619
	}
	return fmt.Sprintf("%08x", h)
}

// short cuts an ID or digest to the 12 digits that people read.
func short(id string) string {
	if _, hex, ok := strings.Cut(id, ":"); ok {
		id = hex
	}
	if len(id) > 12 {
		return id[:12]
	}
	return id
}

// diffNetworks compares what the user asked for; labels of ours do not count.
func diffNetworks(old, new endpoint.NetworkSpec) []FieldDiff {
	fields := func(n endpoint.NetworkSpec) map[string]string {
		n.Labels = userLabels(n.Labels)
		if n.Driver == "" {
			n.Driver = "bridge"
		}
		out := map[string]string{}
		flatten(out, "", n, "project", "key")
		return out
	}
	return diffFields(fields(old), fields(new))
}

func diffVolumes(old, new volume.Spec) []FieldDiff {
	fields := func(v volume.Spec) map[string]string {
		v.Labels = userLabels(v.Labels)
		if v.Driver == "" {
			v.Driver = "local"
		}
		out := map[string]string{}
		flatten(out, "", v, "project", "key", "anonymous")
		return out
	}
	return diffFields(fields(old), fields(new))
}

func userLabels(labels map[string]string) map[string]string {
	out := maps.Clone(labels)
	maps.DeleteFunc(out, func(k, _ string) bool { return strings.HasPrefix(k, desired.LabelPrefix) })
	return out
}
