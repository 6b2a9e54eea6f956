package supervise

import (
	"context"
	"errors"
	"time"

	"github.com/stack-run/stack/compose/machine"
)

// rest freezes containers for as long as who asks keeps the connection, and answers
// once they run again: one that is killed leaves no container that rests for ever.
func (s *Supervisor) rest(ctx context.Context, req RestRequest, r *reply) (_ any, err error) {
	var resting []*actor
	paused := func(a *actor) bool { return a.view.Load().phase == machine.Paused }
	defer func() {
		for _, a := range resting {
			if paused(a) {
				err = errors.Join(err, a.unpauseIt(context.WithoutCancel(ctx)))
			}
		}
	}()
	for _, id := range req.IDs {
		a, err := s.lookup(id)
		if err != nil {
			return nil, err
		}
		if err := a.pauseIt(ctx); err != nil {
			return nil, err
		}
		resting = append(resting, a)
	}
	r.event("Container", "", StatusResting, "", false)
	return nil, s.await(ctx, func([]*view) (bool, time.Time, error) {
		for _, a := range resting {
			if paused(a) {
				return false, time.Time{}, nil
			}
		}
		return true, time.Time{}, nil
	})
}
