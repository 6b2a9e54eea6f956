package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

// errStalled ends a connection by which hardly anything comes any more.
var errStalled = errors.New("hardly anything came any more")

// steadyStep is how many bytes must move in each StallTimeout: less than the
// slowest line brings, and too much for a server that only wants to be waited for.
const steadyStep = 4 << 10

// received is the body of an answer. It ends its request when the server lets it
// wait for too long. Only waiting counts, so that whoever reads may take his time.
type received struct {
	body    io.ReadCloser
	cancel  context.CancelFunc // of the request
	timer   *time.Timer
	timeout time.Duration
	left    time.Duration // of the timeout
	moved   int           // since left was the whole of it
	once    bool          // all of it must come within one timeout
	stalled atomic.Bool
}

func newReceived(body io.ReadCloser, timeout time.Duration, cancel context.CancelFunc) *received {
	b := &received{body: body, cancel: cancel, timeout: timeout, left: timeout}
	b.timer = time.AfterFunc(timeout, func() {
		b.stalled.Store(true)
		cancel()
	})
	b.timer.Stop()
	return b
}

func (b *received) Read(p []byte) (int, error) {
	b.timer.Reset(max(b.left, 1))
	start := time.Now()
	n, err := b.body.Read(p)
	b.timer.Stop()
	b.left -= time.Since(start)
	if b.moved += n; b.moved >= steadyStep && !b.once {
		b.left, b.moved = b.timeout, 0
	}
	if err != nil && err != io.EOF && b.stalled.Load() {
		err = stalledFor(b.timeout)
	}
	return n, err
}

func (b *received) Close() error {
	b.timer.Stop()
	err := b.body.Close()
	b.cancel()
	return err
}

func stalledFor(d time.Duration) error { return fmt.Errorf("%w for %s", errStalled, d) }

// atOnce says of a response whose body is short that all of it must come within
// one StallTimeout.
func atOnce(resp *http.Response) {
	if b, ok := resp.Body.(*received); ok {
		b.once = true
	}
}

// sent is the body of a request. It ends the request when the server takes no
// more of it for too long.
type sent struct {
	body    io.ReadCloser
	timer   *time.Timer
	timeout time.Duration
	stalled atomic.Bool
}

func newSent(body io.ReadCloser, timeout time.Duration, cancel context.CancelFunc) *sent {
	b := &sent{body: body, timeout: timeout}
	b.timer = time.AfterFunc(timeout, func() {
		b.stalled.Store(true)
		cancel()
	})
	b.timer.Stop()
	return b
}

// Read is called when the server has taken what was read before.
func (b *sent) Read(p []byte) (int, error) {
	b.timer.Stop()
	n, err := b.body.Read(p)
	if err == nil {
		b.timer.Reset(b.timeout)
	}
	return n, err
}

func (b *sent) Close() error {
	b.timer.Stop()
	return b.body.Close()
}
