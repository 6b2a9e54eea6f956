package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	bk "github.com/moby/buildkit/client"
	solvererrdefs "github.com/moby/buildkit/solver/errdefs"
	digest "github.com/opencontainers/go-digest"
)

// printError shows where in the Dockerfile a build failed, and why.
func printError(w io.Writer, err error, s *screen) {
	if errors.Is(err, context.Canceled) {
		fmt.Fprintln(w, "ERROR: the build was cancelled")
		return
	}
	if s.silent() {
		var v *solvererrdefs.VertexError
		if errors.As(err, &v) {
			s.tails.print(w, digest.Digest(v.Digest))
		}
	}
	for _, src := range solvererrdefs.Sources(err) {
		src.Print(w)
	}
	fmt.Fprintln(w, "ERROR:", err)
}

// printWarnings shows what the build checks found, each once.
func printWarnings(w io.Writer, warnings []bk.VertexWarning) {
	var lines []string
	for _, x := range warnings {
		line := " - " + string(x.Short)
		if len(x.Range) > 0 && x.Range[0] != nil && !strings.Contains(line, "(line ") {
			line += fmt.Sprintf(" (line %d)", x.Range[0].Start.Line)
		}
		if !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	switch len(lines) {
	case 0:
		return
	case 1:
		fmt.Fprintln(w, "\n 1 warning found:")
	default:
		fmt.Fprintf(w, "\n %d warnings found:\n", len(lines))
	}
	for _, l := range lines {
		fmt.Fprintln(w, l)
	}
}
