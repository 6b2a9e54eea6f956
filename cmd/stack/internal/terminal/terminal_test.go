package terminal

import (
	"bytes"
	"os"
	"testing"
)

func TestCells(t *testing.T) {
	for s, want := range map[string]int{"": 0, "abc": 3, "héllo": 5, "日本": 4, "e\u0301": 1, "→✔": 2, "🎉": 2} {
		if got := Cells(s); got != want {
			t.Errorf("Cells(%q) = %d, want %d", s, got, want)
		}
	}
}

func TestClip(t *testing.T) {
	for _, test := range []struct {
		in   string
		n    int
		want string
	}{
		{"abcdef", 6, "abcdef"}, {"abcdef", 5, "ab..."}, {"abcdef", 3, "abc"}, {"abcdef", 0, ""}, {"abcdef", -1, ""},
		{"日本語", 5, "日..."}, {"日本語", 3, "日"}, {"a\nb\tc", 9, "a b c"}, {"a\x1b[31mb", 9, "a [31mb"},
	} {
		if got := Clip(test.in, test.n); got != test.want {
			t.Errorf("Clip(%q, %d) = %q, want %q", test.in, test.n, got, test.want)
		}
	}
}

func TestNoTerminal(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, stream := range []any{nil, (*os.File)(nil), null, &bytes.Buffer{}} {
		if Is(stream) {
			t.Errorf("%T is a terminal", stream)
		}
	}
	if w, h := Size(&bytes.Buffer{}); w != 80 || h != 24 {
		t.Errorf("size %d×%d", w, h)
	}
	if _, err := Raw(null); err == nil {
		t.Error("raw mode for /dev/null")
	}
}

func TestStyle(t *testing.T) {
	if got := Green.Paint("x"); got != "\x1b[32mx\x1b[0m" {
		t.Errorf("got %q", got)
	}
	if Plain.Paint("x") != "x" || Green.Paint("") != "" {
		t.Error("painted what has no colour or no text")
	}
}
