package logs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

func indexPath(dir string, segment uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%08d.idx", segment))
}

func rawPath(dir string, segment uint64, s Stream) string {
	ext := ".out"
	if s == Stderr {
		ext = ".err"
	}
	return filepath.Join(dir, fmt.Sprintf("%08d", segment)+ext)
}

// segments lists the numbers of a log's segments, oldest first. A directory
// that does not exist has none.
func segments(dir string) ([]uint64, error) {
	list, _, err := scan(dir)
	return list, err
}

// scan also lists the segments that have raw files and no index: what a deletion that
// was killed left behind.
func scan(dir string) (list, orphans []uint64, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("cannot read log %s: %w", dir, err)
	}
	var raws []uint64
	for _, e := range entries {
		base, ext, _ := strings.Cut(e.Name(), ".")
		n, err := strconv.ParseUint(base, 10, 64)
		if err != nil {
			continue
		}
		switch ext {
		case "idx":
			list = append(list, n)
		case "out", "err", "out" + packedSuffix, "err" + packedSuffix:
			raws = append(raws, n)
		}
	}
	slices.Sort(list)
	list = complete(dir, list)
	for _, n := range raws {
		if _, ok := slices.BinarySearch(list, n); !ok {
			orphans = append(orphans, n)
		}
	}
	return list, orphans, nil
}

// complete adds the segments that were made or deleted while the directory was read:
// of these, readdir(3) may tell of a newer one and not of those before.
func complete(dir string, list []uint64) []uint64 {
	if len(list) == 0 {
		return list
	}
	there := func(n uint64) bool {
		_, err := os.Stat(indexPath(dir, n))
		return err == nil
	}
	all := list[:1:1]
	for _, n := range list[1:] {
		for between := all[len(all)-1] + 1; between < n; between++ {
			if there(between) {
				all = append(all, between)
			} else if between+maxHole < n {
				between = n - maxHole // something else has such names
			}
		}
		all = append(all, n)
	}
	for next := all[len(all)-1] + 1; there(next); next++ {
		all = append(all, next)
	}
	for before := all[0] - 1; before > 0 && there(before); before-- {
		all = slices.Insert(all, 0, before)
	}
	return all
}

// maxHole is more segments than come while a directory is read.
const maxHole = 10_000

// removeSegment deletes a segment's files. The index goes first: what has no
// index is not part of the log.
func removeSegment(dir string, segment uint64) error {
	err := os.Remove(indexPath(dir, segment))
	for _, s := range []Stream{Stdout, Stderr} {
		err = errors.Join(err, removeRaw(dir, segment, s))
	}
	return err
}

// openFile opens a regular file without offering it to the poller, which
// would refuse it after two system calls.
func openFile(path string, flags int) (*os.File, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o600)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: path, Err: err}
		}
		return os.NewFile(uintptr(fd), path), nil
	}
}

// flock is flock(2) that does not mind signals.
func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); err != unix.EINTR {
			return err
		}
	}
}
