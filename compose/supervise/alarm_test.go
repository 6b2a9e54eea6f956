package supervise

import (
	"testing"
	"time"
)

func TestAlarm(t *testing.T) {
	// Without the monotonic clock, which the alarm does not go by.
	now := func() time.Time { return time.Now().Round(0) }
	rings := make(chan time.Time, 10)
	a, err := newAlarm(func() { rings <- now() })
	if err != nil {
		t.Fatal(err)
	}
	set := func(at time.Time) {
		t.Helper()
		if err := a.set(at); err != nil {
			t.Fatal(err)
		}
	}
	rung := func(what string) (at time.Time) {
		t.Helper()
		select {
		case at = <-rings:
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: it does not ring", what)
		}
		return at
	}
	for _, tt := range []struct {
		what  string
		after time.Duration
	}{{"soon", 50 * time.Millisecond}, {"in the past", -time.Hour}, {"again", 20 * time.Millisecond}} {
		at := now().Add(tt.after)
		set(at)
		if early := at.Sub(rung(tt.what)); early > 0 {
			t.Errorf("%s: it rings %v early", tt.what, early)
		}
	}
	// One that was turned off does not ring, the next one does.
	set(now().Add(20 * time.Millisecond))
	set(time.Time{})
	at := now().Add(60 * time.Millisecond)
	set(at)
	if early := at.Sub(rung("after one that was turned off")); early > 0 {
		t.Errorf("it rings %v early", early)
	}
	if n := len(rings); n > 0 {
		t.Errorf("it rings %d times more", n)
	}
}
