package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/stack-run/stack/e2e/peer"
)

// afterIdle is how long the kernel is left to clean up behind the last process, which
// is no part of the next start: bridges and namespaces go by and by.
const afterIdle = 500 * time.Millisecond

// single measures single containers.
func (b *bench) single(ctx context.Context) {
	const runName, besideName, execName = "`run --rm IMAGE true`", "`run --rm IMAGE true` beside a container", "`exec NAME true`"
	runs := func(before map[string]func() error) []measure {
		var what []measure
		for _, s := range b.sides {
			do := command(func() *exec.Cmd { return s.Container(ctx, "run", "--rm", imageRef, "true") })
			what = append(what, measure{who: s.Name(), before: before[s.Name()], do: do})
		}
		return what
	}
	if b.wants(runName) {
		// stack has no process of its own then; Docker's daemon is always there.
		before := map[string]func() error{}
		if b.stack != nil {
			before[b.stack.Name()] = func() error {
				err := b.stack.Idle(ctx)
				time.Sleep(afterIdle)
				return err
			}
		}
		what := append([]measure{{who: "floor", do: newFloor(b.dir).once}}, runs(before)...)
		b.report.add(runName, alternate(ctx, b.o.runs, what))
	}
	if !b.wants(besideName) && !b.wants(execName) {
		return
	}
	const name = "bench-beside"
	defer b.remove(ctx, name)
	var what []measure
	for _, s := range b.sides {
		if _, err := peer.Run(s.Container(ctx, "run", "-d", "--name", name, imageRef, "sleep", "inf")); err != nil {
			b.report.broken(s.Name(), err)
			continue
		}
		what = append(what, measure{who: s.Name(), do: command(func() *exec.Cmd { return s.Container(ctx, "exec", name, "true") })})
	}
	if b.wants(besideName) {
		b.report.add(besideName, alternate(ctx, b.o.runs, runs(nil)))
	}
	if b.wants(execName) {
		b.report.add(execName, alternate(ctx, b.o.runs, what))
	}
}

// remove removes containers of all sides.
func (b *bench) remove(ctx context.Context, names ...string) {
	for _, s := range b.sides {
		if _, err := peer.Run(s.Container(context.WithoutCancel(ctx), append([]string{"rm", "-f"}, names...)...)); err != nil {
			b.report.broken(s.Name(), err)
		}
	}
}

// oneByOne measures n containers that are started one after the other, what the
// engine's own processes take then, and the removal of all in one command.
func (b *bench) oneByOne(ctx context.Context, n int) {
	run, rm := fmt.Sprintf("`run -d`, %d times", n), fmt.Sprintf("`rm -f` of %d", n)
	if n == 0 || !b.wants(run) && !b.wants(rm) {
		return
	}
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("bench-one%d", i))
	}
	started, removed := map[string][]result{}, map[string][]result{}
	failed := map[string]bool{} // sides
	for round := range b.o.ups {
		for _, s := range inTurn(b.sides, round) {
			if ctx.Err() != nil || failed[s.Name()] {
				continue
			}
			b.settle()
			var all result
			for _, name := range names {
				one := timed(s.Container(ctx, "run", "-d", "--name", name, "--stop-signal", "KILL", imageRef, "sleep", "inf"))
				all.took += one.took
				if all.err = one.err; all.err != nil {
					break
				}
			}
			if round == 0 && all.err == nil {
				b.memory(s, "`run -d` of each", n)
			}
			gone := timed(s.Container(context.WithoutCancel(ctx), append([]string{"rm", "-f"}, names...)...))
			started[s.Name()] = append(started[s.Name()], all)
			removed[s.Name()] = append(removed[s.Name()], gone)
			failed[s.Name()] = all.err != nil || gone.err != nil
		}
	}
	if b.wants(run) {
		b.report.add(run, started)
	}
	if b.wants(rm) {
		b.report.add(rm, removed)
	}
}

// Sizes of what logs is measured with.
const (
	logLines    = 10_000 // of a single container
	logServices = 10
	logEach     = 1000 // lines of each service
)

// logs measures reading what ended containers have written.
func (b *bench) logs(ctx context.Context) error {
	single := fmt.Sprintf("`logs` of %d lines", logLines)
	project := fmt.Sprintf("`logs` of %d services, %d lines each", logServices, logEach)
	if b.wants(single) {
		const name = "bench-logs"
		var what []measure
		for _, s := range b.sides {
			if _, err := peer.Run(s.Container(ctx, "run", "--name", name, imageRef, "seq", fmt.Sprint(logLines))); err != nil {
				b.report.broken(s.Name(), err)
				continue
			}
			what = append(what, measure{who: s.Name(), do: func() result {
				return lines(logLines, s.Container(ctx, "logs", name))
			}})
		}
		b.report.add(single, alternate(ctx, b.o.runs, what))
		b.remove(ctx, name)
	}
	if !b.wants(project) {
		return nil
	}
	var f strings.Builder
	f.WriteString("services:\n")
	for i := range logServices {
		fmt.Fprintf(&f, "  s%d:\n    image: %s\n    command: [seq, '%d']\n", i, imageRef, logEach)
	}
	file := filepath.Join(b.dir, "compose-logs.yaml")
	if err := os.WriteFile(file, []byte(f.String()), 0o644); err != nil {
		return err
	}
	const projectName = "benchlogs"
	var what []measure
	for _, s := range b.sides {
		// Without -d it ends when the services have.
		if _, err := peer.Run(s.Compose(ctx, file, projectName, "up")); err != nil {
			b.report.broken(s.Name(), err)
			continue
		}
		what = append(what, measure{who: s.Name(), do: func() result {
			return lines(logServices*logEach, s.Compose(ctx, file, projectName, "logs"))
		}})
	}
	b.report.add(project, alternate(ctx, b.o.runs, what))
	for _, s := range b.sides {
		if _, err := peer.Run(s.Compose(context.WithoutCancel(ctx), file, projectName, "down")); err != nil {
			b.report.broken(s.Name(), err)
		}
	}
	return nil
}

// lines times a command that must write n lines.
func lines(n int, cmd *exec.Cmd) result {
	r, out := timedOutput(cmd)
	if got := len(slices.Collect(strings.Lines(string(out)))); r.err == nil && got != n {
		r.err = fmt.Errorf("%s wrote %d lines, not %d", strings.Join(cmd.Args, " "), got, n)
	}
	return r
}
