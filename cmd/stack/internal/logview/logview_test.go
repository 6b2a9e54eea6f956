package logview

import (
	"strings"
	"testing"
	"time"

	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/engine"
)

func container(service, name string) engine.Container {
	return engine.Container{ID: name, Project: "shop", Service: service, Spec: engine.Spec{Name: name}}
}

func TestLines(t *testing.T) {
	web, db := container("web", "shop-web-1"), container("db", "postgres")
	at := time.Date(2026, 3, 4, 5, 6, 7, 80000000, time.FixedZone("", 3600))
	lines := []compose.LogLine{
		{Container: web, Stream: "stdout", Time: at, Text: []byte("hello")},
		{Container: db, Stream: "stdout", Time: at, Text: []byte("half "), Partial: true},
		{Container: web, Stream: "stdout", Time: at, Text: []byte("\x00\xff binary")},
		{Container: db, Stream: "stdout", Time: at, Text: []byte("and half")},
		{Container: db, Stream: "stderr", Time: at, Text: []byte("oops")},
	}
	for name, test := range map[string]struct {
		o        Options
		out, err string
	}{
		"plain": {
			out: "web-1     | hello\nweb-1     | \x00\xff binary\npostgres  | half and half\n",
			err: "postgres  | oops\n",
		},
		"no prefix, timestamps": {
			o:   Options{NoPrefix: true, Timestamps: true},
			out: "2026-03-04T04:06:07.080000000Z hello\n2026-03-04T04:06:07.080000000Z \x00\xff binary\n2026-03-04T04:06:07.080000000Z half and half\n",
			err: "2026-03-04T04:06:07.080000000Z oops\n",
		},
		"colour": {
			o:   Options{Colour: true, Services: []string{"web", "db", "cache"}},
			out: "\x1b[32mweb-1     | \x1b[0mhello\n\x1b[32mweb-1     | \x1b[0m\x00\xff binary\n\x1b[33mpostgres  | \x1b[0mhalf and half\n",
			err: "\x1b[33mpostgres  | \x1b[0moops\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			var out, errOut strings.Builder
			p := New(&out, &errOut, test.o)
			p.Widen("postgres")
			for _, l := range lines {
				p.Line(l)
			}
			if out.String() != test.out || errOut.String() != test.err {
				t.Errorf("got\n%q\n%q\nwant\n%q\n%q", out.String(), errOut.String(), test.out, test.err)
			}
		})
	}
}

func TestStatus(t *testing.T) {
	var out strings.Builder
	p := New(&out, &out, Options{})
	p.Exited(container("web", "shop-web-1"), 137, false)
	p.Exited(container("web", "shop-web-1"), 1, true)
	if want := "web-1 exited with code 137\nweb-1 exited with code 1 (restarting)\n"; out.String() != want {
		t.Errorf("got %q", out.String())
	}
}
