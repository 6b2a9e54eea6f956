package schedule

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stack-run/stack/compose/desired"
)

// Whatever a record says and whenever it is read: nothing that is due has two runs, and
// each decision has an end.
func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"version":1,"jobs":{"job":{"timers":[{"cron":"* * * * *","timezone":"Europe/Berlin","seen":"2026-01-01T10:00:00Z"}]}}}`), int64(1767261660))
	f.Add([]byte(`{"jobs":{"job":{"timers":[{"cron":"@every 3s"},{"cron":"0 3 * * 7","concurrency":"queue","missed":"skip"}],"queued":"2026-01-01T00:00:00Z"}}}`), int64(0))
	f.Add([]byte(`{"jobs":{"job":{"runs":[{"due":"2026-01-01T00:00:00Z","outcome":"running","started":"2026-01-01T00:00:00Z","boot":"x"}]}}}`), int64(1<<40))
	f.Fuzz(func(t *testing.T, text []byte, seconds int64) {
		var r Record
		if json.Unmarshal(text, &r) != nil || r.Check() != nil {
			return
		}
		now := time.Unix(seconds%(1<<40), 0).UTC()
		r, _ = r.Resume(func(Start) Found { return Found{} }, "boot", now)
		begun := map[Start]bool{}
		for range 5 {
			next, starts, at := r.Decide(func(string) bool { return false }, now)
			for _, s := range starts {
				s.Due = s.Due.UTC()
				if begun[s] {
					t.Fatalf("%v is begun twice at %v of %s", s, now, text)
				}
				begun[s] = true
				next = next.Begin(s, "c", "boot", now).Ended(s, Run{Outcome: Exited})
			}
			if r = next; at.After(now) {
				now = at
			}
		}
	})
}

// Whatever a file says is refused, or has due times that go forward.
func FuzzCron(f *testing.F) {
	for _, cron := range []string{"* * * * *", "0 3 * * 7", "*/7 1-5 1,31 * mon-fri", "@monthly", "@every 1h2m3s", "0 0 29 2 *", "5-59/7 0 * feb 1-7/3"} {
		f.Add(cron, "Europe/Berlin", int64(1767261660))
	}
	f.Add("* 2 * * *", "Australia/Lord_Howe", int64(34176108328))
	f.Fuzz(func(t *testing.T, cron, zone string, seconds int64) {
		table, err := Parse(desired.Schedule{Cron: cron, Timezone: zone})
		if err != nil {
			return
		}
		at := time.Unix(seconds%(1<<36), 0).UTC()
		for range 10 {
			next := table.Next(at)
			if next.IsZero() {
				return
			}
			if !next.After(at) {
				t.Fatalf("%q in %q: after %v comes %v", cron, zone, at, next)
			}
			if last := table.Last(at, next); !last.Equal(next) {
				t.Fatalf("%q in %q: the last from %v to %v is %v", cron, zone, at, next, last)
			}
			at = next
		}
	})
}
