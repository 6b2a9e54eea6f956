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

// build measures a build that changes nothing: the next one after a build.
func (b *bench) build(ctx context.Context) error {
	name := fmt.Sprintf("build of an unchanged Dockerfile of %d steps", buildSteps)
	if !b.wants(name) {
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
	var what []measure
	for _, s := range b.sides {
		what = append(what, measure{s.Name(), func() result { return timed(s.BuildImage(ctx, dir, "bench-built:1")) }})
	}
	b.report.add(name, alternate(ctx, b.o.runs, what))
	return nil
}
