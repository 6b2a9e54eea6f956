package image

import (
	"strings"
	"testing"

	"github.com/stack-run/stack/compose"
)

func TestDrawnImages(t *testing.T) {
	id := func(c rune) string { return "sha256:" + strings.Repeat(string(c), 64) }
	one := func(c rune, arch string, size int64, used bool, names ...string) compose.Image {
		img := compose.Image{ID: id(c), Platform: "linux/" + arch, Disk: 3 * size, Content: size, Names: names}
		for _, name := range names {
			target, _, _ := strings.Cut(name, ":") // one for each repository
			img.Targets = append(img.Targets, target)
		}
		if used {
			img.Users = []string{"web"}
		}
		return img
	}
	images := []compose.Image{
		one('b', "arm64", 1000, false, "web:2", "web:1"), one('a', "amd64", 2000, true, "web:1", "web:2"), one('c', "amd64", 1, false, "db:1"),
		one('d', "amd64", 5, false), one('e', "amd64\x1b[1m", 700_000, false, "registry.example/a/long/name:v1.2.3"),
	}
	for _, c := range []struct {
		name       string
		references []string
		drawing    drawing
		want       string
	}{
		{"a line for each name", nil, drawing{}, `
IMAGE                                 ID             DISK USAGE   CONTENT SIZE   EXTRA
db:1                                  cccccccccccc           3B             1B
registry.example/a/long/name:v1.2.3   eeeeeeeeeeee        2.1MB          700kB
web:1                                 bbbbbbbbbbbb          9kB            3kB   U
web:2                                 bbbbbbbbbbbb          9kB            3kB   U
<untagged>                            dddddddddddd          15B             5B
`},
		{"platforms", []string{"web"}, drawing{expanded: true}, `
IMAGE            ID             DISK USAGE   CONTENT SIZE   EXTRA
web:1
web:2            bbbbbbbbbbbb          9kB            3kB   U
├─ linux/amd64   aaaaaaaaaaaa          6kB            2kB   U
└─ linux/arm64   bbbbbbbbbbbb          3kB            1kB

<untagged>       dddddddddddd          15B             5B
└─ linux/amd64   dddddddddddd          15B             5B
`},
		{"what an image says of itself draws nothing", []string{"name:*"}, drawing{expanded: true}, `
IMAGE                                 ID             DISK USAGE   CONTENT SIZE   EXTRA
registry.example/a/long/name:v1.2.3   eeeeeeeeeeee        2.1MB          700kB
└─ linux/amd64 [1m                    eeeeeeeeeeee        2.1MB          700kB

<untagged>                            dddddddddddd          15B             5B
└─ linux/amd64                        dddddddddddd          15B             5B
`},
		{"a terminal, in which a long name has a line of its own", []string{"name:*"}, drawing{width: 70}, `
                                                      Info -> U In Use
IMAGE                 ID             DISK USAGE   CONTENT SIZE   EXTRA
registry.example/a/long/name:v1.2.3
                      eeeeeeeeeeee        2.1MB          700kB
<untagged>            dddddddddddd          15B             5B
`},
		{"a narrow terminal", []string{"db"}, drawing{width: 45}, `
                             Info -> U In Use
IMAGE        ID             DISK USAGE
db:1         cccccccccccc           3B
<untagged>   dddddddddddd          15B
`},
		{"colours", []string{"web:1"}, drawing{width: 80, paint: true}, `
                                                             ` + "\x1b[1;30;106mi\x1b[0m\x1b[96m Info →\x1b[0m \x1b[38;5;0;48;5;14m U \x1b[0m In Use" + `
` + "\x1b[1mIMAGE\x1b[0m" + `        ID             DISK USAGE   CONTENT SIZE   EXTRA
` + "\x1b[34;1mweb:1\x1b[0m" + `        bbbbbbbbbbbb          9kB            3kB   ` + "\x1b[38;5;0;48;5;14m U \x1b[0m" + `
` + "\x1b[2m<untagged>\x1b[0m" + `   dddddddddddd          15B             5B
`},
	} {
		groups := groupImages(images, c.references)
		if !c.drawing.expanded {
			groups = apart(groups)
		}
		if got := "\n" + c.drawing.draw(groups); got != c.want {
			t.Errorf("%s: got%s\nwant%s", c.name, got, c.want)
		}
	}
}

func TestImagesThatAreDrawn(t *testing.T) {
	for _, c := range []struct {
		options lsOptions
		format  string
		drawn   bool
		err     string
	}{
		{lsOptions{}, "", true, ""},
		{lsOptions{All: true, Tree: true}, "", true, ""},
		{lsOptions{Digests: true}, "", false, ""},
		{lsOptions{NoTrunc: true}, "", false, ""},
		{lsOptions{}, "table", false, ""},
		{lsOptions{Tree: true}, "{{.ID}}", false, "cannot use --format with --tree; leave one of them out"},
		{lsOptions{Tree: true, Digests: true}, "", false, "cannot use --digests with --tree; leave one of them out"},
	} {
		drawn, err := c.options.drawn(c.format)
		if drawn != c.drawn || (err == nil) != (c.err == "") || err != nil && err.Error() != c.err {
			t.Errorf("%+v, format %q: %t, %v", c.options, c.format, drawn, err)
		}
	}
}
