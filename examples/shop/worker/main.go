// Command worker takes the shop's orders from the queue and records them.
package main

import (
	"context"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/stack-run/stack/examples/shop/queue"
	"github.com/stack-run/stack/examples/shop/store"
)

func main() {
	log.SetFlags(0)
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := run(ctx); err != nil && ctx.Err() == nil {
		log.Fatal("worker: ", err)
	}
	log.Print("worker: stopped")
}

func run(ctx context.Context) error {
	s, err := store.Open(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	q, err := queue.Open()
	if err != nil {
		return err
	}
	defer q.Close()
	if err := q.Requeue(ctx); err != nil {
		return err
	}
	log.Print("worker: waiting for orders")
	for {
		if err := next(ctx, s, q); err != nil {
			return err
		}
	}
}

// next does one order. It is finished even when the worker is asked to stop.
func next(ctx context.Context, s *store.Store, q *queue.Queue) error {
	o, done, err := q.Next(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	o, err = s.Take(ctx, o)
	if err != nil {
		return err
	}
	log.Printf("worker: order %s: %d of item %d %s", o.ID, o.Quantity, o.Item, o.Status)
	return done(ctx)
}
