// Package builder finds the builder program, hands it requests and reads its
// answers.
package builder

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"

	"github.com/stack-run/stack/engine/build/request"
	"github.com/stack-run/stack/internal/lock"
)

// Name is the builder program's.
const Name = "stack-builder"

// Variable names the program to use instead.
const Variable = "STACK_BUILDER"

// Locate returns the path of the builder program: the one that the environment
// names, else the one beside this program, else the one that this program
// carries, unpacked below the data root.
func Locate(ctx context.Context, named, executable, dataRoot string) (string, error) {
	return locate(ctx, named, executable, dataRoot, carried)
}

func locate(ctx context.Context, named, executable, dataRoot string, files fs.FS) (string, error) {
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
	return unpack(ctx, files, name, digest, filepath.Join(request.StateDir(dataRoot), "bin"))
}

// unpack writes the carried program to dir/DIGEST/stack-builder, unless it is
// there, and removes those of other versions.
func unpack(ctx context.Context, files fs.FS, name, digest, dir string) (program string, err error) {
	program = filepath.Join(dir, digest, Name)
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot unpack the builder: %w", err)
		}
	}()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	held, err := lock.Exclusive(ctx, filepath.Join(dir, "lock"))
	if err != nil {
		return "", err
	}
	defer held.Unlock()
	if _, err := os.Stat(program); err == nil {
		return program, nil // somebody else has unpacked it meanwhile
	}
	removeOthers(dir)
	temp := filepath.Join(dir, unpacking)
	if err := unpackTo(temp, files, name, digest); err != nil {
		return "", errors.Join(err, os.RemoveAll(temp))
	}
	return program, os.Rename(temp, filepath.Dir(program))
}

// unpacking is the directory of a program that is being unpacked.
const unpacking = ".unpacking"

func unpackTo(dir string, files fs.FS, name, digest string) error {
	f, err := files.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := zstd.NewReader(f)
	if err != nil {
		return err
	}
	defer z.Close()
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	program, err := os.OpenFile(filepath.Join(dir, Name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	hash := sha256.New()
	_, err = io.Copy(io.MultiWriter(program, hash), z)
	if err == nil && hex.EncodeToString(hash.Sum(nil)) != digest {
		err = errors.New("it is damaged: its digest is not the one in its name")
	}
	if err == nil {
		err = program.Sync()
	}
	return errors.Join(err, program.Close())
}

// removeOthers removes other versions and what a killed process has left. One
// that runs keeps running, and what cannot be removed is tried again at the next
// version.
func removeOthers(dir string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.Name() != "lock" {
			os.RemoveAll(filepath.Join(dir, e.Name()))
		}
	}
}
