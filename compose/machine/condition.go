package machine

import (
	"fmt"
	"time"

	"github.com/stack-run/stack/engine/container"
	"github.com/stack-run/stack/healthcheck/health"
)

// Conditions of depends_on, Compose specification "depends_on", and the one that
// "up --wait" waits for.
const (
	ConditionStarted   = "service_started"
	ConditionHealthy   = "service_healthy"
	ConditionCompleted = "service_completed_successfully"
	ConditionUp        = "up"
	// ConditionProven is what a rolling update waits for.
	ConditionProven = "proven"
)

// Verdict is what a condition says of one container.
type Verdict int

const (
	Pending Verdict = iota
	Met
	Failed
)

// Judge decides a condition for one container at a time. hasCheck tells whether it
// has a health check. The reason says why it failed or what is waited for. Where
// only time is missing, again says when to look next.
//
// idle says that nothing is about to happen to the container: what has not been
// started then, whoever was to do it has given up.
func Judge(condition string, st container.State, hasCheck, idle bool, now time.Time) (v Verdict, reason string, again time.Time) {
	if !idle && !st.Doomed && (st.Phase == container.Created || st.Phase == container.Exited || st.Phase == container.Dead) {
		return Pending, "to start", again // how its last run ended says nothing of the next
	}
	v, reason, again = judge(condition, st, hasCheck, now)
	if v == Pending && idle && (st.Phase == container.Created || st.Phase == container.Exited) {
		v, reason = Failed, "was not started"
		if st.Error != "" {
			reason += ": " + st.Error
		}
	}
	return v, reason, again
}

func judge(condition string, st container.State, hasCheck bool, now time.Time) (v Verdict, reason string, again time.Time) {
	ended := st.Phase == container.Exited || st.Phase == container.Dead
	switch condition {
	case ConditionUp:
		return up(st, hasCheck, now)
	case ConditionHealthy:
		switch {
		case ended:
			return Failed, fmt.Sprintf("exited (%d)", st.ExitCode), again
		case !hasCheck:
			return Failed, "has no healthcheck, so it never becomes healthy; add a healthcheck or use condition service_started", again
		case st.Health == health.Healthy && st.Phase == container.Running:
			return Met, "", again
		case st.Health == health.Unhealthy && st.Phase == container.Running:
			return Failed, "is unhealthy", again
		}
		return Pending, "to be healthy", again
	case ConditionCompleted:
		switch {
		case ended && st.StartedAt.IsZero():
			return Pending, "to start", again
		case ended && st.ExitCode == 0:
			return Met, "", again
		case ended:
			return Failed, fmt.Sprintf("didn't complete successfully: exit %d", st.ExitCode), again
		}
		return Pending, "to complete", again
	default: // service_started
		switch {
		case st.Phase == container.Running, st.Phase == container.Paused, st.Phase == container.Restarting:
			return Met, "", again
		case ended && !st.StartedAt.IsZero():
			return Met, "", again // it was started; that it ended is not asked for
		}
		return Pending, "to start", again
	}
}

// Proven decides whether a container has proven itself in a rolling update: it is up,
// has run for the monitor time, and has never ended meanwhile but as a job with
// success.
func Proven(st container.State, hasCheck, idle bool, monitor time.Duration, now time.Time) (v Verdict, reason string, again time.Time) {
	if st.RestartCount > 0 || st.Phase == container.Restarting {
		return Failed, fmt.Sprintf("exited (%d) and was restarted", st.ExitCode), again
	}
	v, reason, again = Judge(ConditionUp, st, hasCheck, idle, now)
	if v != Met || st.Phase != container.Running {
		return v, reason, again
	}
	if left := monitor - now.Sub(st.StartedAt); left > 0 && left <= monitor {
		return Pending, "to stay up", now.Add(left)
	}
	return Met, "", again
}

// stayUp is how long a container without a health check must have run for "up
// --wait": one that fails at once has not come up. Docker Compose looks for the
// first time after as long.
const stayUp = 500 * time.Millisecond

// up decides what "up --wait" waits for: healthy where there is a check, else
// running for stayUp, or, for a job that restarts by no policy, ended with success.
func up(st container.State, hasCheck bool, now time.Time) (v Verdict, reason string, again time.Time) {
	switch {
	case st.Phase == container.Exited && st.ExitCode == 0 && !st.StartedAt.IsZero():
		return Met, "", again
	case st.Phase == container.Exited || st.Phase == container.Dead:
		return Failed, fmt.Sprintf("exited (%d)", st.ExitCode), again
	case st.Phase == container.Restarting:
		return Pending, "to stay up", again
	case st.Phase != container.Running:
		return Pending, "to start", again
	case hasCheck:
		return judge(ConditionHealthy, st, true, now)
	}
	// A start that is yet to come is one before the clock was set back.
	if left := stayUp - now.Sub(st.StartedAt); left > 0 && left <= stayUp {
		return Pending, "to stay up", now.Add(left)
	}
	return Met, "", again
}
