package request

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/stack-run/stack/internal/durable"
)

// Dir is the builder's directory below a run root.
func Dir(runRoot string) string { return filepath.Join(runRoot, "builder") }

// Socket is where the daemon of a run root serves BuildKit's API.
func Socket(runRoot string) string { return filepath.Join(Dir(runRoot), "buildkitd.sock") }

// StateDir is where the build cache of a data root is.
func StateDir(dataRoot string) string { return filepath.Join(dataRoot, "build") }

func usagePath(dataRoot string) string { return filepath.Join(StateDir(dataRoot), "usage.json") }

// WriteUsage notes what the build cache holds, for those who ask when no daemon
// runs.
func WriteUsage(dataRoot string, r Records) error {
	data, err := json.Marshal(r)
	if err == nil {
		err = durable.Write(usagePath(dataRoot), data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("cannot note the build cache's usage: %w", err)
	}
	return nil
}

// ReadUsage returns what the last daemon noted, nothing if there never was one.
func ReadUsage(dataRoot string) (Records, error) {
	var r Records
	data, err := os.ReadFile(usagePath(dataRoot))
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err != nil {
		return r, fmt.Errorf("cannot read the build cache's usage: %w; \"stack builder du\" asks the builder itself", err)
	}
	return r, nil
}
