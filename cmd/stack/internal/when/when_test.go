package when

import (
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	zone := time.FixedZone("", 2*3600)
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, zone)
	for in, want := range map[string]time.Time{
		"42m":                            now.Add(-42 * time.Minute),
		"1h30m":                          now.Add(-90 * time.Minute),
		"1357000000":                     time.Unix(1357000000, 0),
		"1357000000.5":                   time.Unix(1357000000, 500000000),
		"1357000000.000000001":           time.Unix(1357000000, 1),
		"2013-01-02T13:23:37Z":           time.Date(2013, 1, 2, 13, 23, 37, 0, time.UTC),
		"2013-01-02T13:23:37.123456789Z": time.Date(2013, 1, 2, 13, 23, 37, 123456789, time.UTC),
		"2013-01-02T13:23:37":            time.Date(2013, 1, 2, 13, 23, 37, 0, zone),
		"2013-01-02T13:23:37.5":          time.Date(2013, 1, 2, 13, 23, 37, 500000000, zone),
		"2013-01-02T13:23":               time.Date(2013, 1, 2, 13, 23, 0, 0, zone),
		"2013-01-02":                     time.Date(2013, 1, 2, 0, 0, 0, 0, zone),
		"2013-01-02Z":                    time.Date(2013, 1, 2, 0, 0, 0, 0, time.UTC),
		"":                               {},
	} {
		got, err := Parse(in, now)
		if err != nil || !got.Equal(want) {
			t.Errorf("Parse(%q) = %v, %v; want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"yesterday", "12:30", "1.2.3", "2013-13-45"} {
		if got, err := Parse(in, now); err == nil {
			t.Errorf("Parse(%q) = %v, want an error", in, got)
		}
	}
}
