// Package when reads the points in time that --since and --until take.
package when

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Parse reads a duration before now ("42m", "1h30m"), Unix seconds with an
// optional fraction (0 is one, as in Docker), or a date with an optional time and zone as RFC 3339 has
// them. What has no zone is in now's. The empty string is the zero time.
func Parse(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil && s != "0" {
		return now.Add(-d), nil
	}
	if t, ok := unix(s); ok {
		return t, nil
	}
	for _, layout := range []string{
		time.RFC3339Nano,
		"2006-01-02T15:04Z07:00",
		"2006-01-02T15Z07:00",
		"2006-01-02Z07:00",
		"2006-01-02T15:04:05",
		"2006-01-02 15:04:05",
		"2006-01-02T15:04",
		"2006-01-02 15:04",
		"2006-01-02T15",
		"2006-01-02",
	} {
		if t, err := time.ParseInLocation(layout, s, now.Location()); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("cannot read the time %q; use a duration (42m), a date (2013-01-02T13:23:37Z) or Unix seconds", s)
}

// unix reads seconds[.fraction] without losing nanoseconds to a float.
func unix(s string) (time.Time, bool) {
	whole, frac, _ := strings.Cut(s, ".")
	sec, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || len(frac) > 9 {
		return time.Time{}, false
	}
	var nsec int64
	if frac != "" {
		n, err := strconv.ParseUint(frac, 10, 32)
		if err != nil {
			return time.Time{}, false
		}
		nsec = int64(n) * int64(math.Pow10(9-len(frac)))
	}
	return time.Unix(sec, nsec), true
}
