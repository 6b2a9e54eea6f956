package image

import (
	"context"
	"io"
	"slices"
	"strings"

	"github.com/docker/go-units"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/summary"
	"github.com/stack-run/stack/cmd/stack/internal/terminal"
	"github.com/stack-run/stack/compose"
)

// group is what names lead to: an image, or those for several platforms.
type group struct {
	names  []string // none if it is untagged
	id     string   // of the image that is meant here
	images []compose.Image
}

// drawImages lists images as docker does for people: by name, with what they take.
// expanded also shows the platforms that a name is here for.
func drawImages(ctx context.Context, a *cli.App, v compose.API, images []compose.Image, expanded bool, references []string) error {
	groups := groupImages(images, references)
	for i, g := range groups {
		if len(g.images) > 1 {
			if img, err := v.Image(ctx, g.names[0], ""); err == nil { // else none of them is for this machine
				groups[i].id = img.ID
			}
		}
	}
	if !expanded {
		groups = apart(groups)
	}
	d := drawing{paint: a.Paints(a.Out), expanded: expanded}
	if terminal.Is(a.Out) {
		d.width, _ = terminal.Size(a.Out)
	}
	_, err := io.WriteString(a.Out, d.draw(groups))
	return err
}

// groupImages sorts images by the names that lead to them. Those without a name
// come last, each by itself.
func groupImages(images []compose.Image, references []string) []group {
	var named, untagged []group
	targets := map[string]int{} // places in named
	for _, img := range images {
		if len(img.Names) == 0 {
			untagged = append(untagged, group{id: img.ID, images: []compose.Image{img}})
		}
		seen := map[string]bool{} // targets of this image
		for n, name := range img.Names {
			if len(references) > 0 && !slices.ContainsFunc(references, func(p string) bool { return matchesReference(p, name) }) {
				continue
			}
			target := img.Targets[n]
			i, ok := targets[target]
			if !ok {
				i = len(named)
				targets[target] = i
				named = append(named, group{id: img.ID})
			}
			if !seen[target] {
				seen[target] = true
				named[i].images = append(named[i].images, img)
			}
			if !slices.Contains(named[i].names, name) {
				named[i].names = append(named[i].names, name)
			}
		}
	}
	for _, g := range named {
		slices.Sort(g.names)
		slices.SortFunc(g.images, func(x, y compose.Image) int { return strings.Compare(x.Platform, y.Platform) })
	}
	sortGroups(named)
	return append(named, untagged...)
}

func sortGroups(named []group) {
	slices.SortFunc(named, func(x, y group) int { return strings.Compare(x.names[0], y.names[0]) })
}

// apart gives each name a group of its own.
func apart(groups []group) []group {
	var named, untagged []group
	for _, g := range groups {
		if len(g.names) == 0 {
			untagged = append(untagged, g)
		}
		for _, name := range g.names {
			named = append(named, group{[]string{name}, g.id, g.images})
		}
	}
	sortGroups(named)
	return append(named, untagged...)
}

// drawing says how a list of images looks.
type drawing struct {
	width    int // of the terminal, 0 without one
	paint    bool
	expanded bool // shows platforms, too
}

// column is one of a drawing. The first is as wide as its longest name if there is
// room for it, the last is never filled up.
type column struct {
	title string
	width int
	right bool // aligned
}

// line is one of a drawing; without cells it is a name that has more below it.
type line struct {
	name  string
	style terminal.Style // of name
	cells []string
}

const (
	columnGap   = 3
	leastColumn = 12 // cells that the names keep when the terminal is narrow

	nameStyle terminal.Style = "34;1"
	chipStyle terminal.Style = "38;5;0;48;5;14"
)

func (d drawing) draw(groups []group) string {
	columns := []column{{title: "IMAGE"}, {"ID", 12, false}, {"DISK USAGE", 10, true}, {"CONTENT SIZE", 12, true}, {"EXTRA", 5, false}}
	header := line{style: terminal.Bold, name: columns[0].title}
	for _, c := range columns[1:] {
		header.cells = append(header.cells, c.title)
	}
	lines := append([]line{header}, d.lines(groups)...)
	columns = fit(columns, lines, d.width)
	var b strings.Builder
	if d.width > 0 {
		b.WriteString(d.legend())
	}
	for _, l := range lines {
		b.WriteString(strings.TrimRight(d.format(columns, l), " ") + "\n")
	}
	return b.String()
}

// legend says what the marks in the last column mean, at the right of the terminal.
func (d drawing) legend() string {
	text, drawn := " Info -> U In Use", " Info -> U In Use"
	if d.paint {
		text = "i Info →  U  In Use"
		drawn = terminal.Style("1;30;106").Paint("i") + terminal.Style("96").Paint(" Info →") + " " + d.chip() + " In Use"
	}
	return strings.Repeat(" ", max(0, d.width-terminal.Cells(text))) + drawn + "\n"
}

func (d drawing) chip() string {
	if d.paint {
		return chipStyle.Paint(" U ")
	}
	return "U"
}

func (d drawing) lines(groups []group) []line {
	size := func(n int64) string { return units.HumanSizeWithPrecision(float64(n), 3) }
	used := func(img compose.Image) bool { return len(img.Users) > 0 }
	describe := func(name string, style terminal.Style, id string, images ...compose.Image) line {
		content, disk := compose.Together(images...)
		l := line{name, style, []string{summary.ID(id, false), size(disk), size(content), ""}}
		if slices.ContainsFunc(images, used) {
			l.cells[3] = d.chip()
		}
		return l
	}
	var lines []line
	for i, g := range groups {
		if d.expanded && i > 0 {
			lines = append(lines, line{})
		}
		if len(g.names) == 0 {
			lines = append(lines, describe("<untagged>", terminal.Faint, g.id, g.images...))
		}
		for i, name := range g.names {
			if i < len(g.names)-1 {
				lines = append(lines, line{name: name, style: nameStyle})
				continue
			}
			lines = append(lines, describe(name, nameStyle, g.id, g.images...))
		}
		if !d.expanded {
			continue
		}
		for i, img := range g.images {
			branch := "├─ "
			if i == len(g.images)-1 {
				branch = "└─ "
			}
			// The platform is what the image says, whatever that may be.
			lines = append(lines, describe(branch+terminal.Clip(img.Platform, 40), terminal.Plain, img.ID, img))
		}
	}
	return lines
}

// fit gives the first column its width, and drops columns for which a terminal is too
// narrow.
func fit(columns []column, lines []line, width int) []column {
	longest := 0
	for _, l := range lines {
		longest = max(longest, terminal.Cells(l.name))
	}
	columns = slices.Clone(columns)
	columns[0].width = longest
	if width == 0 {
		return columns
	}
	left := width
	for i, c := range columns[1:] {
		if left-c.width-columnGap < leastColumn {
			columns = columns[:i+1]
			break
		}
		left -= c.width + columnGap
	}
	columns[0].width = min(longest, left)
	return columns
}

// format puts a line into columns. What stands beside a name that is too long goes to
// the next line.
func (d drawing) format(columns []column, l line) string {
	text := l.name
	if d.paint {
		text = l.style.Paint(text)
	}
	fill := columns[0].width - terminal.Cells(l.name)
	if len(l.cells) == 0 || len(columns) == 1 {
		return text
	}
	if fill < 0 {
		text, fill = text+"\n", columns[0].width
	}
	text += strings.Repeat(" ", fill)
	for i, c := range columns[1:] {
		cell := l.cells[i]
		fill := strings.Repeat(" ", max(0, c.width-terminal.Cells(cell)))
		text += strings.Repeat(" ", columnGap)
		switch {
		case c.right:
			text += fill + cell
		case i == len(columns)-2:
			text += cell
		default:
			text += cell + fill
		}
	}
	return text
}
