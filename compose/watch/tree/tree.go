// Package tree sees what changes in directories, inotify(7).
//
// It is not built on fsnotify, which does not tell when a file that is written is
// closed, which is when it is worth copying, and knows a directory that was
// renamed by its old name. Nor on fanotify(7): a mark on a file system, which
// alone needs no watch for each directory, wakes the reader for whatever anybody
// does anywhere on it, and is refused on some file systems.
//
// What an event says is only that a path is worth a look. What has become of it
// says the file system, compared with what was known: so a lost, merged or
// surplus event does no harm.
package tree

import (
	"context"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/compose/watch"
)

// Options of a tree.
type Options struct {
	// Roots are what is watched: absolute paths of directories and files, which
	// may come later.
	Roots []string
	// Prune tells that nothing in a directory is of interest, Skip that a file is
	// not.
	Prune, Skip func(name string) bool
	// Content tells whether what is in a file decides if it has changed. That
	// is read once, before anything changes.
	Content func(name string) bool
	// Scarce is told once when the kernel watches no more directories.
	Scarce func(error)
}

// Tree is what is known of the roots.
type Tree struct {
	o       Options
	in      *instance
	changes chan []watch.Change

	// The loop alone touches these.
	batch    watch.Batch
	all      bool // events were lost
	anchorGo bool // a directory that leads to a root is another
	locks    gitLocks

	mu      sync.Mutex // guards what follows
	watched map[string]*node
	byWD    map[int32]string
	known   map[string]map[string]entry // by directory and name
	scarce  bool
}

// node is a directory that is watched.
type node struct {
	wd int32 // below 0 where the kernel has no watch left: it is looked at now and then
}

// Open looks at the roots and begins to watch them.
func Open(ctx context.Context, o Options) (*Tree, error) { return open(ctx, o, newInstance) }

func open(ctx context.Context, o Options, instance func() (*instance, error)) (*Tree, error) {
	never := func(string) bool { return false }
	for _, f := range []*func(string) bool{&o.Prune, &o.Skip, &o.Content} {
		if *f == nil {
			*f = never
		}
	}
	t := &Tree{
		o: o, changes: make(chan []watch.Change),
		watched: map[string]*node{}, byWD: map[int32]string{}, known: map[string]map[string]entry{},
	}
	in, err := instance()
	if err != nil {
		if !isScarce(err) {
			return nil, err
		}
		t.lack(err)
	}
	t.in = in
	t.locks.find(o.Roots)
	all := map[string]watch.Sighting{}
	t.anchor(func(name string) { all[name] = watch.Complete })
	t.settle(all)
	return t, ctx.Err()
}

// Close ends the watching.
func (t *Tree) Close() error {
	if t.in == nil {
		return nil
	}
	return t.in.file.Close()
}

// Changes gets each batch, while Run runs.
func (t *Tree) Changes() <-chan []watch.Change { return t.changes }

// Watches is how many directories the kernel watches for us.
func (t *Tree) Watches() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.byWD)
}

// Paths are all that is known in a root, sorted, without what is pruned.
func (t *Tree) Paths(root string) []watch.Change {
	t.mu.Lock()
	defer t.mu.Unlock()
	e, ok := t.known[path.Dir(root)][path.Base(root)]
	if !ok {
		return nil
	}
	out := []watch.Change{{Path: root, Dir: e.dir()}}
	out = t.below(root, out, false)
	slices.SortFunc(out, func(a, b watch.Change) int { return strings.Compare(a.Path, b.Path) })
	return out
}

// below adds what is known in a directory.
func (t *Tree) below(dir string, out []watch.Change, gone bool) []watch.Change {
	for name, e := range t.known[dir] {
		child := path.Join(dir, name)
		out = append(out, watch.Change{Path: child, Dir: e.dir(), Gone: gone})
		if e.dir() {
			out = t.below(child, out, gone)
		}
	}
	return out
}

// within tells whether a path is in a root, leads whether a root is in it.
func (t *Tree) within(name string) bool {
	return slices.ContainsFunc(t.o.Roots, func(r string) bool { return watch.Below(r, name) })
}

func (t *Tree) leads(name string) bool {
	return slices.ContainsFunc(t.o.Roots, func(r string) bool { return r != name && watch.Below(name, r) })
}

// anchor watches what leads to the roots, and them: of each the nearest directory
// above that is there.
func (t *Tree) anchor(see func(string)) {
	for _, root := range t.o.Roots {
		dir := path.Dir(root)
		for dir != "/" {
			if st, err := os.Lstat(dir); err == nil && st.IsDir() {
				break
			}
			dir = path.Dir(dir)
		}
		if t.watched[dir] == nil {
			t.walk(dir, see)
		}
	}
}

// walk watches a directory and those in it, and sees all that is there. What is
// made meanwhile is either listed or told of: the watch comes first.
func (t *Tree) walk(dir string, see func(string)) {
	if !t.watch(dir) {
		return
	}
	f, err := os.Open(dir)
	if err != nil {
		return
	}
	list, _ := f.ReadDir(-1)
	f.Close()
	for _, d := range list {
		child := path.Join(dir, d.Name())
		within := t.within(child)
		if !within && !t.leads(child) {
			continue
		}
		see(child)
		if d.IsDir() && !(within && t.o.Prune(child)) {
			t.walk(child, see)
		}
	}
}

// watch has the kernel watch a directory.
func (t *Tree) watch(dir string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	wd := int32(-1)
	if t.in != nil {
		var err error
		if wd, err = t.in.add(dir); err != nil {
			if !isScarce(err) {
				return false // it is gone again, or none of ours to look into
			}
			t.lackLocked(err)
		}
	}
	if wd >= 0 {
		// It may have been renamed, with the event yet to come.
		t.byWD[wd] = dir
	}
	t.watched[dir] = &node{wd}
	return true
}

// forget ends watching a directory and what is in it.
func (t *Tree) forget(dir string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for name, n := range t.watched {
		if !watch.Below(dir, name) {
			continue
		}
		if n.wd >= 0 && t.byWD[n.wd] == name {
			t.in.remove(n.wd)
			delete(t.byWD, n.wd)
		}
		delete(t.watched, name)
	}
}

func (t *Tree) lack(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lackLocked(err)
}

func (t *Tree) lackLocked(err error) {
	if !t.scarce {
		t.scarce = true
		if t.o.Scarce != nil {
			t.o.Scarce(scarcity(err))
		}
	}
}

// Run tells of changes until ctx ends.
func (t *Tree) Run(ctx context.Context) error {
	defer close(t.changes)
	raw := make(chan []byte, 64)
	failed := make(chan error, 1)
	done := make(chan struct{})
	defer close(done)
	if t.in != nil {
		go func() { failed <- t.in.read(raw, done) }()
	}
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	var (
		pending []watch.Change
		wait    time.Time // not before then
		look    <-chan time.Time
		pace    = firstLook
	)
	arm := func() {
		if t.batch.Len() > 0 {
			timer.Reset(max(0, time.Until(t.batch.Due()), time.Until(wait)))
		}
		if t.isScarce() && look == nil {
			look = time.After(pace)
		}
	}
	for {
		arm()
		var out chan<- []watch.Change
		if len(pending) > 0 {
			out = t.changes
		}
		select {
		case b := <-raw:
			t.events(b)
			// More may be there by now, and belong to the same batch.
			for more := true; more; {
				select {
				case b := <-raw:
					t.events(b)
				default:
					more = false
				}
			}
		case <-look:
			began := time.Now()
			t.lookAgain()
			look, pace = nil, max(firstLook, 20*time.Since(began))
		case <-timer.C:
			now := time.Now()
			// Whoever acts on changes may not be through with the last.
			if len(pending) > 0 || t.locks.held(t.batch.First(), now) {
				wait = now.Add(again)
			} else if !now.Before(t.batch.Due()) {
				pending = t.flush()
			}
		case out <- pending:
			pending = nil
		case err := <-failed:
			if ctx.Err() != nil {
				return nil
			}
			return err
		case <-ctx.Done():
			return nil
		}
	}
}

const (
	again = 20 * time.Millisecond
	// firstLook is how often is looked at what the kernel does not watch, or more
	// seldom where that takes long.
	firstLook = time.Second
)

func (t *Tree) isScarce() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.scarce
}

// events takes what the kernel tells.
func (t *Tree) events(b []byte) {
	now := time.Now()
	see := func(name string) { t.batch.See(name, watch.Complete, now) }
	for e := range decode(b) {
		if e.mask&unix.IN_Q_OVERFLOW != 0 {
			t.all = true
			see(t.o.Roots[0])
			continue
		}
		t.mu.Lock()
		dir, ok := t.byWD[e.wd]
		if ok && e.mask&unix.IN_IGNORED != 0 {
			delete(t.byWD, e.wd)
			if n := t.watched[dir]; n != nil && n.wd == e.wd {
				delete(t.watched, dir)
			}
		}
		t.mu.Unlock()
		if !ok || e.mask&unix.IN_IGNORED != 0 {
			continue
		}
		if e.mask&(unix.IN_DELETE_SELF|unix.IN_MOVE_SELF|unix.IN_UNMOUNT) != 0 && !t.within(dir) {
			t.forget(dir)
			t.anchorGo = true
			see(t.o.Roots[0])
			continue
		}
		if e.name == "" {
			continue
		}
		name := path.Join(dir, e.name)
		within := t.within(name)
		if !within && !t.leads(name) {
			continue
		}
		if within && (e.mask&unix.IN_ISDIR != 0 && t.o.Prune(name) || e.mask&unix.IN_ISDIR == 0 && t.o.Skip(name)) {
			continue
		}
		switch {
		case e.mask&(unix.IN_DELETE|unix.IN_MOVED_FROM) != 0:
			if e.mask&unix.IN_ISDIR != 0 {
				t.forget(name)
			}
			sighting := watch.Complete
			if t.isKnown(name) {
				sighting = watch.Missing
			}
			t.batch.See(name, sighting, now)
		case e.mask&(unix.IN_CREATE|unix.IN_MOVED_TO) != 0 && e.mask&unix.IN_ISDIR != 0:
			see(name)
			t.walk(name, see)
		case e.mask&unix.IN_MODIFY != 0, e.mask&unix.IN_CREATE != 0 && isWritten(name):
			t.batch.See(name, watch.Open, now)
		default:
			see(name)
		}
	}
}

// isWritten tells whether a file that has just been made will be written and
// closed, which a link will not.
func isWritten(name string) bool {
	var st unix.Stat_t
	return unix.Lstat(name, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Nlink == 1
}

func (t *Tree) isKnown(name string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, ok := t.known[path.Dir(name)][path.Base(name)]
	return ok
}

// lookAgain sees what the kernel does not tell of.
func (t *Tree) lookAgain() {
	t.mu.Lock()
	var dirs []string
	for dir, n := range t.watched {
		if n.wd < 0 {
			dirs = append(dirs, dir)
		}
	}
	t.mu.Unlock()
	now := time.Now()
	for _, dir := range dirs {
		t.lookInto(dir, func(name string) { t.batch.See(name, watch.Complete, now) })
	}
}

// lookInto sees what differs in one directory from what is known of it.
func (t *Tree) lookInto(dir string, see func(string)) {
	list, err := os.ReadDir(dir)
	if err != nil {
		t.forget(dir)
		t.anchorGo = true
		see(dir)
		return
	}
	there := map[string]bool{}
	for _, d := range list {
		there[d.Name()] = true
		child := path.Join(dir, d.Name())
		within := t.within(child)
		if !within && !t.leads(child) {
			continue
		}
		st, err := look(child)
		t.mu.Lock()
		before, ok := t.known[dir][d.Name()]
		_, watched := t.watched[child]
		t.mu.Unlock()
		if err == nil && ok && before.stat == st {
			continue
		}
		see(child)
		if d.IsDir() && !watched && !(within && t.o.Prune(child)) {
			t.walk(child, see)
		}
	}
	t.mu.Lock()
	var gone []string
	for name := range t.known[dir] {
		if !there[name] {
			gone = append(gone, path.Join(dir, name))
		}
	}
	t.mu.Unlock()
	for _, name := range gone {
		t.forget(name)
		see(name)
	}
}

// flush says what has become of the batch.
func (t *Tree) flush() []watch.Change {
	paths := t.batch.Take()
	if paths == nil {
		paths = map[string]watch.Sighting{}
	}
	see := func(name string) { paths[name] = watch.Complete }
	if t.all || t.anchorGo {
		if t.all {
			// All that is known is looked at, and all that is there.
			t.mu.Lock()
			for dir, entries := range t.known {
				for name := range entries {
					see(path.Join(dir, name))
				}
			}
			t.watched = map[string]*node{}
			t.mu.Unlock()
		} else {
			for _, root := range t.o.Roots {
				see(root)
			}
		}
		t.all, t.anchorGo = false, false
		t.anchor(see)
	}
	return t.settle(paths)
}

// settle compares paths with what is known of them, which it brings up to date.
func (t *Tree) settle(paths map[string]watch.Sighting) []watch.Change {
	names := make([]string, 0, len(paths))
	for name := range paths {
		names = append(names, name)
	}
	slices.Sort(names)
	var out []watch.Change
	for _, name := range names {
		out = t.compare(name, out)
	}
	return out
}

// compare adds what has become of one path.
func (t *Tree) compare(name string, out []watch.Change) []watch.Change {
	now, err := look(name)
	dir, base := filepath.Split(name)
	dir = path.Clean(dir)
	t.mu.Lock()
	before, ok := t.known[dir][base]
	t.mu.Unlock()
	if err != nil {
		if !ok {
			return out
		}
		return t.gone(name, before, out)
	}
	next := entry{stat: now}
	if ok && before.dir() && !next.dir() {
		t.forget(name)
		t.mu.Lock()
		out = t.below(name, out, true)
		t.dropLocked(name)
		t.mu.Unlock()
	}
	if ok && before.stat == now {
		return out
	}
	change := watch.Change{Path: name, Dir: next.dir()}
	switch {
	case next.dir():
		change.Same = ok && before.dir()
		if change.Same && before.Mode == now.Mode {
			t.store(dir, base, next)
			return out // what is in it has been told by itself
		}
	case ok && before.Mode&unix.S_IFMT == now.Mode&unix.S_IFMT && before.sum != nil && t.o.Content(name):
		next.sum = sum(name)
		change.Same = next.sum != nil && *next.sum == *before.sum
		if change.Same && before.Mode == now.Mode {
			t.store(dir, base, next)
			return out
		}
	case t.o.Content(name):
		next.sum = sum(name)
	}
	t.store(dir, base, next)
	return append(out, change)
}

func (t *Tree) gone(name string, before entry, out []watch.Change) []watch.Change {
	t.mu.Lock()
	defer t.mu.Unlock()
	out = append(out, watch.Change{Path: name, Gone: true, Dir: before.dir()})
	if before.dir() {
		out = t.below(name, out, true)
		t.dropLocked(name)
	}
	delete(t.known[path.Dir(name)], path.Base(name))
	return out
}

// dropLocked forgets what was known in a directory.
func (t *Tree) dropLocked(dir string) {
	for name, e := range t.known[dir] {
		if e.dir() {
			t.dropLocked(path.Join(dir, name))
		}
	}
	delete(t.known, dir)
}

func (t *Tree) store(dir, base string, e entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.known[dir] == nil {
		t.known[dir] = map[string]entry{}
	}
	t.known[dir][base] = e
}

// Read reads what Options.Content asks for, so that a later change can be told
// from a touch. It may run beside Run.
func (t *Tree) Read(ctx context.Context) {
	t.mu.Lock()
	var names []string
	for dir, entries := range t.known {
		for base, e := range entries {
			if e.sum == nil && !e.dir() {
				names = append(names, path.Join(dir, base))
			}
		}
	}
	t.mu.Unlock()
	slices.Sort(names)
	for _, name := range names {
		if ctx.Err() != nil {
			return
		}
		if !t.o.Content(name) {
			continue
		}
		s := sum(name)
		after, err := look(name)
		t.mu.Lock()
		dir, base := path.Dir(name), path.Base(name)
		if e, ok := t.known[dir][base]; ok && err == nil && e.stat == after && e.sum == nil {
			e.sum = s
			t.known[dir][base] = e
		}
		t.mu.Unlock()
	}
}

// Look is what is known of a path now, as a change.
func (t *Tree) Look(name string) watch.Change {
	t.mu.Lock()
	defer t.mu.Unlock()
	e, ok := t.known[path.Dir(name)][path.Base(name)]
	return watch.Change{Path: name, Dir: e.dir(), Gone: !ok}
}
