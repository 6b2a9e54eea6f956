// Command mkimages makes the images of the examples and imports them into a
// stack program's store. What is made or imported already is not done again.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"

	"github.com/stack-run/stack/examples/images"
)

func main() {
	cache := flag.String("cache", "", "directory of finished tars (default $XDG_CACHE_HOME/stack-examples)")
	stack := flag.String("stack", "", "stack program to import with; empty: print the images as JSON")
	shop := flag.String("shop", "examples/shop", "directory of the example")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	if err := run(ctx, *cache, *stack, *shop); err != nil {
		fmt.Fprintln(os.Stderr, "mkimages:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, dir, stack, shop string) error {
	if dir == "" {
		var err error
		if dir, err = images.DefaultDir(); err != nil {
			return err
		}
	}
	cache := images.Cache{Dir: dir, Log: os.Stderr}
	all, err := cache.ShopBase(ctx, shop)
	if err != nil {
		return err
	}
	busybox, err := cache.BusyBox(ctx)
	if err != nil {
		return err
	}
	all = append(all, busybox)
	if stack == "" {
		e := json.NewEncoder(os.Stdout)
		e.SetIndent("", "  ")
		return e.Encode(all)
	}
	for _, img := range all {
		if err := images.Import(ctx, stack, img); err != nil {
			return err
		}
	}
	return nil
}
