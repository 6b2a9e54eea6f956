// Package client builds what a request asks for, against a BuildKit daemon: it
// sends contexts, secrets and credentials, shows the progress, and says what
// came of it.
package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/distribution/reference"
	bk "github.com/moby/buildkit/client"
	"golang.org/x/sync/errgroup"

	"github.com/stack-run/stack/engine/build/request"
)

// Client runs builds. Its streams are the user's.
type Client struct {
	// Dial connects to the daemon.
	Dial         func(context.Context) (*bk.Client, error)
	In           io.Reader
	Out          *os.File
	Err          *os.File
	Now          func() time.Time
	DockerConfig string // directory of Docker's config.json; "" is DOCKER_CONFIG or ~/.docker
}

// Build builds all targets and prints the errors. What it returns says for each
// target what became of it; the error is nil only if all were built.
func (c *Client) Build(ctx context.Context, b *request.Build) (*request.Result, error) {
	if err := b.Check(); err != nil {
		return nil, err
	}
	if err := normalize(b.Targets); err != nil {
		return nil, err
	}
	conn, err := c.Dial(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	gateway, err := hostGateway(ctx, conn, b.Targets)
	if err != nil {
		return nil, err
	}
	shown := c.Err
	if b.ProgressOut {
		shown = c.Out
	}
	screen, err := newScreen(shown, b.Progress)
	if err != nil {
		return nil, err
	}
	r := &run{
		client: c, request: b, conn: conn, gateway: gateway, screen: screen,
		done: map[string]chan struct{}{}, built: make([]request.Built, len(b.Targets)),
		errs: make([]error, len(b.Targets)),
	}
	if b.Parallel > 0 {
		r.slots = make(chan struct{}, b.Parallel)
	}
	for _, t := range b.Targets {
		r.done[t.Name] = make(chan struct{})
	}
	err = r.all(ctx)
	warnings := screen.finish()
	for i, t := range b.Targets {
		r.built[i].Name = t.Name
		if r.errs[i] != nil {
			r.built[i].Error = r.errs[i].Error()
		}
	}
	switch {
	case err != nil:
		printError(c.Err, err, screen)
	case b.Call != "":
		err = printCalls(c.Out, b, r.calls)
	case !screen.silent():
		printWarnings(shown, warnings)
	}
	return &request.Result{Targets: r.built}, err
}

// normalize writes the targets' names out in full, as the exporter wants them.
func normalize(targets []request.Target) error {
	for i := range targets {
		for j, name := range targets[i].Names {
			ref, err := reference.ParseNormalizedNamed(name)
			if err != nil {
				return fmt.Errorf("cannot tag an image as %q: %w", name, err)
			}
			if _, pinned := ref.(reference.Digested); pinned {
				return fmt.Errorf("cannot tag an image as %q: a digest is not chosen but computed; leave it out", name)
			}
			targets[i].Names[j] = reference.TagNameOnly(ref).String()
		}
	}
	return nil
}

// run is one Build at work.
type run struct {
	client  *Client
	request *request.Build
	conn    *bk.Client
	gateway string // the address that host-gateway means
	screen  *screen
	slots   chan struct{} // nil: no limit

	// Index i is target i's; done is closed when its other fields are final.
	done  map[string]chan struct{}
	built []request.Built
	errs  []error

	mu    sync.Mutex
	calls map[string]map[string][]byte // answers to Call by target
}

// all builds the targets, each when those it builds on are there. The first
// failure cancels the others.
func (r *run) all(ctx context.Context) error {
	eg, ctx := errgroup.WithContext(ctx)
	for i := range r.request.Targets {
		t := &r.request.Targets[i]
		// In the order of the targets, so that the display is too.
		report := r.screen.target(t.Name, len(r.request.Targets) > 1)
		eg.Go(func() error {
			defer close(r.done[t.Name])
			defer close(report)
			r.built[i], r.errs[i] = r.one(ctx, t, report)
			return r.errs[i]
		})
	}
	return eg.Wait()
}

// errNeed says that a target was not begun since what it builds on failed.
var errNeed = errors.New("what it builds on was not built")

func (r *run) one(ctx context.Context, t *request.Target, report chan<- *bk.SolveStatus) (request.Built, error) {
	images := map[string]string{}
	for _, need := range t.Needs() {
		select {
		case <-r.done[need]:
		case <-ctx.Done():
			return request.Built{}, context.Cause(ctx)
		}
		i := r.index(need)
		if r.errs[i] != nil {
			return request.Built{}, fmt.Errorf("cannot build %s: %w: %s", t.Name, errNeed, need)
		}
		images[need] = imageOf(&r.request.Targets[i], r.built[i])
	}
	if r.slots != nil {
		select {
		case r.slots <- struct{}{}:
			defer func() { <-r.slots }()
		case <-ctx.Done():
			return request.Built{}, context.Cause(ctx)
		}
	}
	start := r.client.Now()
	s, err := prepare(ctx, t, surroundings{
		in: r.client.In, out: r.client.Out, gateway: r.gateway, images: images, config: r.client.DockerConfig,
	})
	if err != nil {
		return request.Built{}, fmt.Errorf("cannot build %s: %w", t.Name, err)
	}
	answer, err := r.solve(ctx, t, s, report)
	if err != nil {
		return request.Built{}, err
	}
	built := outcome(t, answer)
	built.Took = r.client.Now().Sub(start)
	return built, nil
}

func (r *run) index(name string) int {
	for i := range r.request.Targets {
		if r.request.Targets[i].Name == name {
			return i
		}
	}
	return -1
}

// solve sends one target to the daemon and forwards what it reports.
func (r *run) solve(ctx context.Context, t *request.Target, s *solve, report chan<- *bk.SolveStatus) (map[string]string, error) {
	statuses := make(chan *bk.SolveStatus)
	forwarded := make(chan struct{})
	go func() {
		defer close(forwarded)
		for st := range statuses {
			report <- st
		}
	}()
	defer func() { <-forwarded }()
	if r.request.Call != "" {
		metadata, err := call(ctx, r.conn, s.options, r.request.Call, statuses)
		if err != nil {
			return nil, err
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.calls == nil {
			r.calls = map[string]map[string][]byte{}
		}
		r.calls[t.Name] = metadata
		return nil, nil
	}
	answer, err := r.conn.Solve(ctx, nil, s.options, statuses)
	if err != nil {
		return nil, err
	}
	return answer.ExporterResponse, nil
}

// imageOf is the reference by which a further target finds what was built: by
// digest, so that nobody's new tag comes between.
func imageOf(t *request.Target, b request.Built) string {
	name := ""
	if len(t.Names) > 0 {
		name = t.Names[0]
	}
	if b.Digest == "" {
		return name
	}
	return name + "@" + b.Digest
}
