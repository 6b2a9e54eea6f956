// Package builder finds the builder program, hands it requests and reads its
// answers.
package builder

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// Name is the builder program's.
const Name = "stack-builder"

// Variable names the program to use instead.
const Variable = "STACK_BUILDER"

// Locate returns the path of the builder program: the one that the environment
// names, else the one beside this program, else the one that this program
// carries, unpacked below the data root.
func Locate(named, executable, dataRoot string) (string, error) {
	return locate(named, executable, dataRoot, carried)
}

func locate(named, executable, dataRoot string, files fs.FS) (string, error) {
	if named != "" {
		if _, err := os.Stat(named); err != nil {
			return "", fmt.Errorf("cannot use the builder that %s names: %w", Variable, err)
		}
		return named, nil
	}
	beside := filepath.Join(filepath.Dir(executable), Name)
	if info, err := os.Stat(beside); err == nil && info.Mode().IsRegular() {
		return beside, nil
	}
	name, digest, ok := packed(files)
	if !ok {
		return "", fmt.Errorf("cannot build images: this stack was compiled without its builder; compile both with \"make build\", or put %s beside %s, or name it in %s", Name, executable, Variable)
	}
	return unpack(files, name, digest, filepath.Join(dataRoot, "build", "bin"))
}

// unpack writes the carried program to dir/DIGEST/stack-builder, unless it is
// there, and removes those of other versions.
func unpack(files fs.FS, name, digest, dir string) (program string, err error) {
	program = filepath.Join(dir, digest, Name)
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot unpack the builder: %w", err)
		}
	}()
	f, err := files.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	z, err := zstd.NewReader(f)
	if err != nil {
		return "", err
	}
	defer z.Close()
	if err := os.MkdirAll(filepath.Dir(program), 0o755); err != nil {
		return "", err
	}
	// Several may unpack at once; the last to rename wins, with the same bytes.
	temp, err := os.CreateTemp(filepath.Dir(program), ".unpacking-*")
	if err != nil {
		return "", err
	}
	defer os.Remove(temp.Name())
	hash := sha256.New()
	_, err = io.Copy(io.MultiWriter(temp, hash), z)
	if err == nil && hex.EncodeToString(hash.Sum(nil)) != digest {
		err = errors.New("it is damaged: its digest is not the one in its name")
	}
	if err == nil {
		err = temp.Chmod(0o755)
	}
	if err == nil {
		err = temp.Sync()
	}
	if err := errors.Join(err, temp.Close()); err != nil {
		return "", err
	}
	if err := os.Rename(temp.Name(), program); err != nil {
		return "", err
	}
	removeOthers(dir, digest)
	return program, nil
}

// removeOthers removes other versions. One that runs keeps running, and what
// cannot be removed is tried again at the next version.
func removeOthers(dir, digest string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.Name() != digest && !strings.HasPrefix(e.Name(), ".") {
			os.RemoveAll(filepath.Join(dir, e.Name()))
		}
	}
}
