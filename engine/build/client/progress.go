package client

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/console"
	bk "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/util/progress/progressui"
	digest "github.com/opencontainers/go-digest"
)

// screen shows what the daemon reports about all targets, in one display.
type screen struct {
	mode     progressui.DisplayMode
	statuses chan *bk.SolveStatus
	shown    chan struct{}
	warnings []bk.VertexWarning
	sources  sync.WaitGroup
	tails    *tails
}

// newScreen starts the display. Mode auto is BUILDKIT_PROGRESS's, or tty where w
// is a terminal.
func newScreen(w *os.File, mode string) (*screen, error) {
	if mode == "" || mode == "auto" {
		mode = os.Getenv("BUILDKIT_PROGRESS")
	}
	if mode == "none" {
		mode = "quiet"
	}
	// The frames of the terminal display are made of colours as well.
	if os.Getenv("NO_COLOR") != "" && os.Getenv("BUILDKIT_COLORS") == "" {
		os.Setenv("BUILDKIT_COLORS", "run=:cancel=:error=:warning=")
	}
	d, err := progressui.NewDisplay(console.File(w), progressui.DisplayMode(mode))
	if err != nil {
		return nil, fmt.Errorf("cannot show progress as %q: %w; use auto, tty, plain, quiet, rawjson or none", mode, err)
	}
	s := &screen{mode: progressui.DisplayMode(mode), statuses: make(chan *bk.SolveStatus), shown: make(chan struct{}), tails: newTails()}
	go func() {
		defer close(s.shown)
		// Not the build's context: the display must show why that ended.
		s.warnings, _ = d.UpdateFrom(context.Background(), s.statuses)
	}()
	return s, nil
}

// silent tells whether the display shows nothing for people.
func (s *screen) silent() bool {
	return s.mode == progressui.QuietMode || s.mode == progressui.RawJSONMode
}

// target returns a channel for the reports about one target. With prefix its
// steps carry its name.
func (s *screen) target(name string, prefix bool) chan<- *bk.SolveStatus {
	in := make(chan *bk.SolveStatus)
	s.sources.Go(func() {
		for st := range in {
			s.tails.note(st)
			if prefix {
				for _, v := range st.Vertexes {
					v.Name = withTarget(name, v.Name)
				}
			}
			s.statuses <- st
		}
	})
	return in
}

// withTarget marks a step's name as one of a target's.
func withTarget(target, step string) string {
	if rest, ok := strings.CutPrefix(step, "["); ok {
		return "[" + target + " " + rest
	}
	return "[" + target + "] " + step
}

// finish ends the display, once all targets' channels are closed.
func (s *screen) finish() []bk.VertexWarning {
	s.sources.Wait()
	close(s.statuses)
	<-s.shown
	return s.warnings
}

// tails keeps the last output of each step, for displays that do not show it.
type tails struct {
	mu    sync.Mutex
	names map[digest.Digest]string
	text  map[digest.Digest][]byte
}

// tailSize is how much of a step's output is kept, in bytes.
const tailSize = 8 << 10

func newTails() *tails {
	return &tails{names: map[digest.Digest]string{}, text: map[digest.Digest][]byte{}}
}

func (t *tails) note(st *bk.SolveStatus) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, v := range st.Vertexes {
		t.names[v.Digest] = v.Name
	}
	for _, l := range st.Logs {
		all := append(t.text[l.Vertex], l.Data...)
		t.text[l.Vertex] = slices.Clone(all[max(0, len(all)-tailSize):])
	}
}

// print writes the tail of a step.
func (t *tails) print(w io.Writer, step digest.Digest) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.text[step]) == 0 {
		return
	}
	fmt.Fprintf(w, "------\n > %s:\n%s\n------\n", t.names[step], strings.TrimRight(string(t.text[step]), "\n"))
}
