// Fetch builds what stack is compared with, from Go modules, and keeps it in the
// user's cache directory. It prints where each program is.
//
//	go run ./e2e/peer/fetch [NAME...]
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"github.com/stack-run/stack/e2e/peer"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	names := os.Args[1:]
	if len(names) == 0 {
		names = peer.AllPrograms()
	}
	for _, name := range names {
		path, err := peer.Built(ctx, name)
		if err != nil {
			fmt.Fprintln(os.Stderr, "fetch:", err)
			stop()
			os.Exit(1)
		}
		fmt.Println(path)
	}
}
