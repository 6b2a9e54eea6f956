package diagnosis

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Cause is a kind of reason, in a word or two.
type Cause string

// A service runs, or has done what it was for.
const (
	Healthy  Cause = "healthy"
	Running  Cause = "running" // it has no health check
	Done     Cause = "done"    // it ended with 0
	Provided Cause = "provided"
)

// Something goes on, or is waited for.
const (
	Starting Cause = "starting" // it runs, and is not healthy yet
	Waiting  Cause = "waiting"  // for another service, which may become what is asked for
	Stopping Cause = "stopping"
	Removing Cause = "removing"
)

// Somebody wants it so.
const (
	Paused     Cause = "paused"
	Stopped    Cause = "stopped"
	ProfileOff Cause = "profile off"
	ScaledOff  Cause = "scaled to 0"
	Disabled   Cause = "disabled"
	Job        Cause = "job"
)

// It was not made, or not started.
const (
	NotCreated Cause = "not created"
	NotStarted Cause = "not started"
	NoImage    Cause = "no image"
	PortInUse  Cause = "port in use"
	Blocked    Cause = "blocked" // what it needs failed
)

// It does not work.
const (
	Unhealthy     Cause = "unhealthy"
	Exited        Cause = "exited"
	CrashLoop     Cause = "crash loop"
	OutOfMemory   Cause = "out of memory"
	Killed        Cause = "killed"
	HostStopped   Cause = "host stopped"
	NoCommand     Cause = "no command"
	StartFailed   Cause = "start failed"
	RemovalFailed Cause = "removal failed"
)

// order is which of several containers' causes is told: the first.
func order() []Cause {
	return []Cause{
		OutOfMemory, CrashLoop, NoCommand, PortInUse, StartFailed, Killed, HostStopped, Exited, RemovalFailed, Unhealthy, NoImage, Blocked,
		Waiting, NotStarted, NotCreated, Starting, Stopping, Removing, Paused, Stopped, Done, Healthy, Running,
	}
}

// Reason is why a service runs or does not.
type Reason struct {
	Service string
	Cause   Cause
	// Text is a sentence of which the service is the subject: "is paused".
	Text string
	// Output is the last line of a log, or of what a probe said.
	Output string
	// Todo is what to do about it, "" for nothing.
	Todo string
	// Container is whose reason it is, "" where there is none, Exceptional how many of
	// Containers have it.
	Container   string
	Containers  int
	Exceptional int
	// Chain leads from the service to the one that is the cause, over what depends on
	// what.
	Chain []string
}

// Well says that there is nothing amiss.
func (r Reason) Well() bool {
	switch r.Cause {
	case Healthy, Running, Done, Provided:
		return true
	}
	return false
}

// passing says that it may yet become well by itself.
func (r Reason) passing() bool {
	switch r.Cause {
	case Starting, Waiting, CrashLoop:
		return true
	}
	return r.Well()
}

func (r Reason) String() string {
	text := r.Text
	if r.Output != "" {
		text += ": " + r.Output
	}
	if r.Todo != "" {
		text += "; " + r.Todo
	}
	return text
}

// span writes a duration as one says it: "12 s", "3 min", "2 h 5 min", "3 days".
func span(d time.Duration) string {
	switch d = max(d, 0); {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 24*time.Hour:
		if m := int(d.Minutes()) % 60; m > 0 && d < 10*time.Hour {
			return fmt.Sprintf("%d h %d min", int(d.Hours()), m)
		}
		return fmt.Sprintf("%d h", int(d.Hours()))
	case d < 48*time.Hour:
		return "a day"
	}
	return fmt.Sprintf("%d days", int(d.Hours())/24)
}

// size writes bytes in the largest unit that leaves no rest.
func size(n int64) string {
	for _, u := range []struct {
		name string
		n    int64
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if n >= u.n && n%u.n == 0 {
			return fmt.Sprintf("%d %s", n/u.n, u.name)
		}
	}
	return fmt.Sprintf("%d bytes", n)
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

// LastLine is the last line of a text that has something in it, as it can be shown on
// one line.
func LastLine(text string) string {
	lines := strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' })
	for i := len(lines) - 1; i >= 0; i-- {
		if line := plain(lines[i]); line != "" {
			return line
		}
	}
	return ""
}

// longest is how much is shown of a line that others wrote.
const longest = 160

// plain is a line as it can be shown, and not too long.
func plain(line string) string {
	text := []rune(strings.TrimSpace(visible(line)))
	if len(text) > longest {
		text = append(text[:longest-1], '…')
	}
	return string(text)
}

// visible leaves out what would change a terminal (ECMA-48 control sequences) and all
// else that cannot be seen.
func visible(line string) string {
	var b strings.Builder
	for line != "" {
		if sequence, ok := strings.CutPrefix(line, "\x1b["); ok {
			end := strings.IndexFunc(sequence, func(r rune) bool { return r >= '@' && r <= '~' })
			line = sequence[max(end+1, 0):]
			if end < 0 {
				break
			}
			continue
		}
		r, n := utf8.DecodeRuneInString(line)
		line = line[n:]
		switch {
		case r == '\t':
			b.WriteByte(' ')
		case unicode.IsPrint(r):
			b.WriteRune(r)
		}
	}
	return b.String()
}
