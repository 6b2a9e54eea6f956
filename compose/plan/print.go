package plan

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Graph prints each operation with its number and what it waits for.
func (p *Plan) Graph() string {
	var b strings.Builder
	for _, op := range p.Ops {
		fmt.Fprintf(&b, "[%d] %s", op.ID, op.line())
		if len(op.Deps) > 0 {
			ids := make([]string, len(op.Deps))
			for i, d := range op.Deps {
				ids[i] = strconv.Itoa(d)
			}
			fmt.Fprintf(&b, " [after %s]", strings.Join(ids, " "))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func (op *Op) line() string {
	text := string(op.Kind) + " " + op.Name
	switch {
	case op.Kind == CreateContainer && op.TempName != "":
		text += " as " + op.TempName
	case (op.Kind == KillContainer || op.Kind == StopContainer) && op.Signal != "":
		text += " with " + op.Signal
	case op.Aside:
		text += " aside"
	case op.Drain:
		text += " when its connections have ended"
	case op.Kind == Pause:
		text += " for " + op.Timeout.String()
	case op.Kind == WaitFor:
		text += ": " + op.Condition
		if op.Optional {
			text += " (optional)"
		}
	}
	if op.Cause != "" && op.Kind != WaitFor {
		text += ": " + op.Cause
	}
	return text
}

// change is one line of the print: what happens to one thing.
type change struct {
	verb, what, why string
	indexes         []int
	service         string
}

// String says what will happen, one line per thing that changes.
func (p *Plan) String() string {
	var b strings.Builder
	for _, op := range p.Images {
		verb := map[ImageOpKind]string{PullImage: "pull", BuildImage: "build"}[op.Kind]
		fmt.Fprintf(&b, "%s image %s: %s\n", verb, op.Image, op.Cause)
	}
	for _, c := range p.changes() {
		b.WriteString(c.verb + " " + c.what)
		if len(c.indexes) > 0 && (p.replicas[c.service] > 1 || c.indexes[0] > 1) {
			numbers := make([]string, len(c.indexes))
			for i, n := range c.indexes {
				numbers[i] = strconv.Itoa(n)
			}
			b.WriteString(" " + strings.Join(numbers, ","))
		}
		if c.why != "" {
			b.WriteString(": " + c.why)
		}
		b.WriteByte('\n')
	}
	for _, q := range p.Confirm {
		fmt.Fprintf(&b, "keep volume %s: its definition changed (%s)\n", q.Volume, joinDiffs(q.Diffs))
	}
	if b.Len() == 0 {
		return "nothing to do\n"
	}
	return b.String()
}

// Outdated says of each service whose containers would be replaced what differs.
func (p *Plan) Outdated() []string {
	var lines []string
	for _, c := range p.changes() {
		if c.verb == "recreate" && c.service != "" {
			lines = append(lines, c.service+": "+c.why)
		}
	}
	return lines
}

func (p *Plan) changes() []change {
	var list []change
	add := func(verb, what, why, service string, index int) {
		for i := range list {
			c := &list[i]
			if service != "" && c.verb == verb && c.what == what && c.why == why {
				if !slices.Contains(c.indexes, index) {
					c.indexes = append(c.indexes, index)
					slices.Sort(c.indexes)
				}
				return
			}
		}
		c := change{verb: verb, what: what, why: why, service: service}
		if index > 0 {
			c.indexes = []int{index}
		}
		list = append(list, c)
	}
	replaced, recreated, started, removed := map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, op := range p.Ops {
		switch op.Kind {
		case CreateContainer:
			replaced[op.Replaces] = op.Replaces != ""
		case StartContainer:
			started[op.ContainerID] = op.ContainerID != ""
		case RemoveContainer:
			removed[op.ContainerID] = true
		case CreateNetwork, CreateVolume:
			recreated[string(op.Kind)+op.Key] = len(op.Diffs) > 0
		}
	}
	for _, op := range p.Ops {
		what := op.Service
		if what == "" || op.OneOff {
			what = op.Name
		}
		if op.Step > 0 {
			if op.Kind == CreateContainer {
				add("run", op.Cause, "", "", 0)
			}
			continue
		}
		switch op.Kind {
		case CreateNetwork, CreateVolume:
			kind := strings.TrimPrefix(string(op.Kind), "create ")
			if recreated[string(op.Kind)+op.Key] {
				add("recreate", kind+" "+op.Name, joinDiffs(op.Diffs), "", 0)
			} else {
				add("create", kind+" "+op.Name, "", "", 0)
			}
		case RemoveNetwork:
			if !recreated[string(CreateNetwork)+op.Key] {
				add("remove", "network "+op.Name, op.Cause, "", 0)
			}
		case RemoveVolume:
			if !recreated[string(CreateVolume)+op.Key] {
				add("remove", "volume "+op.Name, op.Cause, "", 0)
			}
		case ScheduleJob, UnscheduleJob:
			verb, _, _ := strings.Cut(string(op.Kind), " ")
			add(verb, "job "+op.Name, op.Cause, "", 0)
		case CreateContainer:
			if op.Replaces != "" {
				add("recreate", what, joinDiffs(op.Diffs), op.Service, op.Index)
			} else {
				add("create", what, "", op.Service, op.Index)
			}
		case StopContainer:
			switch {
			case replaced[op.ContainerID], removed[op.ContainerID]:
			case started[op.ContainerID]:
				add("restart", what, op.Cause, op.Service, op.Index)
			default:
				add("stop", what, op.Cause, op.Service, op.Index)
			}
		case RemoveContainer:
			if !replaced[op.ContainerID] {
				add("remove", what, op.Cause, op.Service, op.Index)
			}
		case StartContainer:
			if op.ContainerID != "" && !p.stops(op.ContainerID) {
				add("start", what, op.Cause, op.Service, op.Index)
			}
		case KillContainer:
			signal := op.Signal
			if signal == "" {
				signal = "SIGKILL"
			}
			add("kill", what, signal, op.Service, op.Index)
		case PauseContainer:
			add("pause", what, op.Cause, op.Service, op.Index)
		case UnpauseContainer:
			add("unpause", what, op.Cause, op.Service, op.Index)
		case RenameContainer:
			if op.ContainerID != "" {
				add("rename", what, op.Cause, op.Service, op.Index)
			}
		}
	}
	slices.SortStableFunc(list, func(a, b change) int { return a.rank() - b.rank() })
	return list
}

// rank puts what is made for containers before them and what goes after them
// last.
func (c change) rank() int {
	switch kind, _, _ := strings.Cut(c.what, " "); {
	case c.service != "" || kind != "network" && kind != "volume":
		return 2
	case c.verb == "remove":
		return 3
	case kind == "network":
		return 0
	}
	return 1
}

func (p *Plan) stops(id string) bool {
	return slices.ContainsFunc(p.Ops, func(o *Op) bool { return o.Kind == StopContainer && o.ContainerID == id })
}
