package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/docker/go-units"
	"golang.org/x/sys/unix"
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

// TestSizesOfSharedLayers compares what is told of images that share layers with what
// is on the disk, and with what is told elsewhere.
func TestSizesOfSharedLayers(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.ok(t, "image", "tag", "busybox", "base:1")
	b.ok(t, "container", "run", "--name", "c", "base:1", "sh", "-c", "mkdir /more; head -c 1000000 /dev/urandom >/more/data; ln -s data /more/link; echo >/more/small")
	b.ok(t, "container", "commit", "c", "app:1")
	b.ok(t, "container", "rm", "c")
	b.ok(t, "image", "save", "-o", "both.tar", "base:1", "app:1")
	b.ok(t, "image", "rm", "busybox", "base:1", "app:1")
	b.ok(t, "image", "load", "-i", "both.tar")
	b.ok(t, "container", "create", "--name", "user", "app:1")

	number := func(args ...string) (n int64) {
		t.Helper()
		for _, line := range strings.Fields(b.ok(t, args...)) {
			v, err := strconv.ParseInt(line, 10, 64)
			must(t, err)
			n += v
		}
		return n
	}
	var disk, union int64
	counted := map[string]bool{}
	for _, name := range []string{"base:1", "app:1"} {
		var inspected []struct {
			Size       int64
			RootFS     struct{ Layers []string }
			Descriptor struct{ Digest string }
		}
		must(t, json.Unmarshal([]byte(b.ok(t, "image", "inspect", name)), &inspected))
		size, unpacked := inspected[0].Size, int64(0)
		for _, l := range inspected[0].RootFS.Layers {
			n := blocks(t, filepath.Join(b.dataRoot(), "layers", strings.TrimPrefix(l, "sha256:"), "fs"))
			unpacked += n
			if !counted[l] {
				counted[l] = true
				union += n
			}
		}
		history := number("image", "history", "--human=false", "--format", "{{.Size}}", name)
		if !near(history, unpacked) {
			t.Errorf("%s: history says %d, on the disk are %d", name, history, unpacked)
		}
		var content int64
		for digest, n := range blobs(t, b.dataRoot(), inspected[0].Descriptor.Digest) {
			content += n
			if !counted[digest] {
				counted[digest] = true
				union += n
			}
		}
		if size != history+content {
			t.Errorf("%s: inspect says %d, history %d, and there are %d as blobs", name, size, history, content)
		}
		human := units.HumanSizeWithPrecision(float64(size), 3)
		if out := strings.TrimSpace(b.ok(t, "image", "ls", "--format", "{{.Size}} {{.ContentSize}}", name)); out != human+" "+units.HumanSizeWithPrecision(float64(content), 3) {
			t.Errorf("%s: image ls says %s, inspect %s", name, out, human)
		}
		drawn := strings.Fields(b.ok(t, "image", "ls", name))
		if len(drawn) < 11 || drawn[7] != name || drawn[9] != human || drawn[10] != units.HumanSizeWithPrecision(float64(content), 3) {
			t.Errorf("%s: image ls says %q, inspect %s", name, drawn, human)
		}
		if in := drawn[len(drawn)-1] == "U"; in != (name == "app:1") {
			t.Errorf("%s: in use %t", name, in)
		}
		if out := b.ok(t, "system", "df", "-v", "--format", "{{range .Images}}{{.Repository}}:{{.Tag}} {{.Size}}\n{{end}}"); !strings.Contains(out, name+" "+human+"\n") {
			t.Errorf("%s: df says %s, inspect %s", name, out, human)
		}
		disk += size
	}
	if disk <= union {
		t.Errorf("the images share nothing: %d and together %d", disk, union)
	}
	total, err := units.FromHumanSize(b.diskUse(t)["Images"][2])
	must(t, err)
	if !near(total, union) {
		t.Errorf("system df says %d, on the disk are %d", total, union)
	}
}

// near tells whether what was counted when a layer was unpacked is what files take,
// but for what file systems need for directories.
func near(counted, onDisk int64) bool {
	return counted-onDisk < 100_000 && onDisk-counted < 100_000
}

// TestSizeOfPlatforms is of a name that is here for two platforms that share a layer.
func TestSizeOfPlatforms(t *testing.T) {
	b := newBuildBox(t)
	b.write(t, "data", strings.Repeat("shared ", 100_000))
	b.write(t, "Dockerfile", "FROM scratch\nCOPY data /\nARG TARGETARCH\nENV FOR=$TARGETARCH\n")
	b.ok(t, "image", "build", "-q", "--platform", "linux/amd64,linux/arm64", "-t", "multi", ".")
	b.ok(t, "image", "import", b.write(t, "empty.tar", string(make([]byte, 1024))), "empty:1")
	size := func(args ...string) (n int64) {
		t.Helper()
		must(t, json.Unmarshal([]byte(b.ok(t, append([]string{"image", "inspect", "--format", "{{.Size}}"}, args...)...)), &n))
		return n
	}
	here, there, both := size("--platform", "linux/amd64", "multi"), size("--platform", "linux/arm64", "multi"), size("multi")
	if both >= here+there-700_000 || both <= here {
		t.Errorf("amd64 takes %d, arm64 %d, and both %d", here, there, both)
	}
	human := func(n int64) string { return units.HumanSizeWithPrecision(float64(n), 3) }
	lines := strings.Split(b.ok(t, "image", "ls", "--tree", "multi"), "\n")
	for i, want := range []int64{both, here, there} {
		if f := strings.Fields(lines[i+1]); !slices.Contains(f, human(want)) {
			t.Errorf("%q, want %s", lines[i+1], human(want))
		}
	}
	if out := b.ok(t, "image", "ls", "multi"); strings.Count(out, "multi:latest") != 1 || !strings.Contains(out, " "+human(both)+" ") {
		t.Errorf("%s, want one line with %s", out, human(both))
	}
	t.Run("what has no name is shown when it is asked for", func(t *testing.T) {
		id := strings.TrimSpace(b.ok(t, "image", "inspect", "--format", "{{.Id}}", "empty:1"))[7:19]
		b.ok(t, "image", "tag", "multi", "empty:1")
		for args, want := range map[string]bool{"": false, "-q": false, "-a": true, "-qa": true, "-f dangling=true": true, "-f dangling=false": false, "--tree -a": true} {
			if out := b.ok(t, append([]string{"image", "ls"}, strings.Fields(args)...)...); strings.Contains(out, id) != want {
				t.Errorf("image ls %s: %s", args, out)
			}
		}
	})
}

// blobs are the sizes of the blobs of a manifest, which is one of them.
func blobs(t *testing.T, dataRoot, manifest string) map[string]int64 {
	t.Helper()
	at := func(digest string) string {
		return filepath.Join(dataRoot, "content", "blobs", strings.ReplaceAll(digest, ":", "/"))
	}
	data, err := os.ReadFile(at(manifest))
	must(t, err)
	type descriptor struct{ Digest string }
	var m struct {
		Config descriptor
		Layers []descriptor
	}
	must(t, json.Unmarshal(data, &m))
	sizes := map[string]int64{}
	for _, d := range append(m.Layers, m.Config, descriptor{manifest}) {
		i, err := os.Stat(at(d.Digest))
		must(t, err)
		sizes[d.Digest] = i.Size()
	}
	return sizes
}

// blocks is what the files below root take on the disk. A file with several names
// counts once.
func blocks(t *testing.T, root string) (n int64) {
	t.Helper()
	seen := map[uint64]bool{}
	must(t, filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		must(t, err)
		var st unix.Stat_t
		must(t, unix.Lstat(path, &st))
		if !seen[st.Ino] {
			n += st.Blocks * 512
		}
		seen[st.Ino] = true
		return nil
	}))
	return n
}
