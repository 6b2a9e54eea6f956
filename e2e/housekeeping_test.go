package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// diskUse returns the rows of "system df" by type: total, active, size and what
// can be reclaimed.
func (b *box) diskUse(t *testing.T) map[string][4]string {
	t.Helper()
	rows := map[string][4]string{}
	for line := range strings.Lines(b.ok(t, "system", "df", "--format", "{{.Type}}|{{.TotalCount}}|{{.Active}}|{{.Size}}|{{.Reclaimable}}")) {
		f := strings.Split(strings.TrimSpace(line), "|")
		rows[f[0]] = [4]string(f[1:])
	}
	return rows
}

func TestDiskUse(t *testing.T) {
	b := newBuildBox(t).with("STACK_BUILDER_IDLE=2s")
	b.write(t, "Dockerfile", "FROM busybox\nARG n\nRUN echo $n > /n && head -c 3000000 /dev/urandom > /r\n")
	for _, n := range []string{"1", "2"} {
		b.ok(t, "image", "build", "-q", "-t", "app:"+n, "--build-arg", "n="+n, ".")
	}
	b.ok(t, "container", "run", "--name", "user", "app:1", "true")
	t.Run("a builder that runs is asked", func(t *testing.T) {
		if cache := b.diskUse(t)["Build Cache"]; cache[0] == "0" || cache[2] == "0B" {
			t.Errorf("build cache %q", cache)
		}
	})
	b.awaitBuilder(t)
	t.Run("one that left has noted what it left", func(t *testing.T) {
		if cache := b.diskUse(t)["Build Cache"]; cache[0] == "0" || cache[2] == "0B" || cache[2] != cache[3] {
			t.Errorf("build cache %q", cache)
		}
		if exists(filepath.Join(b.runRoot(), "builder", "buildkitd.sock")) {
			t.Error("a builder was started")
		}
	})
	t.Run("shared layers are told apart", func(t *testing.T) {
		for line := range strings.Lines(b.ok(t, "system", "df", "-v", "--format", "{{range .Images}}{{println .Repository .Size .SharedSize .UniqueSize}}{{end}}")) {
			f := strings.Fields(line)
			// Of /r there is a blob and an unpacked file.
			if len(f) == 4 && f[0] == "app" && (f[2] == "0B" || f[2] == f[1] || !strings.HasPrefix(f[3], "6.")) {
				t.Errorf("size, shared and unique: %s", line)
			}
		}
		out := b.ok(t, "system", "df", "-v")
		for _, title := range []string{"SHARED SIZE", "UNIQUE SIZE", "Build cache usage: ", "CACHE ID"} {
			if !strings.Contains(out, title) {
				t.Errorf("no %q in\n%s", title, out)
			}
		}
	})
	t.Run("what can be reclaimed is what prune reclaims", func(t *testing.T) {
		images := b.diskUse(t)["Images"]
		if images[0] != "3" || images[1] != "1" {
			t.Errorf("images %q", images)
		}
		free, _, _ := strings.Cut(images[3], " ")
		if out := b.ok(t, "image", "prune", "-af"); !strings.Contains(out, "reclaimed space: "+free+"\n") {
			t.Errorf("system df said %q, and then\n%s", images, out)
		}
	})
	b.ok(t, "system", "check")
}

func TestLayerOfWhichNothingIsKnown(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.ok(t, "container", "run", "--rm", "busybox", "true")
	infos, err := filepath.Glob(filepath.Join(b.dataRoot(), "layers", "*", "layer.json"))
	must(t, err)
	for _, path := range infos {
		must(t, os.WriteFile(path, nil, 0o600))
	}
	b.ok(t, "image", "prune", "-f")
	if r := b.stack(t, "system", "df"); r.code != 0 || !strings.Contains(r.stderr, "system check --repair") {
		t.Error(r)
	}
	if r := b.fails(t, "system", "check"); !strings.Contains(r.stdout, "layer") {
		t.Error(r)
	}
	b.ok(t, "system", "check", "--repair")
	b.ok(t, "system", "check")
	b.ok(t, "container", "run", "--rm", "busybox", "true")
}
