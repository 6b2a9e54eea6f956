package compat

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/compose-spec/compose-go/v2/schema"
	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v4"

	"github.com/stack-run/stack/e2e/peer"
)

var (
	withPeer = flag.Bool("peer", false, "compare with docker compose")
	seed     = flag.Uint64("seed", 1, "of the first project; the others follow")
	projects = flag.Int("projects", 400, "how many projects are drawn")
	keep     = flag.String("keep", "", "write the projects that differ below this directory")
)

// Every attribute of the specification is drawn, so that one which a later
// specification brings is compared, too.
func TestEveryAttributeIsDrawn(t *testing.T) {
	drawn := map[string]bool{}
	for seed := range uint64(4000) {
		for name, content := range Generate(seed).Files {
			if ext := filepath.Ext(name); ext != ".yaml" && ext != ".yml" {
				continue
			}
			var doc yaml.Node
			if err := yaml.Unmarshal([]byte(content), &doc); err != nil {
				t.Fatalf("seed %d: %s: %v\n%s", seed, name, err, content)
			}
			attributesOf(doc.Content[0], "", drawn)
		}
	}
	for _, p := range schema.AttributePaths() {
		path := string(p)
		reason, left := notDrawn[path]
		switch {
		case !drawn[path] && !left:
			t.Errorf("%s is never drawn; add it to testdata/values.yaml", path)
		case drawn[path] && left:
			t.Errorf("%s is drawn, though it is said not to be: %s", path, reason)
		}
	}
}

// attributesOf collects the paths of a value as the schema has them: any item of a
// list is "[]", and any key may be a name, "*".
func attributesOf(n *yaml.Node, path string, into map[string]bool) {
	into[path] = true
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			for _, key := range []string{n.Content[i].Value, "*"} {
				attributesOf(n.Content[i+1], strings.TrimPrefix(path+"."+key, "."), into)
			}
		}
	case yaml.SequenceNode:
		for _, c := range n.Content {
			attributesOf(c, path+".[]", into)
		}
	}
}

// The same seed draws the same project.
func TestGenerateIsRepeatable(t *testing.T) {
	for seed := range uint64(50) {
		if diff := cmp.Diff(Generate(seed), Generate(seed)); diff != "" {
			t.Fatalf("seed %d: %s", seed, diff)
		}
	}
}

// What config prints is what docker compose prints.
func TestConfig(t *testing.T) {
	if !*withPeer {
		t.Skip("needs -peer")
	}
	b := newBench(t)
	type finding struct {
		seed    uint64
		text    string
		rules   []string
		refused string
	}
	seeds := make(chan uint64)
	found := make(chan finding)
	var workers sync.WaitGroup
	for range 2 {
		workers.Go(func() {
			for seed := range seeds {
				text, rules, refused := b.compare(t.Context(), seed)
				found <- finding{seed, text, rules, refused}
			}
		})
	}
	go func() {
		for i := range uint64(*projects) {
			seeds <- *seed + i
		}
		close(seeds)
		workers.Wait()
		close(found)
	}()
	used := map[string]int{}
	refused := 0
	for f := range found {
		if f.text != "" {
			t.Errorf("seed %d: %s", f.seed, f.text)
		}
		if f.refused != "" {
			refused++
			t.Logf("seed %d is refused by both: %s", f.seed, f.refused)
		}
		for _, rule := range f.rules {
			used[rule]++
		}
	}
	for _, rule := range accepted {
		t.Logf("%4d × %s: %s", used[rule.name], rule.name, rule.reason)
	}
	t.Logf("%d of %d projects are refused by both", refused, *projects)
	if refused*10 > *projects {
		t.Errorf("more than a tenth of the projects are not valid; mend the generator")
	}
}

// bench has the two programs.
type bench struct {
	dir, stack, docker string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{dir: t.TempDir(), stack: os.Getenv("STACK_E2E_BINARY")}
	if b.stack == "" {
		b.stack = filepath.Join(b.dir, "stack")
		if err := peer.Build(t.Context(), "../..", "./cmd/stack", b.stack); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if b.docker, err = peer.Built(t.Context(), "docker-compose"); err != nil {
		t.Fatal(err)
	}
	return b
}

// outcome is what a command did.
type outcome struct {
	out, said string
	failed    bool
}

// compare runs both programs on a project. It returns what differs, the rules that
// accept differences, and why docker compose refuses the project, if both do.
func (b *bench) compare(ctx context.Context, seed uint64) (different string, rules []string, refused string) {
	dir, err := os.MkdirTemp(b.dir, "project-")
	if err != nil {
		return err.Error(), nil, ""
	}
	defer os.RemoveAll(dir)
	p := Generate(seed)
	for name, content := range p.Files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
			return err.Error(), nil, ""
		}
	}
	for i, args := range calls(seed, p) {
		c := call{project: p, args: args, refused: refused != ""}
		ours, theirs := b.run(ctx, dir, b.stack, c), b.run(ctx, dir, b.docker, c)
		if i == 0 && ours.failed && theirs.failed {
			refused = theirs.said
		}
		if without := withoutJobNames(theirs.out); without != theirs.out {
			theirs.out = without
			rules = append(rules, jobNames)
		}
		diff := difference(c, ours, theirs)
		if diff == "" {
			continue
		}
		if rule := acceptedBy(c, ours, theirs); rule != "" {
			rules = append(rules, rule)
			continue
		}
		if *keep != "" {
			if err := os.CopyFS(filepath.Join(*keep, fmt.Sprint(seed)), os.DirFS(dir)); err != nil {
				diff += err.Error()
			}
		}
		return strings.Join(p.Environ, " ") + " " + strings.Join(p.Flags, " ") + " config " + strings.Join(args, " ") + "\n" + diff, rules, refused
	}
	return "", rules, refused
}

func (b *bench) run(ctx context.Context, dir, program string, c call) outcome {
	cmd := exec.CommandContext(ctx, program, append(append(slices.Clone(c.project.Flags), "config"), c.args...)...)
	cmd.Dir = filepath.Join(dir, c.project.Dir)
	cmd.Env = append([]string{
		"PATH=/usr/bin:/bin", "HOME=" + filepath.Join(dir, "home"), "PWD=" + cmd.Dir,
		"STACK_DATA_ROOT=" + filepath.Join(dir, "data"), "STACK_RUN_ROOT=" + filepath.Join(dir, "run"),
	}, c.project.Environ...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	err := cmd.Run()
	o := outcome{out: out.String(), said: said.String(), failed: err != nil}
	if file := c.output(); file != "" {
		content, _ := os.ReadFile(filepath.Join(cmd.Dir, file))
		os.Remove(filepath.Join(cmd.Dir, file))
		o.out += "in the file:\n" + string(content)
	}
	return o
}

// difference says how two outcomes differ, "" if they do not.
func difference(c call, ours, theirs outcome) string {
	switch {
	case ours.failed != theirs.failed:
		return "stack (failed: " + truth(ours.failed) + ") says:\n" + ours.said + "docker compose (failed: " + truth(theirs.failed) + ") says:\n" + theirs.said
	case ours.failed, ours.out == theirs.out:
		return ""
	case c.json():
		var a, b any
		if errors.Join(json.Unmarshal([]byte(ours.out), &a), json.Unmarshal([]byte(theirs.out), &b)) == nil {
			if reflect.DeepEqual(a, b) {
				return ""
			}
			return cmp.Diff(b, a)
		}
	case c.unordered():
		if slices.Equal(sortedLines(ours.out), sortedLines(theirs.out)) {
			return ""
		}
	}
	return cmp.Diff(strings.Split(theirs.out, "\n"), strings.Split(ours.out, "\n"))
}

func truth(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func sortedLines(text string) []string {
	lines := strings.Split(text, "\n")
	slices.Sort(lines)
	return slices.Compact(lines)
}
