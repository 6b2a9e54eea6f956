package progress

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stack-run/stack/cmd/stack/internal/terminal"
	"github.com/stack-run/stack/compose/apply"
)

var errTest = errors.New("port 8080 is in use by process 77 (nginx)")

func events() []apply.Event {
	return []apply.Event{
		{Kind: "Network", Name: "shop_default", Status: "Creating"},
		{Kind: "Network", Name: "shop_default", Status: "Created", Done: true},
		{Kind: "Container", Name: "shop-db-1", Status: "Started", Done: true},
		{Kind: "Container", Name: "shop-web-1", Status: "Recreate", Text: `environment.LOG_LEVEL "info" → "debug"`},
		{Kind: "Container", Name: "shop-job-1", Status: "Error", Text: errTest.Error()},
	}
}

func TestPlain(t *testing.T) {
	var b strings.Builder
	d := New(Plain, &b, Options{})
	for _, e := range events() {
		d.Event(e)
	}
	d.Done()
	want := " Network shop_default Creating \n" +
		" Network shop_default Created \n" +
		" Container shop-db-1 Started \n" +
		" Container shop-web-1 Recreate environment.LOG_LEVEL \"info\" → \"debug\"\n" +
		" Container shop-job-1 Error port 8080 is in use by process 77 (nginx)\n"
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

func TestJSON(t *testing.T) {
	var b strings.Builder
	d := New(JSON, &b, Options{DryRun: true})
	for _, e := range events()[2:4] {
		d.Event(e)
	}
	want := `{"dry-run":true,"id":"Container shop-db-1","status":"Done","text":"Started"}
{"dry-run":true,"id":"Container shop-web-1","status":"Working","text":"Recreate","details":"environment.LOG_LEVEL \"info\" → \"debug\""}
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

func TestFrame(t *testing.T) {
	began := time.Unix(1000, 0)
	var m model
	for i, e := range events() {
		m.apply(e, began.Add(time.Duration(i)*100*time.Millisecond))
	}
	o := Options{Title: "Running", Now: func() time.Time { return began.Add(12300 * time.Millisecond) }}
	got := strings.Join(m.frame(o, 80, 24), "\n")
	want := strings.Join([]string{
		`[+] Running 3/4`,
		` ✔ Network shop_default Created                                             0.1s`,
		` ✔ Container shop-db-1  Started                                             0.0s`,
		` ⠋ Container shop-web-1 Recreate  environment.LOG_LEVEL "info" → "debug"   12.0s`,
		` ✘ Container shop-job-1 Error  port 8080 is in use by process 77 (nginx)    0.0s`,
	}, "\n")
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestFrameFits(t *testing.T) {
	now := time.Unix(1000, 0)
	var m model
	for i := range 40 {
		status, isDone := "Starting", false
		if i%2 == 0 {
			status, isDone = "Started", true
		}
		m.apply(apply.Event{Kind: "Container", Name: strings.Repeat("名", i) + "-web", Status: status, Text: "because\nof 🎉", Done: isDone}, now)
	}
	for width := 1; width < 120; width++ {
		for _, height := range []int{1, 2, 3, 10, 24, 100} {
			lines := m.frame(Options{Title: "Running", Now: func() time.Time { return now }}, width, height)
			if len(lines) > height {
				t.Fatalf("%d lines at height %d", len(lines), height)
			}
			for _, l := range lines {
				if c := terminal.Cells(l); c > width && width > 12 {
					t.Fatalf("%d cells at width %d: %q", c, width, l)
				}
			}
		}
	}
	// What is at work is shown before what is done.
	for _, l := range m.frame(Options{Now: func() time.Time { return now }}, 80, 20)[1:18] {
		if strings.Contains(l, "Started") {
			t.Errorf("a finished row took the place of one at work: %q", l)
		}
	}
}

func TestLiveRepaint(t *testing.T) {
	var b strings.Builder
	d := New(TTY, &b, Options{Title: "Running", Size: func() (int, int) { return 40, 24 }, Now: func() time.Time { return time.Unix(5, 0) }})
	d.Event(events()[1])
	d.Print(func() { b.WriteString("a log line\n") })
	d.Done()
	d.Done()
	d.Event(events()[2])
	got := b.String()
	for _, want := range []string{"a log line\n", "[+] Running 1/1\n", " ✔ Network shop_default Created     0.0s\n", " Container shop-db-1 Started \n"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in %q", want, got)
		}
	}
}

func TestScreen(t *testing.T) {
	var b strings.Builder
	s := screen{w: &b}
	s.paint([]string{"a", "b"}, 10)
	b.Reset()
	s.paint([]string{"a", "c"}, 10)
	if want := hideCursor + "\x1b[2A\r\n" + clearLine + "c\n" + showCursor; b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
	b.Reset()
	s.paint([]string{"a", "c"}, 10)
	if b.String() != "" {
		t.Errorf("painted an unchanged block: %q", b.String())
	}
	s.erase()
	if want := "\x1b[2A\r" + clearBelow; b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
}
