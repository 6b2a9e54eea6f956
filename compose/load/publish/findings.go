package publish

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
	"go.yaml.in/yaml/v4"

	"github.com/stack-run/stack/compose/spec"
)

// Findings are what of a project others would see.
type Findings struct {
	// BuildOnly are the services that nobody could pull an image for.
	BuildOnly []string
	// Binds are the bind mounts, "SERVICE: SOURCE:TARGET".
	Binds []string
	// Secrets are what looks like keys and tokens.
	Secrets []Secret
	// Env are env files, and literal values of variables that should be secret.
	Env []EnvFinding
	// Configs have their content in the file.
	Configs []string
}

// Secret is something that looks like a key or token.
type Secret struct{ Type, Key, Value string }

// EnvFinding is what a service's environment shows.
type EnvFinding struct {
	Service string
	HasFile bool
	Keys    []string
}

// Look looks for what others would see.
func Look(p *types.Project) (Findings, error) {
	files, err := read(p)
	if err != nil {
		return Findings{}, err
	}
	var f Findings
	all := spec.WithJobs(p).Services
	for _, name := range slices.Sorted(maps.Keys(all)) {
		s := all[name]
		if s.Build != nil && s.Image == "" {
			f.BuildOnly = append(f.BuildOnly, name)
		}
		for _, v := range s.Volumes {
			if v.Type == types.VolumeTypeBind {
				f.Binds = append(f.Binds, name+": "+v.Source+":"+v.Target)
			}
		}
	}
	env := map[string]*EnvFinding{}
	scanned := map[string]bool{}
	scan := func(path string) error {
		if path == "" || scanned[path] {
			return nil
		}
		scanned[path] = true
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it may be one that need not be there
		}
		if err != nil {
			return fmt.Errorf("cannot look for secrets: %w", err)
		}
		f.Secrets = append(f.Secrets, secretsOf("", string(data), true)...)
		return nil
	}
	for _, file := range files {
		for _, doc := range file.docs {
			f.Secrets = append(f.Secrets, secretsIn("", doc)...)
			for name, config := range pairs(get(doc, "configs")) {
				if content := get(config, "content"); content != nil && literal(content.Value) {
					f.Configs = append(f.Configs, name.Value)
				}
			}
		}
		for _, s := range file.services() {
			found := env[s.name]
			if found == nil {
				found = &EnvFinding{Service: s.name}
				env[s.name] = found
			}
			for _, named := range envFiles(s.node) {
				found.HasFile = true
				if err := scan(file.abs(p, named.Value)); err != nil {
					return Findings{}, err
				}
			}
			found.Keys = append(found.Keys, literalSecrets(get(s.node, "environment"))...)
		}
	}
	for _, c := range p.Configs {
		if err := scan(c.File); err != nil {
			return Findings{}, err
		}
	}
	for _, s := range p.Secrets {
		if err := scan(s.File); err != nil {
			return Findings{}, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		found := env[name]
		slices.Sort(found.Keys)
		found.Keys = slices.Compact(found.Keys)
		if found.HasFile || len(found.Keys) > 0 {
			f.Env = append(f.Env, *found)
		}
	}
	slices.Sort(f.Configs)
	return f, nil
}

var secretName = regexp.MustCompile(`(?i)pass(word|wd|phrase)?|secret|token|api_?key|private_?key|access_?key|credential|auth_?key`)

// literalSecrets are the variables of an environment that should be secret, and have
// their values in the file.
func literalSecrets(environment *yaml.Node) []string {
	var out []string
	note := func(key, value string) {
		if secretName.MatchString(key) && literal(value) {
			out = append(out, key)
		}
	}
	for key, value := range pairs(environment) {
		note(key.Value, deref(value).Value)
	}
	if environment != nil && environment.Kind == yaml.SequenceNode {
		for _, one := range environment.Content {
			if key, value, ok := strings.Cut(deref(one).Value, "="); ok {
				note(key, value)
			}
		}
	}
	return out
}

// literal tells whether a value is in the file, and not a variable's.
func literal(value string) bool {
	value = strings.TrimSpace(strings.ReplaceAll(value, "$$", "X"))
	return value != "" && !strings.HasPrefix(value, "$")
}

// patterns are what keys and tokens look like.
var patterns = []struct {
	kind string
	re   *regexp.Regexp
}{
	{"AWS Client ID", regexp.MustCompile(`\b(A3T[A-Z0-9]|AKIA|AGPA|AIDA|AROA|AIPA|ANPA|ANVA|ASIA)[A-Z0-9]{16}\b`)},
	{"AWS Secret Key", regexp.MustCompile(`(?i)aws.{0,20}?['"][0-9a-zA-Z/+]{40}['"]`)},
	{"Github authentication", regexp.MustCompile(`\b(gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,})\b`)},
	{"JSON Web Token", regexp.MustCompile(`\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]+`)},
	{"Private Key", regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY( BLOCK)?-----[\s\S]*?-----END [A-Z ]*PRIVATE KEY( BLOCK)?-----`)},
	{"Slack Token", regexp.MustCompile(`\bxox[baprs]-[A-Za-z0-9-]{10,}`)},
	{"Stripe Key", regexp.MustCompile(`\b[rs]k_live_[A-Za-z0-9]{20,}`)},
}

// secretsIn are the secrets among a tree's strings, by their paths.
func secretsIn(path string, n *yaml.Node) []Secret {
	var out []Secret
	switch n = deref(n); {
	case n == nil:
	case n.Kind == yaml.MappingNode:
		for key, value := range pairs(n) {
			out = append(out, secretsIn(strings.TrimPrefix(path+"."+key.Value, "."), value)...)
		}
	case n.Kind == yaml.SequenceNode:
		for _, one := range n.Content {
			at := path
			value := deref(one)
			if key, rest, ok := strings.Cut(value.Value, "="); ok && value.Kind == yaml.ScalarNode {
				out = append(out, secretsOf(at+"."+key, rest, false)...)
				continue
			}
			out = append(out, secretsIn(at, one)...)
		}
	default:
		out = secretsOf(path, n.Value, false)
	}
	return out
}

// secretsOf are the secrets in a text. Its lines may be KEY=VALUE.
func secretsOf(key, text string, lines bool) []Secret {
	var out []Secret
	for _, p := range patterns {
		for _, at := range p.re.FindAllStringIndex(text, -1) {
			name := key
			if lines {
				begin := strings.LastIndexByte(text[:at[0]], '\n') + 1
				name, _, _ = strings.Cut(text[begin:at[0]], "=")
			}
			out = append(out, Secret{Type: p.kind, Key: strings.TrimSpace(name), Value: text[at[0]:at[1]]})
		}
	}
	return out
}
