package load

import (
	"strings"
	"testing"

	"github.com/stack-run/stack/compose/spec"
)

// Whatever the file says, the answer is a project or an error of one or more
// placed lines, never a panic.
func FuzzLoad(f *testing.F) {
	for _, seed := range []string{
		minimal, fifty()[:600],
		"x-a: &a {environment: {A: b}}\nservices:\n  web: {<<: *a, image: x, ports: [\"1-2:1-2\", {target: 80, published: 8080}]}\n",
		"services: {a: {extends: b, image: x}, b: {image: ${X:-y}, tmpfs: /a, ulimits: {nofile: 5}}}\nnetworks: {n: {ipam: {config: [{subnet: 10.0.0.0/8}]}}}\n",
		"services: {a: {image: x, volumes: [a:/b, {type: bind, source: ., target: /x}], secrets: [s], depends_on: {a: {condition: service_healthy}}}}\nvolumes: {a: }\nsecrets: {s: {file: x}}\n",
		"a: &a [*a]\n", "services: *x\n", "? [a]\n: b\n", "services:\n  a: !reset null\n", "include: [compose.yaml]\n", "services: {a: {image: x, healthcheck: {test: []}}}",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, yaml string) {
		o := project(t, map[string]string{"compose.yaml": yaml})
		l, err := Load(t.Context(), o)
		if err != nil {
			if strings.Contains(err.Error(), "internal error") || strings.TrimSpace(err.Error()) == "" {
				t.Fatalf("%v\nfor:\n%s", err, yaml)
			}
			return
		}
		if _, _, err := spec.Build(l.Project, spec.HostFacts{Locate: l.Locate}); err != nil && strings.TrimSpace(err.Error()) == "" {
			t.Fatal("an error without a text")
		}
	})
}
