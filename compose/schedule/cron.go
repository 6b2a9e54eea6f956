package schedule

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // a host need not have the time zones that a file names

	"github.com/robfig/cron/v3"

	"github.com/stack-run/stack/compose/desired"
)

// Timetable is a schedule that has been understood.
type Timetable struct {
	cron  cron.Schedule // of wall-clock times, told in UTC; nil for every
	every time.Duration
	zone  *time.Location
	fixed bool
}

// Parse understands a schedule. What is wrong is told by the attribute.
func Parse(s desired.Schedule) (Timetable, error) {
	t := Timetable{zone: time.Local}
	if s.Timezone != "" {
		zone, err := time.LoadLocation(s.Timezone)
		if err != nil {
			return t, &Fault{"timezone", fmt.Errorf("there is no time zone %q; write one like Europe/Paris, or UTC", s.Timezone)}
		}
		t.zone = zone
	}
	if err := t.parse(strings.TrimSpace(s.Cron)); err != nil {
		return t, &Fault{"cron", err}
	}
	return t, nil
}

// Fault is what is wrong with an attribute of a schedule.
type Fault struct {
	Attribute string
	Err       error
}

func (f *Fault) Error() string { return f.Attribute + ": " + f.Err.Error() }
func (f *Fault) Unwrap() error { return f.Err }

const usage = "; write five fields (minute, hour, day of the month, month, day of the week), or @hourly, @daily, @weekly, @monthly, @yearly or @every 90s"

func (t *Timetable) parse(text string) error {
	if interval, ok := strings.CutPrefix(text, "@every "); ok {
		every, err := time.ParseDuration(strings.TrimSpace(interval))
		if err != nil || every < time.Second {
			return fmt.Errorf("%q is no interval of a second or more; write it like @every 90s or @every 1h30m", text)
		}
		t.every = every.Truncate(time.Second)
		return nil
	}
	fields := strings.Fields(text)
	if strings.Contains(text, "TZ=") {
		return errors.New("a time zone goes into timezone, beside cron")
	}
	if len(fields) == 5 {
		day, err := sundays(fields[4])
		if err != nil {
			return err
		}
		fields[4] = day
		text = strings.Join(fields, " ")
		t.fixed = !strings.HasPrefix(fields[0], "*") && !strings.HasPrefix(fields[1], "*")
	} else {
		t.fixed = text != "@hourly"
	}
	parser := cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor)
	parsed, err := parser.Parse(text)
	if err != nil {
		return fmt.Errorf("cannot read %q: %w%s", text, err, usage)
	}
	if spec, ok := parsed.(*cron.SpecSchedule); ok {
		spec.Location = time.UTC
	}
	if parsed.Next(time.Unix(0, 0).UTC()).IsZero() {
		return fmt.Errorf("%q never comes: there is no such day", text)
	}
	t.cron = parsed
	return nil
}

// sundays writes 7, which crontab(5) has for Sunday, too, as 0.
func sundays(field string) (string, error) {
	parts := strings.Split(field, ",")
	for i, part := range parts {
		days, step, stepped := strings.Cut(part, "/")
		from, to, ranged := strings.Cut(days, "-")
		switch {
		case part == "7":
			parts[i] = "0"
		case ranged && to == "7":
			first, err := strconv.Atoi(from)
			every := 1
			if err == nil && stepped {
				every, err = strconv.Atoi(step)
			}
			if err != nil || first < 0 || first > 7 || every < 1 || every > 7 {
				return "", fmt.Errorf("cannot read the days of the week %q%s", field, usage)
			}
			var list []string
			for day := first; day <= 7; day += every {
				list = append(list, strconv.Itoa(day%7))
			}
			parts[i] = strings.Join(list, ",")
		}
	}
	return strings.Join(parts, ","), nil
}

// Next is the first due time after a time, zero where there is none any more. An
// interval counts from there.
//
// Where clocks change it is as in Debian's cron: what has a fixed hour and minute
// comes once, at the end of the gap if it falls into one, and the first time where an
// hour comes twice. What comes every so often goes by the hours that pass.
func (t Timetable) Next(after time.Time) time.Time {
	switch {
	case t.every > 0:
		return after.Add(t.every).Truncate(time.Second).UTC()
	case t.fixed:
		return t.nextFixed(after)
	}
	for at := after; ; {
		zoned := at.In(t.zone)
		_, offset := zoned.Zone()
		_, end := zoned.ZoneBounds()
		wall := t.cron.Next(wallClock(zoned))
		if wall.IsZero() {
			return wall
		}
		next := wall.Add(-time.Duration(offset) * time.Second)
		// Package time computes some bounds far ahead that lie behind.
		if end.IsZero() || !end.After(at) || next.Before(end) {
			return next.UTC()
		}
		// From there on another offset holds.
		changed := wallClock(end.In(t.zone))
		if t.cron.Next(changed.Add(-time.Second)).Equal(changed) {
			return end.UTC()
		}
		at = end
	}
}

func (t Timetable) nextFixed(after time.Time) time.Time {
	for wall := wallClock(after.In(t.zone)); ; {
		if wall = t.cron.Next(wall); wall.IsZero() {
			return wall
		}
		if next := instant(wall, t.zone); next.After(after) {
			return next.UTC()
		}
	}
}

// wallClock is what a clock shows, as if it were in UTC.
func wallClock(t time.Time) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC)
}

// instant is the first moment at which the clocks of a zone show a time, or, where
// they never do, that at which they skip it.
func instant(wall time.Time, zone *time.Location) time.Time {
	_, before := wall.Add(-24 * time.Hour).In(zone).Zone()
	_, behind := wall.Add(24 * time.Hour).In(zone).Zone()
	early := wall.Add(-time.Duration(max(before, behind)) * time.Second)
	late := wall.Add(-time.Duration(min(before, behind)) * time.Second)
	for _, t := range []time.Time{early, late} {
		if wallClock(t.In(zone)).Equal(wall) {
			return t
		}
	}
	skipped, _ := late.In(zone).ZoneBounds()
	return skipped
}

// Last is the last due time after a time up to another, zero if there is none.
func (t Timetable) Last(after, until time.Time) time.Time {
	next := t.Next(after)
	if next.IsZero() || next.After(until) {
		return time.Time{}
	}
	if t.every > 0 {
		return next.Add(until.Sub(next) / t.every * t.every)
	}
	// There may be a year of minutes between them.
	for back := time.Minute; back < century; back *= 2 {
		from := until.Add(-back)
		if from.Before(after) {
			from = after
		}
		last := time.Time{}
		for at := t.Next(from); !at.IsZero() && !at.After(until); at = t.Next(at) {
			last = at
		}
		if !last.IsZero() {
			return last
		}
	}
	return next
}

// century is more than lies between two due times.
const century = 100 * 365 * 24 * time.Hour
