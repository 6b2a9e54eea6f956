package load

import "github.com/compose-spec/compose-go/v2/types"

// compose-go fills in what a step of pre_start takes over from its service. The rest
// of what it does with services it leaves out for steps, and that is here.

// steps checks the containers that run before the service's.
func (c *consistency) steps(path string, s types.ServiceConfig) {
	for i, hook := range s.PreStart {
		at := index(path+".pre_start", i)
		step := types.ServiceConfig{Name: s.Name, ContainerSpec: hook.ContainerSpec}
		c.references(at, step)
		c.mounts(at, step)
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
