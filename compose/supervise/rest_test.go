package supervise

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/stack-run/stack/compose/machine"
	"github.com/stack-run/stack/engine"
)

func TestRestLastsAsLongAsTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, a := supervised(t, &fakeRunner{}, engine.Spec{})
		if err := a.startIt(t.Context(), false, nil); err != nil {
			t.Fatal(err)
		}
		phase := func(want machine.Phase, when string) {
			t.Helper()
			if got := a.view.Load().phase; got != want {
				t.Errorf("%s it is %s", when, got)
			}
		}
		begin := func(ids ...string) (hangUp func(), ended chan error) {
			ctx, cancel := context.WithCancel(t.Context())
			ended = make(chan error, 1)
			go func() {
				_, err := s.rest(ctx, RestRequest{IDs: ids}, &reply{s: s})
				ended <- err
			}()
			synctest.Wait()
			return cancel, ended
		}
		hangUp, ended := begin(a.id)
		phase(machine.Paused, "meanwhile")
		hangUp()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("it ends with %v", err)
		}
		phase(machine.Running, "after the connection")

		hangUp, ended = begin(a.id)
		if err := a.unpauseIt(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; err != nil {
			t.Errorf("unpaused, it ends with %v", err)
		}
		hangUp()
		phase(machine.Running, "unpaused")

		hangUp, ended = begin(a.id, "none")
		if err := <-ended; !errors.Is(err, engine.ErrNotFound) {
			t.Errorf("with one that is not there: %v", err)
		}
		hangUp()
		phase(machine.Running, "after a rest that failed")
	})
}
