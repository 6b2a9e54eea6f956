package project

import (
	"context"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/compose/provider"
	"github.com/stack-run/stack/compose/spec"
)

// providing runs the providers that services need, all for none, each after those it
// depends on, and sets what they say in the services that depend on them.
func providing(a *cli.App, services []string, noDeps bool) func(context.Context, *cli.Project) error {
	return func(ctx context.Context, p *cli.Project) error {
		return a.Watch("Running", func(tell compose.Progress) error {
			r := runner(a, p.Desired.Project, tell)
			for _, name := range neededProviders(p, services, noDeps) {
				v, err := r.Run(ctx, name, p.Desired.Providers[name], provider.Up)
				if err != nil {
					return err
				}
				setVariables(a, p.Project, name, v)
			}
			return nil
		})
	}
}

func runner(a *cli.App, project string, tell compose.Progress) provider.Runner {
	config := a.Getenv("DOCKER_CONFIG")
	if config == "" {
		config = filepath.Join(a.Getenv("HOME"), ".docker")
	}
	return provider.Runner{Project: project, Environ: a.Environ, Tell: tell, Plugins: []string{
		filepath.Join(config, "cli-plugins"), "/usr/local/lib/docker/cli-plugins", "/usr/local/libexec/docker/cli-plugins",
		"/usr/lib/docker/cli-plugins", "/usr/libexec/docker/cli-plugins",
	}}
}

// neededProviders are the providers that services depend on or are, in the order in
// which they are run.
func neededProviders(p *cli.Project, services []string, noDeps bool) []string {
	if len(services) == 0 {
		services = p.Project.ServiceNames()
	}
	all := spec.WithJobs(p.Project).Services
	var order []string
	seen := map[string]bool{}
	var visit func(name string)
	visit = func(name string) {
		if seen[name] {
			return
		}
		seen[name] = true
		if !noDeps {
			for _, other := range slices.Sorted(maps.Keys(all[name].DependsOn)) {
				visit(other)
			}
		}
		if _, ok := p.Desired.Providers[name]; ok {
			order = append(order, name)
		}
	}
	for _, name := range services {
		visit(name)
	}
	return order
}

// setVariables sets what a provider says in the services and jobs that depend on its
// own.
func setVariables(a *cli.App, p *types.Project, name string, v provider.Variables) {
	prefix := strings.ToUpper(name) + "_"
	set := func(dependent string, on types.DependsOnConfig, environment types.MappingWithEquals) types.MappingWithEquals {
		if _, depends := on[name]; !depends {
			return environment
		}
		if environment == nil {
			environment = types.MappingWithEquals{}
		}
		for key, value := range v.Prefixed {
			environment[prefix+key] = &value
		}
		for key, value := range v.Raw {
			if was, there := environment[key]; there && (was == nil || *was != value) {
				a.Warn("provider %q overrides environment variable %q in service %q", name, key, dependent)
			}
			environment[key] = &value
		}
		return environment
	}
	for _, dependent := range p.ServiceNames() {
		s := p.Services[dependent]
		s.Environment = set(dependent, s.DependsOn, s.Environment)
		p.Services[dependent] = s
	}
	for dependent, j := range p.Jobs {
		j.Environment = set(dependent, j.DependsOn, j.Environment)
		p.Jobs[dependent] = j
	}
}

// endProviders has the providers of services, all for none, stop or take down what
// they made. All are asked, whatever one of them says.
func endProviders(ctx context.Context, a *cli.App, d *spec.Desired, services []string, verb provider.Verb, tell compose.Progress) error {
	if d == nil {
		return nil
	}
	r := runner(a, d.Project, tell)
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(d.Providers)) {
		if len(services) > 0 && !slices.Contains(services, name) {
			continue
		}
		_, err := r.Run(ctx, name, d.Providers[name], verb)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// withoutProviders are those of services that are containers. None is left where all
// are provided.
func withoutProviders(d *spec.Desired, services []string) (rest []string, none bool) {
	for _, name := range services {
		if _, provided := d.Providers[name]; !provided {
			rest = append(rest, name)
		}
	}
	return rest, len(services) > 0 && len(rest) == 0
}
