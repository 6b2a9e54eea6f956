package load

import (
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/schema"
)

// Each attribute of the specification has a rule, so that one which a later
// specification brings is not dropped in silence.
func TestEveryAttributeHasARule(t *testing.T) {
	count := map[verdict]int{}
	for _, path := range schema.AttributePaths() {
		r, ok := attributeRule(string(path))
		if !ok {
			t.Errorf("%s is not in attributes.txt: decide between pass, warn and error", path)
			continue
		}
		count[r.verdict]++
	}
	t.Logf("%d pass, %d warn, %d error", count[pass], count[warned], count[failed])
}

func TestEveryRuleIsAboutAnAttribute(t *testing.T) {
	known := map[string]bool{}
	for _, path := range schema.AttributePaths() {
		known[string(path)] = true
	}
	for _, r := range attributeRules() {
		if !known[r.path] {
			t.Errorf("%s is no attribute of the specification", r.path)
		}
		switch r.verdict {
		case pass:
			if r.reason != "" {
				t.Errorf("%s: pass needs no reason", r.path)
			}
		case warned, failed:
			if r.reason == "" {
				t.Errorf("%s: %s needs a reason", r.path, r.verdict)
			}
		default:
			t.Errorf("%s: unknown verdict %q", r.path, r.verdict)
		}
	}
}

func TestIgnoredAttributesAreSaidOnceWithTheirLine(t *testing.T) {
	o := project(t, map[string]string{"compose.yaml": `version: "3"
services:
  web:
    image: nginx
    cpu_count: 2
    deploy:
      endpoint_mode: vip
      placement: {constraints: [node.role == manager]}
    environment: {A: "${NOT_SET}", B: "${NOT_SET}", C: "${NOT_SET:-x}"}
  api:
    image: nginx
    cpu_count: 2
`})
	_, warnings, err := loaded(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, w := range warnings {
		got = append(got, w.String())
	}
	want := []string{
		"compose.yaml:1: version: is obsolete and ignored; remove it",
		"compose.yaml:5: services.web.cpu_count: has a meaning on Windows only; use cpus",
		"compose.yaml:7: services.web.deploy.endpoint_mode: vip is not acted on: the service's name resolves to the addresses of all replicas (dnsrr)",
		"compose.yaml:8: services.web.deploy.placement: has no meaning on one host",
		"compose.yaml:9: services.web.environment.A: variable NOT_SET is not set and becomes an empty string; set it in the environment or in .env, give a default with ${NOT_SET:-…}, or write $$ for a $",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// attributeRule finds the most specific rule for a path of the schema.
func attributeRule(path string) (rule, bool) {
	var best rule
	found := false
	for _, r := range attributeRules() {
		fits := r.path == path || r.below && strings.HasPrefix(path, r.path+".")
		if fits && (!found || len(r.path) > len(best.path)) {
			best, found = r, true
		}
	}
	return best, found
}
