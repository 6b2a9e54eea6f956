package dockerfiles

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
)

// inode is a file of an image. Hard links share one.
type inode struct {
	header  *tar.Header
	content string // digest
}

// tree is the file system of an image, by path without a leading slash.
type tree map[string]*inode

// built is what a build has made.
type built struct {
	files  tree
	config map[string]any
}

// readArchive reads the first image of an OCI archive or a directory's worth of
// it in a tar (image-spec, image-layout.md).
func readArchive(t *testing.T, file string) built {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	blobs := map[string][]byte{}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		blobs[strings.TrimPrefix(h.Name, "blobs/sha256/")] = data
	}
	type descriptor struct{ Digest, MediaType string }
	decode := func(name string, into any) {
		t.Helper()
		if err := json.Unmarshal(blobs[strings.TrimPrefix(name, "sha256:")], into); err != nil {
			t.Fatalf("%s in %s: %v", name, file, err)
		}
	}
	var index struct{ Manifests []descriptor }
	decode("index.json", &index)
	for strings.Contains(index.Manifests[0].MediaType, "index") {
		decode(index.Manifests[0].Digest, &index)
	}
	var manifest struct {
		Config descriptor
		Layers []descriptor
	}
	decode(index.Manifests[0].Digest, &manifest)
	out := built{files: tree{}}
	decode(manifest.Config.Digest, &out.config)
	for _, l := range manifest.Layers {
		out.files.apply(t, blobs[strings.TrimPrefix(l.Digest, "sha256:")])
	}
	return out
}

// apply puts a layer on top (image-spec, layer.md).
func (files tree) apply(t *testing.T, layer []byte) {
	t.Helper()
	var r io.Reader = bytes.NewReader(layer)
	if bytes.HasPrefix(layer, []byte{0x1f, 0x8b}) {
		gz, err := gzip.NewReader(r)
		if err != nil {
			t.Fatal(err)
		}
		r = gz
	}
	upper := tree{}
	for in := tar.NewReader(r); ; {
		h, err := in.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		dir, base := path.Split(name)
		switch {
		case base == ".wh..wh..opq":
			files.remove(strings.TrimSuffix(dir, "/"), false)
			continue
		case strings.HasPrefix(base, ".wh."):
			files.remove(dir+strings.TrimPrefix(base, ".wh."), true)
			continue
		case h.Typeflag == tar.TypeLink:
			target := strings.TrimPrefix(path.Clean("/"+h.Linkname), "/")
			if upper[target] == nil {
				upper[target] = files[target]
			}
			upper[name] = upper[target]
			continue
		}
		sum := sha256.New()
		if _, err := io.Copy(sum, in); err != nil {
			t.Fatal(err)
		}
		upper[name] = &inode{h, fmt.Sprintf("%x", sum.Sum(nil))[:12]}
	}
	for name, n := range upper {
		if old := files[name]; old != nil && old.header.Typeflag == tar.TypeDir && n.header.Typeflag != tar.TypeDir {
			files.remove(name, true)
		}
		files[name] = n
	}
}

func (files tree) remove(name string, itself bool) {
	for other := range files {
		if other == name && itself || name == "" || strings.HasPrefix(other, name+"/") {
			delete(files, other)
		}
	}
}

// list shows what is not as in base, a line for each path.
func (files tree) list(base tree) string {
	if files["bin/busybox"] == nil {
		base = nil // it is made of something else
	}
	var out strings.Builder
	first := map[*inode]string{}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		n := files[name]
		line := n.describe()
		if linked, ok := first[n]; ok && n.header.Typeflag != tar.TypeDir {
			line = "hard link to " + linked
		} else {
			first[n] = name
		}
		// Directories above what is copied may be in a layer or not.
		if old := base[name]; old == nil && name != "" || old != nil && old.describe() != n.describe() {
			fmt.Fprintf(&out, "%s: %s\n", name, line)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(base)) {
		if files[name] == nil {
			fmt.Fprintf(&out, "%s: removed\n", name)
		}
	}
	return out.String()
}

func (n *inode) describe() string {
	h := n.header
	s := fmt.Sprintf("%c %04o %d:%d", h.Typeflag, h.Mode&0o7777, h.Uid, h.Gid)
	switch h.Typeflag {
	case tar.TypeReg:
		s += fmt.Sprintf(" %d bytes %s", h.Size, n.content)
	case tar.TypeSymlink:
		s += " -> " + h.Linkname
	case tar.TypeChar, tar.TypeBlock:
		s += fmt.Sprintf(" %d,%d", h.Devmajor, h.Devminor)
	}
	for _, key := range slices.Sorted(maps.Keys(h.PAXRecords)) {
		if name, ok := strings.CutPrefix(key, "SCHILY.xattr."); ok {
			s += fmt.Sprintf(" %s=%q", name, h.PAXRecords[key])
		}
	}
	return s
}

// describe is what a golden file holds. Times are those of the configuration:
// the files' are those of the build.
func (b built) describe(t *testing.T, base tree, times bool) string {
	t.Helper()
	config := maps.Clone(b.config)
	for _, key := range []string{"rootfs", "architecture"} {
		delete(config, key)
	}
	if !times {
		delete(config, "created")
	}
	history, _ := config["history"].([]any)
	for _, h := range history {
		if h, ok := h.(map[string]any); ok && !times {
			delete(h, "created")
		}
	}
	text, err := json.MarshalIndent(config, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return b.files.list(base) + "\n" + string(text) + "\n"
}
