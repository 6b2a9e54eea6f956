// Package progress shows what a verb is doing: a live block on a terminal,
// one line per event elsewhere, JSON for programs, or nothing.
package progress

import (
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/stack-run/stack/cmd/stack/internal/terminal"
	"github.com/stack-run/stack/compose/apply"
)

// Mode is a way to show progress.
type Mode string

// Modes of --progress. Auto is resolved by whoever knows the terminal.
const (
	Auto  Mode = "auto"
	TTY   Mode = "tty"
	Plain Mode = "plain"
	JSON  Mode = "json"
	Quiet Mode = "quiet"
)

// Display shows events. Its methods may be called from several goroutines.
type Display interface {
	Event(apply.Event)
	// Print runs write with the display out of the way, for output of other
	// kinds that goes to the same terminal.
	Print(write func())
	// Done leaves the last state on the screen. Events after it are shown as
	// plain lines.
	Done()
}

// Options tell a display about its surroundings.
type Options struct {
	Title  string // of the live block: "[+] Running 3/5"
	Colour bool
	DryRun bool
	Size   func() (width, height int)
	Now    func() time.Time
}

// New returns a display that writes to w.
func New(m Mode, w io.Writer, o Options) Display {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Size == nil {
		o.Size = func() (int, int) { return terminal.Size(w) }
	}
	switch m {
	case TTY:
		return newLive(w, o)
	case JSON:
		return &lines{w: w, render: func(e apply.Event) string { return jsonLine(e, o.DryRun) }}
	case Quiet:
		return &lines{w: io.Discard, render: func(apply.Event) string { return "" }}
	}
	return &lines{w: w, render: func(e apply.Event) string { return plainLine(e, o.DryRun) }}
}

// lines is a display of one line per event.
type lines struct {
	mu     sync.Mutex
	w      io.Writer
	render func(apply.Event) string
}

func (l *lines) Event(e apply.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	io.WriteString(l.w, l.render(e))
}

func (l *lines) Print(write func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	write()
}

func (l *lines) Done() {}

func plainLine(e apply.Event, dryRun bool) string {
	if e.Current > 0 {
		return "" // one of very many
	}
	// Scripts search for the lines of docker compose, which has one blank between
	// the parts and one behind the status where nothing follows.
	line := fmt.Sprintf(" %s %s %s\n", id(e), e.Status, e.Text)
	if dryRun {
		line = " DRY-RUN MODE - " + line
	}
	return line
}

// message is docker compose's JSON of one event.
type message struct {
	DryRun  bool   `json:"dry-run,omitempty"`
	ID      string `json:"id,omitempty"`
	Status  string `json:"status,omitempty"`
	Text    string `json:"text,omitempty"`
	Details string `json:"details,omitempty"`
	Current int64  `json:"current,omitempty"`
	Total   int64  `json:"total,omitempty"`
}

func jsonLine(e apply.Event, dryRun bool) string {
	b, err := json.Marshal(message{DryRun: dryRun, ID: id(e), Status: class(e).String(), Text: e.Status, Details: e.Text, Current: e.Current, Total: e.Total})
	if err != nil {
		return ""
	}
	return string(b) + "\n"
}

// id names the object of an event as docker compose does.
func id(e apply.Event) string {
	if e.Kind == "" {
		return e.Name
	}
	return e.Kind + " " + e.Name
}

// outcome says how the glyph and the colour of an event are chosen.
type outcome int

const (
	working outcome = iota
	done
	warning
	failed
)

func (o outcome) String() string {
	return [...]string{"Working", "Done", "Warning", "Error"}[o]
}

func class(e apply.Event) outcome {
	switch {
	case e.Status == "Error":
		return failed
	case e.Status == "Warning", e.Status == "Skipped":
		return warning
	case e.Done:
		return done
	}
	return working
}
