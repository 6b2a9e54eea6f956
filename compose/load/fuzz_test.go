package load

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/compose/spec"
)

// Whatever the file says, the answer is a project or an error of one or more placed
// lines, never a panic. It is the same each time, comes in a time that the length of
// the file bounds, and what it is translated into can be sent and stored.
func FuzzLoad(f *testing.F) {
	for _, seed := range []string{
		minimal, fifty()[:600],
		"x-a: &a {environment: {A: b}}\nservices:\n  web: {<<: *a, image: x, ports: [\"1-2:1-2\", {target: 80, published: 8080}]}\n",
		"services: {a: {extends: b, image: x}, b: {image: ${X:-y}, tmpfs: /a, ulimits: {nofile: 5}}}\nnetworks: {n: {ipam: {config: [{subnet: 10.0.0.0/8}]}}}\n",
		"services: {a: {image: x, volumes: [a:/b, {type: bind, source: ., target: /x}], secrets: [s], depends_on: {a: {condition: service_healthy}}}}\nvolumes: {a: }\nsecrets: {s: {file: x}}\n",
		"services: {db: {image: x}}\njobs: {a: {image: x, depends_on: [db, b], env_file: f, triggers: {schedule: ['0 3 * * 7', {cron: '@daily', timezone: UTC}]}}, b: {image: x, profiles: [p], triggers: {manual: true}}, c: , d: {triggers: {}}}\n",
		"a: &a [*a]\n", "services: *x\n", "? [a]\n: b\n", "services:\n  a: !reset null\n", "include: [compose.yaml]\n", "services: {a: {image: x, healthcheck: {test: []}}}",
	} {
		f.Add(seed)
	}
	deep := deepFiles()
	for _, name := range slices.Sorted(maps.Keys(deep)) {
		f.Add(deep[name])
	}
	f.Add("services: {a: {image: x, scale: -1, deploy: {replicas: 99999999}, ports: [\"1-99:1-99\", \"[::1]:80:80\"]}}\n")
	f.Add("x-a: &a {<<: *b}\nx-b: &b {<<: [*a, {image: x}], <<: *a}\nservices: {a: *b}\n")
	f.Fuzz(func(t *testing.T, yaml string) {
		// No file is read but this one: a device would have no end.
		if strings.Contains(yaml, "/dev") || strings.Contains(yaml, "/proc") {
			return
		}
		began := cpuTime(t)
		o := project(t, map[string]string{"compose.yaml": yaml})
		l, err := Load(t.Context(), o)
		if spent := cpuTime(t) - began; spent > 20*time.Second {
			t.Errorf("%d bytes took %v", len(yaml), spent)
		}
		if m, again := Load(t.Context(), o); fmt.Sprint(err) != fmt.Sprint(again) {
			t.Fatalf("first\n%v\nthen\n%v\nfor:\n%s", err, again, yaml)
		} else if err == nil && !slices.Equal(l.Warnings, m.Warnings) {
			t.Fatalf("first\n%v\nthen\n%v\nfor:\n%s", l.Warnings, m.Warnings, yaml)
		}
		if err != nil {
			if strings.Contains(err.Error(), "internal error") || strings.TrimSpace(err.Error()) == "" {
				t.Fatalf("%v\nfor:\n%s", err, yaml)
			}
			return
		}
		d, _, err := spec.Build(l.Project, spec.HostFacts{Locate: l.Locate})
		if err != nil {
			if strings.TrimSpace(err.Error()) == "" {
				t.Fatal("an error without a text")
			}
			return
		}
		if err := d.Check(); err != nil {
			t.Errorf("it is made and refused: %v\nfor:\n%s", err, yaml)
		}
		sent, err := json.Marshal(d)
		if err != nil {
			t.Fatalf("it cannot be sent: %v\nfor:\n%s", err, yaml)
		}
		var got spec.Desired
		if err := json.Unmarshal(sent, &got); err != nil {
			t.Fatalf("it cannot be received: %v\nfor:\n%s", err, yaml)
		}
		if back, err := json.Marshal(&got); err != nil || string(back) != string(sent) {
			t.Errorf("sent\n%s\nreceived\n%s, %v", sent, back, err)
		}
		if e, _, err := spec.Build(l.Project, spec.HostFacts{Locate: l.Locate}); err != nil {
			t.Errorf("the second time: %v\nfor:\n%s", err, yaml)
		} else if again, _ := json.Marshal(e); string(again) != string(sent) {
			t.Errorf("first\n%s\nthen\n%s\nfor:\n%s", sent, again, yaml)
		}
	})
}

// cpuTime is what this process has used, which does not depend on what else runs on
// the machine.
func cpuTime(t *testing.T) time.Duration {
	var use unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &use); err != nil {
		t.Fatal(err)
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}

// deepFiles are short, and large once they are followed.
func deepFiles() map[string]string {
	const end = "services: {a: {image: x}}\n"
	chain := func(n int, first string, next func(i int) string) string {
		s := "x-0: &a0 " + first + "\n"
		for i := 1; i <= n; i++ {
			s += fmt.Sprintf("x-%d: &a%d %s\n", i, i, next(i-1))
		}
		return s
	}
	return map[string]string{
		"lists of lists":         chain(10, "[x, x]", func(i int) string { return "[" + strings.Repeat(fmt.Sprintf("*a%d, ", i), 10) + "]" }) + end,
		"mappings of mappings":   chain(40, "{a: x}", func(i int) string { return fmt.Sprintf("{a: *a%d, b: *a%d}", i, i) }) + end,
		"merges of merges":       chain(25, "{image: x}", func(i int) string { return fmt.Sprintf("{<<: [*a%d, *a%d]}", i, i) }) + "services: {a: {<<: *a25}}\n",
		"a chain":                chain(500, "{a: x}", func(i int) string { return fmt.Sprintf("{a: *a%d}", i) }) + end,
		"a deep list":            "x-a: " + strings.Repeat("[", 2000) + strings.Repeat("]", 2000) + "\n" + end,
		"a deep mapping":         "x-a: " + strings.Repeat("{a: ", 2000) + strings.Repeat("}", 2000) + "\n" + end,
		"defaults of defaults":   "services: {a: {image: \"" + strings.Repeat("${A:-", 2000) + "x" + strings.Repeat("}", 2000) + "\"}}\n",
		"all ports, many a time": "services: {a: {image: x, ports: [" + strings.Repeat("\"1-65535:1-65535\", ", 20) + "]}}\n",
	}
}

func TestDeepFilesComeToAnEnd(t *testing.T) {
	for name, want := range map[string]string{
		"lists of lists": "excessive aliasing", "mappings of mappings": "excessive aliasing", "merges of merges": "excessive aliasing",
		"a chain": "values are more than 64 deep", "a deep list": "values are more than 64 deep", "a deep mapping": "values are more than 64 deep",
		"defaults of defaults": "variables are more than 64 deep", "all ports, many a time": "more than 131070 ports",
	} {
		t.Run(name, func(t *testing.T) {
			began := cpuTime(t)
			_, err := Load(t.Context(), project(t, map[string]string{"compose.yaml": deepFiles()[name]}))
			if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "compose.yaml:")) {
				t.Errorf("got %v, want %q", err, want)
			}
			if spent := cpuTime(t) - began; spent > 20*time.Second {
				t.Errorf("it took %v", spent)
			}
		})
	}
}

func TestPortsThatClash(t *testing.T) {
	for ports, clash := range map[string]bool{
		`"80:80", "80:81"`: true, `"80:80", "80:80/udp"`: false, `"127.0.0.1:80:80", "127.0.0.2:80:80"`: false,
		`"127.0.0.1:80:80", "80:80"`: true, `"0.0.0.0:80:80", "127.0.0.1:80:80"`: true, `"127.0.0.1:80:80", "127.0.0.2:80:80", "127.0.0.1:80:81"`: true,
		`"[::1]:80:80", "127.0.0.1:80:80"`: false,
	} {
		_, err := Load(t.Context(), project(t, map[string]string{"compose.yaml": "services: {a: {image: x, ports: [" + ports + "]}}\n"}))
		if clash != (err != nil && strings.Contains(err.Error(), "already published")) || !clash && err != nil {
			t.Errorf("%s: %v", ports, err)
		}
	}
}
