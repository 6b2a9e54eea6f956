package supervise

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/stack-run/stack/compose/spec"
	"github.com/stack-run/stack/engine"
)

// ProjectStore keeps each project's definition, so that the graph is known
// without the Compose file: after a crash, at boot, for down.
type ProjectStore struct {
	root string
}

// NewProjectStore opens the store in the engine's data root.
func NewProjectStore(e *engine.Engine) *ProjectStore {
	return &ProjectStore{root: filepath.Join(e.DataRoot(), "projects")}
}

// Definition returns what the project was last asked to be; os.ErrNotExist when
// it was never up.
func (p *ProjectStore) Definition(project string) (*spec.Desired, error) {
	b, err := os.ReadFile(filepath.Join(p.root, project, "definition.json"))
	if err != nil {
		return nil, err
	}
	var d spec.Desired
	if err := json.Unmarshal(b, &d); err != nil {
		return nil, err
	}
	return &d, nil
}

// Save writes a definition durably.
func (p *ProjectStore) Save(d *spec.Desired) error {
	dir := filepath.Join(p.root, d.Project)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return engine.WriteFile(filepath.Join(dir, "definition.json"), d.WithoutSecrets(), true)
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
