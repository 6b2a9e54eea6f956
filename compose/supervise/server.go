package supervise

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"github.com/stack-run/stack/compose/apply"
	"github.com/stack-run/stack/engine"
)

// reply streams an answer. Who has something to tell may outlast the request: a
// container's goroutine that goes on with what was asked for, the engine.
type reply struct {
	mu  sync.Mutex
	enc *json.Encoder // nil once the request has ended, when its connection is not ours
	out *http.ResponseController
	s   *Supervisor
}

// event sends one step of progress.
func (r *reply) event(kind, name, status, text string, done bool) {
	r.send(Message{Event: &apply.Event{Time: r.s.now(), Kind: kind, Name: name, Status: status, Text: text, Done: done}})
}

// pass passes an event on.
func (r *reply) pass(e apply.Event) { r.send(Message{Event: &e}) }

func (r *reply) send(m Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.enc == nil || m.Event != nil && r.s.leaves() {
		return // the next supervisor tells of it
	}
	// A client that went away is noticed by its request's context.
	if r.enc.Encode(m) == nil {
		r.out.Flush()
	}
}

// close has what comes later told to nobody.
func (r *reply) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.enc = nil
}

// handler serves one verb.
type handler func(ctx context.Context, body json.RawMessage, r *reply) (any, error)

// handle decodes a body for a typed handler.
func handle[T any](h func(context.Context, T, *reply) (any, error)) handler {
	return func(ctx context.Context, body json.RawMessage, r *reply) (any, error) {
		var req T
		if err := json.Unmarshal(body, &req); err != nil {
			return nil, fmt.Errorf("internal error: cannot read the request: %w", err)
		}
		if checked, ok := any(&req).(interface{ check() error }); ok {
			if err := checked.check(); err != nil {
				return nil, fmt.Errorf("internal error: cannot use the request: %w", err)
			}
		}
		return h(ctx, req, r)
	}
}

func (s *Supervisor) handlers() map[string]handler {
	return map[string]handler{
		"ping":   s.ping,
		"apply":  handle(s.apply),
		"create": handle(s.create),
		"run":    handle(s.run),
		"wait":   handle(s.wait),
		"fd":     handle(s.descriptor),
		"exec":   handle(s.exec),
		"rest":   handle(s.rest),

		"handover": handle(s.handOver),
		"rename":   handle(s.rename),
		"update":   handle(s.update),
		"connect":  handle(s.connect),
	}
}

// ping answers once all that ran before has been taken over, and what has ended
// been noted.
func (s *Supervisor) ping(ctx context.Context, _ json.RawMessage, _ *reply) (any, error) {
	select {
	case <-s.adopted:
		return nil, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// serve answers requests until ctx ends.
func (s *Supervisor) serve(ctx context.Context) error {
	f := s.keeper.Get(listenerName)
	if f == nil {
		return errors.New("internal error: the guardian passed no listening socket")
	}
	l, err := net.FileListener(f)
	if err != nil {
		return err
	}
	// The socket's path is the run directory's business, see leave.
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
	}
	server := &http.Server{
		Handler:     s.routes(s.handlers()),
		BaseContext: func(net.Listener) context.Context { return ctx },
		// A connection keeps the supervisor from leaving, from the moment it is
		// accepted: its request may not have been read yet.
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				s.connected()
			case http.StateClosed:
				s.done()
			}
		},
	}
	context.AfterFunc(ctx, func() { server.Close() })
	return server.Serve(l)
}

func (s *Supervisor) routes(handlers map[string]handler) http.Handler {
	mux := http.NewServeMux()
	for verb, h := range handlers {
		mux.HandleFunc("POST /v1/"+verb, func(w http.ResponseWriter, req *http.Request) { s.answer(w, req, h) })
	}
	return mux
}

// refuseFor is how long a supervisor that cannot work answers those who ask: who had it
// started has asked already, and for later ones the next one finds out whether it is
// still so.
const refuseFor = 10 * time.Millisecond

// refuse tells those who ask why there is no supervisor.
func refuse(k *Keeper, why error) {
	f := k.Get(listenerName)
	if f == nil {
		return
	}
	l, err := net.FileListener(f)
	if err != nil {
		return
	}
	u, ok := l.(*net.UnixListener)
	if !ok {
		return
	}
	u.SetUnlinkOnClose(false)
	server := &http.Server{
		ReadTimeout: time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			io.Copy(io.Discard, req.Body) // else the client fails to write it
			json.NewEncoder(w).Encode(Message{Final: &Final{Error: why.Error(), ExitCode: 1}})
		}),
	}
	told := make(chan struct{})
	time.AfterFunc(refuseFor, func() {
		defer close(told)
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		server.Shutdown(ctx)
	})
	server.Serve(u)
	<-told
}

// survive has a fault of the program end the request, not the supervisor, and tells
// of it.
func (s *Supervisor) survive(h handler) handler {
	return func(ctx context.Context, body json.RawMessage, r *reply) (result any, err error) {
		defer func() {
			if fault := recover(); fault != nil {
				err = fmt.Errorf("internal error: %v; supervisor.log in %s has more", fault, s.dir)
				fmt.Fprintf(os.Stderr, "%v\n%s\n", err, debug.Stack())
			}
		}()
		return h(ctx, body, r)
	}
}

func (s *Supervisor) answer(w http.ResponseWriter, req *http.Request, h handler) {
	if s.leaves() || s.handing.Load() {
		panic(http.ErrAbortHandler) // no status line: the client asks the next supervisor
	}
	var body json.RawMessage
	if err := json.NewDecoder(req.Body).Decode(&body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	r := &reply{enc: json.NewEncoder(w), out: http.NewResponseController(w), s: s}
	defer r.close()
	w.WriteHeader(http.StatusOK)
	r.out.Flush()
	s.mu.Lock()
	s.replies[r] = true
	s.mu.Unlock()
	result, err := s.survive(h)(req.Context(), body, r)
	s.mu.Lock()
	delete(s.replies, r)
	s.mu.Unlock()
	if err != nil && s.leaves() {
		panic(http.ErrAbortHandler) // no end: the client asks the next supervisor
	}
	final := Final{}
	if err != nil {
		final.Error, final.ExitCode = err.Error(), engine.StartExitCode(err)
	}
	if result != nil {
		if final.Result, err = json.Marshal(result); err != nil {
			final.Error = "internal error: " + err.Error()
		}
	}
	s.awaitCleanup(req.Context())
	final.Leaving = s.realm != Singles && s.idleBut(1)
	r.send(Message{Final: &final})
	if s.handedOver.Load() {
		os.Exit(exitHandOver)
	}
	s.trim()
}
