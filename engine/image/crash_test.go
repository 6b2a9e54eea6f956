package image_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/stack-run/stack/engine/image"
	"github.com/stack-run/stack/engine/snapshot"
)

// crashEnv makes the test binary a worker instead: see TestMain.
const crashEnv = "STACK_TEST_IMPORT_INTO"

// TestMain lets the test binary be the process that is killed.
func TestMain(m *testing.M) {
	if root := os.Getenv(crashEnv); root != "" {
		if err := importAndUnpack(context.Background(), root); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// importAndUnpack imports an image of 6 MiB in 150 files, unpacking it before
// it has its name.
func importAndUnpack(ctx context.Context, root string) error {
	s, err := image.Open(root)
	if err != nil {
		return err
	}
	layers, err := snapshot.Open(root)
	if err != nil {
		return err
	}
	_, err = s.Import(ctx, crashArchive(), "crash", image.ImportOptions{
		Created: time.Unix(1000, 0),
		Ready: func(ctx context.Context, img image.Image) error {
			return layers.Unpack(ctx, img.Layers, s.Content())
		},
	})
	return err
}

func crashArchive() io.Reader {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	block := sha256.Sum256(nil)
	for i := range 150 {
		var data []byte
		for len(data) < 40<<10 {
			block = sha256.Sum256(block[:])
			data = append(data, block[:]...)
		}
		w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("d%d/f%d", i%7, i), Size: int64(len(data)), Mode: 0o644})
		w.Write(data)
	}
	w.Close()
	return &b
}

func worker(ctx context.Context, root string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), crashEnv+"="+root)
	cmd.Stderr = os.Stderr
	return cmd
}

// check fails if anything in the stores is not as it should be.
func check(t *testing.T, root string) image.Image {
	t.Helper()
	ctx := context.Background()
	s, err := image.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	problems, err := s.Check(ctx, image.CheckOptions{})
	if err != nil || len(problems) != 0 {
		t.Fatalf("check: %v, %v", problems, err)
	}
	layers, err := snapshot.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	img, err := s.Resolve(ctx, "crash")
	if image.IsNotFound(err) {
		return img
	}
	if err != nil {
		t.Fatal(err)
	}
	wrong, err := layers.Check(ctx, img.Layers, s.Content(), snapshot.CheckOptions{})
	if err != nil || len(wrong) != 0 {
		t.Fatalf("check of layers: %v, %v", wrong, err)
	}
	return img
}

func TestKilledImportsLeaveACleanStore(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: unpacks layers")
	}
	root := t.TempDir()
	ctx := t.Context()
	start := time.Now()
	if err := worker(ctx, t.TempDir()).Run(); err != nil {
		t.Fatal(err)
	}
	whole := time.Since(start)
	killed := 0
	for range 10 {
		cmd := worker(ctx, root)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		kill := time.AfterFunc(rand.N(whole), func() { cmd.Process.Kill() })
		if cmd.Wait() != nil {
			killed++
		}
		kill.Stop()
		check(t, root)
	}
	if killed == 0 {
		t.Log("no worker was killed in time")
	}
	if err := worker(ctx, root).Run(); err != nil {
		t.Fatal(err)
	}
	img := check(t, root)

	// Housekeeping removes all that the killed ones left, and nothing else.
	s, err := image.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	layers, err := snapshot.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Prune(ctx, image.PruneOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := layers.Collect(ctx, snapshot.CollectOptions{}, s.DiffIDs); err != nil {
		t.Fatal(err)
	}
	check(t, root)
	for dir, want := range map[string]int{"content/blobs/sha256": 3, "content/ingest": 0, "content/leases": 0, "layers/tmp": 0, "images/records": 1, "layers/locks": 0} {
		entries, err := os.ReadDir(root + "/" + dir)
		if err != nil || len(entries) != want {
			t.Errorf("%s has %d entries, want %d (%v)", dir, len(entries), want, err)
		}
	}
	if _, err := s.Remove(ctx, "crash", image.RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	c, err := layers.Collect(ctx, snapshot.CollectOptions{}, s.DiffIDs)
	if err != nil || len(c.Layers) != 1 || c.Layers[0] != img.DiffIDs()[0] {
		t.Errorf("collected %v, %v", c, err)
	}
}

func TestTwoProcessesImportAtTheSameTime(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: unpacks layers")
	}
	root := t.TempDir()
	a, b := worker(t.Context(), root), worker(t.Context(), root)
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	if err := b.Run(); err != nil {
		t.Error(err)
	}
	if err := a.Wait(); err != nil {
		t.Error(err)
	}
	if img := check(t, root); img.ID.Validate() != nil || len(img.Layers) != 1 {
		t.Errorf("image %+v", img)
	}
	if blobs, err := os.ReadDir(root + "/content/blobs/sha256"); err != nil || len(blobs) != 3 {
		t.Errorf("%d blobs, %v", len(blobs), err)
	}
}

// The digest of the archive is the same each time, or the tests above would say
// nothing.
func TestCrashArchiveIsTheSameEachTime(t *testing.T) {
	a, _ := digest.FromReader(crashArchive())
	b, _ := digest.FromReader(crashArchive())
	if a != b {
		t.Error(a, b)
	}
}
