package load

import (
	"fmt"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
)

// compose-go fills in what a step of pre_start takes over from its service. The rest
// of what it does with services it leaves out for steps, and that is here.

// steps checks the containers that run before the service's.
func (c *consistency) steps(path string, s types.ServiceConfig) {
	for i, hook := range s.PreStart {
		at := index(path+".pre_start", i)
		step := types.ServiceConfig{Name: s.Name, ContainerSpec: hook.ContainerSpec}
		c.references(at, step)
		c.mounts(at, step)
		for attribute, name := range usedBy(s, hook) {
			if _, err := c.project.GetService(name); err != nil {
				c.fail(at+"."+attribute, "no such service %q%s", name, serviceHint(name, c.project))
			}
		}
	}
}

// usedBy are the services whose namespaces and volumes a step uses, and its own does not,
// by attribute.
func usedBy(s types.ServiceConfig, step types.PreStartHook) map[string]string {
	out := map[string]string{}
	for attribute, mode := range map[string][2]string{"network_mode": {step.NetworkMode, s.NetworkMode}, "ipc": {step.Ipc, s.Ipc}, "pid": {step.Pid, s.Pid}} {
		if name, ok := strings.CutPrefix(mode[0], types.ServicePrefix); ok && mode[0] != mode[1] && name != s.Name {
			out[attribute] = name
		}
	}
	for i, from := range step.VolumesFrom {
		name, _, _ := strings.Cut(from, ":")
		if !strings.HasPrefix(from, types.ContainerPrefix) && !slices.Contains(s.VolumesFrom, from) && name != s.Name {
			out[fmt.Sprintf("volumes_from[%d]", i)] = name
		}
	}
	return out
}

// dependOnUsed has services come up after those that their steps use.
func dependOnUsed(p *types.Project) {
	for name, s := range p.Services {
		for _, step := range s.PreStart {
			for _, used := range usedBy(s, step) {
				if _, said := s.DependsOn[used]; said || p.Services[used].Name == "" {
					continue
				}
				if s.DependsOn == nil {
					s.DependsOn = types.DependsOnConfig{}
				}
				s.DependsOn[used] = types.ServiceDependency{Condition: types.ServiceConditionStarted, Required: true}
			}
		}
		p.Services[name] = s
	}
}

// chooseNetworks has a step that says network_mode or networks itself not take over
// the other one of the two.
func chooseNetworks(p *types.Project) {
	for _, s := range p.Services {
		for i := range s.PreStart {
			step := &s.PreStart[i]
			switch {
			case step.NetworkMode == "" || len(step.Networks) == 0:
			case s.NetworkMode != "":
				step.NetworkMode = ""
			case within(step.Networks, s.Networks):
				step.Networks = nil
			}
		}
	}
}

func within[T any](a, b map[string]T) bool {
	for name := range a {
		if _, ok := b[name]; !ok {
			return false
		}
	}
	return true
}

// withoutUnused leaves out the networks, volumes, configs and secrets that no
// service uses. compose-go would leave out those of pre_start alone, too.
func withoutUnused(whole *types.Project) *types.Project {
	p := whole.WithoutUnnecessaryResources()
	for _, s := range p.Services {
		for _, step := range s.PreStart {
			for name := range step.Networks {
				keep(p.Networks, whole.Networks, name)
			}
			for _, v := range step.Volumes {
				keep(p.Volumes, whole.Volumes, v.Source)
			}
			for _, ref := range step.Configs {
				keep(p.Configs, whole.Configs, ref.Source)
			}
			for _, ref := range step.Secrets {
				keep(p.Secrets, whole.Secrets, ref.Source)
			}
		}
	}
	return p
}

func keep[T any](in, from map[string]T, name string) {
	if value, ok := from[name]; ok {
		in[name] = value
	}
}
