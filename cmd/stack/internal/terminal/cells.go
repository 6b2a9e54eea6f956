package terminal

import (
	"strings"
	"unicode"
)

// Cells counts the terminal cells that s takes: two for East Asian wide
// characters and emoji (Unicode TR 11), none for combining marks.
func Cells(s string) int {
	n := 0
	for _, r := range s {
		n += runeCells(r)
	}
	return n
}

// Clip shortens s to at most n cells, with "..." where something was cut and
// there is room for it. Control characters become spaces, so that the result
// stays on its line.
func Clip(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
	if n <= 0 {
		return ""
	}
	if Cells(s) <= n {
		return s
	}
	tail := ""
	if n > 3 {
		tail = "..."
		n -= 3
	}
	used := 0
	for i, r := range s {
		used += runeCells(r)
		if used > n {
			return s[:i] + tail
		}
	}
	return s
}

func runeCells(r rune) int {
	switch {
	case r < 0x300:
		return 1
	case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf):
		return 0
	case r >= 0x1100 && r <= 0x115f,
		r >= 0x2e80 && r <= 0xa4cf && r != 0x303f,
		r >= 0xac00 && r <= 0xd7a3,
		r >= 0xf900 && r <= 0xfaff,
		r >= 0xfe30 && r <= 0xfe6f,
		r >= 0xff00 && r <= 0xff60,
		r >= 0xffe0 && r <= 0xffe6,
		r >= 0x1f300 && r <= 0x1faff,
		r >= 0x20000 && r <= 0x3fffd:
		return 2
	}
	return 1
}
