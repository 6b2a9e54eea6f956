package supervise

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// alarm rings at a time of day. Unlike a timer it goes by the clock: it rings on time
// where the machine sleeps or the clock is set, timerfd_create(2).
type alarm struct {
	f *os.File
}

// newAlarm has ring called, in a goroutine of the alarm's, when its time has come and
// when the clock was set.
func newAlarm(ring func()) (*alarm, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("cannot make a timer: %w", err)
	}
	a := &alarm{os.NewFile(uintptr(fd), "alarm")}
	go func() {
		var count [8]byte
		for {
			_, err := a.f.Read(count[:])
			if err != nil && !errors.Is(err, unix.ECANCELED) {
				return
			}
			ring()
		}
	}()
	return a, nil
}

// set has it ring at a time, at once if that is over, or, if it is zero, not at all.
func (a *alarm) set(at time.Time) error {
	var spec unix.ItimerSpec
	if !at.IsZero() {
		spec.Value = unix.NsecToTimespec(max(at.UnixNano(), 1))
	}
	conn, err := a.f.SyscallConn()
	if err != nil {
		return err
	}
	var setErr error
	err = conn.Control(func(fd uintptr) {
		setErr = unix.TimerfdSettime(int(fd), unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, &spec, nil)
	})
	return errors.Join(err, setErr)
}
