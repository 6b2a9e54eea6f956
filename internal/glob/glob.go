// Package glob finds files by a pattern below a directory whose own name is none: a
// root that a user names may have brackets and stars in it.
package glob

import (
	"io/fs"
	"os"
	"path/filepath"
)

// In returns the paths of what matches the pattern, [path.Match], below dir. As
// [filepath.Glob] it knows no error but that of a bad pattern.
func In(dir, pattern string) ([]string, error) {
	names, err := fs.Glob(os.DirFS(dir), pattern)
	for i, name := range names {
		names[i] = filepath.Join(dir, name)
	}
	return names, err
}
