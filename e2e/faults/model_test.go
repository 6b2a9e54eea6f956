package faults

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// A container is in one of these states. A set of them has a bit for each.
const (
	none = 1 << iota
	created
	running
	paused
	exited
	anyState = none | created | running | paused | exited
)

type stateSet uint8

func (s stateSet) String() string {
	var out []string
	for i, name := range []string{"none", "created", "running", "paused", "exited"} {
		if s&(1<<i) != 0 {
			out = append(out, name)
		}
	}
	return strings.Join(out, " or ")
}

// A step takes a container that is in one state to one of a set.
type step func(stateSet) stateSet

// when is a step that changes some states and leaves the others.
func when(from, to stateSet) step {
	return func(s stateSet) stateSet {
		if s&from != 0 {
			return to
		}
		return s
	}
}

func becomes(to stateSet) step { return func(stateSet) stateSet { return to } }

// maybe is a step of a command that failed: it happened, or not.
func maybe(f step) step { return func(s stateSet) stateSet { return f(s) | s } }

// over applies a step to each state of a set.
func (f step) over(s stateSet) (out stateSet) {
	for bit := stateSet(1); bit <= exited; bit <<= 1 {
		if s&bit != 0 {
			out |= f(bit)
		}
	}
	return out
}

// An op is what a command did to one container: steps in their order, each at some
// moment between begin and end.
type op struct {
	name       string
	begin, end time.Time
	steps      []step
}

// reachable are the states in which a container may be after the clients have
// given their commands: those of every order of the steps that keeps each
// client's own, and in which a command that had ended before another began comes
// first.
func reachable(from stateSet, clients [][]op) stateSet {
	// A position says how many steps of each client have been done.
	type flat struct {
		op   *op
		f    step
		last bool
	}
	lists := make([][]flat, len(clients))
	for c, ops := range clients {
		for i := range ops {
			for j, f := range ops[i].steps {
				lists[c] = append(lists[c], flat{&ops[i], f, j == len(ops[i].steps)-1})
			}
		}
	}
	size := 1
	stride := make([]int, len(lists))
	for c, l := range lists {
		stride[c] = size
		size *= len(l) + 1
	}
	sets := make([]stateSet, size)
	sets[0] = from
	at := make([]int, len(lists))
	for pos := range size { // a later position has no smaller number
		if sets[pos] == 0 {
			continue
		}
		for c := range lists {
			at[c] = pos / stride[c] % (len(lists[c]) + 1)
		}
	next:
		for c, l := range lists {
			if at[c] == len(l) {
				continue
			}
			for d, other := range lists {
				// The next step of another client belongs to a command that is not
				// done: it must not have ended before this one began.
				if d != c && at[d] < len(other) && other[at[d]].op.end.Before(l[at[c]].op.begin) {
					continue next
				}
			}
			sets[pos+stride[c]] |= l[at[c]].f.over(sets[pos])
		}
	}
	return sets[size-1]
}

func TestReachable(t *testing.T) {
	at := func(ms int) time.Time { return time.UnixMilli(int64(ms)) }
	up := func(b, e int) op { return op{"up", at(b), at(e), []step{becomes(running)}} }
	stop := func(b, e int) op { return op{"stop", at(b), at(e), []step{when(running|paused, exited)}} }
	restart := func(b, e int) op {
		return op{"restart", at(b), at(e), []step{when(running|paused, exited), when(created|exited, running)}}
	}
	down := func(b, e int) op { return op{"down", at(b), at(e), []step{becomes(none)}} }
	for _, c := range []struct {
		name string
		ops  [][]op
		want stateSet
	}{
		{"nothing", nil, none},
		{"one after the other", [][]op{{up(0, 1), stop(2, 3)}}, exited},
		{"one after the other, by two clients", [][]op{{up(0, 1)}, {stop(2, 3)}}, exited},
		{"at once", [][]op{{up(0, 3)}, {stop(2, 5)}}, running | exited},
		{"a stop within a restart", [][]op{{up(0, 1), restart(2, 9)}, {stop(3, 4)}}, running | exited},
		{"a down within a restart", [][]op{{up(0, 1), restart(2, 9)}, {down(3, 4)}}, none},
		{"down, up and stop", [][]op{{up(0, 1), down(2, 9)}, {up(3, 4)}, {stop(5, 6)}}, none | exited},
	} {
		if got := reachable(none, c.ops); got != c.want {
			t.Errorf("%s: %v, must be %v", c.name, got, c.want)
		}
	}
}

// opsOf says what a command does to the container INDEX of a service.
func opsOf(args []string, service string, index int) []step {
	verb, rest := args[0], args[1:]
	scale := 0
	var named []string
	for _, a := range rest {
		if name, n, ok := strings.Cut(a, "="); ok {
			fmt.Sscan(n, &scale)
			named = append(named, name)
		} else if !strings.HasPrefix(a, "-") {
			named = append(named, a)
		}
	}
	if len(named) > 0 && !slices.Contains(named, service) {
		return nil
	}
	stop := when(running|paused, exited)
	start := when(created|exited|paused, running)
	up := becomes(running)
	if index > max(scale, 1) {
		up = becomes(none)
	}
	switch verb {
	case "up":
		if slices.Contains(rest, "--force-recreate") {
			return []step{becomes(none), up}
		}
		return []step{up}
	case "scale":
		return []step{up}
	case "create":
		if index > 1 {
			// What is too many goes, as with up.
			return []step{becomes(none)}
		}
		return []step{when(none, created)}
	case "down":
		return []step{becomes(none)}
	case "stop":
		return []step{stop}
	case "start":
		return []step{start}
	case "restart":
		return []step{stop, start}
	case "rm":
		return []step{stop, when(created|exited, none)}
	case "kill":
		return []step{stop}
	case "pause":
		return []step{when(running, paused)}
	case "unpause":
		return []step{when(paused, running)}
	}
	return nil
}
