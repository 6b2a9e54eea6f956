package schedule

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/stack-run/stack/compose/desired"
)

// story is a record through which time passes. Whatever is decided is forgotten but
// for what is stored, as if a supervisor were killed each time.
type story struct {
	t   *testing.T
	r   Record
	now time.Time
}

func newStory(t *testing.T, now string, schedules ...desired.Schedule) *story {
	s := &story{t: t, now: at(t, now)}
	s.keep(s.r.Arm("job", schedules, s.now))
	return s
}

func (s *story) keep(r Record) {
	s.t.Helper()
	text, err := json.Marshal(r)
	if err != nil {
		s.t.Fatal(err)
	}
	s.r = Record{}
	if err := json.Unmarshal(text, &s.r); err != nil {
		s.t.Fatal(err)
	}
}

// at lets it be a time, and returns the due times of the runs that begin.
func (s *story) at(now string, busy ...string) string {
	s.t.Helper()
	s.now = at(s.t, now)
	var begun []string
	r, starts, next := s.r.Decide(func(job string) bool { return len(busy) > 0 }, s.now)
	for _, start := range starts {
		begun = append(begun, start.Due.Format("15:04:05"))
	}
	if !next.IsZero() && !next.After(s.now) {
		s.t.Errorf("at %s the next decision is at %v", now, next)
	}
	s.keep(r)
	return strings.Join(begun, " ")
}

func (s *story) ended() {
	s.t.Helper()
	for _, start := range s.r.Underway() {
		s.keep(s.r.Ended(start, Run{Outcome: Exited, Finished: s.now}))
	}
}

// history is what is known of the runs.
func (s *story) history() string {
	var out []string
	for _, r := range s.r.Jobs["job"].Runs {
		line := r.Due.Format("15:04:05") + " " + string(r.Outcome)
		if r.Times > 1 {
			line += fmt.Sprint(" ", r.Times)
		}
		out = append(out, line)
	}
	return strings.Join(out, ", ")
}

func (s *story) want(what, got, want string) {
	s.t.Helper()
	if got != want {
		s.t.Errorf("%s: %q, want %q", what, got, want)
	}
}

func minutely(change ...func(*desired.Schedule)) desired.Schedule {
	s := desired.Schedule{Cron: "* * * * *", Timezone: "UTC"}
	for _, c := range change {
		c(&s)
	}
	return s
}

func queued(s *desired.Schedule)  { s.Concurrency = desired.ConcurrencyQueue }
func skipped(s *desired.Schedule) { s.Missed = desired.MissedSkip }

// A due time has one run, however often it is looked at.
func TestOncePerDueTime(t *testing.T) {
	s := newStory(t, "2026-01-01T10:00:00Z", minutely())
	s.want("when it is armed", s.at("2026-01-01T10:00:00Z"), "")
	s.want("before", s.at("2026-01-01T10:00:59Z"), "")
	s.want("when due", s.at("2026-01-01T10:01:00Z"), "10:01:00")
	s.want("at once again", s.at("2026-01-01T10:01:00Z"), "")
	s.ended()
	s.want("once it has ended", s.at("2026-01-01T10:01:59Z"), "")
	s.want("a little late", s.at("2026-01-01T10:02:40Z"), "10:02:00")
	s.ended()
	s.want("with the clock set back", s.at("2026-01-01T10:01:00Z"), "")
	s.want("when it has come there again", s.at("2026-01-01T10:02:00Z"), "")
	s.want("and past it", s.at("2026-01-01T10:03:00Z"), "10:03:00")
	s.want("history", s.history(), "10:01:00 exited, 10:02:00 exited, 10:03:00 running")
}

func TestConcurrency(t *testing.T) {
	s := newStory(t, "2026-01-01T10:00:00Z", minutely())
	s.want("the first", s.at("2026-01-01T10:01:00Z"), "10:01:00")
	for _, now := range []string{"2026-01-01T10:02:00Z", "2026-01-01T10:03:00Z", "2026-01-01T10:04:00Z"} {
		s.want("while it runs", s.at(now), "")
	}
	s.ended()
	s.want("what was skipped does not come later", s.at("2026-01-01T10:04:30Z"), "")
	s.want("the next", s.at("2026-01-01T10:05:00Z"), "10:05:00")
	s.want("history", s.history(), "10:01:00 exited, 10:04:00 skipped 3, 10:05:00 running")

	s = newStory(t, "2026-01-01T10:00:00Z", minutely(queued))
	s.want("the first", s.at("2026-01-01T10:01:00Z"), "10:01:00")
	s.want("while it runs", s.at("2026-01-01T10:02:10Z"), "")
	s.ended()
	s.want("what was queued", s.at("2026-01-01T10:02:30Z"), "10:02:00")
	s.want("while that runs", s.at("2026-01-01T10:03:00Z"), "")
	s.ended()
	s.want("two at once are one after the other", s.at("2026-01-01T10:04:00Z"), "10:03:00")
	s.ended()
	s.want("the other", s.at("2026-01-01T10:04:20Z"), "10:04:00")

	s = newStory(t, "2026-01-01T10:00:00Z", minutely())
	s.want("beside a run by hand", s.at("2026-01-01T10:01:00Z", "busy"), "")
	s.want("history", s.history(), "10:01:00 skipped")
}

func TestMissed(t *testing.T) {
	s := newStory(t, "2026-01-01T10:00:00Z", minutely())
	s.want("one run makes up for a day", s.at("2026-01-02T10:00:30Z"), "10:00:00")
	s.ended()
	s.want("and then it goes on", s.at("2026-01-02T10:01:00Z"), "10:01:00")

	daily := desired.Schedule{Cron: "0 3 * * *", Timezone: "UTC"}
	s = newStory(t, "2026-01-01T10:00:00Z", daily)
	s.want("hours later", s.at("2026-01-04T09:00:00Z"), "03:00:00")
	s.ended()
	s.want("not again", s.at("2026-01-04T09:00:01Z"), "")

	skipped(&daily)
	s = newStory(t, "2026-01-01T10:00:00Z", daily)
	s.want("hours later, if they are to be skipped", s.at("2026-01-04T09:00:00Z"), "")
	s.want("history", s.history(), "03:00:00 missed")
	s.want("a restart in time misses nothing", s.at("2026-01-05T03:00:20Z"), "03:00:00")

	s = newStory(t, "2026-01-01T10:00:00Z", minutely())
	s.want("a clock that was years ahead", s.at("2031-01-01T10:00:00Z"), "10:00:00")
	s.ended()
	s.want("and came back", s.at("2026-01-01T10:05:00Z"), "")
	s.want("and went on", s.at("2026-01-01T10:06:00Z"), "10:06:00")
}

// What was to begin when the supervisor, or the machine, went down.
func TestResume(t *testing.T) {
	const soon, later = "2026-01-01T10:01:01Z", "2026-01-01T12:01:01Z"
	for _, tt := range []struct {
		name, now string
		change    func(*desired.Schedule)
		begun     bool
		found     Found
		boot      string
		want      string // what becomes of it, "" if it goes on
	}{
		{name: "a moment later", now: soon},
		{name: "much later", now: later},
		{name: "a moment later, not to be made up for", now: soon, change: skipped},
		{name: "much later, not to be made up for", now: later, change: skipped, want: "missed"},
		{name: "much later, with a container that never started", now: later, change: skipped, found: Found{Container: true}, want: "missed"},
		{name: "it runs", now: later, change: skipped, begun: true, found: Found{true, true}},
		{name: "it runs, which is not noted", now: soon, found: Found{true, true}},
		{name: "killed right before the start", now: soon, begun: true, found: Found{Container: true}},
		{name: "the power failed while it ran", now: soon, begun: true, found: Found{Container: true}, boot: "next", want: "failed"},
		{name: "its container was removed", now: soon, begun: true, want: "failed"},
		{name: "the power failed before it began", now: soon, found: Found{Container: true}, boot: "next"},
		{name: "it ended and the power failed", now: soon, begun: true, found: Found{true, true}, boot: "next"},
	} {
		schedule := minutely()
		if tt.change != nil {
			tt.change(&schedule)
		}
		s := newStory(t, "2026-01-01T10:00:00Z", schedule)
		s.want(tt.name, s.at("2026-01-01T10:01:00Z"), "10:01:00")
		if tt.begun {
			s.keep(s.r.Begin(s.r.Underway()[0], "job-run", "", s.now))
		}
		r, starts := s.r.Resume(func(Start) Found { return tt.found }, tt.boot, at(t, tt.now))
		s.keep(r)
		s.want(tt.name, string(s.r.Jobs["job"].Runs[0].Outcome), cmp.Or(tt.want, "running"))
		if len(starts) == 1 != (tt.want == "") {
			t.Errorf("%s: %v goes on", tt.name, starts)
		}
	}
}

func TestArming(t *testing.T) {
	s := newStory(t, "2026-01-01T10:00:00Z", minutely())
	s.want("when due", s.at("2026-01-01T10:01:00Z"), "10:01:00")
	s.keep(s.r.Arm("job", []desired.Schedule{minutely(queued), {Cron: "@every 10m"}}, at(t, "2026-01-01T10:01:30Z")))
	s.want("armed again, it has run", s.at("2026-01-01T10:01:40Z"), "")
	if next := s.r.Jobs["job"].Next(s.now); !next.Equal(at(t, "2026-01-01T10:02:00Z")) {
		t.Errorf("it is due next at %v", next)
	}
	s.keep(s.r.Disarm("job"))
	s.want("disarmed", s.at("2026-01-01T10:05:00Z"), "")
	s.want("history", s.history(), "10:01:00 running")
	s.keep(s.r.Arm("job", []desired.Schedule{minutely()}, s.now))
	s.want("nothing is made up for that was due while it was disarmed", s.at("2026-01-01T10:05:59Z"), "")
	if armed := s.r.Armed(); len(armed["job"]) != 1 || armed["job"][0].Cron != "* * * * *" {
		t.Errorf("armed: %v", armed)
	}
	s.ended()
	s.keep(s.r.Disarm("other").Arm("other", nil, s.now).Disarm("other"))
	if s.r.Jobs["other"] != nil {
		t.Error("a job that never ran is remembered once it is disarmed")
	}
}

// Two schedules of one job that are due at one time have one run.
func TestTwoSchedules(t *testing.T) {
	s := newStory(t, "2026-01-01T10:59:00Z", desired.Schedule{Cron: "0 * * * *", Timezone: "UTC"}, desired.Schedule{Cron: "@every 1m"})
	s.want("both", s.at("2026-01-01T11:00:00Z"), "11:00:00")
	s.ended()
	s.want("again", s.at("2026-01-01T11:00:01Z"), "")
	s.want("one", s.at("2026-01-01T11:01:00Z"), "11:01:00")
}

func TestHistoryHasABound(t *testing.T) {
	s := newStory(t, "2026-01-01T10:00:00Z", minutely())
	for range 3 * Kept {
		s.at(s.now.Add(time.Minute).Format(time.RFC3339))
		s.ended()
	}
	if n := len(s.r.Jobs["job"].Runs); n != Kept {
		t.Errorf("%d runs are remembered", n)
	}
}

// Deciding changes nothing of what it was given.
func TestPure(t *testing.T) {
	s := newStory(t, "2026-01-01T10:00:00Z", minutely(queued))
	before, _ := json.Marshal(s.r)
	for range 2 {
		s.r.Decide(func(string) bool { return false }, at(t, "2026-01-01T10:01:00Z"))
		s.r.Arm("job", nil, s.now)
		s.r.Arm("other", nil, s.now)
		s.r.Disarm("job")
	}
	if after, _ := json.Marshal(s.r); string(after) != string(before) {
		t.Errorf("%s\nhas become\n%s", before, after)
	}
	if jobs := maps.Clone(s.r.Jobs); len(jobs) != 1 {
		t.Errorf("jobs: %v", jobs)
	}
}
