package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
)

func TestIsBuiltin(t *testing.T) {
	for source, want := range map[string]bool{
		"docker/dockerfile":                  true,
		"docker/dockerfile:1":                true,
		"docker/dockerfile:1.7-labs":         true,
		"docker.io/docker/dockerfile:1.21.0": true,
		"docker/dockerfile-upstream:master":  true,
		"docker/dockerfile:2":                false,
		"docker/dockerfile:10":               false,
		"docker/dockerfile:experimental":     false,
		"example.com/docker/dockerfile:1":    false,
		"someone/frontend":                   false,
		"docker/dockerfile@sha256:nothing":   false,
		"":                                   false,
	} {
		if got := isBuiltin(source); got != want {
			t.Errorf("isBuiltin(%q) is %v", source, got)
		}
	}
}

func TestGCPolicy(t *testing.T) {
	policy := gcPolicy(t.TempDir())
	if len(policy) == 0 {
		t.Fatal("nothing is ever collected")
	}
	last := policy[len(policy)-1]
	if !last.All || last.MaxUsedSpace <= 0 || last.MinFreeSpace <= last.MaxUsedSpace {
		t.Errorf("the last rule is %+v", last)
	}
}

func TestTemporaryFilesAreTheNextDaemonsToDelete(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	dir := filepath.Join(t.TempDir(), "tmp")
	if err := os.MkdirAll(filepath.Join(dir, "mount-of-a-killed-one"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := useTemp(dir); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("%v, %v", entries, err)
	}
	if os.TempDir() != dir {
		t.Errorf("temporary files are made in %s", os.TempDir())
	}
	err := mount.WithTempMount(t.Context(), nil, func(root string) error {
		if !strings.HasPrefix(root, dir+"/") {
			t.Errorf("something is mounted in %s", root)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
