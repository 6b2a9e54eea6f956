package supervise

import (
	"context"
	"errors"

	"github.com/stack-run/stack/compose/machine"
	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/healthcheck"
	"github.com/stack-run/stack/netns"
)

// engineRunner is the engine as actors see it, with what the supervisor adds: the
// descriptors that must survive it, names, the default network.
type engineRunner struct{ s *Supervisor }

func (r engineRunner) Start(ctx context.Context, c *engine.Container) (process, error) {
	release, err := r.s.holdDefaultNetwork(ctx, c.Spec)
	if err != nil {
		return nil, err
	}
	defer release()
	defer r.s.letGo(c.ID)
	task, err := r.s.engine.Start(ctx, c, engine.StartOptions{Keep: r.s.keeper, Attached: r.s.serveNames})
	if err != nil {
		return nil, err // not a process that is nil
	}
	return task, nil
}

func (r engineRunner) Adopt(ctx context.Context, c *engine.Container) (process, error) {
	task, err := r.s.engine.Adopt(ctx, c, r.s.keeper, r.s.exitsDir())
	if err != nil {
		return nil, err
	}
	return task, nil
}

func (r engineRunner) Ended(c *engine.Container) (code int, ended bool) { return r.s.engine.Ended(c) }

func (r engineRunner) Unplug(ctx context.Context, c *engine.Container) error {
	return errors.Join(r.s.engine.Unplug(ctx, c, r.s.keeper), r.s.engine.ReleaseVolumes(ctx))
}

func (r engineRunner) Endpoint(id string) (*netns.Endpoint, error) { return r.s.engine.Endpoint(id) }

func (r engineRunner) Remove(ctx context.Context, c *engine.Container, anonymousVolumes, rest bool) error {
	r.s.resolver.Stop(c.ID)
	return r.s.engine.Remove(ctx, c, r.s.keeper, anonymousVolumes, rest)
}

func (r engineRunner) Forget(id string, left *netns.Endpoint, rest bool) {
	behind := r.s.background
	if rest && r.s.realm == Singles { // which stays a while, and nobody waits for it to leave
		behind = r.s.linger
	}
	if rest {
		behind(func(ctx context.Context) error { return r.s.engine.RemoveRest(ctx, id) })
	}
	behind(func(ctx context.Context) error { return r.s.engine.RemoveLog(ctx, id) })
	if left != nil {
		r.s.linger(func(ctx context.Context) error { return r.s.engine.Detach(ctx, left) })
	}
}

func (r engineRunner) Save(c *engine.Container, d machine.Durability) error {
	switch d {
	case machine.OverBoot:
		return r.s.engine.Records.SaveStarted(c)
	case machine.OverPowerFailure:
		return r.s.engine.Records.SaveFinal(c)
	}
	return r.s.engine.Records.SaveState(c)
}

func (r engineRunner) Health(c *engine.Container) *healthcheck.Spec { return r.s.engine.Health(c) }

func (r engineRunner) Prober(ctx context.Context, c *engine.Container, check *healthcheck.Spec) (healthcheck.Probe, <-chan struct{}) {
	return r.s.engine.Prober(ctx, c, check)
}

func (r engineRunner) StopSignal(c *engine.Container) string { return r.s.engine.StopSignal(c) }

func (r engineRunner) Publish(table []netns.Entry) error { return r.s.resolver.SetTable(table) }

func (r engineRunner) Describe(pid int) string { return r.s.engine.DescribeProcess(pid) }

func (r engineRunner) Deliver(c *engine.Container) error { return r.s.engine.ResumeDelivery(c) }

func (r engineRunner) Linger(id string) {
	if r.s.engine.Undelivered(id) {
		r.s.linger(func(ctx context.Context) error {
			r.s.engine.FlushDelivery(ctx, id)
			return nil
		})
	}
}
