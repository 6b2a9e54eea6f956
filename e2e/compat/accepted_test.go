package compat

import (
	"errors"
	"maps"
	"math/rand/v2"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// call is one use of config.
type call struct {
	project *Project
	args    []string
	refused bool // both refuse the project
}

func (c call) has(flag string) bool { return slices.Contains(c.args, flag) }

func (c call) json() bool { return c.has("json") }

// named says whether services are named.
func (c call) named() bool {
	return slices.ContainsFunc(c.args, func(arg string) bool { return slices.Contains(c.project.Services, arg) })
}

// unordered says whether docker compose prints the lines in an order that changes
// from run to run.
func (c call) unordered() bool {
	return slices.ContainsFunc([]string{"--services", "--volumes", "--networks", "--models", "--images", "--variables", "--profiles"}, c.has)
}

// output is the file of --output.
func (c call) output() string {
	if i := slices.Index(c.args, "--output"); i >= 0 {
		return c.args[i+1]
	}
	return ""
}

// calls draws how config is called on a project.
func calls(seed uint64, p *Project) [][]string {
	r := rand.New(rand.NewPCG(seed, 1))
	service := p.Services[r.IntN(len(p.Services))]
	more := [][]string{
		{"--no-interpolate"},
		{"--no-interpolate", "--format", "json"},
		{"--services"}, {"--volumes"}, {"--networks"}, {"--models"}, {"--images"}, {"--profiles"},
		{"--services", "--no-interpolate"},
		{"--variables"}, {"--variables", "--format", "json"}, {"--variables", "--format", "yaml"},
		{"--environment"},
		{"--hash", "*"}, {"--hash", service},
		{"--no-normalize"}, {"--no-normalize", "--format", "json"},
		{"--no-path-resolution"},
		{"--no-consistency"},
		{"--no-env-resolution"},
		{"--no-interpolate", "--no-path-resolution", "--no-normalize"},
		{"--quiet"}, {"--quiet", "--no-interpolate"}, {"--quiet", "--no-normalize"},
		{service}, {service, "--format", "json"}, {"--images", service},
		{"--output", "out.yaml"},
	}
	r.Shuffle(len(more), func(i, j int) { more[i], more[j] = more[j], more[i] })
	return append([][]string{nil, {"--format", "json"}}, more[:4]...)
}

// rule is a difference that is meant.
type rule struct {
	name, reason string
	applies      func(c call, ours, theirs outcome) bool
}

var accepted = []rule{
	{
		name:    jobNames,
		reason:  "docker compose gives a job a name in YAML, which is its key, is not in its JSON, and which it refuses when it reads it",
		applies: func(call, outcome, outcome) bool { return false }, // taken away before the rest is compared
	},
	{
		name:   "quotes",
		reason: "the YAML library of docker compose v5.6, newer than that of the others that stack shares one with, puts values such as yes, N and 49100:22 between single quotes instead of double ones",
		applies: func(c call, ours, theirs outcome) bool {
			return !ours.failed && !theirs.failed && requoted(ours.out) == requoted(theirs.out)
		},
	},
	{
		name:   "hash",
		reason: "stack's hash is that of what it runs, over which it decides what to recreate; it is of the same form",
		applies: func(c call, ours, theirs outcome) bool {
			return c.has("--hash") && !ours.failed && !theirs.failed && withoutHashes(ours.out) == withoutHashes(theirs.out)
		},
	},
	{
		name:   "hash of a provider",
		reason: "nothing of a service with a provider is run, so stack has no hash of it",
		applies: func(c call, ours, theirs outcome) bool {
			return c.has("--hash") && !theirs.failed && strings.Contains(c.project.text(), "provider:") &&
				(ours.failed && strings.HasPrefix(ours.said, "no such service: ") || isSubset(withoutHashes(ours.out), withoutHashes(theirs.out)))
		},
	},
	{
		name:   "files of hooks",
		reason: "pre_start takes over env_file and label_file; the library of docker compose v5.6 does not read them yet, a newer one, which stack has, does; one with a network_mode of its own has no networks",
		applies: func(c call, ours, theirs outcome) bool {
			a, errA := withoutHookFiles(ours.out)
			b, errB := withoutHookFiles(theirs.out)
			return strings.Contains(ours.out, "pre_start") && errors.Join(errA, errB) == nil && reflect.DeepEqual(a, b)
		},
	},
	{
		name:   "label files of a service enabled by name",
		reason: "docker compose has read them already, for the services that were enabled then",
		applies: func(c call, ours, theirs outcome) bool {
			a, errA := withoutLabels(ours.out)
			b, errB := withoutLabels(theirs.out)
			return c.named() && strings.Contains(ours.out, "label_file") && errors.Join(errA, errB) == nil && reflect.DeepEqual(a, b)
		},
	},
	{
		name:   "what only jobs and hooks use",
		reason: "docker compose leaves out the networks, volumes, configs, secrets and models that only jobs and steps of pre_start use, and refuses what is left when it reads it",
		applies: func(c call, ours, theirs outcome) bool {
			if ours.failed || theirs.failed || !strings.Contains(c.project.text(), "jobs:") && !strings.Contains(c.project.text(), "pre_start:") {
				return false
			}
			if c.unordered() {
				return isSubset(theirs.out, ours.out) && !c.has("--services") && !c.has("--images")
			}
			plain := withoutHookFiles
			if c.named() && strings.Contains(ours.out, "label_file") {
				plain = withoutLabels
			}
			a, errA := plain(ours.out)
			b, errB := plain(theirs.out)
			return errors.Join(errA, errB) == nil && sharedOnly(a, b)
		},
	},
	{
		name:   "never met",
		reason: "stack refuses a dependency whose condition can never be met; docker compose waits for it",
		applies: func(c call, ours, theirs outcome) bool {
			return ours.failed && !theirs.failed && onlyOf(neverMet, ours.said)
		},
	},
	{
		name:   "variables of a broken project",
		reason: "docker compose does not look at what else is in the files; stack says what is wrong with them",
		applies: func(c call, ours, theirs outcome) bool {
			return c.has("--variables") && c.refused && ours.failed
		},
	},
	{
		name:   "not supported",
		reason: "--quiet and --hash say already what stack will not run; docker compose leaves this to the daemon",
		applies: func(c call, ours, theirs outcome) bool {
			return (c.has("--quiet") || c.has("--hash")) && ours.failed && !theirs.failed && onlyOf(unsupported, ours.said)
		},
	},
	{
		name:   "API socket of a hook",
		reason: "stack has no API socket yet, and says so of a step of pre_start as soon as it reads it",
		applies: func(_ call, ours, theirs outcome) bool {
			return ours.failed && !theirs.failed && onlyOf(hookSocket, ours.said)
		},
	},
	{
		name:   "content",
		reason: "the content of configs and secrets is part of stack's hash, so it must be there",
		applies: func(c call, ours, theirs outcome) bool {
			return c.has("--hash") && ours.failed && !theirs.failed && onlyOf(missingContent, ours.said)
		},
	},
	{
		name:   "faults of others",
		reason: "stack looks at the services that are named, and what they need; docker compose refuses all for the fault of one",
		applies: func(c call, ours, theirs outcome) bool {
			return c.refused && c.named() && !ours.failed && theirs.failed
		},
	},
	{
		name:   "hash of a service that is not active",
		reason: "naming a service enables its profiles, for --hash as for every verb",
		applies: func(c call, ours, theirs outcome) bool {
			return c.has("--hash") && !ours.failed && theirs.failed && strings.Contains(theirs.said, "no such service: ") && strings.Contains(c.project.text(), "profiles:")
		},
	},
	{
		name:   "content of an included config",
		reason: "docker compose takes the value of a config's variable for a second source when the config is in an included file",
		applies: func(c call, ours, theirs outcome) bool {
			return !ours.failed && theirs.failed && strings.Contains(theirs.said, "file|environment|content attributes are mutually exclusive")
		},
	},
	{
		name:   "types of what is not interpolated",
		reason: "docker compose checks a variable as if it were the value, and refuses it, or ends with a panic, where a number, a truth or one of some words is wanted",
		applies: func(c call, ours, theirs outcome) bool {
			return c.has("--no-interpolate") && !ours.failed && theirs.failed && slices.ContainsFunc([]string{"validating ", "panic: ", "invalid ip address: $"}, func(text string) bool { return strings.Contains(theirs.said, text) })
		},
	},
}

// unsupported is what stack says of what it does not run.
var unsupported = regexp.MustCompile(`^\S+: \S+: (.* (is|are) not supported.*|` +
	".* is outside of network .*|network .* has no subnet of its own for .*|a memory limit of .* is too small to start a process; .*|there is no Docker API socket to hand into a container; .*|" +
	"there is no API server whose socket could be given to a container; .*|unknown device driver .*|cannot use logging (option|driver) .*|" +
	"the swap limit is memory plus swap and needs a memory limit; set that, too)$")

var hookSocket = regexp.MustCompile(`^\S+: \S+\.pre_start\[\d+\]\.use_api_socket: there is no Docker API socket to hand into a container; .*$`)

const jobNames = "names of jobs"

// withoutJobNames takes the names away that are the keys of jobs.
func withoutJobNames(text string) string {
	section, job := "", ""
	var out []string
	for line := range strings.SplitSeq(text, "\n") {
		switch {
		case line != "" && line[0] != ' ':
			section = line
		case section == "jobs:" && len(line) > 2 && line[2] != ' ':
			job = strings.TrimSuffix(line[2:], ":")
		case section == "jobs:" && line == "    name: "+job:
			continue
		}
		out = append(out, line)
	}
	return strings.Join(out, "\n")
}

var neverMet = regexp.MustCompile(`^\S+: \S+: condition \w+ can never be met: .*$`)

// withoutHookFiles parses what config printed, without what hooks have from files.
func withoutHookFiles(text string) (any, error) {
	return changed(text, dropHookFiles)
}

func dropHookFiles(service map[string]any) {
	hooks, _ := service["pre_start"].([]any)
	for _, h := range hooks {
		if hook, ok := h.(map[string]any); ok {
			for _, key := range []string{"env_file", "environment", "label_file", "labels"} {
				delete(hook, key)
			}
			if hook["network_mode"] != nil {
				delete(hook, "networks")
			}
		}
	}
}

// withoutLabels parses what config printed, without the labels of services either.
func withoutLabels(text string) (any, error) {
	return changed(text, func(service map[string]any) {
		dropHookFiles(service)
		delete(service, "labels")
	})
}

// changed parses what config printed and changes each service.
func changed(text string, change func(service map[string]any)) (any, error) {
	var project struct {
		Services map[string]map[string]any `yaml:"services"`
		Rest     map[string]any            `yaml:",inline"`
	}
	err := yaml.Unmarshal([]byte(text), &project)
	for _, s := range project.Services {
		change(s)
	}
	return project, err
}

// sharedOnly says whether a is b but for networks and the like that only a has.
func sharedOnly(a, b any) bool {
	x, y := reflect.ValueOf(a), reflect.ValueOf(b)
	if x.Kind() != reflect.Struct || y.Kind() != reflect.Struct {
		return false
	}
	rest := func(v reflect.Value) map[string]any {
		m, _ := v.FieldByName("Rest").Interface().(map[string]any)
		return maps.Clone(m)
	}
	ours, theirs := rest(x), rest(y)
	for _, section := range []string{"networks", "volumes", "configs", "secrets", "models"} {
		own, _ := ours[section].(map[string]any)
		for name, value := range own {
			others, _ := theirs[section].(map[string]any)
			if other, ok := others[name]; ok && !reflect.DeepEqual(value, other) {
				return false
			}
		}
		others, _ := theirs[section].(map[string]any)
		for name := range others {
			if _, ok := own[name]; !ok {
				return false
			}
		}
		delete(ours, section)
		delete(theirs, section)
	}
	return reflect.DeepEqual(ours, theirs) && reflect.DeepEqual(x.FieldByName("Services").Interface(), y.FieldByName("Services").Interface())
}

// isSubset says whether all lines of a are ones of b.
func isSubset(a, b string) bool {
	lines := strings.Split(b, "\n")
	return !slices.ContainsFunc(strings.Split(a, "\n"), func(line string) bool { return !slices.Contains(lines, line) })
}

// text is all that the files say.
func (p *Project) text() string {
	return strings.Join(slices.Collect(maps.Values(p.Files)), "\n")
}

// missingContent is what it says of content that it has to read.
var missingContent = regexp.MustCompile(`^\S+: \S+: (` + strings.Join([]string{
	`cannot read (config|secret) ".*": file .* does not exist; create it, or correct the path`,
	"no such (config|secret): .*; create it with: stack .*",
	`environment variable "\w+" .*is not set.*`,
}, "|") + ")$|" + unsupported.String())

// onlyOf says whether all that was said, but for warnings, is as expected.
func onlyOf(expected *regexp.Regexp, said string) bool {
	for line := range strings.Lines(said) {
		if line = strings.TrimSpace(line); !strings.HasPrefix(line, "Warning: ") && !expected.MatchString(line) {
			return false
		}
	}
	return true
}

// quoted are values that older YAML would not take for strings.
var quoted = regexp.MustCompile(`'([\w:.+-]+)'`)

func requoted(text string) string { return quoted.ReplaceAllString(text, `"$1"`) }

var hashes = regexp.MustCompile(`(v1:|\b)[0-9a-f]{64}\b`)

func withoutHashes(text string) string { return hashes.ReplaceAllString(text, "HASH") }

// acceptedBy is the name of the rule that accepts a difference.
func acceptedBy(c call, ours, theirs outcome) string {
	for _, r := range accepted {
		if r.applies(c, ours, theirs) {
			return r.name
		}
	}
	return ""
}

// notDrawn are attributes that no project has, with the reason.
var notDrawn = map[string]string{
	"services.*.networks.*.use_service_name_alias":              "docker compose v5.6 does not know it",
	"jobs.*.networks.*.use_service_name_alias":                  "docker compose v5.6 does not know it",
	"services.*.pre_start.[].networks.*.use_service_name_alias": "docker compose v5.6 does not know it",
	"services.*.pre_start.[].env_file":                          "docker compose v5.6 leaves it as it is; newer versions of its library, which stack has, do not",
	"services.*.pre_start.[].label_file":                        "as services.*.pre_start.[].env_file",
	"services.*.pre_start.[].env_file.[].format":                "as services.*.pre_start.[].env_file",
	"services.*.pre_start.[].env_file.[].path":                  "as services.*.pre_start.[].env_file",
	"services.*.pre_start.[].env_file.[].required":              "as services.*.pre_start.[].env_file",
	"services.*.umask":                                          "docker compose v5.6 does not know it",
	"services.*.pre_start.[].umask":                             "docker compose v5.6 does not know it",
	"jobs.*.umask":                                              "docker compose v5.6 does not know it",
	"secrets.*.driver":                                          "stack refuses it: it would run without the secret",
	"secrets.*.driver_opts":                                     "as secrets.*.driver",
	"secrets.*.driver_opts.*":                                   "as secrets.*.driver",
	"secrets.*.template_driver":                                 "stack refuses it: the content would not be what is meant",
	"configs.*.template_driver":                                 "stack refuses it: the content would not be what is meant",
}
