package supervise

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/stack-run/stack/compose/schedule"
	"github.com/stack-run/stack/compose/spec"
	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/internal/durable"
)

// ProjectStore keeps each project's definition, so that the graph is known
// without the Compose file: after a crash, at boot, for down.
type ProjectStore struct {
	engine *engine.Engine
	root   string
	warn   func(format string, args ...any)
}

// NewProjectStore opens the store in the engine's data root.
func NewProjectStore(e *engine.Engine) *ProjectStore {
	return &ProjectStore{engine: e, root: filepath.Join(e.DataRoot(), "projects"), warn: e.Warnf}
}

func (p *ProjectStore) path(project string) string {
	return filepath.Join(p.root, project, "definition.json")
}

// Definition returns what the project was last asked to be; os.ErrNotExist when
// it was never up, or when that cannot be read, which is told.
func (p *ProjectStore) Definition(project string) (*spec.Desired, error) {
	d, err := p.read(project)
	if broken := durable.Broken(err); broken != nil {
		todo := "\"stack up\" writes it again"
		if broken.Newer {
			todo = "until then it is left alone"
		}
		p.warn("the definition of project %s is set aside: %v; %s", project, broken, todo)
		return nil, fmt.Errorf("definition of project %s: %w", project, fs.ErrNotExist)
	}
	return d, err
}

func (p *ProjectStore) read(project string) (*spec.Desired, error) {
	d, _, err := p.readKeyed(project)
	return d, err
}

// readKeyed is read; keyed tells whether what is stored has plain digests of secrets.
func (p *ProjectStore) readKeyed(project string) (_ *spec.Desired, keyed bool, err error) {
	var d spec.Desired
	if err := durable.ReadVersioned(p.path(project), &d, &d.Version, spec.Version); err != nil {
		return nil, false, err
	}
	if err := d.Check(); err != nil {
		return nil, false, &durable.BrokenError{Path: p.path(project), Err: err}
	}
	keyed, err = keyDefinition(p.engine, &d)
	return &d, keyed, err
}

// BrokenFile is a definition or a record of schedules that cannot be read.
type BrokenFile struct {
	Kind, Project string
	Err           *durable.BrokenError
}

// Broken returns what cannot be read.
func (p *ProjectStore) Broken() ([]BrokenFile, error) {
	names, err := p.List()
	var out []BrokenFile
	for _, project := range names {
		_, definition := p.read(project)
		_, schedules := p.readSchedules(project)
		if broken := durable.Broken(definition); broken != nil {
			out = append(out, BrokenFile{"project definition", project, broken})
		}
		if broken := durable.Broken(schedules); broken != nil {
			out = append(out, BrokenFile{"schedules of project", project, broken})
		}
	}
	return out, err
}

// Remove removes a file that cannot be read, but for one of a later version.
func (p *ProjectStore) Remove(b BrokenFile) error {
	if b.Err.Newer {
		return b.Err
	}
	if err := os.RemoveAll(b.Err.Path); err != nil {
		return err
	}
	_ = os.Remove(filepath.Dir(b.Err.Path)) // stays if there is more in it
	return nil
}

// Save writes a definition durably. It does not replace one of a later version.
func (p *ProjectStore) Save(d *spec.Desired) error {
	_, err := p.read(d.Project)
	if broken := durable.Broken(err); broken != nil && broken.Newer {
		return fmt.Errorf("cannot store the definition of project %s: %w", d.Project, broken)
	}
	path := p.path(d.Project)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return durable.WriteJSON(path, d.WithoutSecrets(), durable.Synced)
}

func (p *ProjectStore) schedulesPath(project string) string {
	return filepath.Join(p.root, project, "schedules.json")
}

// Schedules returns what is remembered of a project's jobs: nothing where that cannot be
// read, which is told.
func (p *ProjectStore) Schedules(project string) (schedule.Record, error) {
	r, err := p.readSchedules(project)
	if broken := durable.Broken(err); broken != nil {
		todo := "\"stack up\" arms them again"
		if broken.Newer {
			todo = "until then they are left alone"
		}
		p.warn("the schedules of project %s are set aside: %v; %s", project, broken, todo)
		return schedule.Record{}, nil
	}
	return r, err
}

func (p *ProjectStore) readSchedules(project string) (schedule.Record, error) {
	var r schedule.Record
	err := durable.ReadVersioned(p.schedulesPath(project), &r, &r.Version, schedule.Version)
	if errors.Is(err, fs.ErrNotExist) {
		return schedule.Record{}, nil
	}
	if err == nil {
		if fault := r.Check(); fault != nil {
			err = &durable.BrokenError{Path: p.schedulesPath(project), Err: fault}
		}
	}
	if err != nil {
		return schedule.Record{}, err
	}
	return r, nil
}

// SaveSchedules writes that durably. It does not replace one of a later version.
func (p *ProjectStore) SaveSchedules(project string, r schedule.Record) error {
	path := p.schedulesPath(project)
	_, err := p.readSchedules(project)
	if broken := durable.Broken(err); broken != nil && broken.Newer {
		return fmt.Errorf("cannot store the schedules of project %s: %w", project, broken)
	}
	if len(r.Jobs) == 0 {
		if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return durable.WriteJSON(path, r, durable.Synced)
}

// Delete forgets a project.
func (p *ProjectStore) Delete(project string) error {
	return os.RemoveAll(filepath.Join(p.root, project))
}

// List returns the names of all projects that have a definition.
func (p *ProjectStore) List() ([]string, error) {
	entries, err := os.ReadDir(p.root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out, err
}
