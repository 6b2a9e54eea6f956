package engine

import (
	"cmp"
	"encoding/base64"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/stack-run/stack/engine/cgroup"
)

// ownParent is the cgroup that containers are in which ask for no other.
func (e *Engine) ownParent() string { return "stack-" + e.instance }

// cgroupPath is the container's cgroup below each hierarchy's root.
func (e *Engine) cgroupPath(c *Container) string {
	parent := c.Spec.Isolation.CgroupParent
	if parent == "" {
		parent = e.ownParent()
	}
	return filepath.Join("/", parent, c.ID)
}

// Tidy removes what is shared by the containers of this instance and empty now.
func (e *Engine) Tidy() error {
	groups, err := e.Cgroups()
	if err != nil {
		return err
	}
	return groups.RemoveEmpty(e.ownParent())
}

// A parent that the user names (cgroup_parent) may be there, such as a slice of
// systemd's, and stays then. What has to be made of it goes with the last
// container in it: a file in the run root lists the directories.

func (e *Engine) parentNote(parent string) string {
	return filepath.Join(e.run, "cgroup-parents", base64.RawURLEncoding.EncodeToString([]byte(parent)))
}

// notedParent is the parent that a note of the name is about.
func notedParent(name string) (string, bool) {
	parent, err := base64.RawURLEncoding.DecodeString(name)
	return string(parent), err == nil
}

// noteParent is called before a group is made at path, and what it returns after
// that: a note that is written first might be taken away by who leaves the parent.
func (e *Engine) noteParent(groups *cgroup.Hierarchy, path string) (made func() error, err error) {
	parent := strings.Trim(filepath.Dir(path), "/")
	if parent == "" || parent == e.ownParent() {
		return func() error { return nil }, nil
	}
	missing, err := groups.Missing(parent)
	return func() error {
		if len(missing) == 0 {
			return nil
		}
		note := e.parentNote(parent)
		if err := os.MkdirAll(filepath.Dir(note), 0o700); err != nil {
			return err
		}
		// Another container may have come first and made a part of it.
		if have, err := os.ReadFile(note); err == nil {
			missing = slices.Concat(missing, strings.Split(string(have), "\n"))
			slices.SortFunc(missing, func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) }) // children first
			missing = slices.Compact(missing)
		}
		return os.WriteFile(note, []byte(strings.Join(missing, "\n")), 0o600)
	}, err
}

// dropParent is called after a group at path was deleted.
func (e *Engine) dropParent(path string) error {
	note := e.parentNote(strings.Trim(filepath.Dir(path), "/"))
	made, err := os.ReadFile(note)
	if err != nil {
		return nil //nolint:nilerr // it is not of our making
	}
	gone, err := cgroup.RemoveDirs(strings.Split(string(made), "\n"))
	if err != nil || !gone {
		return err
	}
	err = ignoreNotExist(os.Remove(note))
	os.Remove(filepath.Dir(note)) // fails while there are other notes
	return err
}
