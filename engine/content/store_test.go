package content_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/stack-run/stack/engine/content"
)

func open(t *testing.T) (*content.Store, string) {
	t.Helper()
	root := t.TempDir()
	s, err := content.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	return s, root
}

func lease(t *testing.T, s *content.Store) *content.Lease {
	t.Helper()
	l, err := s.Lease(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func put(t *testing.T, s *content.Store, l *content.Lease, data string) digest.Digest {
	t.Helper()
	d, err := s.Put(t.Context(), l, []byte(data))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func nothing() (map[digest.Digest]bool, error) { return nil, nil }

func TestPutReadVerify(t *testing.T) {
	s, _ := open(t)
	d := put(t, s, lease(t, s), "hello")
	if d != digest.FromString("hello") {
		t.Fatalf("digest %s", d)
	}
	data, err := s.ReadAll(d, 100)
	if err != nil || string(data) != "hello" {
		t.Fatalf("read %q, %v", data, err)
	}
	if err := s.Verify(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ReadAll(d, 4); err == nil || !strings.Contains(err.Error(), "5 bytes, more than the 4") {
		t.Fatalf("limit: %v", err)
	}
	if _, err := s.Stat(digest.FromString("other")); !errors.Is(err, content.ErrNotFound) {
		t.Fatalf("stat of a missing blob: %v", err)
	}
	for _, bad := range []digest.Digest{"", "sha256:abc", "sha256:../../../../etc/passwd", "../x:ab"} {
		if _, err := s.Reader(bad); err == nil {
			t.Errorf("reader of %q succeeded", bad)
		}
	}
}

func TestCorruptBlobIsFound(t *testing.T) {
	s, _ := open(t)
	d := put(t, s, lease(t, s), "hello")
	if err := os.Chmod(s.Path(d), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.Path(d), []byte("hellO"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(t.Context(), d); !errors.Is(err, content.ErrCorrupt) {
		t.Errorf("verify: %v", err)
	}
	if _, err := s.ReadAll(d, 100); !errors.Is(err, content.ErrCorrupt) {
		t.Errorf("read: %v", err)
	}
	if err := s.DeleteCorrupt(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stat(d); !errors.Is(err, content.ErrNotFound) {
		t.Errorf("stat after delete: %v", err)
	}
}

func TestCommitRefusesWhatWasNotAnnounced(t *testing.T) {
	for _, test := range []struct {
		name, data string
		want       content.Want
		err        string
	}{
		{"wrong digest", "evil", content.Want{Digest: digest.FromString("good")}, "the content has digest"},
		{"too short", "goo", content.Want{Digest: digest.FromString("good"), Size: 4}, "ended after 3 of 4 bytes"},
		{"too long", "goods", content.Want{Digest: digest.FromString("good"), Size: 4}, "longer than the 4 bytes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, root := open(t)
			w, err := s.Ingest(t.Context(), lease(t, s), "", test.want)
			if err != nil {
				t.Fatal(err)
			}
			_, err = w.Write([]byte(test.data))
			if err == nil {
				_, err = w.Commit(t.Context())
			}
			w.Abort()
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Fatalf("error %v, want %q", err, test.err)
			}
			if _, err := s.Stat(test.want.Digest); !errors.Is(err, content.ErrNotFound) {
				t.Errorf("a blob got the name: %v", err)
			}
			if left, _ := os.ReadDir(filepath.Join(root, "content/ingest")); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestIngestResumes(t *testing.T) {
	s, _ := open(t)
	l := lease(t, s)
	want := content.Want{Digest: digest.FromString("first second"), Size: 12}
	w, err := s.Ingest(t.Context(), l, "", want)
	if err != nil {
		t.Fatal(err)
	}
	w.Write([]byte("first "))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	w, err = s.Ingest(t.Context(), l, "", want)
	if err != nil {
		t.Fatal(err)
	}
	if w.Offset() != 6 {
		t.Fatalf("offset %d after resume", w.Offset())
	}
	w.Write([]byte("second"))
	if _, err := w.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(t.Context(), want.Digest); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Ingest(t.Context(), l, "", want); !errors.Is(err, content.ErrExists) {
		t.Fatalf("ingest of what is there: %v", err)
	}
}

func TestConcurrentIngestHappensOnce(t *testing.T) {
	s, root := open(t)
	data := bytes.Repeat([]byte("x"), 1<<20)
	want := content.Want{Digest: digest.FromBytes(data), Size: int64(len(data))}
	var wg sync.WaitGroup
	wrote := make(chan struct{}, 8)
	for range 8 {
		wg.Go(func() {
			other, err := content.Open(root)
			if err != nil {
				t.Error(err)
				return
			}
			l, err := other.Lease(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			defer l.Close()
			w, err := other.Ingest(t.Context(), l, "", want)
			if errors.Is(err, content.ErrExists) {
				return
			}
			if err != nil {
				t.Error(err)
				return
			}
			wrote <- struct{}{}
			w.Write(data)
			if _, err := w.Commit(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(wrote) != 1 {
		t.Errorf("%d of 8 wrote the blob", len(wrote))
	}
	if err := s.Verify(t.Context(), want.Digest); err != nil {
		t.Error(err)
	}
}

func TestWaitingForAnIngestEndsWithTheContext(t *testing.T) {
	s, _ := open(t)
	l := lease(t, s)
	w, err := s.Ingest(t.Context(), l, "key", content.Want{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.Ingest(ctx, l, "key", content.Want{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("error %v", err)
	}
}

func TestCollectKeepsWhatIsReferredToOrLeased(t *testing.T) {
	s, root := open(t)
	short := lease(t, s)
	long := lease(t, s)
	gone, kept, leased := put(t, s, short, "gone"), put(t, s, short, "kept"), put(t, s, long, "leased")
	keep := func() (map[digest.Digest]bool, error) { return map[digest.Digest]bool{kept: true}, nil }

	if infos, err := s.Collect(t.Context(), content.CollectOptions{}, keep); err != nil || len(infos) != 0 {
		t.Fatalf("collected %v under leases, %v", infos, err)
	}
	short.Close()
	infos, err := s.Collect(t.Context(), content.CollectOptions{DryRun: true}, keep)
	if err != nil || len(infos) != 1 || infos[0].Digest != gone || infos[0].Size != 4 {
		t.Fatalf("dry run: %v, %v", infos, err)
	}
	if _, err := s.Stat(gone); err != nil {
		t.Fatalf("dry run removed: %v", err)
	}
	if infos, err = s.Collect(t.Context(), content.CollectOptions{}, keep); err != nil || len(infos) != 1 {
		t.Fatalf("collected %v, %v", infos, err)
	}
	for d, want := range map[digest.Digest]bool{gone: false, kept: true, leased: true} {
		if _, err := s.Stat(d); (err == nil) != want {
			t.Errorf("%s: %v", d, err)
		}
	}
	long.Close()
	if infos, err = s.Collect(t.Context(), content.CollectOptions{}, nothing); err != nil || len(infos) != 2 {
		t.Fatalf("collected %v, %v", infos, err)
	}
	if left, _ := os.ReadDir(filepath.Join(root, "content/leases")); len(left) != 0 {
		t.Errorf("leases left: %v", left)
	}
}

func TestLeaseProtectsWhatIsStillToCome(t *testing.T) {
	s, _ := open(t)
	l := lease(t, s)
	d := digest.FromString("later")
	if err := l.Protect(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	other := lease(t, s)
	put(t, s, other, "later")
	other.Close()
	if infos, err := s.Collect(t.Context(), content.CollectOptions{}, nothing); err != nil || len(infos) != 0 {
		t.Fatalf("collected %v, %v", infos, err)
	}
}

func TestCollectRemovesOldPartials(t *testing.T) {
	s, root := open(t)
	l := lease(t, s)
	w, err := s.Ingest(t.Context(), l, "resumable", content.Want{})
	if err != nil {
		t.Fatal(err)
	}
	w.Write([]byte("half"))
	w.Close()
	count := func() int {
		left, err := os.ReadDir(filepath.Join(root, "content/ingest"))
		if err != nil {
			t.Fatal(err)
		}
		return len(left)
	}
	// A process was killed before it wrote anything, or after its blob had its name.
	if err := os.WriteFile(filepath.Join(root, "content/ingest/nothing.lock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Collect(t.Context(), content.CollectOptions{PartialAge: time.Hour}, nothing); err != nil || count() != 2 {
		t.Fatalf("young partial: %d files, want its data and lock; %v", count(), err)
	}
	old := time.Now().Add(-2 * time.Hour)
	files, _ := filepath.Glob(filepath.Join(root, "content/ingest/*"))
	for _, f := range files {
		os.Chtimes(f, old, old)
	}
	busy, err := s.Ingest(t.Context(), l, "busy", content.Want{})
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Abort()
	if _, err := s.Collect(t.Context(), content.CollectOptions{PartialAge: time.Hour}, nothing); err != nil {
		t.Fatal(err)
	}
	if count() != 2 { // busy's data and lock
		t.Errorf("%d files left", count())
	}
}

func TestCollectAndPutRace(t *testing.T) {
	s, root := open(t)
	ctx := t.Context()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				if _, err := s.Collect(ctx, content.CollectOptions{}, nothing); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	other, err := content.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		l, err := other.Lease(ctx)
		if err != nil {
			t.Fatal(err)
		}
		d, err := other.Put(ctx, l, []byte{byte(i % 3)})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := other.ReadAll(d, 10); err != nil {
			t.Fatalf("round %d: a blob under a lease is gone: %v", i, err)
		}
		l.Close()
	}
	close(stop)
	wg.Wait()
}
