package tree

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/compose/watch"
)

// quietest is longer than a batch of few files waits for more.
const quietest = 200 * time.Millisecond

// limit is how long a test waits for what takes milliseconds.
const limit = 20 * time.Second

// watched opens and runs a tree.
func watched(t *testing.T, o Options) *Tree {
	t.Helper()
	tree, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	run(t, tree)
	return tree
}

func run(t *testing.T, tree *Tree) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- tree.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		for range tree.Changes() {
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		tree.Close()
	})
}

// until gathers changes until one of a path comes, and writes them down.
func until(t *testing.T, tree *Tree, dir, last string) []string {
	t.Helper()
	var out []string
	timeout := time.After(limit)
	for {
		select {
		case batch := <-tree.Changes():
			for _, c := range batch {
				text := strings.TrimPrefix(c.Path, dir+"/")
				if c.Dir {
					text += "/"
				}
				if c.Gone {
					text += " gone"
				}
				if c.Same {
					text += " same"
				}
				out = append(out, text)
			}
			if slices.ContainsFunc(batch, func(c watch.Change) bool { return c.Path == filepath.Join(dir, last) }) {
				slices.Sort(out)
				return slices.Compact(out)
			}
		case <-timeout:
			t.Fatalf("no change of %s; but %v", last, out)
		}
	}
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	p := filepath.Join(dir, name)
	check(t, os.MkdirAll(filepath.Dir(p), 0o755))
	check(t, os.WriteFile(p, []byte(text), 0o644))
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestChanges(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "src/a", "1")
	write(t, dir, "src/d/e/b", "1")
	write(t, dir, "one", "1")
	write(t, dir, "other", "1")
	src := filepath.Join(dir, "src")
	tree := watched(t, Options{Roots: []string{src, filepath.Join(dir, "one"), filepath.Join(dir, "later/deep")}})

	write(t, dir, "other", "2")
	write(t, dir, "src/a", "2")
	expect(t, until(t, tree, dir, "src/a"), "src/a")

	write(t, dir, "one", "2")
	expect(t, until(t, tree, dir, "one"), "one")

	write(t, dir, "src/d/e/new", "1")
	expect(t, until(t, tree, dir, "src/d/e/new"), "src/d/e/new")

	// What is made and deleted again is no change.
	write(t, dir, "src/temp", "1")
	check(t, os.Rename(filepath.Join(src, "temp"), filepath.Join(src, "a")))
	expect(t, until(t, tree, dir, "src/a"), "src/a")

	check(t, os.Rename(filepath.Join(src, "d"), filepath.Join(src, "z")))
	expect(t, until(t, tree, dir, "src/z/e/new"),
		"src/d/ gone", "src/d/e/ gone", "src/d/e/b gone", "src/d/e/new gone", "src/z/", "src/z/e/", "src/z/e/b", "src/z/e/new")
	write(t, dir, "src/z/e/b", "2")
	expect(t, until(t, tree, dir, "src/z/e/b"), "src/z/e/b")

	check(t, os.Chmod(filepath.Join(src, "z"), 0o700))
	expect(t, until(t, tree, dir, "src/z"), "src/z/ same")

	// A directory becomes a file.
	check(t, os.RemoveAll(filepath.Join(src, "z")))
	write(t, dir, "src/z", "file")
	if got := until(t, tree, dir, "src/z"); !slices.Contains(got, "src/z") || !slices.Contains(got, "src/z/e/b gone") {
		t.Errorf("%q", got)
	}

	check(t, os.RemoveAll(src))
	if got := until(t, tree, dir, "src"); !slices.Contains(got, "src/ gone") || !slices.Contains(got, "src/a gone") {
		t.Errorf("%q", got)
	}
	write(t, dir, "src/back", "1")
	if got := until(t, tree, dir, "src/back"); !slices.Contains(got, "src/back") {
		t.Errorf("%q", got)
	}

	write(t, dir, "later/deep/x", "1")
	if got := until(t, tree, dir, "later/deep/x"); !slices.Contains(got, "later/deep/") {
		t.Errorf("%q", got)
	}
}

// Where a directory becomes a link, what was in it is gone: what the link leads to may
// be what nobody meant to be watched, let alone copied.
func TestNothingIsBehindALink(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "src/d/f", "1")
	write(t, dir, "secret/f", "2")
	tree := watched(t, Options{Roots: []string{filepath.Join(dir, "src")}, Content: func(string) bool { return true }})
	check(t, os.RemoveAll(filepath.Join(dir, "src/d")))
	check(t, os.Symlink(filepath.Join(dir, "secret"), filepath.Join(dir, "src/d")))
	for _, change := range until(t, tree, dir, "src/d") {
		if change == "src/d/f" {
			t.Error("what a link leads to counts as there")
		}
	}
}

func TestContentIsCompared(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a", "same")
	write(t, dir, "b", "1")
	tree, err := Open(t.Context(), Options{Roots: []string{dir}, Content: func(string) bool { return true }})
	check(t, err)
	tree.Read(t.Context())
	run(t, tree)
	write(t, dir, "a", "same")
	now := time.Now()
	check(t, os.Chtimes(filepath.Join(dir, "a"), now, now))
	write(t, dir, "b", "2")
	expect(t, until(t, tree, dir, "b"), "b")
	check(t, os.Chmod(filepath.Join(dir, "a"), 0o600))
	expect(t, until(t, tree, dir, "a"), "a same")
}

func TestIgnoredDirectoriesCostNoWatch(t *testing.T) {
	dir := t.TempDir()
	for i := range 300 {
		write(t, dir, fmt.Sprintf("node_modules/%d/x", i), "1")
	}
	write(t, dir, "src/a", "1")
	prune := func(name string) bool { return filepath.Base(name) == "node_modules" }
	tree := watched(t, Options{Roots: []string{dir}, Prune: prune, Skip: func(name string) bool { return strings.HasSuffix(name, ".log") }})
	if n := tree.Watches(); n != 3 { // the one above, the root, src
		t.Errorf("%d watches", n)
	}
	write(t, dir, "node_modules/new/x", "1")
	write(t, dir, "src/node_modules/x", "1")
	write(t, dir, "src/x.log", "1")
	write(t, dir, "src/a", "2")
	got := until(t, tree, dir, "src/a")
	if slices.ContainsFunc(got, func(s string) bool {
		return strings.Contains(s, "node_modules/") && s != "src/node_modules/" || strings.Contains(s, "log")
	}) {
		t.Errorf("%q", got)
	}
	if n := tree.Watches(); n != 3 {
		t.Errorf("%d watches", n)
	}
}

// Where the kernel has no watch left, what it does not tell is looked for.
func TestWithoutWatches(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{unix.ENOSPC, "fs.inotify.max_user_watches"},
		{unix.EMFILE, "fs.inotify.max_user_instances"},
	} {
		t.Run(tt.want, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "a", "1")
			write(t, dir, "d/b", "1")
			told := ""
			o := Options{Roots: []string{dir}, Scarce: func(err error) { told += err.Error() }}
			tree, err := open(t.Context(), o, func() (*instance, error) {
				if tt.err == unix.EMFILE {
					return nil, tt.err
				}
				in, err := newInstance()
				if err == nil {
					in.limit = 2
				}
				return in, err
			})
			check(t, err)
			run(t, tree)
			if strings.Count(told, tt.want) != 1 {
				t.Errorf("told %q", told)
			}
			write(t, dir, "d/b", "2 and more")
			expect(t, until(t, tree, dir, "d/b"), "d/b")
			write(t, dir, "n/e/w", "1")
			if got := until(t, tree, dir, "n/e/w"); !slices.Contains(got, "n/") {
				t.Errorf("%q", got)
			}
			write(t, dir, "n/e/w", "2 and more")
			expect(t, until(t, tree, dir, "n/e/w"), "n/e/w")
			check(t, os.RemoveAll(filepath.Join(dir, "n")))
			if got := until(t, tree, dir, "n"); !slices.Contains(got, "n/e/w gone") {
				t.Errorf("%q", got)
			}
		})
	}
}

// What the kernel has dropped is found by looking at all of it.
func TestLostEvents(t *testing.T) {
	dir := t.TempDir()
	for i := range 20 {
		write(t, dir, fmt.Sprintf("d%d/a", i), "1")
	}
	tree, err := Open(t.Context(), Options{Roots: []string{dir}})
	check(t, err)
	// More than the kernel keeps, before anybody reads.
	text, err := os.ReadFile("/proc/sys/fs/inotify/max_queued_events")
	check(t, err)
	var most int
	_, err = fmt.Sscan(string(text), &most)
	check(t, err)
	for i := range most + 10 {
		check(t, os.Chmod(filepath.Join(dir, "d0/a"), os.FileMode(0o600+i%2)))
		check(t, os.Chmod(filepath.Join(dir, "d1/a"), os.FileMode(0o600+i%2)))
	}
	write(t, dir, "d7/new/x", "1")
	check(t, os.RemoveAll(filepath.Join(dir, "d9")))
	run(t, tree)
	got := until(t, tree, dir, "d7/new/x")
	if !slices.Contains(got, "d9/a gone") {
		t.Errorf("%q", got)
	}
	write(t, dir, "d7/new/x", "2")
	if got := until(t, tree, dir, "d7/new/x"); !slices.Contains(got, "d7/new/x") {
		t.Errorf("%q", got)
	}
}

func TestASwitchOfBranchesIsOneBatch(t *testing.T) {
	dir := t.TempDir()
	check(t, os.Mkdir(filepath.Join(dir, ".git"), 0o755))
	write(t, dir, "src/a", "1")
	tree := watched(t, Options{Roots: []string{filepath.Join(dir, "src")}})
	lock := filepath.Join(dir, ".git/index.lock")
	write(t, dir, ".git/index.lock", "")
	write(t, dir, "src/first", "1")
	// Longer than a batch of one would wait.
	select {
	case c := <-tree.Changes():
		t.Errorf("a change while git is at work: %v", c)
	case <-time.After(2 * quietest):
	}
	write(t, dir, "src/last", "1")
	check(t, os.Remove(lock))
	expect(t, until(t, tree, dir, "src/last"), "src/first", "src/last")
}
