// Package store keeps the shop's items and orders in PostgreSQL.
package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// An Item is something the shop sells.
type Item struct {
	ID    int    `json:"id"`
	Name  string `json:"name"`
	Cents int    `json:"cents"`
	Stock int    `json:"stock"`
}

// An Order is a customer's wish for some of an item.
type Order struct {
	ID       string    `json:"id"`
	Item     int       `json:"item"`
	Quantity int       `json:"quantity"`
	Status   string    `json:"status"` // "queued", "shipped" or "sold out"
	Taken    time.Time `json:"taken,omitzero"`
}

// ErrNoOrder says that no worker has seen the order yet.
var ErrNoOrder = errors.New("no such order")

// A Store is a connection to the shop's database.
type Store struct{ pool *pgxpool.Pool }

// Open connects to the database that DATABASE_URL names.
func Open(ctx context.Context) (*Store, error) {
	url := os.Getenv("DATABASE_URL")
	if url == "" {
		return nil, errors.New("DATABASE_URL is not set; set it to postgres://user:password@host/database")
	}
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		return nil, fmt.Errorf("cannot open the database: %w", err)
	}
	return &Store{pool}, nil
}

// Close ends all connections.
func (s *Store) Close() { s.pool.Close() }

// Ping reports whether the database answers.
func (s *Store) Ping(ctx context.Context) error { return s.pool.Ping(ctx) }

// Items returns what is for sale.
func (s *Store) Items(ctx context.Context) ([]Item, error) {
	rows, err := s.pool.Query(ctx, `SELECT id, name, cents, stock FROM items ORDER BY id`)
	if err != nil {
		return nil, fmt.Errorf("cannot read the items: %w", err)
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[Item])
}

// Order returns an order that a worker has taken, or ErrNoOrder.
func (s *Store) Order(ctx context.Context, id string) (Order, error) {
	rows, err := s.pool.Query(ctx, `SELECT id, item, quantity, status, taken FROM orders WHERE id = $1`, id)
	if err != nil {
		return Order{}, fmt.Errorf("cannot read order %s: %w", id, err)
	}
	o, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Order])
	if errors.Is(err, pgx.ErrNoRows) {
		return Order{}, ErrNoOrder
	}
	return o, err
}

// Take records an order and takes what it wants out of the stock, both or
// neither. What is not there (or no item at all) is sold out. An order that was recorded before is left as it is, so that a worker
// may do one twice.
func (s *Store) Take(ctx context.Context, o Order) (Order, error) {
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		made, err := tx.Exec(ctx, `INSERT INTO orders (id, item, quantity, status, taken)
			VALUES ($1, $2, $3, 'shipped', now()) ON CONFLICT (id) DO NOTHING`, o.ID, o.Item, o.Quantity)
		if err != nil {
			return err
		}
		if made.RowsAffected() == 0 {
			return nil
		}
		taken, err := tx.Exec(ctx, `UPDATE items SET stock = stock - $2 WHERE id = $1 AND stock >= $2`, o.Item, o.Quantity)
		if err != nil {
			return err
		}
		if taken.RowsAffected() == 0 {
			_, err = tx.Exec(ctx, `UPDATE orders SET status = 'sold out' WHERE id = $1`, o.ID)
		}
		return err
	})
	if err != nil {
		return o, fmt.Errorf("cannot record order %s: %w", o.ID, err)
	}
	return s.Order(ctx, o.ID)
}

// Migrate brings the schema up to date. It may run any number of times.
func (s *Store) Migrate(ctx context.Context) error {
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		for _, q := range []string{
			`CREATE TABLE IF NOT EXISTS items (
				id int PRIMARY KEY, name text NOT NULL, cents int NOT NULL, stock int NOT NULL CHECK (stock >= 0))`,
			`CREATE TABLE IF NOT EXISTS orders (
				id text PRIMARY KEY, item int NOT NULL, quantity int NOT NULL CHECK (quantity > 0),
				status text NOT NULL, taken timestamptz NOT NULL)`,
			`INSERT INTO items (id, name, cents, stock) VALUES
				(1, 'Teapot', 2400, 10), (2, 'Cup', 650, 60), (3, 'Kettle', 4900, 3)
				ON CONFLICT (id) DO NOTHING`,
		} {
			if _, err := tx.Exec(ctx, q); err != nil {
				return fmt.Errorf("cannot migrate: %w", err)
			}
		}
		return nil
	})
}
