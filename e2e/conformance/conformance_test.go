package conformance

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Each path of the schema has a row, and each row tests that saw it. That these
// tests ran and saw it is compared where they are.
func TestEveryAttributeWasSeen(t *testing.T) {
	root, _, err := whereami()
	if err != nil {
		t.Fatal(err)
	}
	written, err := read(filepath.Join(root, tableFile))
	if err != nil {
		t.Fatal(err)
	}
	rules, err := readRules(root)
	if err != nil {
		t.Fatal(err)
	}
	// The packages whose TestMain calls Run.
	for _, fault := range faults(written, rules, []string{"compose/load", "e2e"}) {
		t.Error(fault)
	}
	text, err := os.ReadFile(filepath.Join(root, tableFile))
	if err != nil {
		t.Fatal(err)
	}
	if render(written, rules) == string(text) {
		return
	}
	if os.Getenv(WriteVar) == "" {
		t.Fatalf("%s is not what its rows make; write it anew with %s=1", tableFile, WriteVar)
	}
	if err := os.WriteFile(filepath.Join(root, tableFile), []byte(render(written, rules)), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestTheFileHoldsTheTable(t *testing.T) {
	want := table{
		"name":                 {"e2e.TestA": works, "compose/load.TestB": works},
		"services.*.ports":     {"e2e.TestA": works, "e2e.TestB": warns, "e2e.TestC": fails},
		"services.*.cpu_count": {"compose/load.TestB": warns},
	}
	rules := []rule{{path: "services.*.cpu_count", verdict: warns, reason: "has a meaning, on Windows only"}}
	file := filepath.Join(t.TempDir(), "table.md")
	if err := os.WriteFile(file, []byte(render(want, rules)), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := read(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := append(differences(want, got), differences(got, want)...); len(diff) > 0 {
		t.Error(strings.Join(diff, "\n"))
	}
	if again := render(got, rules); again != render(want, rules) {
		t.Error(again)
	}
}

func TestDifferences(t *testing.T) {
	written := table{"name": {"e2e.TestA": works}, "volumes": {"e2e.TestA": works, "compose/load.TestB": works}}
	for _, tt := range []struct {
		name string
		seen table
		want string
	}{
		{"the same", table{"name": {"e2e.TestA": works}, "volumes": {"e2e.TestA": works}}, ""},
		{"more", table{"name": {"e2e.TestA": works}, "volumes": {"e2e.TestA": works, "e2e.TestC": works}}, "volumes: e2e.TestC saw that it works"},
		{"less", table{"volumes": {"e2e.TestA": works}}, "name: no longer seen by e2e.TestA, which saw that it works"},
		{"something else", table{"name": {"e2e.TestA": warns}, "volumes": {"e2e.TestA": works}},
			"name: e2e.TestA saw that it warns\n  name: no longer seen by e2e.TestA, which saw that it works"},
	} {
		if got := strings.TrimSpace(strings.Join(differences(tt.seen, written.of("e2e")), "\n")); got != tt.want {
			t.Errorf("%s: %s", tt.name, got)
		}
	}
}

func TestWith(t *testing.T) {
	written := table{"name": {"e2e.TestA": works, "compose/load.TestB": works}}
	seen := table{"volumes": {"e2e.TestC": works}}
	for instead, want := range map[bool]table{
		true:  {"name": {"compose/load.TestB": works}, "volumes": {"e2e.TestC": works}},
		false: {"name": {"e2e.TestA": works, "compose/load.TestB": works}, "volumes": {"e2e.TestC": works}},
	} {
		got := written.with("e2e", seen, instead)
		if diff := append(differences(got, want), differences(want, got)...); len(diff) > 0 {
			t.Errorf("instead %v: %v", instead, diff)
		}
	}
}

// What a machine cannot show stays in the table, and is not asked for.
func TestUnseen(t *testing.T) {
	written := table{"name": {"e2e.TestA": works}, "volumes": {"e2e.TestA": works}}
	seen := table{"name": {"e2e.TestA": unseen}, "volumes": {"e2e.TestA": works}}
	blind := seen.blind()
	if diff := differences(seen, written.without(blind)); len(diff) > 0 {
		t.Error(diff)
	}
	got := written.with("e2e", seen.and(written, blind), true)
	if diff := append(differences(got, written), differences(written, got)...); len(diff) > 0 {
		t.Error(diff)
	}
}

func TestFaults(t *testing.T) {
	all := table{}
	for _, s := range sections() {
		for _, path := range s.paths {
			all[path] = shown{"e2e.TestA": works}
		}
	}
	rules := []rule{{path: "version", verdict: warns, reason: "old"}, {path: "models", below: true, verdict: fails, reason: "none"}}
	all["version"] = shown{"e2e.TestA": warns}
	for _, path := range expand("models.**") {
		all[path] = shown{"e2e.TestA": fails}
	}
	if got := faults(all, rules, []string{"e2e"}); len(got) > 0 {
		t.Fatal(got)
	}
	all["version"] = shown{"e2e.TestA": works}
	delete(all, "name")
	all["services.*.nosuch"] = shown{"engine.TestB": works}
	got := faults(all, rules, []string{"e2e"})
	for _, want := range []string{"name: no test has seen", "version: warns, says", "services.*.nosuch: is no attribute", "engine.TestB is in a package"} {
		if !slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, want) }) {
			t.Errorf("nothing says %q: %q", want, got)
		}
	}
	if len(got) != 4 {
		t.Errorf("%q", got)
	}
}

func TestExpand(t *testing.T) {
	for pattern, want := range map[string]int{"name": 1, "services.*.gpus": 1, "services.*.gpus.**": 7, "services.*.gpu.**": 0, "nosuch": 0} {
		if got := expand(pattern); len(got) != want {
			t.Errorf("%s stands for %v", pattern, got)
		}
	}
}
