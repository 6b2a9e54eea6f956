package engine

import (
	"context"
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
		for i := range 50 {
			wg.Go(func() { b.add(t.Context(), i) })
		}
		wg.Wait()
		if took := time.Since(start); took != 2*time.Second || len(sizes) != 2 {
			t.Errorf("batches of %v took %v, want two batches in 2 s", sizes, took)
		}
	})
}
