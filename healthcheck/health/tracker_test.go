package health

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

var epoch = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

// simulate drives a tracker with probes that take a time and are healthy from a
// moment on. It prints each probe's moment, with "!" where a failure counted and
// the status where it changed.
func simulate(t *Tracker, takes, readyAt, end time.Duration) string {
	var b strings.Builder
	for now := t.Next(); now.Sub(epoch) <= end; now = t.Next() {
		r := Result{Start: now, End: now.Add(takes)}
		if now.Sub(epoch) < readyAt {
			r.ExitCode = 1
		}
		streak := t.FailingStreak()
		changed := t.Observe(r)
		fmt.Fprintf(&b, " %v", now.Sub(epoch))
		if t.FailingStreak() > streak {
			b.WriteByte('!')
		}
		if changed {
			fmt.Fprintf(&b, "=%s", t.Status())
		}
	}
	return strings.TrimSpace(b.String())
}

const never = time.Hour

func TestTracker(t *testing.T) {
	for _, c := range []struct {
		name    string
		spec    Spec
		takes   time.Duration
		readyAt time.Duration
		end     time.Duration
		want    string
	}{
		{"ready at once", Spec{}, 0, 0, 70 * time.Second,
			"0s=healthy 30s 1m0s"},
		{"ready at 200 ms with Docker's defaults", Spec{}, 5 * time.Millisecond, 200 * time.Millisecond, 40 * time.Second,
			"0s 35ms 85ms 157.5ms 263.75ms=healthy 30.26875s"},
		{"never ready: not before Docker", Spec{Interval: 10 * time.Second}, 0, never, 45 * time.Second,
			"0s 30ms 75ms 142.5ms 243.75ms 395.625ms 623.4375ms 965.15625ms 1.477734375s 2.246601562s 3.399902342s 5.129853512s 7.724780267s 10s! " +
				"15s 20s! 25s 30s!=unhealthy 40s!"},
		{"never ready, start period", Spec{Interval: 10 * time.Second, StartPeriod: 12 * time.Second, Retries: 2}, 0, never, 50 * time.Second,
			"0s 30ms 75ms 142.5ms 243.75ms 395.625ms 623.4375ms 965.15625ms 1.477734375s 2.246601562s 3.399902342s 5.129853512s 7.724780267s 11.617170399s " +
				"15s! 20s 25s!=unhealthy 35s! 45s!"},
		{"short interval", Spec{Interval: 100 * time.Millisecond, Retries: 2}, 0, never, 350 * time.Millisecond,
			"0s 30ms 75ms 100ms! 200ms!=unhealthy 300ms!"},
		{"slow probe", Spec{Interval: 10 * time.Second}, time.Second, 6 * time.Second, 15 * time.Second,
			"0s 2s 4s 6s=healthy"},
		{"late recovery", Spec{Interval: time.Second, Retries: 1}, 0, 2500 * time.Millisecond, 4 * time.Second,
			"0s 30ms 75ms 142.5ms 243.75ms 395.625ms 623.4375ms 965.15625ms 1s!=unhealthy 2s! 3s=healthy 4s"},
	} {
		if got := simulate(NewTracker(c.spec, epoch), c.takes, c.readyAt, c.end); got != c.want {
			t.Errorf("%s:\ngot  %s\nwant %s", c.name, got, c.want)
		}
	}
}

// Every status with a success and with a last counted failure.
func TestTransitions(t *testing.T) {
	for _, c := range []struct {
		from   Status
		streak int
		exit   int
		want   Status
		next   time.Duration
	}{
		{Starting, 0, 0, Healthy, 30 * time.Second},
		{Starting, 0, 1, Starting, 30 * time.Millisecond},
		{Starting, 2, 1, Unhealthy, 30 * time.Second},
		{Healthy, 0, 0, Healthy, 30 * time.Second},
		{Healthy, 0, -1, Healthy, 30 * time.Second},
		{Healthy, 2, 1, Unhealthy, 30 * time.Second},
		{Unhealthy, 3, 1, Unhealthy, 30 * time.Second},
		{Unhealthy, 3, 0, Healthy, 30 * time.Second},
	} {
		tr := ResumeTracker(Spec{}, epoch, c.from, c.streak, epoch.Add(time.Minute))
		now := epoch.Add(2 * time.Minute)
		changed := tr.Observe(Result{Start: now, End: now, ExitCode: c.exit})
		if tr.Status() != c.want || changed != (c.from != c.want) || tr.Next().Sub(now) != c.next {
			t.Errorf("%+v: %s, changed %v, next after %v", c, tr.Status(), changed, tr.Next().Sub(now))
		}
	}
}

// Whatever the probe's duration and the timing, a container that never becomes
// healthy is not unhealthy before Docker's own algorithm says so.
func TestNotBeforeDocker(t *testing.T) {
	ms := time.Millisecond
	for _, interval := range []time.Duration{ms, 70 * ms, 900 * ms, 7 * time.Second} {
		for _, period := range []time.Duration{0, ms, 500 * ms, 5 * time.Second, 8 * time.Second} {
			for _, startInterval := range []time.Duration{0, 200 * ms, 3 * time.Second} {
				for _, takes := range []time.Duration{0, 20 * ms, 2 * time.Second} {
					spec := Spec{Interval: interval, StartPeriod: period, StartInterval: startInterval}
					ours := unhealthyAt(NewTracker(spec, epoch), takes)
					docker := dockerUnhealthyAt(spec.WithDefaults(), takes)
					if ours < docker {
						t.Errorf("%+v, probes of %v: unhealthy after %v, with Docker after %v", spec, takes, ours, docker)
					}
					if ours > docker+docker/2+takes+5*time.Second {
						t.Errorf("%+v, probes of %v: unhealthy only after %v, with Docker after %v", spec, takes, ours, docker)
					}
				}
			}
		}
	}
}

func unhealthyAt(t *Tracker, takes time.Duration) time.Duration {
	for {
		now := t.Next()
		if t.Observe(Result{Start: now, End: now.Add(takes), ExitCode: 1}) {
			return now.Add(takes).Sub(epoch)
		}
	}
}

// dockerUnhealthyAt is what Docker's daemon does with failing probes: wait
// (start_interval in the start period, else interval), probe, count if the probe
// began after the start period.
func dockerUnhealthyAt(s Spec, takes time.Duration) time.Duration {
	now, streak := time.Duration(0), 0
	for {
		if now < s.StartPeriod {
			now += s.StartInterval
		} else {
			now += s.Interval
		}
		began := now
		now += takes
		if began >= s.StartPeriod {
			if streak++; streak == s.Retries {
				return now
			}
		}
	}
}
