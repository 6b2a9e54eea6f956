package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mattn/go-shellwords"

	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/engine"
)

// update says that the golden files are to be written anew: go test -update.
func update() bool {
	f := flag.Lookup("update")
	return f != nil && f.Value.String() == "true"
}

func init() { flag.Bool("update", false, "write golden files") }

// TestGolden runs the command lines of testdata/golden, "$ stack ps -a", and
// compares what follows: stdout as it is, lines of stderr after "2> ", and the
// exit code when it is not 0. A file's name says where the command runs.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/golden/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no golden files", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var got strings.Builder
			for line := range strings.Lines(string(data)) {
				command, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "$ stack")
				if !ok {
					if strings.HasPrefix(line, "# ") {
						got.WriteString(line)
					}
					continue
				}
				got.WriteString(line)
				got.WriteString(transcript(t, file, command))
			}
			if update() {
				if err := os.WriteFile(file, []byte(got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got.String() != string(data) {
				t.Errorf("got\n%s\nwant\n%s", got.String(), data)
			}
		})
	}
}

func transcript(t *testing.T, file, command string) string {
	t.Helper()
	words, err := shellwords.Parse(command)
	if err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	dir := "shop"
	if strings.Contains(file, "outside") {
		dir = t.TempDir()
	}
	s := newSession(t, dir)
	s.fake.logs = lines(s.fake.containers)
	s.fake.stats = samples(s.fake.containers)
	s.fake.events = happenings(s.fake.containers)
	if dir == "shop" {
		s.fake.definition["shop"] = s.desired(t)
	}
	out, errOut, code := s.do(t, words...)
	var b strings.Builder
	b.WriteString(out)
	for line := range strings.Lines(errOut) {
		b.WriteString("2> " + strings.TrimSuffix(line, "\n") + "\n")
	}
	for _, call := range s.fake.noted() {
		b.WriteString("engine: " + call + "\n")
	}
	if code != 0 {
		fmt.Fprintf(&b, "[exit %d]\n", code)
	}
	b.WriteString("\n")
	if filepath.IsAbs(dir) {
		return strings.ReplaceAll(b.String(), dir, "DIR")
	}
	return b.String()
}

func lines(cs []engine.Container) []compose.LogLine {
	return []compose.LogLine{
		{Container: cs[0], Stream: "stdout", Time: clock(), Text: []byte("GET /")},
		{Container: cs[2], Stream: "stderr", Time: clock(), Text: []byte("LOG:  checkpoint")},
		{Container: cs[1], Stream: "stdout", Time: clock(), Text: []byte("GET "), Partial: true},
		{Container: cs[1], Stream: "stdout", Time: clock(), Text: []byte("/cart")},
		{Container: cs[4], Stream: "stdout", Time: clock(), Text: []byte("box says hi")},
	}
}

func samples(cs []engine.Container) []compose.Stats {
	return []compose.Stats{
		{Container: cs[0], CPUPercent: 12.345, Memory: 25 << 20, MemoryLimit: 2 << 30, NetRx: 1234, NetTx: 5678901, BlockRead: 0, BlockWrite: 4096, PIDs: 7},
		{Container: cs[3]},
	}
}

func happenings(cs []engine.Container) []compose.EngineEvent {
	return []compose.EngineEvent{
		{Time: clock(), Type: "container", Action: "start", ID: cs[0].ID, Project: "shop", Service: "web",
			Attributes: map[string]string{"name": "shop-web-1", "image": "shop/web", "com.docker.compose.project": "shop"}},
		{Time: clock(), Type: "container", Action: "health_status: healthy", ID: cs[0].ID, Project: "shop", Service: "web",
			Attributes: map[string]string{"name": "shop-web-1", "image": "shop/web"}},
		{Time: clock(), Type: "network", Action: "create", ID: id('c'), Project: "shop", Attributes: map[string]string{"name": "shop_default"}},
	}
}
