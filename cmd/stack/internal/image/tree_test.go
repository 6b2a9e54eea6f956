package image

import (
	"regexp"
	"strings"
	"testing"

	"github.com/stack-run/stack/compose"
)

func TestImageTree(t *testing.T) {
	id := func(c rune) string { return string(c) + strings.Repeat("0", 63) }
	one := func(c rune, arch string, size int64, used bool, names ...string) compose.Image {
		img := compose.Image{
			ID: "sha256:" + id(c), Manifest: "sha256:" + id(c), Platform: "linux/" + arch, Disk: 3 * size, Content: size, Names: names,
		}
		for range names {
			img.Targets = append(img.Targets, img.Manifest)
		}
		if used {
			img.Users = []string{"web"}
		}
		return img
	}
	trees := trees([]compose.Image{
		one('b', "arm64", 1000, false, "web:1", "web:2"), one('a', "amd64", 2000, true, "web:1"), one('c', "amd64", 1, false, "db:1"), one('d', "amd64", 5, false),
	}, []string{"web"})
	got := strings.Join(treeLines(trees), "\n")
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
