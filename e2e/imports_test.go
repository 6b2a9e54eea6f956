package e2e

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/stack-run/stack"

// A ban forbids packages to import others, directly or through further packages.
type ban struct {
	from   []string // package patterns relative to the module, "engine/..." for all below
	except []string
	to     []string // patterns; with a dot in the first element, an outside package
	direct bool     // only a package's own imports count
	// reached has the ban hold for all packages of the module that from reaches.
	reached bool
	why     string
}

func bans() []ban {
	domains := []string{"engine/...", "netns/...", "volumes/...", "healthcheck/..."}
	return []ban{
		{
			from: []string{"..."}, except: []string{"cmd/..."}, to: []string{"cmd/..."},
			why: "the command line is the outermost layer: whatever it decides could not be used without it",
		},
		{
			from: domains, to: []string{"compose/..."},
			why: "the engine runs containers whatever asked for them; Compose is one of its users",
		},
		{
			from: []string{"compose/plan", "compose/machine", "compose/schedule", "compose/watch", "compose/diagnosis", "compose/startup"}, reached: true, direct: true,
			to: []string{
				"os", "os/...", "io/fs", "net", "net/http/...", "syscall", "log", "context", "math/rand/...", "crypto/rand", "testing",
				"golang.org/x/sys/...", "github.com/vishvananda/...", "github.com/google/nftables/...", "github.com/fsnotify/...",
				"github.com/opencontainers/...", "github.com/compose-spec/...",
			},
			why: "a decision is a pure function of what is wanted, what is observed and what happened: its print is its test, and " +
				"what it stands on must not be able to look at anything else either",
		},
		{
			from: []string{"..."}, except: []string{"compose/load", "compose/load/...", "compose/spec", "cmd/...", "e2e/..."},
			to: []string{"github.com/compose-spec/compose-go/..."}, direct: true,
			why: "the Compose model ends where it is translated into the engine's terms",
		},
		{
			from: []string{"netns/...", "volumes/...", "healthcheck/..."}, to: []string{"engine/..."},
			why: "the engine puts them together; a probe arrives as a function",
		},
		{
			from: []string{"netns/..."}, to: []string{"volumes/...", "healthcheck/..."},
			why: "a network knows nothing of mounts and probes",
		},
		{
			from: []string{"volumes/..."}, to: []string{"netns/...", "healthcheck/..."},
			why: "a mount knows nothing of networks and probes",
		},
		{
			from: []string{"healthcheck/..."}, to: []string{"netns/...", "volumes/..."},
			why: "a probe knows nothing of networks and mounts",
		},
		{
			from: []string{"engine/runtime", "engine/runtime/..."},
			to:   []string{"engine", "engine/image/...", "engine/registry/...", "engine/build/...", "engine/content/...", "compose/..."},
			why:  "the runtime takes a resolved specs.Spec: it knows no image, registry or Compose word",
		},
		{
			from: []string{"engine/sealed"}, to: []string{"engine", "engine/container", "volumes/...", "compose/..."},
			why: "what is secret is read by little code, which depends on little",
		},
		{
			from: []string{"compose/provider"}, to: []string{"engine/...", "netns/...", "volumes/...", "healthcheck/...", "compose/supervise/..."}, direct: true,
			why: "what stands for a service is another program: it has no container",
		},
		{
			from:   []string{"compose/load", "compose/load/...", "compose/spec", "compose/plan", "compose/apply", "healthcheck", "engine/image", "engine/registry/..."},
			to:     []string{"golang.org/x/sys/..."},
			direct: true,
			why:    "decisions and formats do not talk to the kernel",
		},
		{
			from: []string{"..."}, except: []string{"examples/...", "e2e/..."}, to: []string{"examples/...", "e2e/..."},
			why: "examples and tests use the product, not the other way round",
		},
		{
			from: []string{"internal/..."},
			to:   []string{"cmd/...", "compose/...", "engine/...", "netns/...", "volumes/...", "healthcheck/..."},
			why:  "what all floors stand on stands on none of them",
		},
		{
			from: []string{"cmd/stack/..."}, direct: true,
			to: []string{
				"compose/supervise/...", "engine/runtime/...", "engine/cgroup/...", "engine/logs/...",
				"engine/image/...", "engine/registry/...", "engine/snapshot/...", "engine/content/...", "engine/build",
				"netns/ipam/...", "netns/nft/...", "netns/dns/...", "netns/link/...", "github.com/vishvananda/...",
			},
			why: "there is one door, package compose: what the command line did behind it no other client could do",
		},
		{
			from: []string{"cmd/stack/internal/cli"},
			to:   rooms("container", "image", "network", "volume", "secret", "project", "system"),
			why:  "what all rooms of the command line share knows none of them",
		},
		{
			from: rooms("image", "network", "volume", "secret"),
			to:   rooms("container", "image", "network", "volume", "secret", "project", "system"),
			why:  "a room of one kind of object needs no other; those of projects and of the machine put them together",
		},
		{
			from: rooms("container"),
			to:   rooms("image", "volume", "secret", "project", "system"),
			why:  "as above, but for the networks that a container is put on",
		},
		{
			from: []string{"..."}, except: []string{"engine", "engine/image", "compose", "cmd/..."},
			to: []string{"github.com/moby/moby/..."}, direct: true,
			why: "Docker's types are what inspect shows; what is stored and decided has types of its own",
		},
		{
			from: []string{"cmd/stack"}, to: []string{"testing"},
			why: "test code in the binary costs start-up time",
		},
	}
}

// rooms are the patterns of packages of the command line.
func rooms(names ...string) []string {
	var out []string
	for _, n := range names {
		out = append(out, "cmd/stack/internal/"+n)
	}
	return out
}

// goPackage is what go list says about a package.
type goPackage struct {
	ImportPath string
	Name       string
	Doc        string
	Imports    []string
	Deps       []string
	Standard   bool
}

// modulePackages lists the packages of this module.
func modulePackages(t *testing.T) []goPackage {
	t.Helper()
	dir := ".."
	if shared != nil {
		dir = shared.Module
	}
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Name,Doc,Imports,Deps", "./...")
	cmd.Dir = dir
	out, err := cmd.Output()
	must(t, err)
	var all []goPackage
	d := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p goPackage
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all
		}
		must(t, err)
		all = append(all, p)
	}
}

// matches reports whether an import path is meant by one of the patterns.
func matches(importPath string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		first, _, _ := strings.Cut(p, "/")
		outside := first != "..." && strings.Contains(first, ".") || slices.Contains([]string{"os", "io", "net", "syscall", "testing", "log", "context", "math", "crypto"}, first)
		if !outside {
			rel, ok := strings.CutPrefix(importPath, module+"/")
			if !ok {
				return false
			}
			importPath := rel
			return p == "..." || matchOne(importPath, p)
		}
		return matchOne(importPath, p)
	})
}

// reachedBy are the patterns and the packages of the module below them.
func reachedBy(all []goPackage, patterns []string) []string {
	out := slices.Clone(patterns)
	for _, p := range all {
		if !matches(p.ImportPath, patterns) {
			continue
		}
		for _, dep := range p.Deps {
			if rel, ok := strings.CutPrefix(dep, module+"/"); ok && !slices.Contains(out, rel) {
				out = append(out, rel)
			}
		}
	}
	return out
}

func matchOne(importPath, pattern string) bool {
	if dir, ok := strings.CutSuffix(pattern, "/..."); ok {
		return importPath == dir || strings.HasPrefix(importPath, dir+"/")
	}
	return importPath == pattern
}

func TestImportRules(t *testing.T) {
	all := modulePackages(t)
	for _, b := range bans() {
		t.Run(strings.Join(b.from, " ")+" must not import "+strings.Join(b.to, " "), func(t *testing.T) {
			from := b.from
			if b.reached {
				from = reachedBy(all, from)
			}
			for _, p := range all {
				if !matches(p.ImportPath, from) || matches(p.ImportPath, b.except) {
					continue
				}
				imports := p.Deps
				if b.direct {
					imports = p.Imports
				}
				for _, i := range imports {
					if matches(i, b.to) {
						t.Errorf("%s imports %s; it must not: %s", p.ImportPath, i, b.why)
					}
				}
			}
		})
	}
}

func TestPackages(t *testing.T) {
	for _, p := range modulePackages(t) {
		if p.Doc == "" {
			t.Errorf("%s has no package comment: say what it is for", p.ImportPath)
		}
		switch path.Base(p.ImportPath) {
		case "util", "utils", "common", "helpers", "types", "misc":
			t.Errorf("%s: a package is named after what it provides", p.ImportPath)
		}
		top, _, _ := strings.Cut(strings.TrimPrefix(p.ImportPath, module+"/"), "/")
		if !slices.Contains([]string{"cmd", "compose", "engine", "netns", "volumes", "healthcheck", "internal", "examples", "e2e"}, top) {
			t.Errorf("%s: the top level of the module is fixed", p.ImportPath)
		}
	}
}

// Files and directories that ARCHITECTURE.md and CONTRIBUTING.md name are there, but for
// what is built. The tables of what is stored begin their rows with "| data" and "| run".
func TestPathsInDocuments(t *testing.T) {
	quoted := regexp.MustCompile("`([^`]+)`")
	file := regexp.MustCompile(`^[a-z][\w.-]*(/[\w.-]+)+$`)
	for _, name := range []string{"ARCHITECTURE.md", "CONTRIBUTING.md"} {
		text, err := os.ReadFile(filepath.Join(shared.Module, name))
		must(t, err)
		for i, line := range strings.Split(string(text), "\n") {
			if strings.HasPrefix(line, "| data ") || strings.HasPrefix(line, "| run ") {
				continue
			}
			for _, m := range quoted.FindAllStringSubmatch(line, -1) {
				if !file.MatchString(m[1]) || strings.HasPrefix(m[1], "bin/") {
					continue
				}
				if _, err := os.Stat(filepath.Join(shared.Module, m[1])); err != nil {
					t.Errorf("%s:%d: there is no %s", name, i+1, m[1])
				}
			}
		}
	}
}

// A document names a test as the proof of what it says.
func TestTestsInDocuments(t *testing.T) {
	tests := map[string]bool{}
	must(t, filepath.WalkDir(shared.Module, func(path string, d os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllSubmatch(text, -1) {
			tests[string(m[1])] = true
		}
		return err
	}))
	for _, name := range []string{"compose/PAINS.md", "SECURITY.md"} {
		text, err := os.ReadFile(filepath.Join(shared.Module, name))
		must(t, err)
		for i, line := range strings.Split(string(text), "\n") {
			for _, m := range regexp.MustCompile("`(Test\\w+)`").FindAllStringSubmatch(line, -1) {
				if !tests[m[1]] {
					t.Errorf("%s:%d: there is no %s", name, i+1, m[1])
				}
			}
		}
	}
}
