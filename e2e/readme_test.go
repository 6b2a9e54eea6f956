package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// readmeCommands returns the commands of README.md's console blocks.
func readmeCommands(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(shared.Module, "README.md"))
	must(t, err)
	var commands []string
	inside := false
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\n")
		switch {
		case line == "```console":
			inside = true
		case line == "```":
			inside = false
		case inside:
			c, ok := strings.CutPrefix(line, "$ ")
			if !ok {
				t.Fatalf("README.md: %q is not a command: the line must begin with $", line)
			}
			commands = append(commands, c)
		}
	}
	return commands
}

// TestReadme runs every command of README.md in their order, in one shell, in a
// clean copy of the module. The one that runs the tests runs already.
func TestReadme(t *testing.T) {
	b := newBox(t)
	clean := snap(t, b)
	b = b.in(t, "clone")
	cloneModule(t, b.dir)

	commands := readmeCommands(t)
	const first, tests = "make example", "make test"
	if commands[0] != first || commands[1] != tests {
		t.Fatalf("README.md must begin with %q and %q: %q", first, tests, commands[:2])
	}
	// Each command is announced, so that a failure is seen to be its.
	var script strings.Builder
	script.WriteString("set -euo pipefail\n")
	for _, c := range commands {
		if c == tests {
			continue
		}
		fmt.Fprintf(&script, "printf '%%s\\n' %s >&3\n%s\n", quote("$ "+c), c)
	}
	cmd := exec.CommandContext(t.Context(), "bash", "-c", script.String())
	cmd.Dir = b.dir
	cmd.Env = append(b.installation().Environ(), "SHOP_PORT=8080", "STACK_BUILDER_IDLE=2s", "XDG_CACHE_HOME="+filepath.Dir(imageCache(t)),
		"GOCACHE="+shared.GoCache, "GOMODCACHE="+shared.GoModCache)
	announced, err := os.Create(filepath.Join(b.root, "announced"))
	must(t, err)
	defer announced.Close()
	cmd.ExtraFiles = []*os.File{announced} // descriptor 3
	cmd.WaitDelay = 2 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		said, _ := os.ReadFile(announced.Name())
		lines := strings.Split(strings.TrimSpace(string(said)), "\n")
		t.Fatalf("%s: %v: %s", lines[len(lines)-1], err, tail(string(out)))
	}
	if !strings.Contains(string(out), "Teapot") {
		t.Errorf("the page was not fetched: %s", tail(string(out)))
	}
	b.awaitBuilder(t)
	// Its cache stays, as images do, and the key for secrets to come.
	b.nothingLeft(t, clean, "file data/build/", "file run/builder/", "file data/sealed/")
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// imageCache is the directory of the images that are made already.
func imageCache(t *testing.T) string {
	t.Helper()
	for _, img := range shared.Images {
		return filepath.Dir(img.Tar)
	}
	t.Fatal("there are no images")
	return ""
}

// cloneModule copies what a clone of the repository would hold.
func cloneModule(t *testing.T, to string) {
	t.Helper()
	list := exec.Command("git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	list.Dir = shared.Module
	out, err := list.Output()
	must(t, err)
	for _, name := range strings.Split(strings.TrimRight(string(out), "\x00"), "\x00") {
		from := filepath.Join(shared.Module, name)
		info, err := os.Stat(from)
		if os.IsNotExist(err) {
			continue // deleted, but not yet committed
		}
		must(t, err)
		text, err := os.ReadFile(from)
		must(t, err)
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(to, name)), 0o755))
		must(t, os.WriteFile(filepath.Join(to, name), text, info.Mode().Perm()))
	}
}
