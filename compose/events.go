package compose

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/engine/logs/inotify"
)

// Events calls event for what happens to containers: first what is recorded
// since since (zero: nothing), then, until until (zero: for ever), what comes.
func (c *Client) Events(ctx context.Context, s Selector, since, until time.Time, event func(EngineEvent) error) error {
	t := &tailer{root: filepath.Join(c.Engine.RunRoot(), "projects"), files: map[string]*tailed{}, history: !since.IsZero()}
	defer t.close()
	keep := func(e EngineEvent) error {
		switch {
		case e.Time.Before(since), !until.IsZero() && e.Time.After(until),
			s.Project != "" && e.Project != s.Project,
			len(s.Services) > 0 && !slices.Contains(s.Services, e.Service),
			len(s.IDs) > 0 && !slices.ContainsFunc(s.IDs, func(id string) bool { return strings.HasPrefix(e.ID, id) || e.Attributes["name"] == id }):
			return nil
		}
		return event(e)
	}
	if err := os.MkdirAll(t.root, 0o711); err != nil {
		return err
	}
	watcher, put, err := c.watchers.Get()
	if err != nil {
		return err
	}
	defer put()
	t.watch = watcher.NewWatch()
	defer t.watch.Close()
	if err := t.watch.Add(t.root, changes); err != nil {
		return err
	}
	if err := t.scan(keep); err != nil {
		return err
	}
	t.history = true // projects that appear from now on are read from their start
	var end <-chan time.Time
	if !until.IsZero() {
		timer := time.NewTimer(time.Until(until))
		defer timer.Stop()
		end = timer.C
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-end:
			return nil
		case <-t.watch.C:
			if err := t.scan(keep); err != nil {
				return err
			}
		}
	}
}

// changes are the inotify(7) events of a directory whose entries come, go or are
// written.
const changes = unix.IN_CREATE | unix.IN_MODIFY | unix.IN_DELETE | unix.IN_MOVE

// tailer follows the event logs of all projects.
type tailer struct {
	root    string
	watch   *inotify.Watch
	files   map[string]*tailed
	history bool
}

type tailed struct {
	f    *os.File
	r    *bufio.Reader
	part []byte // of a line that is not complete yet
}

// scan opens logs that are new and reads what was appended to all.
func (t *tailer) scan(event func(EngineEvent) error) error {
	entries, err := os.ReadDir(t.root)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue // moved aside by a project that ended, whose log was read
		}
		path := filepath.Join(t.root, e.Name(), "events.jsonl")
		if err := t.open(path); err != nil {
			return err
		}
	}
	for path, f := range t.files {
		if err := f.read(event); err != nil {
			return err
		}
		// A log that was rotated or removed is read to its end and closed.
		now, err := os.Stat(path)
		held, heldErr := f.f.Stat()
		if err != nil || heldErr != nil || !os.SameFile(now, held) {
			f.f.Close()
			delete(t.files, path)
			if err := t.open(path); err != nil {
				return err
			}
			if n := t.files[path]; n != nil {
				if err := n.read(event); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (t *tailer) open(path string) error {
	if t.files[path] != nil {
		return nil
	}
	if err := t.watch.Add(filepath.Dir(path), changes); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !t.history {
		if _, err := f.Seek(0, io.SeekEnd); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	t.files[path] = &tailed{f: f, r: bufio.NewReader(f)}
	return nil
}

func (f *tailed) read(event func(EngineEvent) error) error {
	for {
		line, err := f.r.ReadBytes('\n')
		f.part = append(f.part, line...)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		var e EngineEvent
		if json.Unmarshal(f.part, &e) == nil {
			if err := event(e); err != nil {
				return err
			}
		}
		f.part = nil
	}
}

func (t *tailer) close() {
	for _, f := range t.files {
		f.f.Close()
	}
}
