package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// buildSteps is the number of instructions of the Dockerfile that is built.
const buildSteps = 12

// changedStep is the one whose file changes: an odd one copies a file.
const changedStep = 5

// build measures a build that changes nothing, the next one after a build, and one
// that has to do the later half of the steps again.
func (b *bench) build(ctx context.Context) error {
	same := fmt.Sprintf("build of an unchanged Dockerfile of %d steps", buildSteps)
	changed := "build after a change half-way"
	if !b.wants(same) && !b.wants(changed) {
		return nil
	}
	dir := filepath.Join(b.dir, "context")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	var dockerfile strings.Builder
	dockerfile.WriteString("FROM " + imageRef + "\n")
	for i := 1; i < buildSteps; i++ {
		file := fmt.Sprintf("file%d", i)
		if i%2 == 0 {
			fmt.Fprintf(&dockerfile, "RUN echo %d >/made%d\n", i, i)
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, file), []byte(strings.Repeat(file, 10_000)), 0o644); err != nil {
			return err
		}
		fmt.Fprintf(&dockerfile, "COPY %s /copied/\n", file)
	}
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(dockerfile.String()), 0o644); err != nil {
		return err
	}
	var unchanged, again []measure
	changes := 0
	change := func() error {
		changes++
		return os.WriteFile(filepath.Join(dir, fmt.Sprintf("file%d", changedStep)), []byte(strings.Repeat(fmt.Sprint(changes), 10_000)), 0o644)
	}
	for _, s := range b.sides {
		build := func() result { return timed(s.BuildImage(ctx, dir, "bench-built:1")) }
		unchanged = append(unchanged, measure{who: s.Name(), do: build})
		again = append(again, measure{who: s.Name(), before: change, do: build})
	}
	if b.wants(same) {
		b.report.add(same, alternate(ctx, b.o.runs, unchanged))
	}
	if b.wants(changed) {
		b.report.add(changed, alternate(ctx, b.o.ups, again))
	}
	return nil
}
