package e2e

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// eventually waits until ok returns nil. It asks the real state again and
// again, because the kernel has no event for what is looked at here; the test
// fails with the last error when d is over.
func eventually(t *testing.T, d time.Duration, ok func() error) {
	t.Helper()
	deadline := time.Now().Add(d)
	pause := time.NewTicker(10 * time.Millisecond)
	defer pause.Stop()
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %v", d, err)
		}
		<-pause.C
	}
}

// eventuallyState waits for a container's status.
func (b *box) eventuallyState(t *testing.T, name, status string) info {
	t.Helper()
	var i info
	eventually(t, 20*time.Second, func() (err error) {
		if i, err = b.tryLook(t, name); err != nil {
			return err
		}
		if i.State.Status != status {
			return fmt.Errorf("%s is %s, must become %s", name, i.State.Status, status)
		}
		return nil
	})
	return i
}

// eventuallyHealth waits for a container's health.
func (b *box) eventuallyHealth(t *testing.T, name, health string) info {
	t.Helper()
	var i info
	eventually(t, 20*time.Second, func() (err error) {
		if i, err = b.tryLook(t, name); err != nil {
			return err
		}
		if i.health() != health {
			return fmt.Errorf("%s is %q, must become %q", name, i.health(), health)
		}
		return nil
	})
	return i
}

// A buffer collects output and lets a test wait for what appears in it.
type buffer struct {
	mu      sync.Mutex
	changed *sync.Cond
	b       bytes.Buffer
	closed  bool
}

func newBuffer() *buffer {
	b := &buffer{}
	b.changed = sync.NewCond(&b.mu)
	return b
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.changed.Broadcast()
	return b.b.Write(p)
}

func (b *buffer) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.changed.Broadcast()
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// until waits for text to appear.
func (b *buffer) until(t *testing.T, d time.Duration, text string) {
	t.Helper()
	timer := time.AfterFunc(d, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.changed.Broadcast()
	})
	defer timer.Stop()
	deadline := time.Now().Add(d)
	b.mu.Lock()
	defer b.mu.Unlock()
	for !strings.Contains(b.b.String(), text) {
		if b.closed || !time.Now().Before(deadline) {
			t.Fatalf("%q did not appear within %v (ended: %v) in: %s", text, d, b.closed, tail(b.b.String()))
		}
		b.changed.Wait()
	}
}
