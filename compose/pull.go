package compose

import (
	"context"
	"errors"
	"net/http"
	"sync"

	"github.com/docker/go-units"
	"golang.org/x/sync/errgroup"

	"github.com/stack-run/stack/compose/apply"
	"github.com/stack-run/stack/compose/plan"
	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/engine/registry"
)

// defaultPulls is how many images are pulled at once where nothing is said.
const defaultPulls = 4

// PullOptions say how Pull treats a failure.
type PullOptions struct {
	// KeepGoing pulls what can be pulled; without it, no name changes unless all
	// pulls succeed.
	KeepGoing bool
	Parallel  int // images at once, 0 for the default
}

// pull carries out the pulls among ops. It returns the operations that no
// registry has the image for and whose services can build it instead.
func (c *Client) pull(ctx context.Context, ops []plan.ImageOp, o PullOptions, p Progress) ([]plan.ImageOp, error) {
	if len(ops) == 0 {
		return nil, nil
	}
	client, err := c.registry()
	if err != nil {
		return nil, err
	}
	to, err := registryTarget(c.Engine)
	if err != nil {
		return nil, err
	}
	gate := newGate(len(ops))
	if o.KeepGoing {
		gate = nil
	}
	var (
		mu     sync.Mutex
		build  []plan.ImageOp
		failed error
	)
	group, ctx := errgroup.WithContext(ctx)
	// All of them wait for the last one before they get their names, so a limit
	// below their number would never be passed: it bounds the transfers instead.
	slots := make(chan struct{}, pulls(o.Parallel))
	for _, op := range ops {
		group.Go(func() error {
			p.tell(apply.Event{Kind: "Image", Name: op.Image, Status: "Pulling"})
			err := pullOne(ctx, client, to, op, slots, gate, p)
			switch {
			case err == nil:
				p.tell(apply.Event{Kind: "Image", Name: op.Image, Status: "Pulled", Done: true})
				return nil
			case op.OrBuild && registryLacks(err):
				gate.leave()
				p.tell(apply.Event{Kind: "Image", Name: op.Image, Status: "Skipped", Done: true, Text: "no registry has it; it will be built"})
				mu.Lock()
				build = append(build, op)
				mu.Unlock()
				return nil
			}
			if cause := context.Cause(ctx); cause != nil && errors.Is(err, cause) {
				return err // another one has failed
			}
			// Why is told once, by whoever gets the error.
			p.tell(apply.Event{Kind: "Image", Name: op.Image, Status: "Error", Done: true})
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
		return nil, err
	}
	if failed != nil && !o.KeepGoing {
		return nil, failed
	}
	return build, failed
}

func pulls(parallel int) int {
	if parallel > 0 {
		return parallel
	}
	return defaultPulls
}

// registryTarget is where an engine's images are pulled to and pushed from.
func registryTarget(e *engine.Engine) (registry.Target, error) {
	images, err := e.Images()
	if err != nil {
		return registry.Target{}, err
	}
	layers, err := e.Layers()
	return registry.Target{Images: images, Layers: layers}, err
}

// pullOne pulls one image. Its slot is free again while it waits for the others.
func pullOne(ctx context.Context, c *registry.Client, to registry.Target, op plan.ImageOp, slots chan struct{}, g *gate, p Progress) error {
	select {
	case slots <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	release := sync.OnceFunc(func() { <-slots })
	defer release()
	_, err := c.Pull(ctx, to, op.Image, registry.PullOptions{
		Platform: op.Platform,
		Event:    func(e registry.Event) { p.tell(layerEvent(e)) },
		Ready: func(ctx context.Context) error {
			release()
			return g.wait(ctx)
		},
	})
	return err
}

// layerEvent is the progress of a layer as the displays show it.
func layerEvent(e registry.Event) apply.Event {
	text := ""
	if e.Total > 0 && e.Current > 0 {
		text = units.HumanSize(float64(e.Current)) + "/" + units.HumanSize(float64(e.Total))
	}
	return apply.Event{Name: e.Layer, Status: e.Status, Text: text, Done: e.Done, Current: e.Current, Total: e.Total}
}

// registryLacks tells whether err says that a registry does not have the image,
// or does not show it to this user, which registries do not tell apart.
func registryLacks(err error) bool {
	var refusal *registry.Error
	return errors.As(err, &refusal) && (refusal.Status == http.StatusNotFound || refusal.Status == http.StatusUnauthorized || refusal.Status == http.StatusForbidden)
}

// gate opens when all have come or left. A nil gate is open.
type gate struct {
	mu      sync.Mutex
	missing int
	open    chan struct{}
}

func newGate(n int) *gate { return &gate{missing: n, open: make(chan struct{})} }

// leave says that one will not come.
func (g *gate) leave() {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.missing--; g.missing == 0 {
		close(g.open)
	}
}

// wait comes to the gate, and returns when it opens.
func (g *gate) wait(ctx context.Context) error {
	if g == nil {
		return nil
	}
	g.leave()
	select {
	case <-g.open:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
