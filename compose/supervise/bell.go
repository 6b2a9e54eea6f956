package supervise

import "sync"

// bell tells others that something goes on.
type bell struct {
	mu    sync.Mutex
	rings int
	heard chan struct{}
}

// ring begins, the function that it returns ends.
func (b *bell) ring() (end func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.rings++; b.rings == 1 {
		close(b.channel())
	}
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.rings--; b.rings == 0 {
			b.heard = nil
		}
	}
}

// rung is closed while it rings.
func (b *bell) rung() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.channel()
}

func (b *bell) channel() chan struct{} {
	if b.heard == nil {
		b.heard = make(chan struct{})
	}
	return b.heard
}
