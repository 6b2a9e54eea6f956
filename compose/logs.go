package compose

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/engine/logs"
)

// Logs calls line for each line of the selected containers. History is merged
// by time; what is followed comes as it appears.
func (c *Client) Logs(ctx context.Context, s Selector, o LogOptions, line func(LogLine) error) error {
	s.All = true
	containers, err := c.Containers(ctx, s)
	if err != nil {
		return err
	}
	if !o.Follow {
		return c.history(ctx, containers, o, line)
	}
	f := &follower{client: c, options: o, seen: map[string]bool{}, finish: make(chan struct{})}
	return f.run(ctx, s, containers, line)
}

// history reads what is there, one line at a time, however much it is.
func (c *Client) history(ctx context.Context, containers []engine.Container, o LogOptions, line func(LogLine) error) error {
	var present []engine.Container
	var details []string
	var readers []*logs.Reader
	for _, r := range containers {
		reader, err := logs.Open(c.Engine.LogDir(r.ID))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		defer reader.Close()
		about, err := c.logDetails(&r, o)
		if err != nil {
			return err
		}
		present, details, readers = append(present, r), append(details, about), append(readers, reader)
	}
	return logs.Merge(ctx, readers, logs.ReadOptions{Since: o.Since, Until: o.Until, Tail: tail(o.Tail)}, func(i int, e logs.Entry) error {
		return line(logLine(present[i], details[i], e))
	})
}

func (c *Client) logDetails(r *engine.Container, o LogOptions) (string, error) {
	if !o.Details {
		return "", nil
	}
	return c.Engine.LogDetails(r)
}

func logLine(c engine.Container, details string, e logs.Entry) LogLine {
	return LogLine{Container: c, Details: details, Stream: e.Stream.String(), Time: e.Time, Text: e.Data, Partial: e.Partial, Unfinished: e.Unfinished}
}

// follower follows the logs of a changing set of containers. One merger reads
// them all and gives the lines in the order of time.
type follower struct {
	client  *Client
	options LogOptions
	merger  *logs.Merger
	sources []engine.Container // by the merger's number
	details []string           // of each
	seen    map[string]bool
	readers []*logs.Reader
	finish  chan struct{} // closed: read to the end and stop
}

func (f *follower) run(ctx context.Context, s Selector, first []engine.Container, line func(LogLine) error) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer func() {
		for _, r := range f.readers {
			r.Close()
		}
	}()
	var mu sync.Mutex // of sources
	watcher, put, err := f.client.watchers.Get()
	if err != nil {
		return err
	}
	defer put()
	f.merger = logs.NewMerger(watcher, func(source int, e logs.Entry) error {
		mu.Lock()
		c, about := f.sources[source], f.details[source]
		mu.Unlock()
		return line(logLine(c, about, e))
	})
	add := func(containers []engine.Container) error {
		mu.Lock()
		defer mu.Unlock()
		return f.add(ctx, containers)
	}
	if err := add(first); err != nil {
		return err
	}
	if !f.options.NewContainers {
		f.merger.Seal()
		return ignoreCanceled(f.merger.Run(ctx))
	}
	watched := make(chan error, 1)
	go func() {
		watched <- f.watch(ctx, s, add)
		close(f.finish)
		f.merger.Seal()
	}()
	err = f.merger.Run(ctx)
	cancel()
	return errors.Join(ignoreCanceled(err), ignoreCanceled(<-watched))
}

func ignoreCanceled(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// add begins to follow the containers that are not followed yet.
func (f *follower) add(ctx context.Context, containers []engine.Container) error {
	for _, r := range containers {
		if f.seen[r.ID] {
			// It may have got its name since, see plan's RenameContainer.
			if i := slices.IndexFunc(f.sources, func(s engine.Container) bool { return s.ID == r.ID }); f.sources[i].Spec.Name != r.Spec.Name {
				f.sources[i].Spec.Name = r.Spec.Name
			}
			continue
		}
		reader, err := logs.Open(f.client.Engine.LogDir(r.ID))
		if errors.Is(err, fs.ErrNotExist) {
			continue // it is being removed
		}
		if err != nil {
			return err
		}
		f.seen[r.ID] = true
		f.readers = append(f.readers, reader)
		about, err := f.client.logDetails(&r, f.options)
		if err != nil {
			return err
		}
		f.sources, f.details = append(f.sources, r), append(f.details, about)
		o := f.options
		f.merger.Add(ctx, len(f.sources)-1, reader, logs.ReadOptions{Since: o.Since, Until: o.Until, Tail: tail(o.Tail), Follow: true, UntilExit: !o.NewContainers, Finish: f.finish, Gap: func(uint64) {
			f.client.Engine.Warnf("container %s prints faster than its log is read: lines were deleted before they could be shown; raise max-size or max-file of its logging", r.Spec.Name)
		}})
	}
	return nil
}

// restartGrace is how long a follower waits after the last container has ended:
// it may be about to start again.
const restartGrace = time.Second

// watch adds containers that appear (new directories beside the others'), tells
// of ends, and returns when nothing runs any more.
func (f *follower) watch(ctx context.Context, s Selector, add func([]engine.Container) error) error {
	watcher, put, err := f.client.watchers.Get()
	if err != nil {
		return err
	}
	defer put()
	w := watcher.NewWatch()
	defer w.Close()
	// A supervisor that leaves takes its events with it, perhaps before they were
	// read.
	for dir, mode := range map[string]os.FileMode{
		filepath.Join(f.client.Engine.DataRoot(), "containers"): 0o700,
		filepath.Join(f.client.Engine.RunRoot(), "projects"):    0o711,
	} {
		if err := os.MkdirAll(dir, mode); err != nil {
			return err
		}
		if err := w.Add(dir, changes); err != nil {
			return err
		}
	}
	events := make(chan EngineEvent)
	failed := make(chan error, 1)
	// From before the first look at the containers, and a little more: an event bears
	// the time at which it was made, and only later can it be seen.
	since := time.Now().Add(-time.Second)
	go func() {
		failed <- f.client.Events(ctx, Selector{Project: s.Project, Services: s.Services}, since, time.Time{}, func(e EngineEvent) error {
			select {
			case events <- e:
			case <-ctx.Done():
			}
			return nil
		})
	}()
	grace := time.NewTimer(0)
	grace.Stop()
	defer grace.Stop()
	var ending string                    // the containers since whose last change grace runs
	told := map[string]bool{}            // ends, by container
	deaths := map[string][]EngineEvent{} // not told yet, by container
	ran := false
	for {
		now, err := f.client.Containers(ctx, s)
		if err != nil {
			return err
		}
		if err := add(now); err != nil {
			return err
		}
		running := false
		for _, r := range now {
			if up(r.State.Phase) {
				running = true
				delete(told, r.ID)
				f.restarted(r, deaths[r.ID])
			} else if !r.State.StartedAt.IsZero() && !told[r.ID] {
				told[r.ID] = true
				if n := len(deaths[r.ID]); n > 1 {
					f.restarted(r, deaths[r.ID][:n-1])
				}
				if f.options.Ended != nil {
					f.merger.Note(func() { f.options.Ended(r, r.State.ExitCode) })
				}
			}
		}
		clear(deaths)
		var over <-chan time.Time
		if !running && !ran {
			return nil // what is there is all
		}
		ran = true
		if running {
			ending = ""
		} else {
			if state := phases(now); ending != state { // being woken does not make it longer
				ending = state
				grace.Reset(restartGrace)
			}
			over = grace.C
		}
		select {
		case <-ctx.Done():
			return nil
		case <-over:
			return nil
		case err := <-failed:
			return err
		case <-w.C:
		case e := <-events:
			if e.Action == "die" {
				deaths[e.ID] = append(deaths[e.ID], e)
			}
		}
	}
}

// restarted tells of the ends that a container went on after. Its record has
// forgotten them.
func (f *follower) restarted(r engine.Container, deaths []EngineEvent) {
	for _, e := range deaths {
		code, err := strconv.Atoi(e.Attributes["exitCode"])
		if err != nil || f.options.Ended == nil {
			continue
		}
		r := r
		r.State.Phase, r.State.ExitCode, r.State.FinishedAt = engine.Restarting, code, e.Time
		f.merger.Note(func() { f.options.Ended(r, code) })
	}
}

// phases tells which containers there are and what each does.
func phases(containers []engine.Container) string {
	text := "containers:"
	for _, c := range containers {
		text += fmt.Sprintf(" %s %s %v", c.ID, c.State.Phase, c.State.FinishedAt)
	}
	return text
}

// tail is LogOptions.Tail in the log store's terms.
func tail(n int) int {
	switch {
	case n < 0:
		return 0 // all
	case n == 0:
		return logs.NoTail
	}
	return n
}

// sampleEvery is the period of stats, as Docker's.
const sampleEvery = time.Second
