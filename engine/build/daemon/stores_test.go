package daemon

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/util/leaseutil"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	ours "github.com/stack-run/stack/engine/content"
)

// What a builder leaves that is killed between a change of its database and that
// of its files.
func TestStoresOfAKilledBuilder(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts overlayfs")
	}
	ctx, dir := context.Background(), t.TempDir()
	engine, err := ours.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	open := func() *stores {
		t.Helper()
		s, err := openStores(ctx, dir, engine, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	// The very first snapshot was not written down.
	if err := os.MkdirAll(filepath.Join(dir, "snapshots", "snapshots", "1", "fs"), 0o755); err != nil {
		t.Fatal(err)
	}
	s := open()
	if err := s.tidy(ctx); err != nil {
		t.Fatalf("with nothing there: %v", err)
	}
	if err := s.snapshots.Prepare(ctx, "kept", "", snapshots.WithLabels(rooted)); err != nil {
		t.Fatal(err)
	}
	write(t, s.content, "kept")
	// Known to the snapshotter and not to the database: killed while collecting.
	if _, err := s.layers.Prepare(ctx, "buildkit/99/lost", ""); err != nil {
		t.Fatal(err)
	}
	lost := write(t, s.blobs, "lost")
	if err := errors.Join(s.layers.Close(), s.file.Close()); err != nil {
		t.Fatal(err)
	}
	// Known to nobody: killed before the snapshotter could write it down. The
	// next snapshots get these numbers.
	for _, name := range []string{"3/fs", "4/fs", "new-1/fs"} {
		if err := os.MkdirAll(filepath.Join(dir, "snapshots", "snapshots", name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "content", "ingest", "x"), 0o755); err != nil {
		t.Fatal(err)
	}

	s = open()
	if err := s.tidy(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.snapshots.Prepare(ctx, "next", ""); err != nil {
		t.Errorf("the next snapshot cannot be made: %v", err)
	}
	for name, want := range map[string]int{"snapshots/snapshots": 2, "content/ingest": 0, "content/blobs/sha256": 1} {
		entries, err := os.ReadDir(filepath.Join(dir, name))
		if err != nil || len(entries) != want {
			t.Errorf("%s has %v, want %d (%v)", name, entries, want, err)
		}
	}
	if _, err := os.Stat(s.blobs.Path(lost)); err == nil {
		t.Error("the wrong blob was kept")
	}
	if _, err := s.snapshots.Stat(ctx, "kept"); err != nil {
		t.Error(err)
	}
	count := 0
	s.layers.Walk(ctx, func(context.Context, snapshots.Info) error { count++; return nil })
	if count != 2 {
		t.Errorf("the snapshotter knows %d snapshots, want 2", count)
	}
}

// rooted keeps a blob or a snapshot from collection.
var rooted = map[string]string{"containerd.io/gc.root": "test"}

func write(t *testing.T, s content.Ingester, text string) digest.Digest {
	t.Helper()
	w, err := s.Writer(context.Background(), content.WithRef(text))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	w.Write([]byte(text))
	if err := w.Commit(context.Background(), int64(len(text)), digest.FromString(text), content.WithLabels(rooted)); err != nil {
		t.Fatal(err)
	}
	return digest.FromString(text)
}

// A builder that is killed between the snapshot of a record and the record.
func TestSnapshotsWithoutARecord(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts overlayfs")
	}
	ctx := context.Background()
	engine, err := ours.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s, err := openStores(ctx, t.TempDir(), engine, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.file.Close()
	manager := leaseutil.WithNamespace(metadata.NewLeaseManager(s.db), namespace)
	for _, id := range []string{"recorded", "recorded-view", "lost"} {
		l, err := manager.Create(ctx, leases.WithID(id))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.snapshots.Prepare(ctx, id, ""); err != nil {
			t.Fatal(err)
		}
		if err := manager.AddResource(ctx, l, leases.Resource{ID: id, Type: "snapshots/" + snapshotter}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := manager.Create(ctx, leases.WithID("of blobs")); err != nil {
		t.Fatal(err)
	}
	if err := s.forgetUnrecorded(ctx, manager, func(id string) bool { return id == "recorded" }); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]bool{"recorded": true, "recorded-view": true, "lost": false} {
		if _, err := s.snapshots.Stat(ctx, id); (err == nil) != want {
			t.Errorf("snapshot %s: %v, want it there: %v", id, err, want)
		}
	}
	if all, err := manager.List(ctx); err != nil || len(all) != 3 {
		t.Errorf("leases %v, %v, want three", all, err)
	}
}

// What an image of the engine consists of can be read when the database has never heard of
// it, or does not know it any more: it is not the builder's for that.
func TestManifestsOfTheEngineCanBeRead(t *testing.T) {
	ctx := context.Background()
	engine, err := ours.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	lease, err := engine.Lease(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Close()
	d, err := engine.Put(ctx, lease, []byte("manifest"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := openStores(ctx, t.TempDir(), engine, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.file.Close()
	got, err := content.ReadBlob(ctx, s.content, ocispec.Descriptor{Digest: d, Size: 8})
	if err != nil || string(got) != "manifest" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := s.content.Info(ctx, d); !errdefs.IsNotFound(err) {
		t.Errorf("the builder has it: %v", err)
	}
	if known, err := s.allKnown(ctx); err != nil || !known {
		t.Errorf("there is a file that the database does not know: %v", err)
	}
	none := ocispec.Descriptor{Digest: digest.FromString("none"), Size: 4}
	if _, err := content.ReadBlob(ctx, s.content, none); !errdefs.IsNotFound(err) {
		t.Errorf("what is nowhere: %v", err)
	}
}
