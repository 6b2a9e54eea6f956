package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// talkers is how many services print at the same time, spoken how many lines each
// of them prints in a round.
const (
	talkers = 5
	spoken  = 200
)

// spokenLine is a line of `stack logs --timestamps`.
type spokenLine struct {
	from string
	at   time.Time
	text string
}

func spokenLines(t *testing.T, out string) (lines []spokenLine) {
	t.Helper()
	for l := range strings.Lines(out) {
		from, rest, _ := strings.Cut(strings.TrimSuffix(l, "\n"), "|")
		stamp, text, _ := strings.Cut(strings.TrimSpace(rest), " ")
		at, err := time.Parse(time.RFC3339Nano, stamp)
		if err != nil {
			t.Fatalf("%q: %v", l, err)
		}
		lines = append(lines, spokenLine{strings.TrimSpace(from), at, text})
	}
	return lines
}

// checkSorted checks that times do not go back, and that services took turns:
// logs one after the other would be sorted by chance only.
func checkSorted(t *testing.T, lines []spokenLine) {
	t.Helper()
	turns := 0
	for i, l := range lines[1:] {
		if l.at.Before(lines[i].at) {
			t.Fatalf("line %d is older than the one before it:\n%v\n%v", i+1, lines[i], l)
		}
		if l.from != lines[i].from {
			turns++
		}
	}
	if turns < 4*talkers {
		t.Errorf("services took %d turns only in %d lines", turns, len(lines))
	}
}

// checkSpoken checks that each service's lines are there once, in their order.
func checkSpoken(t *testing.T, lines []spokenLine, rounds ...string) {
	t.Helper()
	want := "ready"
	for _, round := range rounds {
		for i := range spoken {
			want += fmt.Sprintf("\n%s %d", round, i+1)
		}
	}
	texts := map[string][]string{}
	for _, l := range lines {
		texts[l.from] = append(texts[l.from], l.text)
	}
	for i := range talkers {
		from := fmt.Sprintf("s%d-1", i)
		if got := strings.Join(texts[from], "\n"); got != want {
			t.Errorf("%s: %d lines, not as they were printed: %s", from, len(texts[from]), tail(got))
		}
	}
}

// Lines of several services come in the order of the engine's times.
func TestLogOrder(t *testing.T) {
	b := newBox(t, "busybox:latest")
	yaml := "name: app\nservices:\n"
	for i := range talkers {
		yaml += fmt.Sprintf(`  s%d:
    image: busybox
    command:
      - sh
      - -c
      - |
        say() { for i in $$(seq %d); do echo $$1 $$i; usleep 2000; done; }
        trap 'say first' USR1
        trap 'say second; exit' USR2
        echo ready
        while :; do sleep 600 & wait $$!; done
`, i, spoken)
	}
	b.compose(t, yaml)
	b.ok(t, "up", "--detach")
	said := func(text string) {
		eventually(t, 30*time.Second, func() error {
			return count(b.ok(t, "logs", "--no-log-prefix"), text+"\n", talkers)
		})
	}
	said("ready")
	b.ok(t, "kill", "--signal", "USR1")
	said(fmt.Sprintf("first %d", spoken))
	t.Run("history", func(t *testing.T) {
		lines := spokenLines(t, b.ok(t, "logs", "--timestamps"))
		checkSorted(t, lines)
		checkSpoken(t, lines, "first")
	})
	t.Run("--follow", func(t *testing.T) {
		j := b.start(t, "logs", "--follow", "--timestamps")
		eventually(t, 30*time.Second, func() error {
			return count(j.out.String(), fmt.Sprintf(" first %d\n", spoken), talkers)
		})
		b.ok(t, "kill", "--signal", "USR2")
		if code := j.wait(t, 60*time.Second); code != 0 {
			t.Errorf("exit code %d", code)
		}
		lines := spokenLines(t, j.out.String())
		history := talkers * (1 + spoken)
		if len(lines) < history {
			t.Fatalf("%d lines", len(lines))
		}
		checkSorted(t, lines[:history])
		checkSpoken(t, lines, "first", "second")
	})
	b.ok(t, "down", "--timeout", "0")
	b.nothingLeft(t, b.before)
}
