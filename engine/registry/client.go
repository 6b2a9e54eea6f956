package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Options are a client's surroundings. Zero values mean the defaults.
type Options struct {
	Config *Config // nil: LoadConfig
	// Credentials are those of the user's Docker configuration if nil.
	Credentials *Credentials
	UserAgent   string
	// HeaderTimeout bounds the wait for an answer to begin, StallTimeout that for
	// more of it.
	HeaderTimeout, StallTimeout time.Duration
	// Backoff is the first pause after a failure; each further one is twice as long.
	Backoff time.Duration
	// MaxWait is the longest pause that a registry may ask for.
	MaxWait time.Duration
}

const (
	// attempts is how often a request is sent before its failure counts.
	attempts = 5
	// firstAttempts is the same for a server that has not answered yet. Most of
	// these never will: their name is misspelt, or this machine is not connected.
	firstAttempts = 2
)

// Client speaks to registries. It is safe for concurrent use.
type Client struct {
	o      Options
	config Config
	creds  *Credentials

	mu     sync.Mutex
	known  map[string][]*endpoint
	tokens map[string]string // Authorization headers by endpoint and scope
}

// NewClient returns a client. It reads the settings and connects to nothing.
func NewClient(o Options) (*Client, error) {
	c := &Client{o: o, creds: o.Credentials, known: map[string][]*endpoint{}, tokens: map[string]string{}}
	if o.Config != nil {
		c.config = *o.Config
	} else {
		var err error
		if c.config, err = LoadConfig(); err != nil {
			return nil, err
		}
	}
	if c.creds == nil {
		c.creds = &Credentials{}
	}
	set := func(d *time.Duration, to time.Duration) {
		if *d == 0 {
			*d = to
		}
	}
	set(&c.o.HeaderTimeout, time.Minute)
	set(&c.o.StallTimeout, 20*time.Second)
	set(&c.o.Backoff, 500*time.Millisecond)
	set(&c.o.MaxWait, time.Minute)
	if c.o.UserAgent == "" {
		c.o.UserAgent = "stack"
	}
	return c, nil
}

// Credentials are those that the client logs in with.
func (c *Client) Credentials() *Credentials { return c.creds }

// call is one request, which may be sent several times.
type call struct {
	method string
	path   string // after the endpoint's base, or a whole URL
	scope  string // what a token is needed for
	header http.Header
	body   func() (io.ReadCloser, int64, error)
	ok     []int // the statuses that are answers
}

// do sends a call until it is answered. The caller closes the body.
func (c *Client) do(ctx context.Context, e *endpoint, r call) (*http.Response, error) {
	if err := c.settle(ctx, e); err != nil {
		return nil, err
	}
	for try := 1; ; try++ {
		resp, err := c.authorized(ctx, e, r)
		if err == nil {
			return resp, nil
		}
		switch {
		case !transient(err):
			return nil, err
		case try == attempts, !e.answers.Load() && (try == firstAttempts || hopeless(err)):
			return nil, exhausted{err}
		}
		if wait := c.pause(ctx, err, try); wait != nil {
			return nil, wait
		}
	}
}

// exhausted is the failure of the last attempt. Whoever tries again what the
// request was a part of must not do so because of it.
type exhausted struct{ error }

func (e exhausted) Unwrap() error { return e.error }

// pause waits before the next try: as long as the registry asks for, or longer
// from time to time. The error says why there should be no next try.
func (c *Client) pause(ctx context.Context, cause error, try int) error {
	d := c.o.Backoff << (try - 1)
	d += rand.N(d/4 + 1)
	var refusal *Error
	if errors.As(cause, &refusal) && refusal.wait > 0 {
		d = refusal.wait
	}
	if d > c.o.MaxWait {
		return cause
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// authorized sends a call once, and once more with credentials where the
// registry asks for them.
func (c *Client) authorized(ctx context.Context, e *endpoint, r call) (*http.Response, error) {
	key := e.String() + " " + r.scope
	c.mu.Lock()
	header := c.tokens[key]
	c.mu.Unlock()
	for asked := false; ; asked = true {
		resp, err := c.send(ctx, e, r, header)
		if err != nil {
			return nil, err
		}
		if slices.Contains(r.ok, resp.StatusCode) {
			return resp, nil
		}
		challenges := parseChallenges(resp.Header.Values("WWW-Authenticate"))
		fail := refusal(e, resp, time.Now())
		if resp.StatusCode != http.StatusUnauthorized || asked || len(challenges) == 0 {
			return nil, fail
		}
		header, err = c.authorize(ctx, e, challenges, r.scope)
		if err != nil {
			return nil, err
		}
		if header == "" {
			return nil, fail
		}
		c.mu.Lock()
		c.tokens[key] = header
		c.mu.Unlock()
	}
}

func (c *Client) send(ctx context.Context, e *endpoint, r call, authorization string) (*http.Response, error) {
	target := r.path
	if strings.HasPrefix(target, "/") {
		target = e.url(r.path)
	}
	var body io.ReadCloser
	var size int64
	if r.body != nil {
		var err error
		if body, size, err = r.body(); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	var out *sent
	if body != nil {
		// A line that is slow has much in its buffers, and asks for more in bursts.
		out = newSent(body, c.o.HeaderTimeout+c.o.StallTimeout, cancel)
		defer out.timer.Stop()
		body = out
	}
	resp, err := c.sendOnce(ctx, e, r, target, authorization, body, size)
	if err != nil {
		cancel()
		if out != nil && out.stalled.Load() {
			err = fmt.Errorf("registry %s takes no more: %w", e, stalledFor(out.timeout))
		}
		return nil, err
	}
	e.answers.Store(true)
	resp.Body = newReceived(resp.Body, c.o.StallTimeout, cancel)
	return resp, nil
}

func (c *Client) sendOnce(ctx context.Context, e *endpoint, r call, target, authorization string, body io.ReadCloser, size int64) (*http.Response, error) {
	if body != nil && size == 0 {
		body.Close()
		body = nil
	}
	req, err := http.NewRequestWithContext(ctx, r.method, target, nil)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Body, req.ContentLength = body, size
	}
	for k, v := range r.header {
		req.Header[k] = v
	}
	req.Header.Set("User-Agent", c.o.UserAgent)
	if authorization != "" && req.URL.Host == e.base.Host && req.URL.Scheme == e.base.Scheme {
		req.Header.Set("Authorization", authorization)
	}
	resp, err := e.client.Do(req)
	if err != nil {
		return nil, c.networkError(e, err)
	}
	return resp, nil
}

// drain reads what is left of a short answer, so that its connection can be used
// again.
func drain(resp *http.Response) {
	atOnce(resp)
	io.Copy(io.Discard, io.LimitReader(resp.Body, maxErrorBody))
	resp.Body.Close()
}
