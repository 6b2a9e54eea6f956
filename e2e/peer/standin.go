package peer

import (
	"errors"
	"os"
	"path/filepath"
)

// standIn is the directory of a module that docker compose imports for "publish",
// to look for secrets in what it publishes. Nothing here publishes.
const standIn = "detector"

// The stand-in has the module's interface and finds nothing.
var standInFiles = map[string]string{
	"pkg/secrets/secrets.go": `package secrets

import "io"

type DetectedSecret struct{ Key, Type, Value string }

type Detector interface {
	ScanMap(map[string]string) ([]DetectedSecret, error)
}

type Scanner interface {
	Detector
	ScanFile(path string) ([]DetectedSecret, error)
	ScanReader(io.Reader) ([]DetectedSecret, error)
}

// None finds nothing.
type None struct{}

func (None) ScanMap(map[string]string) ([]DetectedSecret, error) { return nil, nil }
func (None) ScanFile(string) ([]DetectedSecret, error)           { return nil, nil }
func (None) ScanReader(io.Reader) ([]DetectedSecret, error)      { return nil, nil }
`,
	"pkg/detectors/keyword/keyword.go": `package keyword

import "github.com/DefangLabs/secret-detector/pkg/secrets"

func NewDetector(...string) secrets.Detector { return secrets.None{} }
`,
	"pkg/scanner/scanner.go": `package scanner

import "github.com/DefangLabs/secret-detector/pkg/secrets"

func NewDefaultScanner() secrets.Scanner { return secrets.None{} }
`,
}

// writeStandIn writes the stand-in of a module into a directory.
func writeStandIn(dir, module string) error {
	write := func(name, text string) error {
		path := filepath.Join(dir, name)
		return errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644))
	}
	for name, text := range standInFiles {
		if err := write(name, text); err != nil {
			return err
		}
	}
	return write("go.mod", "module "+module+"\n\ngo 1.24\n")
}
