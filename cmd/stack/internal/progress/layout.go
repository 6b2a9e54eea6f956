package progress

import (
	"fmt"
	"strings"
	"time"

	"github.com/stack-run/stack/cmd/stack/internal/terminal"
	"github.com/stack-run/stack/compose/apply"
)

// model is what the live block knows: one row per object, in order of appearance.
type model struct {
	rows  []*row
	byID  map[string]*row
	ready int
}

type row struct {
	id, status, text string
	class            outcome
	began, ended     time.Time
}

func (m *model) apply(e apply.Event, now time.Time) {
	key := id(e)
	r := m.byID[key]
	if r == nil {
		if m.byID == nil {
			m.byID = map[string]*row{}
		}
		r = &row{id: key, began: now}
		m.byID[key] = r
		m.rows = append(m.rows, r)
	}
	was := r.class != working
	r.status, r.text, r.class = e.Status, e.Text, class(e)
	switch is := r.class != working; {
	case is && !was:
		m.ready++
		r.ended = now
	case is:
		r.ended = now
	case was:
		m.ready--
	}
}

func (r *row) elapsed(now time.Time) string {
	end := now
	if r.class != working {
		end = r.ended
	}
	return fmt.Sprintf("%.1fs", end.Sub(r.began).Seconds())
}

// frame draws the block. No line is wider than width, so that one line is one
// row of the terminal; there are at most height lines.
func (m *model) frame(o Options, width, height int) []string {
	if len(m.rows) == 0 {
		return nil
	}
	rows, hidden := m.visible(max(height-2, 1))
	now := o.Now()
	names, status, timers := 0, 0, 0
	for _, r := range rows {
		names = max(names, terminal.Cells(r.id))
		status = max(status, terminal.Cells(r.status))
		timers = max(timers, len(r.elapsed(now)))
	}
	lines := []string{terminal.Clip(fmt.Sprintf("[+] %s %d/%d", o.Title, m.ready, len(m.rows)), width)}
	for _, r := range rows {
		lines = append(lines, r.line(o, now, width, min(names, max(width-6-min(status, 20)-timers, 10)), timers))
	}
	if hidden > 0 {
		lines = append(lines, terminal.Clip(fmt.Sprintf(" ... %d more", hidden), width))
	}
	return lines[:min(len(lines), max(height, 1))]
}

// visible chooses the rows to show when they do not all fit: what is at work
// or has failed first, in the order of appearance.
func (m *model) visible(room int) (rows []*row, hidden int) {
	if len(m.rows) <= room {
		return m.rows, 0
	}
	room = max(room-1, 0) // for the line that counts the others
	quiet := len(m.rows) - room
	active := 0
	for _, r := range m.rows {
		if r.class != done {
			active++
		}
	}
	skip := min(quiet, len(m.rows)-active)
	for _, r := range m.rows {
		switch {
		case r.class == done && skip > 0:
			skip--
		case len(rows) < room:
			rows = append(rows, r)
		}
	}
	return rows, len(m.rows) - len(rows)
}

func (r *row) line(o Options, now time.Time, width, names, timers int) string {
	glyph, style := r.glyph(now)
	if !o.Colour {
		style = terminal.Plain
	}
	timerStyle := terminal.Blue
	if !o.Colour {
		timerStyle = terminal.Plain
	}
	prefix := ""
	if o.DryRun {
		prefix = "DRY-RUN MODE - "
	}
	left := max(width-3-timers-1, 0) // " ✔ " and the timer after a space
	name := terminal.Clip(prefix+r.id, min(names+len(prefix), left))
	used := terminal.Cells(name)
	gap := strings.Repeat(" ", max(min(names+len(prefix), left)-used, 0))
	used += len(gap)

	status := terminal.Clip(r.status, max(left-used-1, 0))
	text := ""
	if status != "" {
		used += 1 + terminal.Cells(status)
		if room := left - used - 2; r.text != "" && room >= 5 {
			text = "  " + terminal.Clip(r.text, room)
			used += terminal.Cells(text)
		}
		status = " " + style.Paint(status)
	}
	timer := r.elapsed(now)
	fill := strings.Repeat(" ", max(width-3-used-len(timer), 0))
	line := " " + style.Paint(glyph) + " " + name + gap + status + text
	if width-3-used-len(timer) >= 1 {
		line += fill + timerStyle.Paint(timer)
	}
	return line
}

func (r *row) glyph(now time.Time) (string, terminal.Style) {
	switch r.class {
	case done:
		return "✔", terminal.Green
	case warning:
		return "!", terminal.Yellow
	case failed:
		return "✘", terminal.Red
	}
	const spinner = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
	frames := []rune(spinner)
	i := int(now.Sub(r.began)/frameTime) % len(frames)
	return string(frames[max(i, 0)]), terminal.Cyan
}
