package engine

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/engine/seccomp"
	"github.com/stack-run/stack/netns"
)

// schemaVersion is Container.Version of records this engine writes.
const schemaVersion = 1

// lostExitCode stands for an exit code that nobody could keep, as in Docker.
const lostExitCode = 255

// ErrNotFound says that no container has a name or ID.
var ErrNotFound = errors.New("no such container")

// Records reads and writes the containers' files. It has no cache: what it
// returns is what the files say now.
type Records struct {
	data, run string
}

// NewRecords opens the records below the two roots.
func NewRecords(dataRoot, runRoot string) *Records {
	return &Records{data: dataRoot, run: runRoot}
}

// DataDir and RunDir are a container's two directories.
func (r *Records) DataDir(id string) string { return filepath.Join(r.data, "containers", id) }
func (r *Records) RunDir(id string) string  { return filepath.Join(r.run, "containers", id) }

func (r *Records) namePath(name string) string { return filepath.Join(r.data, "names", name) }

// NewID returns a fresh container ID, 64 hex digits.
func NewID() string {
	var b [32]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// Insert writes the record of a new container and takes its name.
func (r *Records) Insert(c *Container) error {
	c.Version = schemaVersion
	if err := os.MkdirAll(filepath.Join(r.data, "names"), 0o700); err != nil {
		return err
	}
	if err := os.MkdirAll(r.DataDir(c.ID), 0o700); err != nil {
		return fmt.Errorf("cannot create container %s: %w", c.Spec.Name, err)
	}
	if err := r.takeName(c.Spec.Name, c.ID); err != nil {
		os.RemoveAll(r.DataDir(c.ID))
		return err
	}
	err := r.writeConfig(c)
	if err == nil {
		err = r.SaveState(c)
	}
	if err != nil {
		return errors.Join(err, r.Delete(c))
	}
	return nil
}

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

// takeName binds a name to an ID. A name whose container is gone is free.
func (r *Records) takeName(name, id string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	for {
		err := os.Symlink(id, r.namePath(name))
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
		holder, err := os.Readlink(r.namePath(name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if holder == id {
			return nil
		}
		if _, err := os.Stat(r.DataDir(holder)); err == nil {
			return fmt.Errorf("cannot create container %q: the name is in use by container %s; remove that container (stack container rm %s) or choose another name", name, holder[:12], name)
		}
		// Rename over a link is atomic; the loser of a race finds the winner's next.
		tmp := r.namePath("." + id)
		os.Remove(tmp)
		if err := os.Symlink(id, tmp); err != nil {
			return err
		}
		if err := os.Rename(tmp, r.namePath(name)); err != nil {
			return err
		}
	}
}

// Rename gives a container another name.
func (r *Records) Rename(c *Container, name string) error {
	if name == c.Spec.Name {
		return nil
	}
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
		return errors.Join(err, os.Remove(r.namePath(name)))
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
	return ignoreNotExist(os.Remove(r.namePath(name)))
}

// writeConfig writes the fixed part. Secrets go to the run directory, which is
// memory, and never to a disk.
func (r *Records) writeConfig(c *Container) error {
	stored := *c
	secrets := map[string][]byte{}
	stored.Spec.Mounts = slices.Clone(c.Spec.Mounts)
	for i := range stored.Spec.Mounts {
		if m := &stored.Spec.Mounts[i]; m.Secret && m.Content != nil {
			secrets[m.Target], m.Content = m.Content, nil
		}
	}
	if len(secrets) > 0 {
		if err := os.MkdirAll(r.RunDir(c.ID), 0o711); err != nil {
			return err
		}
		if err := WriteFile(filepath.Join(r.RunDir(c.ID), "secrets.json"), secrets, false); err != nil {
			return err
		}
	}
	// A container that removes itself is not missed after a power failure.
	return WriteFile(filepath.Join(r.DataDir(c.ID), "config.json"), &stored, !c.Spec.AutoRemove)
}

// Secrets returns the contents of the container's secrets by mount target, as
// far as they are known since the boot.
func (r *Records) Secrets(id string) map[string][]byte {
	out := map[string][]byte{}
	readJSON(filepath.Join(r.RunDir(id), "secrets.json"), &out)
	return out
}

// SaveConfig writes the record again after a change of its fixed part.
func (r *Records) SaveConfig(c *Container) error { return r.writeConfig(c) }

// SaveState writes the state for the time of this boot.
func (r *Records) SaveState(c *Container) error {
	dir := r.RunDir(c.ID)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	c.State.BootID = bootID()
	return WriteFile(filepath.Join(dir, "state.json"), &c.State, false)
}

// SaveFinal writes the state where a reboot does not lose it.
func (r *Records) SaveFinal(c *Container) error {
	if err := r.SaveState(c); err != nil || c.Spec.AutoRemove {
		return err
	}
	final := c.State
	final.Endpoint, final.Pid, final.StartTicks = nil, 0, 0
	return WriteFile(filepath.Join(r.DataDir(c.ID), "final.json"), &final, true)
}

// SaveStarted writes the state of a container that was started just now, also
// where the next boot finds it. That copy is not synced: if a power failure
// takes it, the container counts as never started.
func (r *Records) SaveStarted(c *Container) error {
	if err := r.SaveState(c); err != nil {
		return err
	}
	final := c.State
	final.Endpoint, final.Pid, final.StartTicks = nil, 0, 0
	return WriteFile(filepath.Join(r.DataDir(c.ID), "final.json"), &final, false)
}

// Delete removes the record and its name. It is the last step of a removal.
func (r *Records) Delete(c *Container) error {
	return errors.Join(
		os.RemoveAll(r.RunDir(c.ID)),
		r.dropName(c.Spec.Name, c.ID),
		os.RemoveAll(r.DataDir(c.ID)),
	)
}

// Read returns the record with exactly this ID.
func (r *Records) Read(id string) (*Container, error) {
	var c Container
	if err := readJSON(filepath.Join(r.DataDir(id), "config.json"), &c); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w: %s", ErrNotFound, id)
		}
		return nil, err
	}
	if c.Version > schemaVersion {
		return nil, fmt.Errorf("cannot read container %s: its record has version %d, this stack knows %d; use the newer stack that made it", id, c.Version, schemaVersion)
	}
	c.State = r.readState(id)
	return &c, nil
}

func (r *Records) readState(id string) State {
	var s State
	if readJSON(filepath.Join(r.RunDir(id), "state.json"), &s) == nil && s.BootID == bootID() {
		return s
	}
	s = State{Phase: Created}
	readJSON(filepath.Join(r.DataDir(id), "final.json"), &s)
	if s.Phase == Running || s.Phase == Paused || s.Phase == Restarting {
		// It did not survive the boot, and nobody was there to see how it ended.
		s.Phase, s.ExitCode, s.Error = Exited, lostExitCode, "the host stopped while the container ran"
		if s.FinishedAt = bootTime(); s.FinishedAt.Before(s.StartedAt) {
			s.FinishedAt = s.StartedAt // the clock was set meanwhile
		}
	}
	return s
}

// IDs lists the IDs of all containers.
func (r *Records) IDs() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(r.data, "containers"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var ids []string
	for _, e := range entries {
		if len(e.Name()) == 64 {
			ids = append(ids, e.Name())
		}
	}
	return ids, err
}

// List returns all containers, those that vanish meanwhile left out, ordered by
// project, service, number, creation.
func (r *Records) List() ([]*Container, error) {
	ids, err := r.IDs()
	if err != nil {
		return nil, err
	}
	var out []*Container
	for _, id := range ids {
		c, err := r.Read(id)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b *Container) int {
		if n := strings.Compare(a.Project, b.Project); n != 0 {
			return n
		}
		if n := strings.Compare(a.Service, b.Service); n != 0 {
			return n
		}
		if a.Index != b.Index {
			return a.Index - b.Index
		}
		return a.Created.Compare(b.Created)
	})
	return out, nil
}

// Find returns the container with this name, ID or unambiguous ID prefix.
func (r *Records) Find(ref string) (*Container, error) {
	ref = strings.TrimPrefix(ref, "/")
	if ref == "" || strings.ContainsRune(ref, '/') {
		return nil, fmt.Errorf("%w: %q", ErrNotFound, ref)
	}
	if id, err := os.Readlink(r.namePath(ref)); err == nil {
		if c, err := r.Read(id); err == nil {
			return c, nil
		}
	}
	ids, err := r.IDs()
	if err != nil {
		return nil, err
	}
	var found []string
	for _, id := range ids {
		if strings.HasPrefix(id, ref) {
			found = append(found, id)
		}
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("%w: %s", ErrNotFound, ref)
	case 1:
		return r.Read(found[0])
	}
	return nil, fmt.Errorf("cannot tell which container %q means: %d IDs begin so; give more digits", ref, len(found))
}

// bootTime is when this boot began: what ran in an earlier one ended before.
var bootTime = sync.OnceValue(func() time.Time {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return time.Time{}
	}
	return time.Now().UTC().Add(-time.Duration(info.Uptime) * time.Second).Truncate(time.Second)
})

// bootID tells one boot of the machine from the next, random(4).
var bootID = sync.OnceValue(func() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
})

// WriteFile stores v as JSON: a temporary file in the same directory, then
// rename, so that a reader sees the old or the new content. With durable it
// also survives a power failure: the file is synced before, the directory after.
func WriteFile(path string, v any, durable bool) (err error) {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("cannot encode %s: %w", path, err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ignoreNotExist(os.Remove(f.Name())))
		}
	}()
	_, err = f.Write(append(data, '\n'))
	if err == nil && durable {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil || !durable {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func readJSON(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("cannot read %s: %w", path, err)
	}
	return nil
}

func ignoreNotExist(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// saveFilter keeps the seccomp filter that a container runs under, nil for none,
// for the execs to come.
func (r *Records) saveFilter(id string, f *seccomp.Filter) error {
	return os.WriteFile(filepath.Join(r.RunDir(id), "seccomp"), f.Encode(), 0o600)
}

// filter returns what saveFilter kept.
func (r *Records) filter(id string) (*seccomp.Filter, error) {
	b, err := os.ReadFile(filepath.Join(r.RunDir(id), "seccomp"))
	if err != nil {
		return nil, err
	}
	return seccomp.Decode(b)
}
