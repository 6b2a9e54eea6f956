package supervise

import (
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/stack-run/stack/engine"
)

// Event is one line of a project's event log, in Docker's words.
type Event struct {
	Time       time.Time         `json:"time"`
	Type       string            `json:"type"`
	Action     string            `json:"action"`
	ID         string            `json:"id"`
	Project    string            `json:"project,omitempty"`
	Service    string            `json:"service,omitempty"`
	Attributes map[string]string `json:"attributes,omitempty"`
}

// eventLogName is the log's name in a project's run directory.
const eventLogName = "events.jsonl"

// eventLogLimit is the size in bytes at which the log starts anew.
const eventLogLimit = 1 << 20

// eventLog appends events to a file that readers follow. It lives in the run
// directory and goes with the project.
type eventLog struct {
	mu   sync.Mutex
	path string
	f    *os.File
	size int64
}

func openEventLog(path string) (*eventLog, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &eventLog{path: path, f: f, size: info.Size()}, nil
}

func (l *eventLog) append(e Event) error {
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size > eventLogLimit {
		if err := errors.Join(os.Rename(l.path, l.path+".1"), l.f.Close()); err != nil {
			return err
		}
		if l.f, err = os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
			return err
		}
		l.size = 0
	}
	n, err := l.f.Write(append(line, '\n'))
	l.size += int64(n)
	return err
}

// emit writes a container's event.
func (s *Supervisor) emit(c *engine.Container, action string, extra map[string]string) {
	if err := s.events.append(containerEvent(c, action, extra)); err != nil && !s.leaving.Load() {
		s.warn(err)
	}
}

func containerEvent(c *engine.Container, action string, extra map[string]string) Event {
	attrs := map[string]string{"name": c.Spec.Name, "image": c.Spec.Image}
	maps.Copy(attrs, c.Spec.Labels)
	maps.Copy(attrs, extra)
	return Event{
		Time: time.Now().UTC(), Type: "container", Action: action, ID: c.ID,
		Project: c.Project, Service: c.Service, Attributes: attrs,
	}
}

// AppendEvent adds an event from another process to the log in a project's run
// directory, if there is one. Lines are short, so writes do not mix.
func AppendEvent(dir string, c *engine.Container, action string, extra map[string]string) {
	line, err := json.Marshal(containerEvent(c, action, extra))
	if err != nil {
		return
	}
	f, err := os.OpenFile(filepath.Join(dir, eventLogName), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return // no supervisor, no log
	}
	defer f.Close()
	f.Write(append(line, '\n'))
}
