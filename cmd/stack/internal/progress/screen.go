package progress

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// screen paints a block of lines over its former self with cursor movements
// (ECMA-48: CUU, EL, ED). It relies on lines that do not wrap.
type screen struct {
	w     io.Writer
	shown []string
	width int
}

const (
	hideCursor = "\x1b[?25l"
	showCursor = "\x1b[?25h"
	clearLine  = "\x1b[2K"
	clearBelow = "\x1b[J"
)

func up(n int) string { return fmt.Sprintf("\x1b[%dA", n) }

func (s *screen) paint(lines []string, width int) {
	if width < s.width {
		// The terminal has wrapped the old block, so that nobody knows how many
		// rows it takes now: leave it and start another.
		s.shown = nil
	}
	same := width == s.width
	if same && slices.Equal(lines, s.shown) {
		return
	}
	var b strings.Builder
	b.WriteString(hideCursor)
	if len(s.shown) > 0 {
		b.WriteString(up(len(s.shown)))
	}
	b.WriteByte('\r')
	for i, line := range lines {
		if !same || i >= len(s.shown) || s.shown[i] != line {
			b.WriteString(clearLine)
			b.WriteString(line)
		}
		b.WriteByte('\n')
	}
	if len(s.shown) > len(lines) {
		b.WriteString(clearBelow)
	}
	b.WriteString(showCursor)
	io.WriteString(s.w, b.String())
	s.shown, s.width = slices.Clone(lines), width
}

// erase takes the block off the screen; the cursor stays where it began.
func (s *screen) erase() {
	if len(s.shown) == 0 {
		return
	}
	io.WriteString(s.w, up(len(s.shown))+"\r"+clearBelow)
	s.shown = nil
}
