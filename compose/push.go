package compose

import (
	"context"
	"errors"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/stack-run/stack/compose/apply"
	"github.com/stack-run/stack/engine/registry"
)

// PushOptions say how Push treats a failure.
type PushOptions struct {
	KeepGoing bool // push what can be pushed
	Parallel  int  // images at once, 0 for the default
}

// Push sends images to their registries.
func (c *Client) Push(ctx context.Context, images []string, o PushOptions, p Progress) error {
	client, err := c.registry()
	if err != nil {
		return err
	}
	from, err := registryTarget(c.Engine)
	if err != nil {
		return err
	}
	var (
		mu     sync.Mutex
		failed error
	)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(pulls(o.Parallel))
	for _, name := range images {
		group.Go(func() error {
			p.tell(apply.Event{Kind: "Image", Name: name, Status: "Pushing"})
			_, err := client.Push(ctx, from, name, registry.PushOptions{
				Event: func(e registry.Event) { p.tell(layerEvent(e)) },
			})
			if err == nil {
				p.tell(apply.Event{Kind: "Image", Name: name, Status: "Pushed", Done: true})
				return nil
			}
			if cause := context.Cause(ctx); cause != nil && errors.Is(err, cause) {
				return err // another one has failed
			}
			// Why is told once, by whoever gets the error.
			p.tell(apply.Event{Kind: "Image", Name: name, Status: "Error", Done: true})
			mu.Lock()
			failed = errors.Join(failed, err)
			mu.Unlock()
			if o.KeepGoing {
				return nil
			}
			return err
		})
	}
	if err := group.Wait(); err != nil && failed == nil {
		return err
	}
	return failed
}
