package plan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/stack-run/stack/compose/desired"
)

// replacement is a container that was made to replace another one, after a plan has
// failed.
type replacement struct {
	create *Op
	id     string
	// handed: it had the other one's ports and names; proven: it was up; removed and
	// renamed: the other one is gone, and it has the name.
	handed, proven, removed, renamed bool
	firsts                           bool // it was started beside the other one
	oldName                          string
}

// Recover is what is to be done once a plan has failed half-way. done tells which
// operations were carried out, made which containers exist, by the operations that
// made them. With gaveUp it was called off, and nothing is waited for.
//
// A container that was to replace another one and did not come to run is taken away
// again: the other one is still there. Where that one is gone it gets the name. What
// was updated as update_config says is brought to where its failure_action wants it.
func (p *Plan) Recover(done func(op int) bool, made map[int]string, gaveUp bool) *Plan {
	out := &Plan{KeepGoing: true, replicas: p.replicas}
	rolling := map[string][]*replacement{}
	for _, op := range p.Ops {
		if op.Step > 0 && op.Kind == CreateContainer && made[op.ID] != "" && !p.stepGone(op, done) {
			out.endStep(op, made[op.ID], gaveUp)
		}
		if made[op.ID] == "" || op.Replaces == "" || op.TempName == "" {
			continue
		}
		switch x := p.replacement(op, made[op.ID], done); {
		case x.removed && x.renamed:
		case x.removed:
			out.rename(x)
		case op.Rolls:
			rolling[op.Service] = append(rolling[op.Service], x)
		default:
			out.discard(x)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(rolling)) {
		out.recoverService(p.Rollouts[name], name, rolling[name], gaveUp)
	}
	if !gaveUp {
		out.startOthers(p, rolling, done, made)
	}
	if err := out.finish(); err != nil {
		return &Plan{Outcome: []string{err.Error()}}
	}
	return out
}

func (p *Plan) stepGone(create *Op, done func(int) bool) bool {
	return slices.ContainsFunc(p.Ops, func(op *Op) bool {
		return op.Kind == RemoveContainer && op.Creates == create.ID && done(op.ID)
	})
}

// endStep stops a container that was to run before others. One that has failed stays,
// to be looked at, until the next attempt.
func (p *Plan) endStep(create *Op, id string, gaveUp bool) {
	op := func(kind OpKind) *Op {
		return &Op{Kind: kind, Service: create.Service, Index: create.Index, Name: create.Name, ContainerID: id, OneOff: true, Step: create.Step, Cause: "pre_start failed", kept: true}
	}
	stopped := p.add(op(StopContainer))
	if gaveUp {
		gone := p.add(op(RemoveContainer), stopped)
		gone.Volumes, gone.Anyway = true, true
	}
}

// startOthers starts again what p had stopped for the sake of an update that failed, such
// as those who depend on the service with restart: true.
func (out *Plan) startOthers(p *Plan, rolling map[string][]*replacement, done func(op int) bool, made map[int]string) {
	stopped, removed := map[string]bool{}, map[string]bool{}
	created := map[int]*Op{}
	waits := map[int]bool{} // operations that come after one of such an update
	for _, op := range p.Ops {
		waits[op.ID] = rolling[op.Service] != nil || slices.ContainsFunc(op.Deps, func(dep int) bool { return waits[dep] })
		switch {
		case op.Kind == CreateContainer:
			created[op.ID] = op
		case op.Kind == StopContainer && done(op.ID):
			stopped[op.ContainerID] = true
		case op.Kind == RemoveContainer && done(op.ID):
			removed[op.ContainerID] = true
		}
	}
	after := slices.Clone(out.Ops)
	for _, op := range p.Ops {
		if op.Kind != StartContainer || !waits[op.ID] || done(op.ID) {
			continue
		}
		id, had := op.ContainerID, op.ContainerID
		if create := created[op.Creates]; create != nil {
			if create.Rolls {
				continue
			}
			if id, had = made[create.ID], create.Replaces; !removed[had] {
				id = had
			}
		}
		if id == "" || !stopped[had] {
			continue
		}
		start := &Op{Kind: StartContainer, Service: op.Service, Index: op.Index, Name: op.Name, ContainerID: id, Cause: "was stopped for the update", Anyway: true}
		after = append(after, out.add(start, after...))
	}
}

// replacement finds out how far one has come.
func (p *Plan) replacement(create *Op, id string, done func(int) bool) *replacement {
	x := &replacement{create: create, id: id}
	for _, op := range p.Ops {
		mine := op.Creates == create.ID
		switch {
		case mine && op.Kind == StartContainer:
			x.firsts = op.Aside
		case mine && op.Kind == WaitFor:
			x.proven = done(op.ID)
		case mine && op.Kind == HandOver:
			x.handed = done(op.ID)
		case mine && op.Kind == RenameContainer:
			x.renamed = done(op.ID)
		case op.Kind == RemoveContainer && op.ContainerID == create.Replaces:
			x.removed = done(op.ID)
			x.oldName = op.Name
		}
	}
	x.proven = x.proven && (x.handed || !x.firsts)
	return x
}

func (x *replacement) op(kind OpKind, cause string) *Op {
	c := x.create
	return &Op{Kind: kind, Service: c.Service, Index: c.Index, Name: c.Name, ContainerID: x.id, Cause: cause}
}

func (x *replacement) oldOp(kind OpKind, cause string) *Op {
	op := x.op(kind, cause)
	op.ContainerID, op.Name = x.create.Replaces, cmp.Or(x.oldName, x.create.Name)
	return op
}

func (p *Plan) rename(x *replacement, after ...*Op) {
	op := x.op(RenameContainer, "replaces "+short(x.create.Replaces))
	op.TempName = x.create.TempName
	p.add(op, after...)
}

func (p *Plan) discard(x *replacement, after ...*Op) {
	op := x.op(RemoveContainer, "could not replace "+x.create.Name)
	op.Name, op.Anyway = x.create.TempName, true
	p.add(op, after...)
}

// recoverService does what a service's failure_action says.
func (p *Plan) recoverService(r Rollouts, service string, all []*replacement, gaveUp bool) {
	var good, bad []*replacement
	for _, x := range all {
		if x.proven {
			good = append(good, x)
		} else {
			bad = append(bad, x)
		}
	}
	for _, x := range bad {
		p.revertAtOnce(x)
	}
	if len(bad) == 0 || gaveUp || r.Update.FailureAction != desired.Rollback {
		for _, x := range good {
			stop := x.oldOp(StopContainer, "replaced")
			stop.Drain, stop.kept = x.firsts, true
			p.rename(x, p.add(x.oldOp(RemoveContainer, "replaced"), p.add(stop)))
		}
		if len(bad) > 0 {
			p.Outcome = append(p.Outcome, fmt.Sprintf("service %s: the update stops here; %d of %d containers are new, the others run as before", service, len(good), len(all)))
		}
		return
	}
	back := &roller{plan: p, service: service, how: r.Rollback, total: len(good)}
	turns := make([]turn, len(good))
	for i, x := range good {
		turns[i] = turn{index: x.create.Index, name: cmp.Or(x.oldName, x.create.Name), next: x.create.Replaces, old: x.id, oldName: x.create.TempName}
	}
	ended := back.roll(turns)
	for _, x := range good {
		op := x.op(RemoveContainer, "rolled back")
		op.Name = x.create.TempName
		p.add(op, ended...)
	}
	p.Outcome = append(p.Outcome, fmt.Sprintf("service %s is rolled back: it runs as before the update", service))
}

// revertAtOnce has the old container serve again in the place of one that failed.
func (p *Plan) revertAtOnce(x *replacement) {
	const cause = "the new one failed"
	stop := x.op(StopContainer, cause)
	stop.Name, stop.kept, stop.Drain = x.create.TempName, true, x.firsts
	if x.firsts {
		// Nobody knows whether it had begun to take over.
		hand := x.oldOp(HandOver, cause)
		hand.Replaces = x.id
		p.discard(x, p.add(stop, p.add(hand)))
		return
	}
	start := x.oldOp(StartContainer, cause)
	start.Anyway = true
	p.discard(x, p.add(start, p.add(stop)))
}
