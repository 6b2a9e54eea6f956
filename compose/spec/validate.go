package spec

import (
	"maps"
	"os"

	"github.com/compose-spec/compose-go/v2/types"
)

// Validate says what Build would find wrong with the model alone. What the
// machine has, the files, variables and stored contents of configs and secrets, is no part of it.
func Validate(p *types.Project, host HostFacts) ([]Warning, error) {
	host.ReadFile = func(path string) ([]byte, error) {
		data, err := os.ReadFile(path)
		if err != nil {
			data = []byte("{}") // which is JSON, for a seccomp profile
		}
		return data, nil
	}
	host.Stored = Unread
	copied := *p
	p = &copied
	p.Environment = maps.Clone(p.Environment)
	if p.Environment == nil {
		p.Environment = types.Mapping{}
	}
	need := func(variable string) {
		if _, set := p.Environment[variable]; !set && variable != "" {
			p.Environment[variable] = ""
		}
	}
	for _, c := range p.Configs {
		need(c.Environment)
	}
	for _, s := range p.Secrets {
		need(s.Environment)
	}
	_, warnings, err := Build(p, host)
	return warnings, err
}
