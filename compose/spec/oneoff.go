package spec

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/format"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/volumes"
)

// Overrides are the flags of "stack run SERVICE".
type Overrides struct {
	Name       string   // --name; empty: PROJECT-SERVICE-run-HEX
	Slug       string   // HEX, at random if empty
	Command    []string // nil: the service's
	Entrypoint []string // nil: the service's; empty: none
	Env        []string // KEY=VALUE, or KEY to take it from the project's environment
	User       string
	WorkingDir string
	Labels     map[string]string
	Volumes    []string // -v, in short syntax
	Publish    []string // -p, in short syntax
	CapAdd     []string
	CapDrop    []string
	// ServicePorts publishes the service's own ports, UseAliases makes the
	// container answer to the service's names.
	ServicePorts, UseAliases bool
	TTY, Interactive         bool
	AutoRemove               bool
}

// OneOff is the container of "stack run SERVICE": the service's first replica
// with overrides, no restart policy, no published ports and, unless asked for,
// none of the service's names. Dependencies are for the caller to honour.
func OneOff(d *Desired, service string, o Overrides) (engine.Spec, error) {
	s, ok := d.Services[service]
	if !ok {
		if slices.Contains(d.Disabled, service) {
			return engine.Spec{}, fmt.Errorf("cannot run service %q: it is disabled by its profile; load the project with the service selected", service)
		}
		return engine.Spec{}, fmt.Errorf("cannot run service %q: no such service%s", service, didYouMean(service, slices.Sorted(maps.Keys(d.Services))))
	}
	if len(s.Replicas) == 0 {
		return engine.Spec{}, fmt.Errorf("cannot run service %q: it is scaled to 0; build its spec with a scale of 1", service)
	}
	if o.ServicePorts && len(o.Publish) > 0 {
		return engine.Spec{}, fmt.Errorf("cannot run service %q: --service-ports and --publish exclude each other; use one", service)
	}
	slug := o.Slug
	if slug == "" {
		var random [6]byte
		rand.Read(random[:]) // never fails (crypto/rand)
		slug = hex.EncodeToString(random[:])
	}
	spec := s.Replicas[0].Spec
	replicaName := spec.Name
	spec.Name = o.Name
	if spec.Name == "" {
		spec.Name = strings.Join([]string{d.Project, service, "run", slug}, "-")
	}
	spec.Restart, spec.OnUnhealthy = engine.Restart{}, ""
	spec.AutoRemove = o.AutoRemove
	oneOffProcess(&spec.Process, d, o)
	oneOffCapabilities(&spec.Isolation, o)
	oneOffNetwork(&spec, service, replicaName, o)
	if err := oneOffMounts(&spec, d, o); err != nil {
		return engine.Spec{}, fmt.Errorf("cannot run service %q: %w", service, err)
	}
	if len(o.Publish) > 0 {
		if err := oneOffPorts(&spec, o.Publish); err != nil {
			return engine.Spec{}, fmt.Errorf("cannot run service %q: %w", service, err)
		}
	}
	spec.Labels = maps.Clone(spec.Labels)
	maps.Copy(spec.Labels, o.Labels)
	delete(spec.Labels, LabelContainerNumber)
	spec.Labels[LabelSlug] = slug
	spec.Labels[LabelOneOff] = "True"
	spec.Labels[LabelConfigHash] = Hash(&spec)
	return spec, nil
}

func oneOffProcess(p *engine.Process, d *Desired, o Overrides) {
	p.TTY = o.TTY
	p.Stdin = o.Interactive
	p.StdinOnce = o.Interactive
	if o.Entrypoint != nil {
		p.Entrypoint = slices.Clone(o.Entrypoint)
		if o.Command == nil {
			p.Command = []string{}
		}
	}
	if len(o.Command) > 0 {
		p.Command = slices.Clone(o.Command)
	}
	if o.User != "" {
		p.User = o.User
	}
	if o.WorkingDir != "" {
		p.WorkingDir = o.WorkingDir
	}
	env := slices.Clone(p.Env)
	for _, e := range o.Env {
		key, _, hasValue := strings.Cut(e, "=")
		if !hasValue {
			value, ok := d.Environment[key]
			if !ok {
				continue // as docker compose: not set, not passed
			}
			e = key + "=" + value
		}
		env = slices.DeleteFunc(env, func(x string) bool { k, _, _ := strings.Cut(x, "="); return k == key })
		env = append(env, e)
	}
	slices.Sort(env)
	p.Env = env
}

func oneOffCapabilities(i *engine.Isolation, o Overrides) {
	add, drop := capabilities(o.CapAdd), capabilities(o.CapDrop)
	in := func(list []string) func(string) bool {
		return func(c string) bool { return slices.Contains(list, c) }
	}
	i.CapAdd = capabilities(append(slices.DeleteFunc(slices.Clone(i.CapAdd), in(drop)), add...))
	i.CapDrop = capabilities(append(slices.DeleteFunc(slices.Clone(i.CapDrop), in(add)), drop...))
}

func oneOffNetwork(spec *engine.Spec, service, replicaName string, o Overrides) {
	e := &spec.Network
	e.Key = spec.Name
	e.Owner = "service " + service + " (run)"
	if !o.ServicePorts {
		e.Ports = nil
	}
	if e.Mode != "" {
		return
	}
	names := []string{spec.Name}
	if o.UseAliases {
		names = append(names, slices.DeleteFunc(slices.Clone(e.Names), func(n string) bool { return n == replicaName })...)
	}
	e.Names = names
	e.Networks = slices.Clone(e.Networks)
	for i := range e.Networks {
		a := &e.Networks[i]
		if !o.UseAliases {
			a.Aliases = nil
		}
	}
}

func oneOffMounts(spec *engine.Spec, d *Desired, o Overrides) error {
	spec.Mounts = slices.Clone(spec.Mounts)
	for _, text := range o.Volumes {
		v, err := format.ParseVolume(text)
		if err != nil {
			return fmt.Errorf("invalid volume %q: %w; write SOURCE:TARGET[:ro]", text, err)
		}
		m := volumes.Mount{Target: v.Target, ReadOnly: v.ReadOnly, Source: v.Source, Origin: "--volume " + text}
		switch v.Type {
		case types.VolumeTypeBind:
			m.Type = volumes.TypeBind
			m.CreateHostPath = true
			if v.Bind != nil {
				m.Propagation, m.SELinux = v.Bind.Propagation, v.Bind.SELinux
			}
			if !filepath.IsAbs(m.Source) {
				// -v is typed on the command line: relative to the project, as the
				// volumes of the file are.
				m.Source = filepath.Join(d.WorkingDir, m.Source)
			}
		case types.VolumeTypeVolume:
			m.Type = volumes.TypeVolume
			if named, ok := d.Volumes[v.Source]; ok {
				m.Source = named.Spec.Name
			}
			m.NoCopy = v.Volume != nil && v.Volume.NoCopy
		default:
			return fmt.Errorf("invalid volume %q: mounts of type %s cannot be made with --volume", text, v.Type)
		}
		spec.Mounts = slices.DeleteFunc(spec.Mounts, func(x volumes.Mount) bool { return x.Target == m.Target })
		spec.Mounts = append(spec.Mounts, m)
	}
	return nil
}

func oneOffPorts(spec *engine.Spec, publish []string) error {
	b := newBuilder(&types.Project{}, HostFacts{})
	spec.Network.Ports = nil
	for _, text := range publish {
		ports, err := types.ParsePortConfig(text)
		if err != nil {
			return fmt.Errorf("invalid port %q: %w; write [HOST:]CONTAINER[/PROTOCOL]", text, err)
		}
		for _, p := range ports {
			spec.Network.Ports = append(spec.Network.Ports, b.port("--publish "+text, p)...)
		}
	}
	if len(b.errs) > 0 {
		return joinErrors(b.errs)
	}
	return nil
}
