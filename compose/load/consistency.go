package load

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/errdefs"
	"github.com/compose-spec/compose-go/v2/types"
	"go.yaml.in/yaml/v4"

	"github.com/stack-run/stack/compose/desired"
	"github.com/stack-run/stack/compose/schedule"
)

// consistency is step 4: what only the whole project shows. It covers what
// compose-go's own check does, with all faults at once and their lines.
type consistency struct {
	*composer
	project *types.Project
}

func (c *consistency) fail(path, format string, args ...any) {
	file, line, column := c.inspector.positions.find(path)
	c.report.fail(Diagnostic{File: file, Line: line, Column: column, Path: path, Text: fmt.Sprintf(format, args...)})
}

func (c *consistency) check() {
	p := c.project
	if len(p.AllServices())+len(p.Networks)+len(p.Volumes)+len(p.Configs)+len(p.Secrets) == 0 {
		c.report.fail(Diagnostic{File: c.inspector.files[0], Text: "the project has no services; add one below \"services:\""})
		return
	}
	for _, name := range p.ServiceNames() {
		s := p.Services[name]
		path := c.in(name)
		c.oneService(name, func() {
			if j, ok := c.jobs[name]; ok {
				c.triggers(path, j)
			}
			c.source(path, s)
			before := len(c.report.errors)
			c.references(path, s)
			c.mounts(path, s)
			if len(c.report.errors) == before { // else the steps, which inherit it, have the same faults
				c.steps(path, s)
			}
			c.dependencies(path, s)
			c.values(path, s)
			c.ports(path, s)
			c.doubledPorts(name)
		})
	}
	for _, name := range p.SecretNames() {
		s := p.Secrets[name]
		if !bool(s.External) && s.File == "" && s.Environment == "" && s.Content == "" && s.Driver == "" {
			c.fail("secrets."+name, "a secret needs file or environment")
		}
	}
	c.containerNames()
	c.cycle()
}

// triggers checks what a job is triggered by.
func (c *consistency) triggers(path string, j types.JobConfig) {
	path += ".triggers"
	if j.Triggers == nil || j.Triggers.Manual == nil && len(j.Triggers.Schedule) == 0 {
		c.fail(path, "nothing triggers the job; write manual: true, or a schedule")
		return
	}
	for i, s := range j.Triggers.Schedule {
		_, err := schedule.Parse(desired.Schedule{Cron: s.Cron, Timezone: s.Timezone})
		var fault *schedule.Fault
		if errors.As(err, &fault) {
			c.fail(index(path+".schedule", i)+"."+fault.Attribute, "%v", fault.Err)
		}
	}
}

// source checks where the image comes from.
func (c *consistency) source(path string, s types.ServiceConfig) {
	if s.Image == "" && s.Build == nil && s.Provider == nil {
		c.fail(path, "neither image nor build is set; add one of them")
	}
	b := s.Build
	if b == nil {
		return
	}
	if b.Dockerfile != "" && b.DockerfileInline != "" {
		c.fail(path+".build.dockerfile", "dockerfile and dockerfile_inline exclude each other; keep one")
	}
	if len(b.Platforms) > 0 && s.Platform != "" && !slices.Contains(b.Platforms, s.Platform) {
		c.fail(path+".build.platforms", "must include the service's platform %q; add it, or remove platform", s.Platform)
	}
	for _, context := range slices.Sorted(maps.Keys(b.AdditionalContexts)) {
		target, ok := strings.CutPrefix(b.AdditionalContexts[context], types.ServicePrefix)
		if !ok {
			continue
		}
		at := path + ".build.additional_contexts." + context
		if other, ok := c.project.AllServices()[target]; !ok {
			c.fail(at, "no such service %q%s", target, serviceHint(target, c.project))
		} else if other.Build == nil {
			c.fail(at, "service %q has no build section to take a context from; give it one, or use docker-image://IMAGE", target)
		}
	}
	for i, secret := range b.Secrets {
		if _, ok := c.project.Secrets[secret.Source]; !ok {
			c.undefined(index(path+".build.secrets", i), "secret", secret.Source, c.project.SecretNames())
		}
	}
}

func (c *consistency) undefined(path, kind, name string, known []string) {
	hint := suggestion(name, known)
	if !strings.HasPrefix(hint, "; did") {
		hint = fmt.Sprintf("; define it below \"%ss:\" at the top level", kind)
	}
	c.fail(path, "no such %s %q%s", kind, name, hint)
}

// references checks names of networks, volumes, configs, secrets and models.
func (c *consistency) references(path string, s types.ServiceConfig) {
	p := c.project
	if s.NetworkMode != "" && len(s.Networks) > 0 {
		c.fail(path+".network_mode", "network_mode and networks exclude each other; keep one")
	} else {
		for _, network := range slices.Sorted(maps.Keys(s.Networks)) {
			if _, ok := p.Networks[network]; !ok {
				c.undefined(path+".networks."+network, "network", network, p.NetworkNames())
			}
		}
	}
	for i, v := range s.Volumes {
		if v.Type == types.VolumeTypeVolume && v.Source != "" {
			if _, ok := p.Volumes[v.Source]; !ok {
				c.undefinedVolume(index(path+".volumes", i), v.Source)
			}
		}
	}
	for i, ref := range s.Configs {
		if _, ok := p.Configs[ref.Source]; !ok {
			c.undefined(index(path+".configs", i), "config", ref.Source, p.ConfigNames())
		}
	}
	for i, ref := range s.Secrets {
		if _, ok := p.Secrets[ref.Source]; !ok {
			c.undefined(index(path+".secrets", i), "secret", ref.Source, p.SecretNames())
		}
	}
	for model := range s.Models {
		if _, ok := p.Models[model]; !ok {
			c.undefined(path+".models", "model", model, p.ModelNames())
		}
	}
}

func (c *consistency) undefinedVolume(path, name string) {
	hint := suggestion(name, c.project.VolumeNames())
	if !strings.HasPrefix(hint, "; did") {
		hint = fmt.Sprintf("; define it below \"volumes:\" at the top level, or write ./%s for a directory", name)
	}
	c.fail(path, "no such volume %q%s", name, hint)
}

// dependencies checks names in depends_on and in what implies a dependency.
func (c *consistency) dependencies(path string, s types.ServiceConfig) {
	p := c.project
	reported := map[string]bool{}
	missing := func(at, name string) {
		if !reported[name] {
			reported[name] = true
			c.fail(at, "no such service %q%s", name, serviceHint(name, p))
		}
	}
	for attribute, mode := range map[string]string{"network_mode": s.NetworkMode, "ipc": s.Ipc, "pid": s.Pid} {
		if name, ok := strings.CutPrefix(mode, types.ServicePrefix); ok {
			if _, err := p.GetService(name); err != nil {
				missing(path+"."+attribute, name)
			}
			if name == s.Name {
				c.fail(path+"."+attribute, "a service cannot share its own namespace; name another service")
				reported[name] = true
			}
		}
	}
	for i, link := range s.Links {
		if name, _, _ := strings.Cut(link, ":"); name != "" {
			if _, err := p.GetService(name); err != nil {
				missing(index(path+".links", i), name)
			}
		}
	}
	for i, from := range s.VolumesFrom {
		if strings.HasPrefix(from, types.ContainerPrefix) {
			continue
		}
		if name, _, _ := strings.Cut(from, ":"); name != "" {
			if _, err := p.GetService(name); err != nil {
				missing(index(path+".volumes_from", i), name)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.DependsOn)) {
		dep := s.DependsOn[name]
		at := path + ".depends_on." + name
		other, err := p.GetService(name)
		switch {
		case errors.Is(err, errdefs.ErrDisabled) && !dep.Required:
		case err != nil:
			missing(at, name)
		case c.in(name) != "services."+name && c.in(s.Name) == "services."+s.Name:
			c.fail(at, "is a job; a service can only depend on services")
		case dep.Condition == types.ServiceConditionHealthy && other.HealthCheck != nil && noCheck(other.HealthCheck):
			c.fail(at, "condition service_healthy can never be met: service %q has its health check disabled; use service_started, or give it a health check", name)
		case dep.Condition == types.ServiceConditionCompletedSuccessfully && restartsAlways(other):
			c.fail(at, "condition service_completed_successfully can never be met: service %q is always restarted; set restart: \"no\" on it", name)
		}
	}
}

func noCheck(h *types.HealthCheckConfig) bool {
	return h.Disable || len(h.Test) > 0 && h.Test[0] == "NONE"
}

func restartsAlways(s types.ServiceConfig) bool {
	if s.Deploy != nil && s.Deploy.RestartPolicy != nil {
		switch s.Deploy.RestartPolicy.Condition {
		case "none", "no", "on-failure":
			return false
		}
		return true
	}
	return s.Restart == types.RestartPolicyAlways || s.Restart == types.RestartPolicyUnlessStopped
}

// values checks attributes that can be said in two places.
func (c *consistency) values(path string, s types.ServiceConfig) {
	if s.Scale != nil && *s.Scale < 0 {
		c.fail(path+".scale", "must be 0 or more; 0 is no container")
	}
	if d := s.Deploy; d != nil {
		if d.Replicas != nil && *d.Replicas < 0 {
			c.fail(path+".deploy.replicas", "must be 0 or more; 0 is no container")
		}
		if s.Scale != nil && d.Replicas != nil && *s.Scale != *d.Replicas {
			c.fail(path+".scale", "scale is %d but deploy.replicas is %d; keep one", *s.Scale, *d.Replicas)
		}
		if l := d.Resources.Limits; l != nil {
			c.same(path, "cpus", "deploy.resources.limits.cpus", float64(s.CPUS), float64(l.NanoCPUs.Value()))
			c.same(path, "mem_limit", "deploy.resources.limits.memory", float64(s.MemLimit), float64(l.MemoryBytes))
			c.same(path, "pids_limit", "deploy.resources.limits.pids", float64(s.PidsLimit), float64(l.Pids))
		}
		if r := d.Resources.Reservations; r != nil {
			c.same(path, "mem_reservation", "deploy.resources.reservations.memory", float64(s.MemReservation), float64(r.MemoryBytes))
		}
		c.deployModes(path, d)
	}
	if s.ContainerName != "" && s.GetScale() > 1 {
		c.fail(path+".container_name", "container_name %q cannot be shared by %d replicas; remove it, or scale the service to 1", s.ContainerName, s.GetScale())
	}
	if s.Develop != nil {
		for i, w := range s.Develop.Watch {
			if w.Target == "" && w.Action != types.WatchActionRebuild && w.Action != types.WatchActionRestart {
				c.fail(index(path+".develop.watch", i), "action %s needs a target: the path in the container", w.Action)
			}
		}
	}
}

func (c *consistency) deployModes(path string, d *types.DeployConfig) {
	warn := func(at, text string) {
		file, line, column := c.inspector.positions.find(at)
		c.report.warn(Diagnostic{File: file, Line: line, Column: column, Path: at, Text: text})
	}
	switch d.Mode {
	case "", "replicated", "global":
	case "replicated-job", "global-job":
		warn(path+".deploy.mode", fmt.Sprintf("mode %s is not acted on: the service runs once, as without it", d.Mode))
	default:
		c.fail(path+".deploy.mode", "unknown mode %q; use replicated or global", d.Mode)
	}
	switch d.EndpointMode {
	case "", "dnsrr":
	case "vip":
		warn(path+".deploy.endpoint_mode", "vip is not acted on: the service's name resolves to the addresses of all replicas (dnsrr)")
	default:
		c.fail(path+".deploy.endpoint_mode", "unknown endpoint mode %q; use dnsrr", d.EndpointMode)
	}
}

func (c *consistency) same(path, short, long string, a, b float64) {
	if a != 0 && b != 0 && a != b {
		c.fail(path+"."+short, "%s and %s differ (%s, %s); keep one", short, long, number(a), number(b))
	}
}

func number(f float64) string { return strconv.FormatFloat(f, 'f', -1, 32) }

// mounts checks that no target is mounted over twice.
func (c *consistency) mounts(path string, s types.ServiceConfig) {
	taken := map[string]string{}
	add := func(at, target string) {
		if other, ok := taken[target]; ok {
			c.fail(at, "target %s is already mounted by %s; keep one", target, other)
			return
		}
		taken[target] = strings.TrimPrefix(at, path+".")
	}
	for i, t := range s.Tmpfs {
		target, _, _ := strings.Cut(t, ":")
		add(index(path+".tmpfs", i), target)
	}
	for i, v := range s.Volumes {
		add(index(path+".volumes", i), v.Target)
	}
}

// containerNames finds a name that two services want. Between a service that is
// touched and one that is not there is no fault: only one of them is made.
func (c *consistency) containerNames() {
	owner := map[string]string{}
	for _, name := range c.project.ServiceNames() {
		s := c.project.Services[name]
		if s.ContainerName == "" || !c.touched[name] {
			continue
		}
		if other, ok := owner[s.ContainerName]; ok {
			c.fail(c.in(name)+".container_name", "container name %q is already in use by service %q; give each its own", s.ContainerName, other)
		}
		owner[s.ContainerName] = name
	}
}

// ports finds a host port that a service publishes twice. Ranges find a free port
// by themselves. Two services may have the same: they need not run together, and
// up sees if they do.
func (c *consistency) ports(path string, s types.ServiceConfig) {
	// By protocol and port, the addresses that it is published on; "" is any. A range
	// may be of all ports there are.
	taken := map[[2]string]map[string]bool{}
	for i, p := range s.Ports {
		if p.Published == "" || p.Published == "0" || strings.Contains(p.Published, "-") || s.NetworkMode == "host" {
			continue
		}
		ip := p.HostIP
		if anyAddress(ip) {
			ip = ""
		}
		key := [2]string{p.Protocol, p.Published}
		on := taken[key]
		if on == nil {
			taken[key] = map[string]bool{ip: true}
			continue
		}
		clash := on[ip] || on[""] || ip == ""
		if on[ip] = true; clash {
			c.fail(index(path+".ports", i), "host port %s/%s is already published by another entry of the service; choose another host port", p.Published, p.Protocol)
		}
	}
}

// doubledPorts warns of ports that a file adds to those of another though it may mean
// to replace them: lists of ports are joined.
func (c *consistency) doubledPorts(name string) {
	type source struct {
		where, published string
	}
	earlier := map[string]source{} // by container port and protocol
	add := func(doc *document, path string) {
		list := doc.value(path)
		if list == nil || list.Kind != yaml.SequenceNode {
			return
		}
		if list.Tag == "!override" {
			clear(earlier)
		}
		own := map[string]source{}
		for i, item := range list.Content {
			item = resolve(item)
			where := Diagnostic{File: doc.file, Line: item.Line, Column: item.Column, Path: index(path, i)}
			told := false
			for _, p := range c.portsOf(item) {
				key := fmt.Sprintf("%d/%s", p.Target, p.Protocol)
				published := strings.TrimPrefix(p.HostIP+":"+p.Published, ":")
				own[key] = source{c.report.place(where).Where(), published}
				other, ok := earlier[key]
				if !ok || other.published == published || told {
					continue
				}
				told = true
				where.Text = fmt.Sprintf("container port %s is published by %s (%s), too, as ports of several files are joined; if these are to replace those, write \"ports: !override\"", key, other.where, cmp.Or(other.published, "any port"))
				c.report.warn(where)
			}
		}
		maps.Copy(earlier, own)
	}
	for _, b := range c.inspector.positions.bases(name) {
		add(b.doc, "services."+b.service+".ports")
	}
	for _, doc := range c.inspector.positions.docs {
		add(doc, "services."+name+".ports")
	}
}

// portsOf reads one entry of ports. What is wrong with it has been told.
func (c *consistency) portsOf(item *yaml.Node) []types.ServicePortConfig {
	value := func(key string) string { return c.inspector.expand(text(child(item, key)), c.composer.source.env) }
	if item.Kind != yaml.MappingNode {
		ports, err := types.ParsePortConfig(c.inspector.expand(text(item), c.composer.source.env))
		if err != nil {
			return nil
		}
		return ports
	}
	target, err := strconv.ParseUint(value("target"), 10, 16)
	if err != nil {
		return nil
	}
	return []types.ServicePortConfig{{Target: uint32(target), Protocol: cmp.Or(value("protocol"), "tcp"), Published: value("published"), HostIP: value("host_ip")}}
}

func anyAddress(ip string) bool { return ip == "" || ip == "0.0.0.0" || ip == "::" }

// cycle finds a dependency cycle and prints it.
func (c *consistency) cycle() {
	const (
		unseen = iota
		active
		done
	)
	state := map[string]int{}
	var path []string
	var visit func(name string) bool
	visit = func(name string) bool {
		state[name] = active
		path = append(path, name)
		for _, dep := range slices.Sorted(maps.Keys(c.project.Services[name].DependsOn)) {
			if _, ok := c.project.Services[dep]; !ok {
				continue
			}
			if state[dep] == active {
				from := slices.Index(path, dep)
				circle := append(slices.Clone(path[from:]), dep)
				if !slices.ContainsFunc(circle, func(member string) bool { return c.touched[member] }) {
					for _, member := range circle {
						c.aside[member] = true
					}
					continue
				}
				c.fail(c.in(name)+".depends_on."+dep, "dependency cycle: %s; remove one of these dependencies", strings.Join(circle, " -> "))
				return true
			}
			if state[dep] == unseen && visit(dep) {
				return true
			}
		}
		path = path[:len(path)-1]
		state[name] = done
		return false
	}
	for _, name := range c.project.ServiceNames() {
		if state[name] == unseen && visit(name) {
			return
		}
	}
}
