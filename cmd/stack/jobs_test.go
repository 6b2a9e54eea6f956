package main

import (
	"strings"
	"testing"
	"time"

	"github.com/stack-run/stack/compose/desired"
	"github.com/stack-run/stack/compose/schedule"
)

func TestJobsAndTheirRuns(t *testing.T) {
	s := newSession(t, lay(t, map[string]string{"compose.yaml": `name: shop
jobs:
  backup: {image: x, triggers: {schedule: ["0 3 * * *"]}}
  tidy: {image: x, triggers: {schedule: ["@daily"]}}
  migrate: {image: x, triggers: {manual: true}}
`}))
	now := clock()
	midnight := time.Date(2026, 3, 4, 0, 0, 0, 0, time.UTC)
	s.fake.schedules = map[string]schedule.Record{"shop": {Jobs: map[string]*schedule.Job{"backup": {
		Timers: []schedule.Timer{{Schedule: desired.Schedule{Cron: "0 3 * * *"}, Seen: now}},
		Runs: []schedule.Run{
			{Due: midnight, Outcome: schedule.Missed, Times: 2},
			{Due: midnight.Add(time.Hour), Outcome: schedule.Failed, Error: "no such image"},
			{Due: midnight.Add(2 * time.Hour), Outcome: schedule.Skipped, Times: 1},
			{Due: midnight.Add(3 * time.Hour), Outcome: schedule.Exited, ExitCode: 4, Started: midnight.Add(3*time.Hour + time.Second), Finished: midnight.Add(3*time.Hour + 3500*time.Millisecond), Container: "shop-backup-run-1"},
			{Due: midnight.Add(4 * time.Hour), Outcome: schedule.Running, Started: now.Add(-time.Minute), Container: "shop-backup-run-2"},
		},
	}}}}
	for _, tt := range []struct{ args, want string }{
		{"jobs", `JOB       SCHEDULE    NEXT RUN                  LAST RUN                  STATUS
backup    0 3 * * *   2026-03-05 03:00:00 UTC   2026-03-04 04:00:00 UTC   running
migrate   by hand
tidy      @daily      not scheduled
`},
		{"jobs --quiet tidy", "tidy\n"},
		{"jobs --history", `JOB       DUE                       STARTED                   DURATION   STATUS                                     CONTAINER
backup    2026-03-04 04:00:00 UTC   2026-03-04 05:05:07 UTC   1m0s       running                                    shop-backup-run-2
backup    2026-03-04 03:00:00 UTC   2026-03-04 03:00:01 UTC   2.5s       exited (4)                                 shop-backup-run-1
backup    2026-03-04 02:00:00 UTC                                        skipped: the run before it had not ended
backup    2026-03-04 01:00:00 UTC                                        failed: no such image
backup    2026-03-04 00:00:00 UTC                                        missed 2 times
`},
		{"jobs --history tidy --format {{.Due}}", ""},
		{"jobs --history backup --format {{.Status}} -q", "shop-backup-run-2\nshop-backup-run-1\n\n\n\n"},
	} {
		out, errOut, code := s.do(t, strings.Fields(tt.args)...)
		var lines []string
		for line := range strings.Lines(out) {
			lines = append(lines, strings.TrimRight(line, " \n")+"\n")
		}
		if got := strings.Join(lines, ""); got != tt.want || code != 0 {
			t.Errorf("%s: exit %d, %s\n%s\nwant\n%s", tt.args, code, errOut, got, tt.want)
		}
	}
	if _, errOut, code := s.do(t, "jobs", "backp"); code == 0 || !strings.Contains(errOut, `no such job: backp; did you mean "backup"?`) {
		t.Errorf("a job that is not there: exit %d, %s", code, errOut)
	}
}
