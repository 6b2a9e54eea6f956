// Package queue hands orders from the web service to the workers, and counts
// visits, in Redis.
package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/redis/go-redis/v9"

	"github.com/stack-run/stack/examples/shop/store"
)

const (
	waiting = "orders:waiting"
	working = "orders:working"
	visits  = "visits"
)

// A Queue is a connection to the shop's Redis.
type Queue struct {
	client *redis.Client
	// waiting has its own connection, because only closing it ends a wait.
	waiting *redis.Client
}

// Open connects to the Redis at REDIS_ADDR (host:port).
func Open() (*Queue, error) {
	addr := os.Getenv("REDIS_ADDR")
	if addr == "" {
		return nil, errors.New("REDIS_ADDR is not set; set it to host:port")
	}
	return &Queue{redis.NewClient(&redis.Options{Addr: addr}), redis.NewClient(&redis.Options{Addr: addr})}, nil
}

// Close ends all connections.
func (q *Queue) Close() {
	q.waiting.Close()
	q.client.Close()
}

// Ping reports whether Redis answers.
func (q *Queue) Ping(ctx context.Context) error { return q.client.Ping(ctx).Err() }

// Visit counts one more visit and returns how many there were.
func (q *Queue) Visit(ctx context.Context) (int64, error) {
	n, err := q.client.Incr(ctx, visits).Result()
	if err != nil {
		return 0, fmt.Errorf("cannot count the visit: %w", err)
	}
	return n, nil
}

// Push adds an order to the queue.
func (q *Queue) Push(ctx context.Context, o store.Order) error {
	b, err := json.Marshal(o)
	if err != nil {
		return err
	}
	if err := q.client.LPush(ctx, waiting, b).Err(); err != nil {
		return fmt.Errorf("cannot queue order %s: %w", o.ID, err)
	}
	return nil
}

// Next waits for an order, until ctx ends, after which the queue takes no more.
// Until done is called the order is kept in a second list, so that none is lost
// when the worker dies.
func (q *Queue) Next(ctx context.Context) (o store.Order, done func(context.Context) error, err error) {
	stop := context.AfterFunc(ctx, func() { q.waiting.Close() })
	defer stop()
	text, err := q.waiting.BLMove(ctx, waiting, working, "RIGHT", "LEFT", 0).Result()
	if err != nil {
		return o, nil, fmt.Errorf("cannot wait for an order: %w", err)
	}
	done = func(ctx context.Context) error { return q.client.LRem(ctx, working, 1, text).Err() }
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return o, done, fmt.Errorf("cannot read an order: %w", err)
	}
	return o, done, nil
}

// Requeue puts the orders that a dead worker left behind back into the queue.
func (q *Queue) Requeue(ctx context.Context) error {
	for {
		err := q.client.LMove(ctx, working, waiting, "LEFT", "RIGHT").Err()
		if errors.Is(err, redis.Nil) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot requeue orders: %w", err)
		}
	}
}
