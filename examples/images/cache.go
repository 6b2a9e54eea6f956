package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
)

// A Cache is a directory that keeps finished tars. Many processes may use one
// at the same time.
type Cache struct {
	Dir string
	// Log gets a line for each thing that takes long; nil discards them.
	Log io.Writer
}

// DefaultDir is the cache of the machine's user: $XDG_CACHE_HOME/stack-examples,
// or ~/.cache/stack-examples.
func DefaultDir() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("cannot find the cache directory: %w; set XDG_CACHE_HOME", err)
	}
	return filepath.Join(dir, "stack-examples"), nil
}

// Debian returns the recipes' images in their order, and makes those that the
// cache lacks, two at a time.
func (c Cache) Debian(ctx context.Context, recipes ...Recipe) ([]Image, error) {
	out := make([]Image, len(recipes))
	errs := make([]error, len(recipes))
	slots := make(chan struct{}, 2)
	var wg sync.WaitGroup
	for i, r := range recipes {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			tar, err := c.once(ctx, slug(r.Ref)+"-"+r.key(runtime.GOARCH), func(w io.Writer) error {
				c.logf("%s: installing packages of Debian %s", r.Ref, Suite)
				return r.build(ctx, w)
			})
			if err != nil {
				err = fmt.Errorf("cannot make image %s: %w", r.Ref, err)
			}
			out[i], errs[i] = Image{Ref: r.Ref, Tar: tar, Changes: r.Changes}, err
		})
	}
	wg.Wait()
	return out, errors.Join(errs...)
}

// once returns the path of the cached tar called name, and has it made by build
// when it is not there. A tar has its name only when it is complete.
func (c Cache) once(ctx context.Context, name string, build func(io.Writer) error) (string, error) {
	path := filepath.Join(c.Dir, name+".tar")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return "", err
	}
	unlock, err := lock(path + ".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(path); err == nil { // another process was quicker
		return path, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}

	tmp, err := os.CreateTemp(c.Dir, "."+name+"-*")
	if err != nil {
		return "", err
	}
	defer os.Remove(tmp.Name()) // gone already when all went well
	err = build(tmp)
	if err == nil {
		err = tmp.Chmod(0o644)
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return "", err
	}
	return path, nil
}

// lock takes the file lock at path and returns what gives it back. The lock
// file stays: to remove it would let two processes hold different ones.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot lock %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}

func (c Cache) logf(format string, args ...any) {
	if c.Log != nil {
		fmt.Fprintf(c.Log, format+"\n", args...)
	}
}

// slug turns a reference into a file name.
func slug(ref string) string {
	return strings.NewReplacer("/", "_", ":", "-").Replace(ref)
}

// run runs a program and puts what it said last into the error.
func run(cmd *exec.Cmd) error {
	var said strings.Builder
	cmd.Stderr = &said
	if cmd.Stdout == nil {
		cmd.Stdout = &said
	}
	if err := cmd.Run(); err != nil {
		text := strings.TrimSpace(said.String())
		if n := len(text) - 2000; n > 0 {
			text = "…" + text[n:]
		}
		return fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, text)
	}
	return nil
}
