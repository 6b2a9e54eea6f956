// Package logview prints the lines of many containers as docker compose does:
// "web-1  | line", aligned, one colour per service.
package logview

import (
	"bytes"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/stack-run/stack/cmd/stack/internal/terminal"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/engine"
)

// TimeFormat is RFC 3339 with nanoseconds of a fixed width, as docker prints it.
const TimeFormat = "2006-01-02T15:04:05.000000000Z07:00"

// maxPending is how much of an unfinished line is held back, in bytes: longer
// lines than this are broken.
const maxPending = 64 << 20

// Options are the look of the lines.
type Options struct {
	Colour     bool
	NoPrefix   bool
	Timestamps bool
	// Services are all services of the project: they decide the colours, so
	// that a service keeps its colour whichever services are shown.
	Services []string
}

// Printer writes lines. Its methods may be called from several goroutines.
type Printer struct {
	mu      sync.Mutex
	out     io.Writer
	err     io.Writer
	o       Options
	width   int
	styles  map[string]terminal.Style
	pending map[string][]byte // unfinished lines by container and stream
}

// New returns a printer that writes stdout lines to out and stderr lines to errOut.
func New(out, errOut io.Writer, o Options) *Printer {
	p := &Printer{out: out, err: errOut, o: o, styles: map[string]terminal.Style{}, pending: map[string][]byte{}}
	names := slices.Clone(o.Services)
	slices.Sort(names)
	for _, name := range names {
		p.style(name)
	}
	return p
}

// Name is what a container is called in a prefix: its name without the project's.
func Name(c engine.Container) string {
	if rest, ok := strings.CutPrefix(c.Spec.Name, c.Project+"-"); ok && c.Project != "" {
		return rest
	}
	return c.Spec.Name
}

// Widen makes room for the names of containers that may print.
func (p *Printer) Widen(names ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, name := range names {
		p.width = max(p.width, terminal.Cells(name))
	}
}

// Line prints one line. The beginning of a line waits for its end.
func (p *Printer) Line(l compose.LogLine) {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := l.Container.ID + " " + l.Stream
	text := l.Text
	if held := p.pending[key]; len(held) > 0 {
		text = append(held, text...)
		delete(p.pending, key)
	}
	if l.Partial && !l.Unfinished && len(text) < maxPending {
		p.pending[key] = bytes.Clone(text)
		return
	}
	w := p.out
	if l.Stream == "stderr" {
		w = p.err
	}
	var b bytes.Buffer
	b.WriteString(p.prefix(l.Container))
	if p.o.Timestamps {
		b.WriteString(l.Time.UTC().Format(TimeFormat))
		b.WriteByte(' ')
	}
	b.Write(text)
	b.WriteByte('\n')
	w.Write(b.Bytes())
}

// Status prints a line about a container, such as "web-1 exited with code 0".
func (p *Printer) Status(c engine.Container, text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	io.WriteString(p.out, p.style(c.Service).Paint(Name(c)+" "+text)+"\n")
}

// Exited prints that a container ended.
func (p *Printer) Exited(c engine.Container, code int, restarting bool) {
	text := "exited with code " + strconv.Itoa(code)
	if restarting {
		text += " (restarting)"
	}
	p.Status(c, text)
}

func (p *Printer) prefix(c engine.Container) string {
	if p.o.NoPrefix {
		return ""
	}
	name := Name(c)
	p.width = max(p.width, terminal.Cells(name))
	fill := strings.Repeat(" ", p.width-terminal.Cells(name))
	return p.style(c.Service).Paint(name + fill + "  | ")
}

// style gives each service its colour, in the order docker compose uses them.
func (p *Printer) style(service string) terminal.Style {
	if !p.o.Colour {
		return terminal.Plain
	}
	if s, ok := p.styles[service]; ok {
		return s
	}
	order := [...]terminal.Style{"36", "33", "32", "35", "34", "36;1", "33;1", "32;1", "35;1", "34;1"}
	s := order[len(p.styles)%len(order)]
	p.styles[service] = s
	return s
}
