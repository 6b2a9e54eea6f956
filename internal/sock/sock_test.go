package sock

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAnyLength(t *testing.T) {
	for _, n := range []int{1, 60, 106, 107, 108, 200, 700} {
		dir := t.TempDir()
		for len(dir) < n {
			dir = filepath.Join(dir, strings.Repeat("d", min(n-len(dir), 90)))
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "s")
		if _, err := Dial(t.Context(), path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%d bytes, no socket: %v", len(path), err)
		}
		l, err := Listen(path)
		if err != nil {
			t.Fatalf("%d bytes: %v", len(path), err)
		}
		fi, err := os.Stat(path)
		if err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%d bytes: %v, %v", len(path), fi, err)
		}
		conn, err := Dial(t.Context(), path)
		if err != nil {
			t.Errorf("%d bytes: %v", len(path), err)
		} else {
			conn.Close()
		}
		l.Close()
		if _, err := Dial(t.Context(), path); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%d bytes, nobody listens: %v", len(path), err)
		}
	}
}
