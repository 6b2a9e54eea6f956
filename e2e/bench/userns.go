package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// What the host's user namespace and one of their own are called in the report.
const (
	hostUserNS = "host"
	autoUserNS = "auto"
)

// userNamespaces measures what a user namespace adds to starts of stack.
func (b *bench) userNamespaces(ctx context.Context) error {
	const runName = "userns: `run --rm IMAGE true` beside a container"
	if b.stack == nil {
		return nil
	}
	if b.wants(runName) {
		const name = "bench-beside"
		if r := timed(b.stack.Container(ctx, "run", "-d", "--name", name, imageRef, "sleep", "inf")); r.err != nil {
			return r.err
		}
		var what []measure
		for _, mode := range []string{hostUserNS, autoUserNS} {
			what = append(what, measure{who: mode, do: command(func() *exec.Cmd {
				return b.stack.Container(ctx, "run", "--rm", "--userns", mode, imageRef, "true")
			})})
		}
		b.report.compare(runName, alternate(ctx, 2*b.o.runs, what))
		if r := timed(b.stack.Container(context.WithoutCancel(ctx), "rm", "-f", name)); r.err != nil {
			return r.err
		}
	}
	const services = 10
	upName := fmt.Sprintf("userns: `up -d` of %d services", services)
	if !b.wants(upName) {
		return nil
	}
	files := map[string]string{}
	for _, mode := range []string{hostUserNS, autoUserNS} {
		files[mode] = filepath.Join(b.dir, "compose-userns-"+mode+".yaml")
		if err := os.WriteFile(files[mode], []byte(composeFile(services, "userns_mode: "+mode)), 0o644); err != nil {
			return err
		}
	}
	results := map[string][]result{}
	for round := range 2 * b.o.ups {
		for _, mode := range inTurn([]string{hostUserNS, autoUserNS}, round) {
			b.settle()
			results[mode] = append(results[mode], timed(b.stack.Compose(ctx, files[mode], "benchns", "up", "-d")))
			if r := timed(b.stack.Compose(context.WithoutCancel(ctx), files[mode], "benchns", "down")); r.err != nil {
				return r.err
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
	}
	b.report.compare(upName, results)
	return nil
}
