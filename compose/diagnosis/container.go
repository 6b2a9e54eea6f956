package diagnosis

import (
	"fmt"
	"strings"

	"github.com/stack-run/stack/engine/container"
	"github.com/stack-run/stack/healthcheck/health"
)

// ofContainer is why a container runs or does not, as far as its record says. What
// was made and not started is NotStarted: why is not in it.
func (f *Facts) ofContainer(c *container.Record) Reason {
	st := &c.State
	r := Reason{Service: c.Service, Container: c.Spec.Name}
	put := func(cause Cause, todo, format string, args ...any) Reason {
		r.Cause, r.Todo, r.Text = cause, todo, fmt.Sprintf(format, args...)
		return r
	}
	start, logs := quoted("stack start "+c.Service)+" starts it", "see "+quoted("stack logs "+c.Service)
	ago := "at an unknown time"
	if !st.FinishedAt.IsZero() {
		ago = span(f.Now.Sub(st.FinishedAt)) + " ago"
	}
	switch {
	case st.Phase == container.Removing || st.Doomed:
		return put(Removing, "", "is being removed")
	case st.Phase == container.Dead:
		return put(RemovalFailed, quoted("stack rm --force "+c.Service)+" tries again", "could not be removed: %s", cause(c))
	case st.Phase == container.Paused:
		return put(Paused, quoted("stack unpause "+c.Service)+" lets it go on", "is paused")
	case st.Phase == container.Running && st.Stopping:
		text := "is being stopped"
		if st.Unwell {
			text += " for being unhealthy"
		}
		if left := st.StopBy.Sub(f.Now); left > 0 {
			text += ", and killed if it has not ended in " + span(left)
		}
		return put(Stopping, "", "%s", text)
	case f.unsteady(st):
		r.Output = f.LastLines[c.ID]
		return put(CrashLoop, logs, "ended and was restarted %s; it has been running again for %s", times(st.RestartCount), span(f.Now.Sub(st.StartedAt)))
	case st.Phase == container.Running:
		return f.running(c)
	case startFailed(c):
		return f.failedStart(c)
	case st.Phase == container.Restarting && st.Unwell, st.Phase == container.Exited && givenUp(c):
		then, todo := ago, logs+"; "+start
		if st.Phase == container.Restarting {
			then, todo = f.again(st), logs
		}
		probe, output := lastProbe(c)
		r.Output = output
		return put(Unhealthy, todo, "was ended for being unhealthy, %s; %s failed%s", then, probes(st.FailingStreak), probe)
	case st.Phase == container.Restarting:
		r.Output = f.LastLines[c.ID]
		if st.OOMKilled {
			return put(OutOfMemory, moreMemory, "was killed by the kernel: %s, %s", overLimit(c), f.again(st))
		}
		return put(CrashLoop, logs, "exited with %s, %s", code(st.ExitCode), f.again(st))
	case st.Phase == container.Created:
		return put(NotStarted, start, "was created and never started")
	case st.OOMKilled:
		return put(OutOfMemory, moreMemory, "was killed by the kernel %s: %s", ago, overLimit(c))
	case strings.HasPrefix(st.Error, "the host stopped"): // engine.(*Records).readState
		return put(HostStopped, quoted("stack system resume")+" brings back all that ran", "ended %s: %s", ago, st.Error)
	case st.StoppedByUser && st.ExitCode == 137:
		return put(Stopped, start, "was stopped %s, and killed: by %s, or because it did not end in its grace period", ago, quoted("stack kill"))
	case st.StoppedByUser:
		return put(Stopped, start, "was stopped %s by a command, and exited with %s", ago, code(st.ExitCode))
	}
	after := ""
	if n := st.RestartCount; n > 0 {
		after = fmt.Sprintf(", after it was restarted %s", times(n))
	}
	if st.ExitCode == 0 {
		return put(Done, "", "exited with 0, %s%s", ago, after)
	}
	if after != "" {
		after += ", as often as its policy allows"
	}
	if st.Error != "" {
		after += ": " + st.Error
	}
	r.Output = f.LastLines[c.ID]
	if st.ExitCode == 137 {
		return put(Killed, "look who sent it; "+start, "was ended by SIGKILL %s%s, which no command of stack sent, and not for want of memory", ago, after)
	}
	return put(Exited, logs, "exited with %s, %s%s", code(st.ExitCode), ago, after)
}

const moreMemory = "give it a higher memory limit"

func overLimit(c *container.Record) string {
	if limit := c.Spec.Limits.Memory; limit > 0 {
		return "it needed more memory than its limit of " + size(limit)
	}
	return "the machine had no memory left"
}

// again says how often the restart policy has started a container, and when it does
// so next.
func (f *Facts) again(st *container.State) string {
	when := "at once"
	if left := st.RestartAt.Sub(f.Now); left > 0 {
		when = "in " + span(left)
	}
	if st.RestartCount == 0 {
		return "and is restarted " + when
	}
	return fmt.Sprintf("restarted %s so far, next %s", times(st.RestartCount), when)
}

// running is of a container that runs, and not in a crash loop.
func (f *Facts) running(c *container.Record) Reason {
	st := &c.State
	r := Reason{Service: c.Service, Container: c.Spec.Name}
	logs := "see " + quoted("stack logs "+c.Service)
	since, before := span(f.Now.Sub(st.StartedAt)), ""
	if st.RestartCount > 0 {
		before = fmt.Sprintf(", after it was restarted %s", times(st.RestartCount))
	}
	probe, output := lastProbe(c)
	r.Output = output
	switch st.Health {
	case health.Healthy:
		r.Cause, r.Text, r.Output = Healthy, fmt.Sprintf("has been running for %s%s", since, before), ""
		if !st.HealthyAt.IsZero() {
			r.Text += fmt.Sprintf(", healthy after %s", span(st.HealthyAt.Sub(st.StartedAt)))
		}
		if st.FailingStreak > 0 {
			r.Text += fmt.Sprintf("; lately %s failed", probes(st.FailingStreak))
		}
	case health.Unhealthy:
		r.Cause, r.Todo = Unhealthy, logs
		r.Text = fmt.Sprintf("is unhealthy: %s failed%s", probes(st.FailingStreak), probe)
	case health.Starting:
		r.Cause, r.Text = Starting, fmt.Sprintf("has been running for %s%s and is not healthy yet", since, before)
		if probe != "" {
			r.Todo = logs
			r.Text += probe
		}
	default:
		r.Cause, r.Text, r.Output = Running, fmt.Sprintf("has been running for %s%s", since, before), ""
	}
	return r
}

func probes(n int) string {
	if n == 1 {
		return "a probe"
	}
	return fmt.Sprintf("%d probes in a row", n)
}

// lastProbe says how the last probe failed, and what it wrote; nothing if it succeeded.
// Of a container that has ended it is the last that did not come too late for it.
func lastProbe(c *container.Record) (text, output string) {
	log := c.State.HealthLog
	if c.State.Phase != container.Running {
		ended := len(log)
		for ended > 0 && log[ended-1].ExitCode < 0 {
			ended--
		}
		if ended > 0 && log[ended-1].ExitCode > 0 {
			log = log[:ended]
		}
	}
	if len(log) == 0 || log[len(log)-1].ExitCode == 0 {
		return "", ""
	}
	last := log[len(log)-1]
	switch output = LastLine(last.Output); {
	case c.Spec.Health.Direct() && output != "":
		text = ", the last probe says"
	case last.ExitCode < 0:
		text = ", the last probe could not run, or took too long"
	default:
		text = fmt.Sprintf(", the last probe exited with %d", last.ExitCode)
	}
	return text, output
}

// givenUp says of a container that has ended that it was stopped or killed because it
// was unhealthy, as is to be seen from its last probes.
func givenUp(c *container.Record) bool {
	if c.Spec.OnUnhealthy == "" || c.State.Health != health.Unhealthy || c.State.OOMKilled {
		return false
	}
	var check health.Spec // the image's number of retries is not in the record
	if c.Spec.Health != nil {
		check = *c.Spec.Health
	}
	return c.State.FailingStreak >= check.WithDefaults().Retries
}

// failedStart is of a container whose last start did not succeed.
func (f *Facts) failedStart(c *container.Record) Reason {
	st := &c.State
	why := cause(c)
	r := Reason{Service: c.Service, Container: c.Spec.Name, Cause: StartFailed, Todo: quoted("stack start "+c.Service) + " tries again"}
	switch {
	case st.ExitCode == 127, st.ExitCode == 126: // engine.StartExitCode
		r.Cause, r.Todo = NoCommand, "correct its command or entrypoint, or the image, then "+quoted("stack up --detach "+c.Service)+" starts it"
	case strings.Contains(why, " is used by "): // netns.(*Manager).Publish
		r.Cause, r.Todo = PortInUse, "stop that, or publish another port"
	}
	r.Text = "could not be started: " + why
	if st.Phase == container.Restarting {
		r.Text += " (" + f.again(st) + ")"
	}
	return r
}

// startFailed says that the last that happened to a container is a start that failed.
func startFailed(c *container.Record) bool {
	switch c.State.Phase {
	case container.Created, container.Restarting, container.Exited:
		return strings.HasPrefix(c.State.Error, startFailure)
	}
	return false
}

// startFailure is how errors of engine.(*Engine).Start begin.
const startFailure = "cannot start container "

// cause is what a record says of a failure, without the name that all errors of a
// container begin with.
func cause(c *container.Record) string {
	text, _ := strings.CutPrefix(c.State.Error, startFailure+c.Spec.Name+": ")
	return visible(strings.Join(strings.Fields(text), " "))
}

// code is an exit code with the signal that it stands for, signal(7).
func code(n int) string {
	names := map[int]string{
		1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 4: "SIGILL", 5: "SIGTRAP", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 9: "SIGKILL",
		10: "SIGUSR1", 11: "SIGSEGV", 12: "SIGUSR2", 13: "SIGPIPE", 14: "SIGALRM", 15: "SIGTERM",
	}
	if name := names[n-128]; name != "" {
		return fmt.Sprintf("%d (%s)", n, name)
	}
	return fmt.Sprint(n)
}

func quoted(command string) string { return `"` + command + `"` }
