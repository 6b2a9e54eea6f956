package engine

import (
	"context"
	"sync"
	"time"
)

// batcher does work in batches. The kernel waits for a grace period each time
// links are deleted, some 20 ms, however many they are. So what is asked for
// while a batch is under way makes up the next one.
type batcher[T any] struct {
	do func(ctx context.Context, items []T) error
	// gather is how long the first of a burst waits for the others.
	gather time.Duration

	mu      sync.Mutex
	waiting []batchItem[T]
	running bool
}

type batchItem[T any] struct {
	item T
	done chan error
}

// add returns when the batch with item is done, with the batch's error.
func (b *batcher[T]) add(ctx context.Context, item T) error {
	done := make(chan error, 1)
	b.mu.Lock()
	b.waiting = append(b.waiting, batchItem[T]{item, done})
	if !b.running {
		b.running = true
		go b.run(context.WithoutCancel(ctx))
	}
	b.mu.Unlock()
	return <-done
}

func (b *batcher[T]) run(ctx context.Context) {
	if b.gather > 0 {
		<-time.After(b.gather)
	}
	for {
		b.mu.Lock()
		batch := b.waiting
		b.waiting = nil
		if len(batch) == 0 {
			b.running = false
			b.mu.Unlock()
			return
		}
		b.mu.Unlock()
		items := make([]T, len(batch))
		for i, w := range batch {
			items[i] = w.item
		}
		err := b.do(ctx, items)
		for _, w := range batch {
			w.done <- err
		}
	}
}
