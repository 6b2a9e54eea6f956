package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/stack-run/stack/compose/desired"
	"github.com/stack-run/stack/engine/container"
)

// dependencyOrder lists services so that each stands after what it depends on;
// what has no order is in the order of names. A cycle is an error that prints it.
func dependencyOrder(services []string, dependsOn func(string) []string) ([]string, error) {
	wanted := map[string]bool{}
	for _, s := range services {
		wanted[s] = true
	}
	sorted := slices.Clone(services)
	slices.Sort(sorted)
	state := map[string]int{}
	var order, path []string
	var visit func(string) error
	visit = func(name string) error {
		switch state[name] {
		case 1:
			circle := append(slices.Clone(path[slices.Index(path, name):]), name)
			return fmt.Errorf("dependency cycle: %s; remove one of these depends_on", strings.Join(circle, " -> "))
		case 2:
			return nil
		}
		state[name] = 1
		path = append(path, name)
		for _, dep := range dependsOn(name) {
			if wanted[dep] {
				if err := visit(dep); err != nil {
					return err
				}
			}
		}
		path = path[:len(path)-1]
		state[name] = 2
		order = append(order, name)
		return nil
	}
	for _, name := range sorted {
		if err := visit(name); err != nil {
			return nil, err
		}
	}
	return order, nil
}

func dependencyNames(d *desired.Project, name string) []string {
	s := d.Services[name]
	if s == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(s.DependsOn))
}

// withDependencies is names and, transitively, what they depend on.
func withDependencies(d *desired.Project, names []string) []string {
	seen := map[string]bool{}
	var add func(string)
	add = func(name string) {
		if seen[name] || d.Services[name] == nil {
			return
		}
		seen[name] = true
		for _, dep := range dependencyNames(d, name) {
			add(dep)
		}
	}
	for _, name := range names {
		add(name)
	}
	return slices.Sorted(maps.Keys(seen))
}

// withDependents is names and, transitively, the services that depend on them
// in a way that follow accepts.
func withDependents(d *desired.Project, names []string, follow func(desired.Dependency) bool) []string {
	seen := map[string]bool{}
	var add func(string)
	add = func(name string) {
		if seen[name] {
			return
		}
		seen[name] = true
		for other, s := range d.Services {
			if dep, ok := s.DependsOn[name]; ok && follow(dep) {
				add(other)
			}
		}
	}
	for _, name := range names {
		add(name)
	}
	return slices.Sorted(maps.Keys(seen))
}

// checkServices refuses names that are no services.
func checkServices(d *desired.Project, names []string) error {
	for _, name := range names {
		if _, ok := d.Services[name]; ok {
			continue
		}
		if d.Jobs[name] != nil {
			return desired.RunOnly(name)
		}
		if slices.Contains(d.Disabled, name) {
			return fmt.Errorf("service %q is disabled by its profile; enable the profile with --profile", name)
		}
		known := slices.Sorted(maps.Keys(d.Services))
		if near := desired.Nearest(name, known); near != "" {
			return fmt.Errorf("no such service: %q; did you mean %q?", name, near)
		}
		return fmt.Errorf("no such service: %q; there is %s", name, strings.Join(known, ", "))
	}
	return nil
}

// sharedServices are the services whose namespaces or volumes a spec uses, by
// the attribute that says so.
func sharedServices(s *desired.Service) map[string]string {
	if len(s.Replicas) == 0 {
		return nil
	}
	return sharedBy(&s.Replicas[0].Spec)
}

func sharedBy(c *container.Spec) map[string]string {
	out := map[string]string{}
	for attribute, mode := range map[string]string{"network_mode": c.Network.Mode, "pid": c.Isolation.PIDMode, "ipc": c.Isolation.IPCMode} {
		if name, ok := strings.CutPrefix(mode, "service:"); ok {
			out[attribute] = name
		}
	}
	for _, v := range c.VolumesFrom {
		if rest, ok := strings.CutPrefix(v, "service:"); ok {
			name, _, _ := strings.Cut(rest, ":")
			out["volumes_from "+name] = name
		}
	}
	return out
}
