package engine

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestBatchesGatherWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sizes []int
		b := &batcher[int]{do: func(_ context.Context, items []int) error {
			sizes = append(sizes, len(items))
			time.Sleep(time.Second)
			return nil
		}}
		start := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() { b.add(t.Context(), 0) })
		synctest.Wait() // the first is under way, alone
		for i := range 49 {
			wg.Go(func() { b.add(t.Context(), i+1) })
		}
		wg.Wait()
		if took := time.Since(start); took != 2*time.Second || !slices.Equal(sizes, []int{1, 49}) {
			t.Errorf("batches of %v took %v, want the first and then all others, in 2 s", sizes, took)
		}
	})
}
