package lock

import (
	"bufio"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func take(t *testing.T, path string, o ...Option) *Held {
	t.Helper()
	h, err := Exclusive(t.Context(), path, o...)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestWaitEndsAndTellsWhoHolds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	h := take(t, path)
	defer h.Unlock()
	_, err := Exclusive(t.Context(), path, Within(20*time.Millisecond), Of("the images"))
	var held *HeldError
	if !errors.As(err, &held) {
		t.Fatalf("got %v, want a HeldError", err)
	}
	if held.PID != os.Getpid() || held.What != "the images" || held.Waited != 20*time.Millisecond {
		t.Errorf("got %+v", held)
	}
	for _, part := range []string{path, "the images", filepath.Base(os.Args[0]), "kill"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not say %q", err, part)
		}
	}
}

func TestWaitThatLastsIsTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	h := take(t, path)
	told := make(chan string, 1)
	ctx := WithNotice(t.Context(), func(s string) {
		told <- s
		_ = h.Unlock()
	})
	got, err := Exclusive(ctx, path, func(r *request) { r.notice = time.Millisecond })
	if err != nil {
		t.Fatal(err)
	}
	defer got.Unlock()
	if s := <-told; !strings.Contains(s, path) {
		t.Errorf("told %q", s)
	}
}

func TestWaitEndsWithContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	h := take(t, path)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	cancel(why)
	if _, err := Shared(ctx, path); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
	_ = h.Unlock()
	// The call that was left behind gives the lock back.
	take(t, path).Unlock()
}

func TestRemovedLockFileLocksNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	h := take(t, path)
	got := make(chan *Held)
	go func() {
		h, _ := Exclusive(context.Background(), path)
		got <- h
	}()
	if err := h.Remove(); err != nil {
		t.Fatal(err)
	}
	second := <-got
	if _, ok, err := TryExclusive(path); ok || err != nil {
		t.Errorf("the lock that %s names now is free: %v", path, err)
	}
	_ = second.Unlock()
}

func TestDirectories(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	if _, _, err := TryExclusive(dir, Dir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing directory: %v", err)
	}
	h := take(t, dir, MakeDir())
	if _, ok, err := TryExclusive(dir, Dir()); ok || err != nil {
		t.Errorf("locked twice: %v", err)
	}
	_ = h.Unlock()
	if _, ok, err := TryExclusive(dir, Dir()); !ok || err != nil {
		t.Errorf("not free: %v", err)
	}
}

func TestLockHolder(t *testing.T) {
	const table = `1: POSIX  ADVISORY  WRITE 9 00:1a:815 0 EOF
2: FLOCK  ADVISORY  WRITE 5 00:1b:815 0 EOF
3: FLOCK  ADVISORY  READ  7 00:1a:815 0 EOF
3: -> FLOCK  ADVISORY  WRITE 8 00:1a:815 0 EOF
4: FLOCK  ADVISORY  WRITE 6 00:2a:900 0 EOF
5: FLOCK  ADVISORY  WRITE -1 00:1a:901 0 EOF
`
	for _, c := range []struct {
		inode uint64
		want  int
	}{{815, 7}, {900, 6}, {901, 0}, {5, 0}} {
		if got := lockHolder(bufio.NewScanner(strings.NewReader(table)), 0, 0x1a, c.inode); got != c.want {
			t.Errorf("inode %d: PID %d, want %d", c.inode, got, c.want)
		}
	}
}
