package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/internal/lock"
	"github.com/stack-run/stack/netns"
)

// A container's name is a symbolic link to its ID, so that symlink(2) decides who
// gets it. A link is stale if its container does not exist, or has another name in
// its record. Stale links are removed under the lock of the names' directory:
// otherwise who found it stale could remove the one that was made meanwhile.

// maxName leaves room for what is put before and after a name in file names.
const maxName = 200

// CheckName refuses what cannot be a container's name, by Docker's rule: letters,
// digits and "_.-", the first a letter or digit.
func CheckName(name string) error {
	ok := name != "" && len(name) <= maxName
	for i, c := range []byte(name) {
		alphanumeric := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		ok = ok && (alphanumeric || i > 0 && strings.IndexByte("_.-", c) >= 0)
	}
	if !ok {
		return fmt.Errorf("invalid container name %q: it must be [a-zA-Z0-9][a-zA-Z0-9_.-]*, at most %d characters", name, maxName)
	}
	return nil
}

var errNameInUse = errors.New("the container name is already in use")

// takeName binds a name to an ID. A stale name is free.
func (r *Records) takeName(name, id string) error {
	for {
		r.before("take name")
		err := os.Symlink(id, r.namePath(name))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			err = os.MkdirAll(filepath.Dir(r.namePath(name)), 0o700)
		case errors.Is(err, fs.ErrExist):
			if holder, linkErr := os.Readlink(r.namePath(name)); linkErr == nil && holder == id {
				return nil
			}
			err = r.freeName(name)
		case err == nil:
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot create container %q: %w", name, err)
		}
	}
}

// freeName removes a stale name. The error tells who has one that is not.
func (r *Records) freeName(name string) error {
	held, err := lock.Exclusive(context.Background(), filepath.Dir(r.namePath(name)), lock.Dir(), lock.Of("the names of the containers"))
	if err != nil {
		return err
	}
	defer held.Unlock()
	holder, stale, err := r.stale(name)
	switch {
	case err != nil:
		return ignoreNotExist(err)
	case stale:
		r.before("free name")
		return os.RemoveAll(r.namePath(name))
	}
	var broken *Broken
	if _, err := r.Read(holder); errors.As(err, &broken) {
		return fmt.Errorf("%w: %w", errNameInUse, broken)
	}
	return fmt.Errorf("%w by container %s; remove that container (stack container rm %s) or choose another name", errNameInUse, holder[:12], name)
}

// stale tells whether a name leads to no container, or to one that calls itself
// otherwise. It is to be asked again under the lock of the names.
func (r *Records) stale(name string) (holder string, stale bool, err error) {
	holder, err = os.Readlink(r.namePath(name))
	if errors.Is(err, unix.EINVAL) || err == nil && !isID(holder) {
		return "", true, nil // it is no link, or not of ours
	}
	if err != nil {
		return "", false, err
	}
	if !r.Exists(holder) {
		return holder, true, nil
	}
	if c, err := r.Read(holder); err != nil || c.Spec.Name == name {
		return holder, false, nil //nolint:nilerr // of a broken record every name is believed
	}
	// Unless it is being renamed.
	renaming, free, err := lock.TryShared(r.DataDir(holder), lock.Dir())
	if err != nil || !free {
		return holder, false, ignoreNotExist(err)
	}
	defer renaming.Unlock()
	c, err := r.Read(holder)
	return holder, err == nil && c.Spec.Name != name, nil
}

// Rename gives a container another name.
func (r *Records) Rename(c *Container, name string) error {
	if name == c.Spec.Name {
		return nil
	}
	if err := CheckName(name); err != nil {
		return err
	}
	// Under this lock a container may have two names.
	held, err := lock.Exclusive(context.Background(), r.DataDir(c.ID), lock.Dir())
	if err != nil {
		return fmt.Errorf("cannot rename container %s: %w", c.Spec.Name, err)
	}
	defer held.Unlock()
	if err := r.takeName(name, c.ID); err != nil {
		return err
	}
	old := c.Spec.Name
	c.Spec.Name = name
	c.Spec.Network = renamed(c.Spec.Network, old, name)
	if ep := c.State.Endpoint; ep != nil {
		changed := *ep
		changed.Spec = renamed(ep.Spec, old, name)
		c.State.Endpoint = &changed
	}
	if err := r.writeConfig(c); err != nil {
		c.Spec.Name = old
		return errors.Join(err, r.dropName(name, c.ID))
	}
	return r.dropName(old, c.ID)
}

// renamed is an endpoint's specification whose container has another name.
func renamed(s netns.EndpointSpec, old, name string) netns.EndpointSpec {
	s.Names = slices.Clone(s.Names)
	for i := range s.Names {
		if s.Names[i] == old {
			s.Names[i] = name
		}
	}
	return s
}

func (r *Records) dropName(name, id string) error {
	if holder, err := os.Readlink(r.namePath(name)); err != nil || holder != id {
		return nil
	}
	r.before("drop name")
	return ignoreNotExist(os.Remove(r.namePath(name)))
}
