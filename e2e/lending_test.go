package e2e

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestBuildCacheSharesLayers(t *testing.T) {
	b := newBuildBox(t)
	k := newKilling(t, b)
	left := func(t *testing.T) {
		t.Helper()
		eventually(t, 20*time.Second, func() error { return noProcess(t, k.clean) })
	}
	b.write(t, "Dockerfile", unindent(`
		FROM busybox AS made
		RUN head -c 4000000 /dev/urandom > /random && mkdir -p /dir/sub && ln /random /dir/hard && ln -s random /soft && chown 12:34 /dir
		RUN rm -r /dir/sub && chmod 700 /dir
		FROM busybox
		COPY --link --from=made /random /copy
		CMD ["sha256sum", "/random"]
	`))
	build := func(tag, target string) string {
		t.Helper()
		b.ok(t, "image", "build", "--quiet", "--target", target, "-t", tag, ".")
		return strings.TrimSpace(b.ok(t, "image", "inspect", "-f", "{{.Id}}", tag))
	}
	id := build("one", "made")
	sum := b.says(t, "one", "sha256sum", "/random")
	left(t)

	t.Run("what the image has is on the disk once", func(t *testing.T) {
		if n := diskUse(t, filepath.Join(b.dataRoot(), "build/snapshots")); n > 1_000_000 {
			t.Errorf("the build cache has %d bytes of its own", n)
		}
		b.ok(t, "system", "check")
		noted := b.ok(t, "system", "df", "--format", "{{.Type}} {{.Size}}")
		b.ok(t, "builder", "du")
		left(t)
		if now := b.ok(t, "system", "df", "--format", "{{.Type}} {{.Size}}"); now != noted {
			t.Errorf("the sizes are\n%s, a builder that was started says\n%s", noted, now)
		}
	})
	t.Run("the cache outlives the image", func(t *testing.T) {
		b.ok(t, "image", "save", "-o", "base.tar", "busybox")
		b.ok(t, "image", "rm", "one", "busybox")
		b.ok(t, "image", "prune", "--all", "--force")
		b.ok(t, "system", "check")
		b.ok(t, "image", "load", "-i", "base.tar")
		if again := build("one", "made"); again != id {
			t.Errorf("the build was not cached: %s, before %s", again, id)
		}
		if again := b.says(t, "one", "sha256sum", "/random"); again != sum {
			t.Errorf("%q, before %q", again, sum)
		}
	})
	t.Run("further steps build on it", func(t *testing.T) {
		b.write(t, "more/Dockerfile", unindent(`
			FROM one
			RUN test "$(stat -c '%u:%g %a' /dir)" = "12:34 700" && test "$(stat -c %h /random)" = 2 && test ! -e /dir/sub
			RUN rm /dir/hard && echo changed >> /random
			CMD ["sh", "-c", "tail -c 8 /random; ls /dir"]
		`))
		b.ok(t, "image", "build", "--quiet", "-t", "more", "more")
		if out := b.says(t, "more"); out != "changed" {
			t.Errorf("%q", out)
		}
		if again := b.says(t, "one", "sha256sum", "/random"); again != sum {
			t.Errorf("a step changed the layer below: %q, before %q", again, sum)
		}
	})
	t.Run("an image that the builder pulled is on the disk once, too", func(t *testing.T) {
		r := newShelf(t)
		r.put(t, "box", "1", "pulled", randomLayer(t, k.rand, "a", 100, 40<<10))
		b.write(t, "pulled/Dockerfile", "FROM "+r.host()+"/box:1\nRUN touch /x\n")
		b.ok(t, "image", "build", "--quiet", "-t", "pulled", "pulled")
		left(t)
		if n := diskUse(t, filepath.Join(b.dataRoot(), "build/snapshots")); n > 1_000_000 {
			t.Errorf("the build cache has %d bytes of its own", n)
		}
		b.ok(t, "system", "check")
	})
	t.Run("a linked copy is made of it, and no file of a layer gets further names", func(t *testing.T) {
		b.ok(t, "image", "build", "--quiet", "-t", "linked", ".")
		if out := b.says(t, "linked", "sha256sum", "/copy"); strings.Fields(out)[0] != strings.Fields(sum)[0] {
			t.Errorf("%q, want %q", out, sum)
		}
		left(t)
		b.ok(t, "system", "check")
	})
	t.Run("a step that fails leaves nothing", func(t *testing.T) {
		path := filepath.Join(b.dataRoot(), "build/snapshots")
		before := diskUse(t, path)
		b.write(t, "failing/Dockerfile", "FROM busybox\nRUN head -c 3000000 /dev/urandom > /random && false\n")
		b.fails(t, "image", "build", "failing")
		left(t)
		if n := diskUse(t, path); n > before+1_000_000 {
			t.Errorf("the build cache has %d bytes, %d before", n, before)
		}
	})
	t.Run("once it is pruned, nobody keeps the layers", func(t *testing.T) {
		b.ok(t, "builder", "prune", "--all", "--force")
		left(t)
		k.nothingLeft(t)
	})
}
