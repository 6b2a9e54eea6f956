package schedule

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stack-run/stack/compose/desired"
)

func at(t *testing.T, text string) time.Time {
	t.Helper()
	when, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return when.UTC()
}

func parsed(t *testing.T, cron, zone string) Timetable {
	t.Helper()
	table, err := Parse(desired.Schedule{Cron: cron, Timezone: zone})
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func TestNext(t *testing.T) {
	for _, tt := range []struct {
		name, cron, zone, after string
		want                    []string
	}{
		{"each hour", "0 * * * *", "UTC", "2026-01-01T10:20:30Z", []string{"2026-01-01T11:00:00Z", "2026-01-01T12:00:00Z"}},
		{"a time that is due now comes the next time", "0 3 * * *", "UTC", "2026-01-01T03:00:00Z", []string{"2026-01-02T03:00:00Z"}},
		{"descriptors", "@weekly", "UTC", "2026-01-01T00:00:00Z", []string{"2026-01-04T00:00:00Z", "2026-01-11T00:00:00Z"}},
		{"an interval", "@every 90s", "", "2026-01-01T00:00:00Z", []string{"2026-01-01T00:01:30Z", "2026-01-01T00:03:00Z"}},
		{"a zone", "30 9 * * *", "Asia/Kolkata", "2026-01-01T00:00:00Z", []string{"2026-01-01T04:00:00Z"}},
		{"months without a day of that number are left out", "0 0 31 * *", "UTC", "2026-01-31T00:00:00Z", []string{"2026-03-31T00:00:00Z", "2026-05-31T00:00:00Z"}},
		{"the 30th, in February too", "0 0 30 * *", "UTC", "2026-01-30T00:00:00Z", []string{"2026-03-30T00:00:00Z"}},
		{"leap years", "0 0 29 2 *", "UTC", "2026-01-01T00:00:00Z", []string{"2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"}},
		{"the end of a year", "59 23 31 12 *", "UTC", "2026-12-31T23:59:00Z", []string{"2027-12-31T23:59:00Z"}},
		{"a day of the month or of the week", "0 0 13 * fri", "UTC", "2026-02-07T00:00:00Z", []string{"2026-02-13T00:00:00Z", "2026-02-20T00:00:00Z"}},
		{"7 is Sunday", "0 0 * * 7", "UTC", "2026-01-01T00:00:00Z", []string{"2026-01-04T00:00:00Z", "2026-01-11T00:00:00Z"}},
		{"a range up to Sunday", "0 0 * * 6-7", "UTC", "2026-01-01T00:00:00Z", []string{"2026-01-03T00:00:00Z", "2026-01-04T00:00:00Z", "2026-01-10T00:00:00Z"}},
		{"steps", "*/20 8-9 * * 1-5", "UTC", "2026-01-02T09:40:00Z", []string{"2026-01-05T08:00:00Z", "2026-01-05T08:20:00Z"}},

		// Europe/Berlin: 2026-03-29 02:00 +1 → 03:00 +2, 2026-10-25 03:00 +2 → 02:00 +1.
		{"a night that is an hour shorter", "30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00+01:00", []string{"2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"}},
		{"two times in the gap are one", "0,30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00+01:00", []string{"2026-03-29T03:00:00+02:00", "2026-03-30T02:00:00+02:00"}},
		{"a night that is an hour longer", "30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00+02:00", []string{"2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"}},
		{"in the second of the two hours it is over", "30 2 * * *", "Europe/Berlin", "2026-10-25T02:10:00+01:00", []string{"2026-10-26T02:30:00+01:00"}},
		{"hours pass one after the other: shorter", "0 * * * *", "Europe/Berlin", "2026-03-29T01:00:00+01:00", []string{"2026-03-29T03:00:00+02:00", "2026-03-29T04:00:00+02:00"}},
		{"hours pass one after the other: longer", "@hourly", "Europe/Berlin", "2026-10-25T01:00:00+02:00", []string{"2026-10-25T02:00:00+02:00", "2026-10-25T02:00:00+01:00", "2026-10-25T03:00:00+01:00"}},
		{"quarters of an hour where clocks go back", "*/15 * * * *", "Europe/Berlin", "2026-10-25T02:45:00+02:00", []string{"2026-10-25T02:00:00+01:00", "2026-10-25T02:15:00+01:00"}},
		{"half an hour, on Lord Howe", "15 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00:00+10:30", []string{"2026-10-04T02:30:00+11:00", "2026-10-05T02:15:00+11:00"}},
		{"far ahead", "* 2 * * *", "Australia/Lord_Howe", "3052-12-30T19:25:28Z", []string{"3053-01-01T02:00:00+11:00"}},
		{"west of Greenwich", "30 1 * * *", "America/New_York", "2026-10-31T12:00:00-04:00", []string{"2026-11-01T01:30:00-04:00", "2026-11-02T01:30:00-05:00"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			table := parsed(t, tt.cron, tt.zone)
			after := at(t, tt.after)
			for i, want := range tt.want {
				got := table.Next(after)
				if !got.Equal(at(t, want)) {
					t.Fatalf("%d: after %v comes %v, want %v", i, after, got, at(t, want))
				}
				if last := table.Last(after, got.Add(time.Second)); !last.Equal(got) {
					t.Fatalf("%d: the last one after %v up to then is %v, want %v", i, after, last, got)
				}
				after = got
			}
		})
	}
}

func TestLastOfALongTime(t *testing.T) {
	for cron, want := range map[string]string{
		"* * * * *":    "2026-12-31T23:59:00Z",
		"0 0 29 2 *":   "2024-02-29T00:00:00Z",
		"@every 7s":    "2026-12-31T23:59:27Z",
		"0 3 1 1 *":    "2026-01-01T03:00:00Z",
		"30 12 31 * *": "2026-12-31T12:30:00Z",
	} {
		got := parsed(t, cron, "UTC").Last(at(t, "2020-01-01T00:00:00Z"), at(t, "2026-12-31T23:59:30Z"))
		if !got.Equal(at(t, want)) {
			t.Errorf("%s: %v, want %s", cron, got, want)
		}
	}
}

func TestFaults(t *testing.T) {
	for _, tt := range []struct{ cron, zone, attribute, text string }{
		{"61 * * * *", "", "cron", "cannot read"},
		{"* * * *", "", "cron", "five fields"},
		{"* * * * * *", "", "cron", "five fields"},
		{"", "", "cron", "five fields"},
		{"@reboot", "", "cron", "@hourly"},
		{"@every 10ms", "", "cron", "a second or more"},
		{"@every soon", "", "cron", "@every 90s"},
		{"0 0 30 2 *", "", "cron", "no such day"},
		{"TZ=UTC 0 0 * * *", "", "cron", "timezone"},
		{"CRON_TZ=UTC 0 0 * * *", "", "cron", "timezone"},
		{"0 0 * * x-7", "", "cron", "days of the week"},
		{"0 0 * * *", "Europe/Atlantis", "timezone", "Europe/Paris"},
	} {
		_, err := Parse(desired.Schedule{Cron: tt.cron, Timezone: tt.zone})
		var fault *Fault
		if !errors.As(err, &fault) || fault.Attribute != tt.attribute || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%q in %q: %v, want %s: … %s", tt.cron, tt.zone, err, tt.attribute, tt.text)
		}
	}
}
