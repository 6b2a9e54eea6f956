package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/stack-run/stack/engine/logs/driver"
	"github.com/stack-run/stack/engine/logs/inotify"
)

// deliveries send containers' lines to where their logging drivers say.
type deliveries struct {
	watchers inotify.Shared
	mu       sync.Mutex
	byID     map[string]*driver.Delivery
}

func (x *deliveries) get(id string) *driver.Delivery {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.byID[id]
}

// openDelivery has a container's lines sent from now on, if its driver sends any. What
// it returns is called once the log is there.
func (e *Engine) openDelivery(c *Container, how driver.Driver) (start func(), err error) {
	if how.Target == nil {
		return func() {}, nil
	}
	x := &e.deliveries
	x.mu.Lock()
	defer x.mu.Unlock()
	info := e.logInfo(c)
	if d := x.byID[c.ID]; d != nil && !d.Ended() {
		return func() {}, d.Describe(info)
	}
	d, err := driver.Open(driver.Config{Dir: e.LogDir(c.ID), Driver: how, Info: info, Watchers: &x.watchers, Tell: e.say})
	if err != nil {
		return nil, err
	}
	if x.byID == nil {
		x.byID = map[string]*driver.Delivery{}
	}
	x.byID[c.ID] = d
	return sync.OnceFunc(d.Start), nil
}

// say tells the user something, as often as it happens.
func (e *Engine) say(text string) {
	if e.warn != nil {
		e.warn(text)
	}
}

// DescribeDelivery has what follows of a container's lines bear its present name.
func (e *Engine) DescribeDelivery(c *Container) error {
	if d := e.deliveries.get(c.ID); d != nil {
		return d.Describe(e.logInfo(c))
	}
	return nil
}

// ResumeDelivery sends what is left of the log of a container that does not run.
func (e *Engine) ResumeDelivery(c *Container) error {
	how, _, err := driver.Parse(c.Spec.Log.Driver, c.Spec.Log.Options)
	if err != nil || how.Target == nil {
		return err
	}
	if _, err := os.Stat(e.LogDir(c.ID)); err != nil {
		return nil // it has not run yet
	}
	start, err := e.openDelivery(c, how)
	if err != nil {
		return err
	}
	start()
	return nil
}

// flushBound limits how long is stayed for a receiver that does not answer, or is slow,
// when a container has ended. What is left is sent when its supervisor is there again.
const flushBound = 10 * time.Second

// Undelivered tells whether some of a container's log has not been sent.
func (e *Engine) Undelivered(id string) bool {
	d := e.deliveries.get(id)
	return d != nil && d.Behind()
}

// FlushDelivery waits until all of a container's log is sent, and a while for a receiver
// that does not answer.
func (e *Engine) FlushDelivery(ctx context.Context, id string) {
	if d := e.deliveries.get(id); d != nil {
		ctx, cancel := context.WithTimeout(ctx, flushBound)
		defer cancel()
		d.Flush(ctx, flushBound)
	}
}

// endDelivery sends what can be sent of a log that is about to be removed.
func (e *Engine) endDelivery(ctx context.Context, id string) {
	x := &e.deliveries
	x.mu.Lock()
	d := x.byID[id]
	delete(x.byID, id)
	x.mu.Unlock()
	if d != nil {
		d.Finish(ctx)
	}
}

// dropDelivery takes back an openDelivery whose log did not come about.
func (e *Engine) dropDelivery(c *Container, how driver.Driver) error {
	if how.Target == nil {
		return nil
	}
	e.deliveries.mu.Lock()
	defer e.deliveries.mu.Unlock()
	d := e.deliveries.byID[c.ID]
	if d == nil || d.Started() {
		return nil
	}
	delete(e.deliveries.byID, c.ID)
	return d.Close()
}

// logFaults are the faults of a container's logging, by attribute.
func logFaults(l LogConfig) (out []Fault) {
	_, _, err := driver.Parse(l.Driver, l.Options)
	if err == nil {
		return nil
	}
	all := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		all = joined.Unwrap()
	}
	for _, err := range all {
		at := "logging"
		var bad *driver.OptionError
		if errors.As(err, &bad) && bad.Option != "" {
			at += ".options." + bad.Option
		}
		out = append(out, Fault{at, err})
	}
	return out
}

// CheckLog reads logging options. Warnings tell what has no effect.
func CheckLog(l LogConfig) (warnings []string, err error) {
	_, warnings, err = driver.Parse(l.Driver, l.Options)
	return warnings, err
}

// checkTarget tells what is not there of that with which a container's lines are sent.
func checkTarget(l LogConfig) error {
	how, _, err := driver.Parse(l.Driver, l.Options)
	if err != nil || how.Target == nil {
		return err
	}
	if err := how.Target.Check(); err != nil {
		return fmt.Errorf("cannot send its log: %w", err)
	}
	return nil
}
