package load

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stack-run/stack/e2e/conformance"
)

func TestMain(m *testing.M) { os.Exit(conformance.Run(m)) }

// What attributes.txt has warn or fail does so, with its path, line and reason.
func TestRulesAreSaid(t *testing.T) {
	const service = "services:\n  web:\n    image: nginx\n"
	const step = service + "    pre_start:\n      - command: [\"true\"]\n"
	files := map[string]string{
		"version":                                       "version: '3'\n" + service,
		"models":                                        service + "models:\n  m: {model: a/b}\n",
		"networks.*.ipam.options":                       service + "networks:\n  n:\n    ipam:\n      options: {a: b}\n",
		"networks.*.external.name":                      service + "networks:\n  n:\n    external: {name: m}\n",
		"volumes.*.external.name":                       service + "volumes:\n  n:\n    external: {name: m}\n",
		"configs.*.labels":                              service + "configs:\n  n:\n    content: a\n    labels: {a: b}\n",
		"configs.*.external.name":                       service + "configs:\n  n:\n    external: {name: m}\n",
		"configs.*.template_driver":                     service + "configs:\n  n:\n    content: a\n    template_driver: golang\n",
		"secrets.*.labels":                              service + "secrets:\n  n:\n    environment: A\n    labels: {a: b}\n",
		"secrets.*.external.name":                       service + "secrets:\n  n:\n    external: {name: m}\n",
		"secrets.*.driver":                              service + "secrets:\n  n:\n    driver: vault\n",
		"secrets.*.driver_opts":                         service + "secrets:\n  n:\n    environment: A\n    driver_opts: {a: b}\n",
		"secrets.*.template_driver":                     service + "secrets:\n  n:\n    environment: A\n    template_driver: golang\n",
		"services.*.build.isolation":                    service + "    build: {context: ., isolation: hyperv}\n",
		"services.*.cpu_count":                          service + "    cpu_count: 2\n",
		"services.*.cpu_percent":                        service + "    cpu_percent: 20\n",
		"services.*.credential_spec":                    service + "    credential_spec: {file: a.json}\n",
		"services.*.deploy.labels":                      service + "    deploy: {labels: {a: b}}\n",
		"services.*.deploy.placement":                   service + "    deploy: {placement: {max_replicas_per_node: 2}}\n",
		"services.*.deploy.resources.reservations.cpus": service + "    deploy: {resources: {reservations: {cpus: '1'}}}\n",
		"services.*.deploy.resources.reservations.generic_resources": service +
			"    deploy: {resources: {reservations: {generic_resources: [{discrete_resource_spec: {kind: ssd, value: 2}}]}}}\n",
		"services.*.isolation":                                      service + "    isolation: hyperv\n",
		"services.*.models":                                         service + "    models: [m]\nmodels:\n  m: {model: a/b}\n",
		"services.*.pull_refresh_after":                             service + "    pull_policy: refresh\n    pull_refresh_after: 1d\n",
		"services.*.umask":                                          service + "    umask: '0077'\n",
		"services.*.volumes.[].consistency":                         service + "    volumes:\n      - {type: bind, source: ., target: /a, consistency: cached}\n",
		"services.*.pre_start.[].cpu_count":                         step + "        cpu_count: 2\n",
		"services.*.pre_start.[].cpu_percent":                       step + "        cpu_percent: 2\n",
		"services.*.pre_start.[].credential_spec":                   step + "        credential_spec: {file: a.json}\n",
		"services.*.pre_start.[].isolation":                         step + "        isolation: hyperv\n",
		"services.*.pre_start.[].mac_address":                       step + "        mac_address: 02:42:ac:11:00:03\n",
		"services.*.pre_start.[].models":                            step + "        models: [m]\nmodels:\n  m: {model: a/b}\n",
		"services.*.pre_start.[].networks.*.aliases":                step + "        networks: {default: {aliases: [a]}}\n",
		"services.*.pre_start.[].networks.*.ipv4_address":           step + "        networks: {default: {ipv4_address: 10.1.2.3}}\nnetworks: {default: {ipam: {config: [{subnet: 10.1.2.0/24}]}}}\n",
		"services.*.pre_start.[].networks.*.ipv6_address":           step + "        networks: {default: {ipv6_address: 'fd01::3'}}\nnetworks: {default: {ipam: {config: [{subnet: 'fd01::/64'}]}}}\n",
		"services.*.pre_start.[].networks.*.link_local_ips":         step + "        networks: {default: {link_local_ips: [169.254.1.1]}}\n",
		"services.*.pre_start.[].networks.*.mac_address":            step + "        networks: {default: {mac_address: 02:42:ac:11:00:03}}\n",
		"services.*.pre_start.[].networks.*.use_service_name_alias": step + "        networks: {default: {use_service_name_alias: true}}\n",
		"services.*.pre_start.[].pull_refresh_after":                step + "        pull_refresh_after: 1d\n",
		"services.*.pre_start.[].umask":                             step + "        umask: '0077'\n",
		"services.*.pre_start.[].use_api_socket":                    step + "        use_api_socket: true\n",
		"services.*.pre_start.[].volumes.[].consistency":            step + "        volumes:\n          - {type: bind, source: ., target: /a, consistency: cached}\n",
	}
	const job = "services:\n  web:\n    image: nginx\njobs:\n  j:\n    image: nginx\n    triggers: {manual: true}\n"
	for path, text := range maps.Clone(files) {
		if rest, ok := strings.CutPrefix(path, "services."); ok && !strings.Contains(path, "pre_start") {
			files["jobs."+rest] = job + strings.TrimPrefix(text, service)
		}
	}
	for path, r := range unusualRules() {
		t.Run(path, func(t *testing.T) {
			text, ok := files[path]
			if !ok {
				t.Fatal("there is no file that shows it")
			}
			_, warnings, err := loaded(t.Context(), project(t, map[string]string{"compose.yaml": text}))
			var said []string
			for _, w := range warnings {
				said = append(said, w.String())
			}
			if err != nil {
				said = strings.Split(err.Error(), "\n")
			}
			if (err != nil) != (r.verdict == failed) {
				t.Errorf("the error is %v, and the rule %s", err, r.verdict)
			}
			about := slices.DeleteFunc(slices.Clone(said), func(s string) bool {
				place, text, _ := strings.Cut(s, ": ")
				return !strings.HasPrefix(place, "compose.yaml:") || !strings.HasSuffix(text, ": "+r.reason)
			})
			if len(about) != 1 {
				t.Fatalf("it is to be said once, with its place: %q", said)
			}
			pattern := path
			if r.below {
				pattern += ".**"
			}
			if r.verdict == failed {
				conformance.Errors(t, pattern)
			} else {
				conformance.Warns(t, pattern)
			}
		})
	}
}

// What acts while files are read.
func TestAttributesOfFiles(t *testing.T) {
	dir := map[string]string{
		"compose.yaml": `name: chosen
include:
  - one.yaml
  - {path: [two/a.yaml, two/b.yaml], env_file: two/values.env, project_directory: other}
services:
  web: {extends: base, command: web}
  api: {extends: {file: bases.yaml, service: api}}
  base: {image: base:1, command: base}
  rare: {image: rare, profiles: [full]}
`,
		"one.yaml":       "services: {one: {image: one}}\n",
		"two/a.yaml":     "services: {two: {image: \"two:${TAG}\", volumes: [./data:/data]}}\n",
		"two/b.yaml":     "services: {two: {command: b}}\n",
		"two/values.env": "TAG=7\n",
		"other/README":   "",
		"bases.yaml":     "services: {api: {image: api:1}}\n",
	}
	o := project(t, dir)
	load := func() *Loaded {
		t.Helper()
		l, err := Load(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	p := load().Project
	see := func(got, want string, paths ...string) {
		t.Helper()
		if got != want {
			t.Errorf("%v: %q, not %q", paths, got, want)
			return
		}
		conformance.Works(t, paths...)
	}
	see(p.Name, "chosen", "name")
	see(p.Services["one"].Image, "one", "include", "include.[].path")
	see(p.Services["two"].Image, "two:7", "include.[].env_file")
	see(strings.Join(p.Services["two"].Command, " "), "b", "include.[].path")
	see(p.Services["two"].Volumes[0].Source, filepath.Join(o.WorkingDir, "other/data"), "include.[].project_directory")
	see(p.Services["web"].Image+" "+p.Services["web"].Command[0], "base:1 web", "services.*.extends")
	see(p.Services["api"].Image, "api:1", "services.*.extends.file", "services.*.extends.service")
	if _, ok := p.Services["rare"]; ok {
		t.Error("a service of a profile that is not enabled is there")
	}
	o.Profiles = []string{"full"}
	see(load().Project.Services["rare"].Image, "rare", "services.*.profiles")
}
