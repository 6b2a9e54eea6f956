package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	bk "github.com/moby/buildkit/client"
	"github.com/sirupsen/logrus"

	engine "github.com/stack-run/stack/engine/build"
	"github.com/stack-run/stack/engine/build/client"
	"github.com/stack-run/stack/engine/build/request"
)

func build(ctx context.Context, _ []string) error {
	logrus.SetFormatter(plainLog{})
	return serve(ctx, func(ctx context.Context, b *request.Build) (any, error) {
		r, err := newClient(b.DataRoot, b.RunRoot).Build(ctx, b)
		if r != nil && err != nil {
			err = errSaid{err}
		}
		return r, err
	})
}

func usage(ctx context.Context, _ []string) error {
	return serve(ctx, func(ctx context.Context, q *request.Cache) (any, error) {
		return newClient(q.DataRoot, q.RunRoot).Usage(ctx, q)
	})
}

func prune(ctx context.Context, _ []string) error {
	return serve(ctx, func(ctx context.Context, q *request.Cache) (any, error) {
		return newClient(q.DataRoot, q.RunRoot).Prune(ctx, q)
	})
}

func newClient(dataRoot, runRoot string) *client.Client {
	return &client.Client{
		Dial: func(ctx context.Context) (*bk.Client, error) {
			return engine.Dial(ctx, engine.Options{DataRoot: dataRoot, RunRoot: runRoot, Program: "/proc/self/exe"})
		},
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Now: time.Now,
	}
}

// serve reads a request from its descriptor, answers it, and writes the result
// to the other one. Work stops when nobody waits for the result any more.
func serve[Q any](ctx context.Context, work func(context.Context, *Q) (any, error)) error {
	in := os.NewFile(request.RequestFD, "request")
	out := os.NewFile(request.ResultFD, "result")
	if in == nil || out == nil {
		return fmt.Errorf("stack-builder is called by stack, with a request on descriptor %d", request.RequestFD)
	}
	// What is started from here has no use for them.
	syscall.CloseOnExec(request.RequestFD)
	syscall.CloseOnExec(request.ResultFD)
	var q Q
	d := json.NewDecoder(in)
	if err := d.Decode(&q); err != nil {
		return fmt.Errorf("cannot read the request on descriptor %d: %w", request.RequestFD, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		io.Copy(io.Discard, in)
		cancel()
	}()
	result, err := work(ctx, &q)
	if result != nil {
		// Who is gone needs no answer.
		json.NewEncoder(out).Encode(result)
	}
	return err
}
