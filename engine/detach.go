package engine

import (
	"context"
	"sync"

	"github.com/stack-run/stack/netns"
)

// detacher takes endpoints away in batches. The kernel waits for a grace period
// each time links are deleted, some 20 ms, however many they are. So requests
// that come while a batch is under way make up the next one.
type detacher struct {
	nets *netns.Manager

	mu      sync.Mutex
	waiting []detachRequest
	running bool
}

type detachRequest struct {
	endpoint *netns.Endpoint
	done     chan error
}

// detach returns when the endpoint is gone.
func (d *detacher) detach(ctx context.Context, ep *netns.Endpoint) error {
	done := make(chan error, 1)
	d.mu.Lock()
	d.waiting = append(d.waiting, detachRequest{ep, done})
	if !d.running {
		d.running = true
		go d.run(context.WithoutCancel(ctx))
	}
	d.mu.Unlock()
	return <-done
}

func (d *detacher) run(ctx context.Context) {
	for {
		d.mu.Lock()
		batch := d.waiting
		d.waiting = nil
		if len(batch) == 0 {
			d.running = false
			d.mu.Unlock()
			return
		}
		d.mu.Unlock()
		endpoints := make([]*netns.Endpoint, len(batch))
		for i, r := range batch {
			endpoints[i] = r.endpoint
		}
		err := d.nets.DetachAll(ctx, endpoints)
		for _, r := range batch {
			r.done <- err
		}
	}
}
