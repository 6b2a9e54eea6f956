// Command web is the shop's web service: a page with what is for sale, and a
// way to order it. With -health it asks a running one whether it is well.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/stack-run/stack/examples/shop/queue"
	"github.com/stack-run/stack/examples/shop/store"
)

func main() {
	addr := flag.String("addr", ":8080", "address to listen on")
	health := flag.Bool("health", false, "ask the service on this machine for its health")
	flag.Parse()
	log.SetFlags(0)
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	var err error
	if *health {
		err = ask(ctx)
	} else {
		err = serve(ctx, *addr)
	}
	if err != nil {
		log.Fatal("web: ", err)
	}
}

// ask is the health check: it fails unless the service says that it is well.
func ask(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:8080/healthz", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("unwell: %s", resp.Status)
	}
	return nil
}

func serve(ctx context.Context, addr string) error {
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

	server := &http.Server{
		Addr:              addr,
		Handler:           (&shop{store: s, queue: q, greeting: os.Getenv("SHOP_GREETING")}).routes(),
		ReadHeaderTimeout: 5 * time.Second,
	}
	stopped := make(chan error, 1)
	go func() {
		<-ctx.Done()
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		stopped <- server.Shutdown(drain)
	}()
	log.Printf("web: listening on %s", addr)
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	log.Print("web: stopped")
	return <-stopped
}
