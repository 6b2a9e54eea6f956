package peer

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// RemoveCgroups removes a cgroup, whose processes have ended, and those in it
// from every hierarchy.
func RemoveCgroups(name string) error {
	var errs []error
	for _, pattern := range []string{"/sys/fs/cgroup/" + name, "/sys/fs/cgroup/*/" + name} {
		dirs, err := filepath.Glob(pattern)
		errs = append(errs, err)
		for _, dir := range dirs {
			errs = append(errs, removeCgroup(dir))
		}
	}
	return errors.Join(errs...)
}

func removeCgroup(top string) error {
	var dirs []string
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return ignoreAbsent(err)
	})
	if err != nil {
		return err
	}
	for _, dir := range slices.Backward(dirs) {
		err := os.Remove(dir)
		// The kernel lets go of a killed process's group a little after it is gone.
		for deadline := time.Now().Add(5 * time.Second); errors.Is(err, unix.EBUSY) && time.Now().Before(deadline); {
			pause := time.NewTimer(10 * time.Millisecond)
			<-pause.C
			err = os.Remove(dir)
		}
		if err := ignoreAbsent(err); err != nil {
			return err
		}
	}
	return nil
}

// ignoreAbsent is nil if the error is that there is no such file: controllers of
// cgroup v1 have a hierarchy under several names.
func ignoreAbsent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
