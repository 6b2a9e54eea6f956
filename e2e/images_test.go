package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestImages(t *testing.T) {
	b := newBox(t, "busybox:latest")
	t.Run("ls, inspect and tag know an image by all its names", func(t *testing.T) {
		b.ok(t, "image", "tag", "busybox", "other.example/box:v1")
		id := func(ref string) string {
			return strings.TrimSpace(b.ok(t, "image", "inspect", "--format", "{{.Id}}", ref))
		}
		if id("busybox") != id("other.example/box:v1") || id("busybox") != id("docker.io/library/busybox:latest") {
			t.Error("the names mean different images")
		}
		if out := b.ok(t, "image", "ls"); !strings.Contains(out, "other.example/box") {
			t.Error(out)
		}
	})
	t.Run("import takes gzip, and changes of the configuration", func(t *testing.T) {
		img := shared.Images["busybox:latest"]
		raw, err := os.ReadFile(img.Tar)
		must(t, err)
		var z bytes.Buffer
		w := gzip.NewWriter(&z)
		w.Write(raw)
		must(t, w.Close())
		b.write(t, "box.tar.gz", z.String())
		b.ok(t, "image", "import", "--change", `ENTRYPOINT ["echo"]`, "--change", `CMD ["it", "works"]`,
			"--change", `ENV A="b c"`, "--change", "WORKDIR /tmp", "--change", "USER 12:34", "--change", "LABEL x=y",
			"--change", "STOPSIGNAL SIGUSR1", "--change", "EXPOSE 80 53/udp", "--change", "VOLUME /v", "box.tar.gz", "made:1")
		if out := b.ok(t, "container", "run", "--rm", "made:1"); out != "it works\n" {
			t.Errorf("%q", out)
		}
		out := b.ok(t, "container", "run", "--rm", "--entrypoint", "sh", "made:1", "-c", "echo $A; pwd; id -u; id -g")
		if out != "b c\n/tmp\n12\n34\n" {
			t.Errorf("%q", out)
		}
		var list []struct{ Config map[string]any }
		must(t, json.Unmarshal([]byte(b.ok(t, "image", "inspect", "made:1")), &list))
		if c := list[0].Config; c["StopSignal"] != "SIGUSR1" || fmt.Sprint(c["ExposedPorts"]) != "map[53/udp:map[] 80/tcp:map[]]" || fmt.Sprint(c["Volumes"]) != "map[/v:map[]]" {
			t.Errorf("%v", c)
		}
	})
	t.Run("load takes a docker-archive with layers and whiteouts", func(t *testing.T) {
		b.write(t, "layers.tar", string(dockerArchive(t, "layered:1")))
		b.ok(t, "image", "load", "-i", "layers.tar")
		out := b.ok(t, "container", "run", "--rm", "layered:1", "/bin/sh", "-c", "ls /data /opaque; cat /data/changed")
		if strings.Contains(out, "deleted") || strings.Contains(out, "hidden") || !strings.Contains(out, "second") {
			t.Errorf("%q", out)
		}
	})
	t.Run("a damaged archive is refused and leaves no image", func(t *testing.T) {
		good := dockerArchive(t, "damaged:1")
		bad := bytes.Replace(good, []byte("second"), []byte("sEcond"), 1)
		b.write(t, "bad.tar", string(bad))
		r := b.fails(t, "image", "load", "-i", "bad.tar")
		if !strings.Contains(r.stderr, "digest") && !strings.Contains(r.stderr, "sha256") && !strings.Contains(r.stderr, "diff") {
			t.Errorf("the error does not say what is wrong: %v", r)
		}
		b.fails(t, "image", "inspect", "damaged:1")
	})
	t.Run("an archive cannot write outside of the image", func(t *testing.T) {
		var a bytes.Buffer
		w := tar.NewWriter(&a)
		for _, h := range []tar.Header{
			{Name: "link", Typeflag: tar.TypeSymlink, Linkname: b.dir},
			{Name: "link/escaped", Typeflag: tar.TypeReg, Mode: 0o644},
			{Name: "../../escaped", Typeflag: tar.TypeReg, Mode: 0o644},
			{Name: b.dir + "/escaped", Typeflag: tar.TypeReg, Mode: 0o644},
		} {
			must(t, w.WriteHeader(&h))
		}
		must(t, w.Close())
		b.write(t, "evil.tar", a.String())
		b.stack(t, "image", "import", "evil.tar", "evil:1")
		if exists(filepath.Join(b.dir, "escaped")) || exists(filepath.Join(b.root, "escaped")) {
			t.Error("a file was written outside")
		}
	})
	t.Run("an image in use is not removed, and its space comes back once it is", func(t *testing.T) {
		b.ok(t, "container", "create", "--name", "user", "made:1")
		if r := b.stack(t, "image", "rm", "made:1"); r.code == 0 || !strings.Contains(r.stderr, "user") {
			t.Errorf("the error must name the container: %v", r)
		}
		b.ok(t, "container", "rm", "--volumes", "user")
		b.ok(t, "image", "rm", "made:1", "layered:1", "busybox", "other.example/box:v1")
		b.stack(t, "image", "rm", "evil:1")
		if n := diskUse(t, b.dataRoot()); n > 200_000 {
			t.Errorf("%d bytes are left", n)
		}
	})
}

// TestImageSizes looks for an image's size wherever it is told.
func TestImageSizes(t *testing.T) {
	b := newBox(t)
	var a bytes.Buffer
	w := tar.NewWriter(&a)
	// It compresses to nearly nothing.
	must(t, w.WriteHeader(&tar.Header{Name: "big", Typeflag: tar.TypeReg, Mode: 0o644, Size: 5 << 20}))
	_, err := w.Write(bytes.Repeat([]byte("x"), 5<<20))
	must(t, err)
	must(t, w.Close())
	b.write(t, "big.tar", a.String())
	b.ok(t, "image", "import", "--change", "LABEL k=v", "big.tar", "big:1")
	one := func(args ...string) string {
		t.Helper()
		return strings.TrimSpace(b.ok(t, args...))
	}
	want := one("image", "ls", "--format", "{{.Size}}")
	if !strings.HasPrefix(want, "5.2") || !strings.HasSuffix(want, "MB") {
		t.Errorf("image ls says %s", want)
	}
	if got := one("image", "inspect", "--format", "{{.Size}}", "big:1"); !strings.HasPrefix(got, "52") || len(got) != 7 {
		t.Errorf("inspect says %s", got)
	}
	if got := one("image", "history", "--format", "{{.Size}}", "big:1"); !strings.HasPrefix(got, "5.2") {
		t.Errorf("history says %s", got)
	}
	if got := one("system", "df", "-v", "--format", "{{range .Images}}{{.Size}}{{end}}"); got != want {
		t.Errorf("system df -v says %s, image ls %s", got, want)
	}
	if got := b.diskUse(t)["Images"][2]; !strings.HasPrefix(got, "5.2") {
		t.Errorf("system df says %s", got)
	}
	if got := one("image", "ls", "--format", "{{.ContentSize}}"); !strings.HasSuffix(got, "kB") {
		t.Errorf("the content takes %s", got)
	}
	if got := b.ok(t, "image", "ls"); !strings.Contains(got, "DISK USAGE") || !strings.Contains(got, "CONTENT SIZE") {
		t.Errorf("%s", got)
	}
	for filter, want := range map[string]string{"label!=k": "", "label!=k=v": "", "label!=k=w": "big", "label!=other": "big"} {
		if got := one("image", "ls", "--filter", filter, "--format", "{{.Repository}}"); got != want {
			t.Errorf("%s: %q, want %q", filter, got, want)
		}
	}
}

func TestImportsAtOnce(t *testing.T) {
	b := newBox(t)
	img := shared.Images["busybox:latest"]
	var cmds []string
	for i := range 8 {
		cmds = append(cmds, fmt.Sprintf("image import %s box:%d", img.Tar, i))
	}
	for _, r := range b.atOnce(t, cmds...) {
		if r.code != 0 {
			t.Error(r)
		}
	}
	for i := range 8 {
		b.ok(t, "container", "run", "--rm", "--network", "none", fmt.Sprintf("box:%d", i), "true")
	}
}

// dockerArchive makes what "docker save" writes: a BusyBox layer, one with
// files, one that deletes and changes some of them, and further ones.
func dockerArchive(t *testing.T, ref string, more ...[]byte) []byte {
	t.Helper()
	base, err := os.ReadFile(shared.Images["busybox:latest"].Tar)
	must(t, err)
	layers := append([][]byte{base,
		tarOf(t, "data/", "", "data/deleted", "first\n", "data/changed", "first\n", "opaque/", "", "opaque/hidden", "x\n"),
		tarOf(t, "data/.wh.deleted", "", "data/changed", "second\n", "opaque/.wh..wh..opq", "", "opaque/new", "y\n"),
	}, more...)
	var diffs, paths []string
	files := []string{}
	for i, l := range layers {
		sum := sha256.Sum256(l)
		diffs = append(diffs, "sha256:"+hex.EncodeToString(sum[:]))
		paths = append(paths, fmt.Sprintf("%d/layer.tar", i))
		files = append(files, paths[i], string(l))
	}
	config, err := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux",
		"config": map[string]any{"Env": []string{"PATH=/bin"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffs},
	})
	must(t, err)
	manifest, err := json.Marshal([]any{map[string]any{"Config": "config.json", "RepoTags": []string{ref}, "Layers": paths}})
	must(t, err)
	return tarOf(t, append(files, "config.json", string(config), "manifest.json", string(manifest))...)
}

// tarOf makes a tar of name, content pairs; a name with a slash at its end is a
// directory.
func tarOf(t *testing.T, pairs ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(pairs); i += 2 {
		h := tar.Header{Name: pairs[i], Mode: 0o755, Typeflag: tar.TypeReg, Size: int64(len(pairs[i+1]))}
		if strings.HasSuffix(h.Name, "/") {
			h.Typeflag = tar.TypeDir
		}
		must(t, w.WriteHeader(&h))
		_, err := w.Write([]byte(pairs[i+1]))
		must(t, err)
	}
	must(t, w.Close())
	return b.Bytes()
}
