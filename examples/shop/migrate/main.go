// Command migrate brings the shop's database schema up to date and ends.
package main

import (
	"context"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/stack-run/stack/examples/shop/store"
)

func main() {
	log.SetFlags(0)
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := run(ctx); err != nil {
		log.Fatal("migrate: ", err)
	}
	log.Print("migrate: the schema is up to date")
}

func run(ctx context.Context) error {
	s, err := store.Open(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	return s.Migrate(ctx)
}
