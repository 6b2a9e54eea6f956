package compose

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

func TestGateOpensWhenAllHaveComeOrLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(3)
		passed := make(chan error, 2)
		go func() { passed <- g.wait(t.Context()) }()
		go func() { passed <- g.wait(t.Context()) }()
		synctest.Wait()
		if len(passed) != 0 {
			t.Fatal("the gate opened before all were there")
		}
		g.leave()
		synctest.Wait()
		if len(passed) != 2 || <-passed != nil || <-passed != nil {
			t.Fatal("the gate stayed shut")
		}
	})
}

func TestGateEndsWithTheContext(t *testing.T) {
	failed := errors.New("another pull failed")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(failed)
	if err := newGate(2).wait(ctx); !errors.Is(err, failed) {
		t.Errorf("%v", err)
	}
	if err := (*gate)(nil).wait(ctx); err != nil {
		t.Errorf("no gate: %v", err)
	}
}
