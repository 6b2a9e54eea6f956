package image

import (
	"regexp"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/engine/image"
)

func TestImageTree(t *testing.T) {
	id := func(c rune) string { return string(c) + strings.Repeat("0", 63) }
	one := func(c rune, arch string, size int64, names ...string) engine.ImageDisk {
		return engine.ImageDisk{Size: 3 * size, Image: image.Image{
			ID: digest.Digest("sha256:" + id(c)), Manifest: ocispec.Descriptor{Digest: digest.Digest("sha256:" + id(c))},
			Platform: ocispec.Platform{OS: "linux", Architecture: arch}, Size: size, Names: names,
		}}
	}
	trees := trees([]engine.ImageDisk{one('b', "arm64", 1000, "web:1", "web:2"), one('a', "amd64", 2000, "web:1"), one('c', "amd64", 1, "db:1"), one('d', "amd64", 5)}, []string{"web"})
	got := strings.Join(treeLines(trees, func(d engine.ImageDisk) bool { return d.ID[7] == 'a' }), "\n")
	got = regexp.MustCompile(`(?m)[ \t]+$`).ReplaceAllString(got, "")
	got = strings.ReplaceAll(got, "\t", " ") + "\n"
	want := `web:1 b00000000000 9kB 3kB ✔
├─ linux/amd64 a00000000000 6kB 2kB ✔
└─ linux/arm64 b00000000000 3kB 1kB

web:2 b00000000000 3kB 1kB
└─ linux/arm64 b00000000000 3kB 1kB

<untagged> d00000000000 15B 5B
└─ linux/amd64 d00000000000 15B 5B
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
