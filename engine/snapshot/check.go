package snapshot

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/engine/content"
	"github.com/stack-run/stack/internal/durable"
	"github.com/stack-run/stack/internal/lock"
)

// Problem is one thing that Check found wrong.
type Problem struct {
	Kind    string // "layer", "stack", "container" or "build layer"
	Subject string // a diff ID, or a name
	Err     error
	// Containers are the IDs of those that have the layer.
	Containers []string
	// Repaired tells what was done, "" for nothing.
	Repaired string
}

func (p Problem) String() string { return fmt.Sprintf("%s %s: %v", p.Kind, p.Subject, p.Err) }

// CheckOptions say how Check works.
type CheckOptions struct {
	// Repair unpacks again what is wrong, except what a running container has.
	Repair bool
	// Running tells whether a container's files are mounted.
	Running func(containerID string) bool
	// Read is told how many bytes of blobs were read, from several goroutines.
	Read func(n int64)
}

// Check unpacks the archives of those layers that are unpacked a second time, to
// a temporary place, and compares the two trees byte by byte; and that each
// stack, each container, and whom layers are lent to, has its layers. The error is for Check itself
// having failed. A layer whose archive is corrupt or missing cannot be compared
// and is left out: whoever checks the archives reports it.
func (s *Store) Check(ctx context.Context, layers []content.Layer, blobs *content.Store, opts CheckOptions) ([]Problem, error) {
	c := layerCheck{s: s, blobs: blobs, opts: opts}
	seen := make(map[string]bool)
	var todo []content.Layer
	for _, l := range layers {
		if l.DiffID.Validate() == nil && !seen[l.DiffID.Encoded()] && s.unpacked(l.DiffID) {
			seen[l.DiffID.Encoded()] = true
			todo = append(todo, l)
		}
	}
	slices.SortFunc(todo, func(a, b content.Layer) int { return cmp.Compare(b.Size, a.Size) })
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(max(2, runtime.NumCPU()))
	for _, l := range todo {
		group.Go(func() error {
			if err := c.layer(groupCtx, l); err != nil {
				return fmt.Errorf("cannot check layer %s: %w", short(l.DiffID.Encoded()), err)
			}
			if opts.Read != nil {
				opts.Read(l.Size)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	slices.SortFunc(c.problems, func(a, b Problem) int { return strings.Compare(a.Subject, b.Subject) })
	if err := c.containers(ctx, layers); err != nil {
		return nil, err
	}
	if err := c.lent(); err != nil {
		return nil, err
	}
	return c.problems, c.stacks(ctx)
}

// layerCheck is one run of Check.
type layerCheck struct {
	s        *Store
	blobs    *content.Store
	opts     CheckOptions
	mu       sync.Mutex
	problems []Problem
}

func (c *layerCheck) note(p Problem) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.problems = append(c.problems, p)
}

// layer compares one layer with its archive.
func (c *layerCheck) layer(ctx context.Context, l content.Layer) error {
	s, name := c.s, "check-"+l.DiffID.Encoded()
	held, err := lock.Exclusive(ctx, filepath.Join(s.layers, "locks", name), lock.Patiently())
	if err != nil {
		return err
	}
	defer held.Remove()
	tmp := filepath.Join(s.layers, "tmp", name)
	defer removeTree(tmp)
	if err := removeTree(tmp); err != nil {
		return err
	}
	blob, err := c.blobs.Reader(l.Digest)
	if errors.Is(err, content.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer blob.Close()
	if err := s.unpackTo(ctx, tmp, l.DiffID, blob); err != nil {
		if ctx.Err() == nil && errors.Is(c.blobs.Verify(ctx, l.Digest), content.ErrCorrupt) {
			return nil
		}
		return err
	}
	_, unknown := s.Layer(l.DiffID)
	differs := compareTrees(ctx, filepath.Join(tmp, "fs"), filepath.Join(s.layerDir(l.DiffID), "fs"), ".", s.xattr)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if differs == nil && unknown == nil || !s.unpacked(l.DiffID) { // removed meanwhile
		return nil
	}
	p := Problem{Kind: "layer", Subject: l.DiffID.String(), Err: cmp.Or(differs, unknown)}
	switch {
	case !c.opts.Repair:
	case differs == nil:
		p.Repaired, err = c.describe(ctx, tmp, l.DiffID.Encoded())
	default:
		p.Repaired, err = c.replace(ctx, tmp, l.DiffID.Encoded())
	}
	if err != nil {
		return err
	}
	if p.Containers, err = s.usersOf(l.DiffID.Encoded()); err != nil {
		return err
	}
	c.note(p)
	return nil
}

// describe gives the layer name, whose files are right, what is known about that
// in tmp. Containers do not notice.
func (c *layerCheck) describe(ctx context.Context, tmp, name string) (string, error) {
	held, err := lock.Exclusive(ctx, c.s.lockPath(), lock.Patiently())
	if err != nil {
		return "", err
	}
	defer held.Unlock()
	data, err := os.ReadFile(filepath.Join(tmp, infoFile))
	if err != nil {
		return "", err
	}
	err = durable.Write(filepath.Join(c.s.layers, name, infoFile), data, 0o600)
	if errors.Is(err, os.ErrNotExist) { // removed meanwhile
		return "", nil
	}
	return "described again", err
}

// replace puts the layer in tmp in the place of the layer name, unless a running
// container has that. It returns what it did.
func (c *layerCheck) replace(ctx context.Context, tmp, name string) (string, error) {
	held, err := lock.Exclusive(ctx, c.s.lockPath(), lock.Patiently())
	if err != nil {
		return "", err
	}
	defer held.Unlock()
	busy := func() (bool, error) {
		users, err := c.s.usersOf(name)
		return c.opts.Running != nil && slices.ContainsFunc(users, c.opts.Running), err
	}
	if no, err := busy(); err != nil || no {
		return "", err
	}
	if err := syncTree(tmp); err != nil {
		return "", err
	}
	exchange := func() error {
		return unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, filepath.Join(c.s.layers, name), unix.RENAME_EXCHANGE)
	}
	if err := exchange(); err != nil {
		return "", err
	}
	// A container that was started in between has the old one mounted, which
	// must not be deleted under it.
	if no, err := busy(); err != nil || no {
		return "", errors.Join(err, exchange())
	}
	// What was derived from the old one may be wrong too.
	used, err := c.s.used(CollectOptions{})
	if err != nil {
		return "", err
	}
	fixes, err := c.s.removeStacks(map[string]bool{name: true})
	if err != nil {
		return "", err
	}
	for _, fix := range fixes {
		if !used[fix] {
			if err := c.s.removeDir(ctx, fix); err != nil {
				return "", err
			}
		}
	}
	return "unpacked again", durable.SyncDir(c.s.layers)
}

// usersOf returns the IDs of the containers that have the layer directory name.
func (s *Store) usersOf(name string) ([]string, error) {
	var ids []string
	err := s.eachContainer(func(id string, dirs []string) error {
		if slices.Contains(dirs, name) {
			ids = append(ids, id)
		}
		return nil
	})
	return ids, err
}

// containers looks for containers that lack a layer.
func (c *layerCheck) containers(ctx context.Context, layers []content.Layer) error {
	return c.s.eachContainer(func(id string, dirs []string) error {
		for _, name := range dirs {
			if _, err := os.Lstat(c.s.dirPath(name)); !errors.Is(err, os.ErrNotExist) {
				continue
			}
			p := Problem{Kind: "container", Subject: short(id), Containers: []string{id}, Err: fmt.Errorf("its layer %s is missing", short(name))}
			i := slices.IndexFunc(layers, func(l content.Layer) bool { return l.DiffID.Encoded() == name })
			if c.opts.Repair && i >= 0 {
				if err := c.s.unpackAll(ctx, layers[i:i+1], c.blobs); err == nil {
					p.Repaired = "unpacked again"
				}
			}
			c.note(p)
		}
		return nil
	})
}

// lent looks for links to layers that are missing.
func (c *layerCheck) lent() error {
	return c.s.eachLent(func(link, name string) error {
		if _, err := os.Stat(link); !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if _, err := os.Lstat(link); errors.Is(err, os.ErrNotExist) {
			return nil // taken away just now
		}
		c.note(Problem{Kind: "build layer", Subject: short(name), Err: errors.New("the build cache needs it and it is missing; \"stack builder prune --all\" empties the build cache")})
		return nil
	})
}

// stacks looks for stacks that cannot be read or that lack a layer.
func (c *layerCheck) stacks(ctx context.Context) error {
	held, err := lock.Exclusive(ctx, c.s.lockPath(), lock.Patiently())
	if err != nil {
		return err
	}
	defer held.Unlock()
	dir := filepath.Join(c.s.layers, "stacks")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("cannot list layer stacks: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if durable.IsTemp(e.Name()) {
			if c.opts.Repair {
				os.Remove(path)
			}
			continue
		}
		err := c.s.checkStack(path)
		if err == nil {
			continue
		}
		p := Problem{Kind: "stack", Subject: short(e.Name()), Err: err}
		if c.opts.Repair {
			if err := os.Remove(path); err != nil {
				return err
			}
			p.Repaired = "removed"
		}
		c.note(p)
	}
	return nil
}

func (s *Store) checkStack(path string) error {
	var st stack
	data, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(data, &st)
	}
	if err == nil && s.stackPath(chainID(st.DiffIDs)) != path {
		err = errors.New("it is not the stack that its name says")
	}
	if err != nil {
		return err
	}
	for _, name := range st.Dirs {
		if _, err := os.Lstat(s.dirPath(name)); err != nil {
			return fmt.Errorf("its layer %s is missing", short(name))
		}
	}
	return nil
}

// Leftovers returns how many directories killed processes left, and their bytes.
func (s *Store) Leftovers(ctx context.Context) (count int, bytes int64, err error) {
	err = s.eachLeftover(func(path string) error {
		n, err := diskUsage(ctx, path)
		count++
		bytes += n
		return err
	})
	return count, bytes, err
}

// Tidy removes the leftovers.
func (s *Store) Tidy() error { return s.removeLeftovers() }
