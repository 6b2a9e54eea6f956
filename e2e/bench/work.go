package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/e2e/peer"
)

const imageRef = "bench:1"

// work measures, inside of the sandbox.
func work(ctx context.Context, o options, dir, broken string) (err error) {
	b := &bench{o: o, dir: dir, report: newReport()}
	defer func() { err = errors.Join(err, b.close()) }()
	if broken != "" {
		b.report.broken("stack", errors.New(broken))
	} else {
		b.stack = peer.NewStack(stackPath(dir), filepath.Join(dir, "stack-roots"))
		b.add(ctx, b.stack)
	}
	if !o.noDocker {
		docker, err := peer.StartDocker(ctx, filepath.Join(dir, "docker"), programsPath(dir))
		if err != nil {
			b.report.broken("Docker", err)
		} else {
			b.docker = docker
			b.add(ctx, docker)
		}
	}
	err = b.all(ctx)
	// What was measured until something failed is worth reading.
	text := b.report.markdown()
	fmt.Print(text)
	if err == nil && o.write != "" {
		err = os.WriteFile(o.write, []byte(text), 0o644)
	}
	return err
}

type bench struct {
	o      options
	dir    string
	stack  *peer.Stack
	docker *peer.Docker
	sides  []peer.Side // those that work
	report *report
}

func (b *bench) close() error {
	var errs []error
	if b.docker != nil {
		errs = append(errs, b.docker.Close())
	}
	if b.stack != nil {
		errs = append(errs, b.stack.Close())
	}
	return errors.Join(errs...)
}

// add gives a side the image; a side that cannot take it is out.
func (b *bench) add(ctx context.Context, side peer.Side) {
	b.report.versions[side.Name()] = side.Version(ctx)
	if err := side.Import(ctx, imagePath(b.dir), imageRef); err != nil {
		b.report.broken(side.Name(), err)
		return
	}
	b.sides = append(b.sides, side)
}

func (b *bench) all(ctx context.Context) error {
	b.start(ctx)
	b.single(ctx)
	b.oneByOne(ctx, b.o.memory)
	if err := b.logs(ctx); err != nil {
		return err
	}
	for size := range strings.SplitSeq(b.o.sizes, ",") {
		n, err := strconv.Atoi(size)
		if err != nil || n < 1 {
			return fmt.Errorf("-sizes: %q is not a number of services", size)
		}
		if err := b.project(ctx, n); err != nil {
			return err
		}
	}
	return errors.Join(b.watch(ctx), b.userNamespaces(ctx), b.build(ctx), b.pull(ctx), ctx.Err())
}

// settle lets the file system and the daemons come to rest: they remove things
// for a while after a command has ended, and are slower meanwhile.
func (b *bench) settle() {
	unix.Sync()
	time.Sleep(b.o.settle)
}

func (b *bench) wants(name string) bool { return strings.Contains(name, b.o.only) }

// start measures how long a program takes that has nothing to do.
func (b *bench) start(ctx context.Context) {
	const name = "start of the program (`version`)"
	if !b.wants(name) {
		return
	}
	what := []measure{{who: "floor", do: command(func() *exec.Cmd { return newCommand(ctx, emptyPath(b.dir)) })}}
	if b.stack != nil {
		what = append(what, measure{who: "stack", do: command(func() *exec.Cmd { return b.stack.Start(ctx) })})
	}
	if b.docker != nil {
		what = append(what, measure{who: "Docker", do: command(func() *exec.Cmd { return b.docker.Compose(ctx, "/dev/null", "x", "version") })})
	}
	b.report.add(name, alternate(ctx, b.o.starts, what))
}

// project measures a project of n services through its life.
func (b *bench) project(ctx context.Context, n int) error {
	file := filepath.Join(b.dir, fmt.Sprintf("compose-%d.yaml", n))
	if err := os.WriteFile(file, []byte(composeFile(n, "")), 0o644); err != nil {
		return err
	}
	project := fmt.Sprintf("bench%d", n)
	steps := []struct {
		name string
		args []string
	}{
		{fmt.Sprintf("`up -d` of %d services", n), []string{"up", "-d"}},
		{fmt.Sprintf("`up -d` of %d with nothing to do", n), []string{"up", "-d"}},
		{fmt.Sprintf("`ps` of %d", n), []string{"ps"}},
		{fmt.Sprintf("`down` of %d", n), []string{"down"}},
	}
	wanted := false
	for _, step := range steps {
		wanted = wanted || b.wants(step.name)
	}
	if !wanted {
		return nil
	}
	samples := make([]map[string][]result, len(steps))
	for i := range samples {
		samples[i] = map[string][]result{}
	}
	failed := map[string]bool{} // sides
	for round := range b.o.ups {
		for _, s := range inTurn(b.sides, round) {
			b.settle()
			for i, step := range steps {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				if failed[s.Name()] {
					break
				}
				r := timed(s.Compose(ctx, file, project, step.args...))
				samples[i][s.Name()] = append(samples[i][s.Name()], r)
				failed[s.Name()] = r.err != nil
				if round == 0 && r.err == nil {
					b.afterFirst(ctx, s, file, project, step.args[0], n)
				}
			}
		}
	}
	for i, step := range steps {
		if b.wants(step.name) {
			b.report.add(step.name, samples[i])
		}
	}
	return nil
}

// afterFirst looks, in the first round, at what a step has brought about.
func (b *bench) afterFirst(ctx context.Context, s peer.Side, file, project, verb string, n int) {
	switch verb {
	case "up":
		b.expect(ctx, s, file, project, n)
	case "ps":
		if n == b.o.memory {
			b.memory(s, "project of services", n)
		}
	case "down":
		b.expect(ctx, s, file, project, 0)
	}
}

// expect makes sure that what was measured is what was meant.
func (b *bench) expect(ctx context.Context, s peer.Side, file, project string, containers int) {
	out, err := peer.Run(s.Compose(ctx, file, project, "ps", "-q"))
	if got := len(strings.Fields(string(out))); err == nil && got != containers {
		err = fmt.Errorf("%d containers run, not %d", got, containers)
	}
	if err != nil {
		b.report.broken(s.Name(), err)
	}
}

// untilIdle is how long a side is left alone before its memory is measured: the
// command before has only just ended.
const untilIdle = time.Second

// memory measures what a side's own processes take while n containers idle.
func (b *bench) memory(s peer.Side, what string, n int) {
	time.Sleep(untilIdle)
	pids, err := s.Processes()
	var bytes int64
	if err == nil {
		bytes, err = peer.PSS(pids)
	}
	if err != nil {
		b.report.broken(s.Name(), err)
		return
	}
	b.report.memory(memoryRow{s.Name(), what, n, len(pids), bytes})
}

// composeFile is a project of n services that sleep. Their stop signal is KILL,
// since a sleep that is process 1 heeds no other: what is measured is the
// stopping, not the grace period. more is one more line of each, if not empty.
func composeFile(n int, more string) string {
	var f strings.Builder
	f.WriteString("services:\n")
	for i := range n {
		fmt.Fprintf(&f, "  s%d:\n    image: %s\n    command: [sleep, inf]\n    stop_signal: KILL\n", i, imageRef)
		if more != "" {
			fmt.Fprintf(&f, "    %s\n", more)
		}
	}
	return f.String()
}
