package daemon

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
)

func TestBorrowerResolvesLinks(t *testing.T) {
	root := t.TempDir()
	b := &borrower{layers: filepath.Join(root, "layers"), view: "/view"}
	own, lent := filepath.Join(root, "snapshots/1/fs"), filepath.Join(root, "snapshots/2/fs")
	for _, dir := range []string{own, filepath.Dir(lent), filepath.Join(b.layers, "abc/fs")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../../layers/abc/fs", lent); err != nil {
		t.Fatal(err)
	}
	got := b.resolve([]mount.Mount{
		{Type: "bind", Source: lent, Options: []string{"ro", "rbind"}},
		{Type: "bind", Source: own},
		{Type: "overlay", Source: "overlay", Options: []string{"workdir=/w", "upperdir=/u", "lowerdir=" + own + ":" + lent}},
	})
	want := []mount.Mount{
		{Type: "bind", Source: "/view/abc/fs", Options: []string{"ro", "rbind"}},
		{Type: "bind", Source: own},
		{Type: "overlay", Source: "overlay", Options: []string{"workdir=/w", "upperdir=/u", "lowerdir=" + own + ":/view/abc/fs"}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	upper, lower := directories(got[2])
	if upper != "/u" || !reflect.DeepEqual(lower, []string{own, "/view/abc/fs"}) {
		t.Errorf("the overlay's directories are %q and %q", upper, lower)
	}
	if upper, _ := directories(got[0]); upper != "" {
		t.Errorf("nothing writes to a read-only mount, not even to %q", upper)
	}
}
