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
	t.Run("layers that only the cache has are the cache's", func(t *testing.T) {
		b.ok(t, "container", "rm", "user")
		b.ok(t, "image", "prune", "-af")
		use := b.diskUse(t)
		if images := use["Images"]; images[0] != "0" || images[2] != "0B" {
			t.Errorf("images %q", images)
		}
		// Of each /r there is an unpacked file, at least.
		if cache := use["Build Cache"]; !strings.HasSuffix(cache[2], "MB") || len(cache[2]) < len("6.0MB") || cache[2] != cache[3] {
			t.Errorf("build cache %q", cache)
		}
		b.ok(t, "builder", "prune", "-af")
		if use := b.diskUse(t); use["Build Cache"][2] != "0B" || use["Images"][2] != "0B" {
			t.Errorf("left: %q", use)
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
	if r := b.stack(t, "image", "prune", "-f"); r.code != 0 || !strings.Contains(r.stderr, "system check --repair") {
		t.Error(r)
	}
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

// foretold runs a prune verb dry and then in earnest, and fails if it removes
// other things than it said. It returns what it printed.
func (b *box) foretold(t *testing.T, verb ...string) string {
	t.Helper()
	dry := b.ok(t, append([]string{"--dry-run"}, verb...)...)
	told := strings.NewReplacer("Would delete ", "Deleted ", "Total space that would be reclaimed:", "Total reclaimed space:", "Would be freed:", "Total:").Replace(dry)
	out := b.ok(t, append(verb, "--force")...)
	if told != out {
		t.Errorf("%s says first\n%s\nand then\n%s", strings.Join(verb, " "), dry, out)
	}
	return out
}

func TestPruneDoesWhatTheDryRunSays(t *testing.T) {
	b := newBuildBox(t)
	b.write(t, "Dockerfile", "FROM busybox\nARG n\nRUN echo $n > /n && head -c 3000000 /dev/urandom > /r\nVOLUME /v\n")
	for _, tag := range []string{"runs", "stopped", "unused", "dangling"} {
		b.ok(t, "image", "build", "-q", "-t", tag, "--build-arg", "n="+tag, "--label", "is="+tag, ".")
	}
	b.ok(t, "image", "tag", "busybox", "dangling")
	b.ok(t, "container", "run", "-d", "--name", "runs", "--network", "bridge", "runs", "sleep", "1000")
	b.ok(t, "network", "create", "idle")
	b.ok(t, "network", "create", "--label", "keep", "kept")
	b.ok(t, "network", "create", "busy")
	stop := func() {
		t.Helper()
		b.ok(t, "container", "run", "--name", "stopped", "--network", "busy", "-v", "named:/named", "stopped", "sh", "-c", "head -c 1000000 /dev/urandom > /mine; echo > /v/x")
	}
	stop()
	has := func(out string, want ...string) {
		t.Helper()
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Errorf("no %q in\n%s", w, out)
			}
		}
	}
	id := func(kind, name string) string {
		t.Helper()
		return strings.TrimSpace(b.ok(t, kind, "inspect", "-f", "{{.Id}}", name))
	}
	has(b.foretold(t, "network", "prune", "--filter", "label!=keep"), "idle\n")
	stopped := id("container", "stopped")
	has(b.foretold(t, "container", "prune"), stopped, "reclaimed space: 1.0")
	has(b.foretold(t, "volume", "prune"), "Deleted Volumes:")
	has(b.foretold(t, "image", "prune"), "Deleted Images:\ndeleted: sha256:", "MB\n") // its layer is the build cache's as well
	unused := id("image", "unused")
	has(b.foretold(t, "image", "prune", "--all", "--filter", "label=is=unused"), "untagged: unused:latest\ndeleted: "+unused)
	b.foretold(t, "builder", "prune", "--filter", "type=source.local")

	t.Run("system prune counts what goes with what goes", func(t *testing.T) {
		stop()
		image := id("image", "stopped")
		out := b.foretold(t, "system", "prune", "--all", "--volumes")
		has(out, "Deleted Containers:", "\nbusy\n", "Deleted Volumes:", "Deleted build cache objects:", "deleted: "+image)
		if strings.Contains(out, "named") {
			t.Errorf("a named volume was removed:\n%s", out)
		}
		if use := b.diskUse(t); use["Images"][0] != "1" || use["Build Cache"][0] != "0" || !strings.HasPrefix(use["Images"][3], "0B") {
			t.Errorf("left: %q", use)
		}
	})
	t.Run("what runs stays", func(t *testing.T) {
		b.ok(t, "container", "restart", "-t", "0", "runs")
		if out := b.ok(t, "container", "exec", "runs", "cat", "/n"); out != "runs\n" {
			t.Errorf("%q", out)
		}
		b.ok(t, "system", "check")
	})
}

func TestPlatformsOfAnImage(t *testing.T) {
	b := newBuildBox(t)
	b.write(t, "Dockerfile", "FROM scratch\nARG TARGETARCH\nCOPY Dockerfile /of-$TARGETARCH\n")
	b.ok(t, "image", "build", "-q", "--platform", "linux/amd64,linux/arm64", "-t", "multi", ".")
	platforms := func() string {
		t.Helper()
		var out []string
		for line := range strings.Lines(b.ok(t, "image", "ls", "--tree", "multi")) {
			if _, p, ok := strings.Cut(line, "─ "); ok {
				out = append(out, strings.Fields(p)[0])
			}
		}
		return strings.Join(out, " ")
	}
	if got := platforms(); got != "linux/amd64 linux/arm64" {
		t.Fatalf("built for %q", got)
	}
	b.ok(t, "image", "save", "-o", "both.tar", "multi")
	b.ok(t, "image", "save", "-o", "arm.tar", "--platform", "linux/arm64", "multi")
	b.ok(t, "image", "rm", "--platform", "linux/arm64", "multi")
	if got := platforms(); got != "linux/amd64" {
		t.Errorf("after the removal of arm64 there is %q", got)
	}
	b.ok(t, "image", "rm", "multi")
	b.ok(t, "image", "load", "-i", "arm.tar")
	if got := platforms(); got != "linux/arm64" {
		t.Errorf("saved was %q", got)
	}
	b.ok(t, "image", "rm", "multi")
	b.ok(t, "image", "load", "-i", "both.tar", "--platform", "linux/amd64")
	if got := platforms(); got != "linux/amd64" {
		t.Errorf("loaded was %q", got)
	}
	if r := b.fails(t, "image", "load", "-i", "both.tar", "--platform", "linux/s390x"); !strings.Contains(r.stderr, "linux/arm64") {
		t.Error(r)
	}
	b.ok(t, "system", "check")
}

// An image may be mounted without anything being made from it.
func TestPruneSparesImagesThatAreMounted(t *testing.T) {
	b := newBox(t, "busybox:latest")
	files := func(ref, text string) {
		t.Helper()
		b.ok(t, "container", "run", "--name", "maker", "busybox", "sh", "-c", "echo "+text+" > /text")
		b.ok(t, "container", "commit", "maker", ref)
		b.ok(t, "container", "rm", "maker")
	}
	b.compose(t, `
	services:
		app:
			image: busybox
			command: ["sleep", "1000"]
			volumes: [{type: image, source: "files:1", target: /files}]
	`)
	says := func(want string) {
		t.Helper()
		if out := b.ok(t, "exec", "app", "cat", "/files/text"); out != want+"\n" {
			t.Errorf("%q, want %q", out, want)
		}
	}
	files("files:1", "one")
	b.ok(t, "up", "-d")
	b.ok(t, "image", "prune", "-af")
	says("one")
	b.ok(t, "restart", "-t", "0")
	says("one")
	t.Run("the name leads elsewhere now", func(t *testing.T) {
		files("files:1", "two")
		b.ok(t, "image", "prune", "-af")
		says("one")
		if r := b.fails(t, "image", "rm", "files:1"); !strings.Contains(r.stderr, "app-app-1") {
			t.Error(r)
		}
		b.ok(t, "restart", "-t", "0")
		b.ok(t, "image", "prune", "-af")
		says("two")
	})
	b.ok(t, "down")
	if out := b.ok(t, "image", "prune", "-af"); !strings.Contains(out, "untagged: files:1") {
		t.Error(out)
	}
	b.ok(t, "system", "check")
}
