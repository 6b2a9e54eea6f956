package builder

import (
	"embed"
	"io/fs"
	"path"
	"strings"
)

// carried holds the packed builder program, or only a README where stack was
// built without it.
//
//go:embed program
var carried embed.FS

// The packed program's name is Prefix, the SHA-256 of the unpacked program, and Suffix.
const (
	Prefix = "stack-builder-"
	Suffix = ".zst"
)

// packed finds the program in files: its path and the digest in its name.
func packed(files fs.FS) (name, digest string, ok bool) {
	entries, err := fs.ReadDir(files, "program")
	if err != nil {
		return "", "", false
	}
	for _, e := range entries {
		rest, isProgram := strings.CutPrefix(e.Name(), Prefix)
		if digest, isPacked := strings.CutSuffix(rest, Suffix); isProgram && isPacked {
			return path.Join("program", e.Name()), digest, true
		}
	}
	return "", "", false
}
