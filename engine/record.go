package engine

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/engine/seccomp"
	"github.com/stack-run/stack/internal/durable"
	"github.com/stack-run/stack/internal/lock"
)

// schemaVersion is Container.Version of records this engine writes.
const schemaVersion = 1

// lostExitCode stands for an exit code that nobody could keep, as in Docker.
const lostExitCode = 255

// ErrNotFound says that no container has a name or ID.
var ErrNotFound = errors.New("no such container")

// Records reads and writes the containers' files. It has no cache: what it
// returns is what the files say now.
//
// A container exists from when its config.json is there until that is removed,
// which is the first step of [Records.Delete]. A directory without one belongs to
// who makes it just now, and holds its lock, or to nobody: then it, and a name
// that leads to it, are free. So whatever process is killed, and wherever, no name
// is lost.
type Records struct {
	data, run string
	// warn is told of records that cannot be read, nil for nobody.
	warn func(format string, args ...any)
	// facts completes the state of a container whose file of state is lost or
	// broken by what the kernel knows, nil for nothing.
	facts func(*Container) (running State, ok bool)
	// step is called before each change of the files: tests end the process there.
	step func(what string)
}

// NewRecords opens the records below the two roots.
func NewRecords(dataRoot, runRoot string) *Records {
	return &Records{data: dataRoot, run: runRoot}
}

func (r *Records) before(what string) {
	if r.step != nil {
		r.step(what)
	}
}

// DataDir and RunDir are a container's two directories.
func (r *Records) DataDir(id string) string { return filepath.Join(r.data, "containers", id) }
func (r *Records) RunDir(id string) string  { return filepath.Join(r.run, "containers", id) }

// LogDir is the directory of a container's log (package logs).
func (r *Records) LogDir(id string) string { return filepath.Join(r.data, "logs", id) }

func (r *Records) namePath(name string) string  { return filepath.Join(r.data, "names", name) }
func (r *Records) configPath(id string) string  { return filepath.Join(r.DataDir(id), "config.json") }
func (r *Records) finalPath(id string) string   { return filepath.Join(r.DataDir(id), "final.json") }
func (r *Records) statePath(id string) string   { return filepath.Join(r.RunDir(id), "state.json") }
func (r *Records) sealedPath(id string) string  { return filepath.Join(r.DataDir(id), "sealed.json") }
func (r *Records) secretsPath(id string) string { return filepath.Join(r.RunDir(id), "secrets.json") }

// NewID returns a fresh container ID, 64 hex digits.
func NewID() string { return newID(rand.Reader) }

func newID(random io.Reader) string {
	for {
		var b [idDigits / 2]byte
		_, _ = io.ReadFull(random, b[:]) // crypto/rand.Reader never fails
		// Its beginning is the container's host name, and one of decimal digits alone
		// is no name but an address, inet_aton(3).
		if id := hex.EncodeToString(b[:]); strings.ContainsAny(id[:hostnameDigits], "abcdef") {
			return id
		}
	}
}

// hostnameDigits is how much of a container's ID its host name is.
const hostnameDigits = 12

const idDigits = 64

// isID tells whether s looks like NewID's.
func isID(s string) bool {
	_, err := hex.DecodeString(s)
	return err == nil && len(s) == idDigits
}

// Insert writes the record of a new container and takes its name. Its log is there
// before the record: readers make none, for it could be that of one removed meanwhile.
func (r *Records) Insert(c *Container) error {
	c.Version = schemaVersion
	if err := CheckName(c.Spec.Name); err != nil {
		return err
	}
	making, err := r.makeDir(c.ID)
	if err != nil {
		return fmt.Errorf("cannot create container %s: %w", c.Spec.Name, err)
	}
	defer making.Unlock()
	if err := r.takeName(c.Spec.Name, c.ID); err != nil {
		return errors.Join(err, os.RemoveAll(r.DataDir(c.ID)))
	}
	r.before("make log")
	if err = os.MkdirAll(r.LogDir(c.ID), 0o700); err == nil {
		err = r.SaveState(c)
	}
	if err == nil {
		err = r.writeConfig(c) // the container exists from here on, and with its state
	}
	if err != nil {
		return errors.Join(err, r.Delete(c), ignoreNotExist(os.Remove(r.LogDir(c.ID))))
	}
	return nil
}

// makeDir makes a container's directory and locks it: without that, a directory
// that has no record yet is anybody's to remove.
func (r *Records) makeDir(id string) (*lock.Held, error) {
	dir := r.DataDir(id)
	for {
		r.before("make directory")
		err := os.Mkdir(dir, 0o700)
		if errors.Is(err, fs.ErrNotExist) {
			err = os.MkdirAll(dir, 0o700)
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		held, err := lock.Exclusive(context.Background(), dir, lock.Dir())
		if !errors.Is(err, fs.ErrNotExist) { // else it was swept before it was locked
			return held, err
		}
	}
}

// Exists tells whether a container has a record, readable or not, or gets one just
// now. What belongs to any other ID is nobody's.
func (r *Records) Exists(id string) bool {
	_, err := os.Lstat(r.configPath(id))
	if err == nil || !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
		return true
	}
	held, free, err := lock.TryShared(r.DataDir(id), lock.Dir()) // as others may who ask
	if err != nil {
		return false // there is not even a directory
	}
	if !free {
		return true
	}
	defer held.Unlock()
	_, err = os.Lstat(r.configPath(id))
	return err == nil
}

// writeConfig writes the fixed part. What must not reach a disk goes to the run
// directory, which is memory.
func (r *Records) writeConfig(c *Container) error {
	stored := *c
	secrets := map[string][]byte{}
	stored.Spec.Mounts = slices.Clone(c.Spec.Mounts)
	for i := range stored.Spec.Mounts {
		if m := &stored.Spec.Mounts[i]; m.Withheld() && m.Content != nil {
			secrets[m.Target], m.Content = m.Content, nil
		}
	}
	if len(secrets) > 0 {
		if err := os.MkdirAll(r.RunDir(c.ID), 0o711); err != nil {
			return err
		}
		if err := durable.WriteJSON(r.secretsPath(c.ID), secrets, durable.Volatile); err != nil {
			return err
		}
	}
	keep := durable.Synced
	if c.Spec.AutoRemove {
		keep = durable.Volatile // one that removes itself is not missed after a power failure
	}
	r.before("write record")
	return durable.WriteJSON(r.configPath(c.ID), &stored, keep)
}

// Secrets returns the contents that the record does not have by mount target, as far
// as they are known since the boot.
func (r *Records) Secrets(id string) map[string][]byte {
	out := map[string][]byte{}
	if durable.ReadJSON(r.secretsPath(id), &out) != nil {
		return nil // they are asked for where they come from
	}
	return out
}

// SaveConfig writes the record again after a change of its fixed part.
func (r *Records) SaveConfig(c *Container) error { return r.writeConfig(c) }

// stateFile is the content of the files of state. Who the container is stands
// there too, so that it can be told when its record cannot be read.
type stateFile struct {
	State
	Name    string `json:"name,omitempty"`
	Project string `json:"project,omitempty"`
	Service string `json:"service,omitempty"`
}

func newStateFile(c *Container, s State) *stateFile {
	return &stateFile{State: s, Name: c.Spec.Name, Project: c.Project, Service: c.Service}
}

// SaveState writes the state for the time of this boot.
func (r *Records) SaveState(c *Container) error {
	if err := os.MkdirAll(r.RunDir(c.ID), 0o700); err != nil {
		return err
	}
	c.State.BootID = bootID()
	r.before("write state")
	return durable.WriteJSON(r.statePath(c.ID), newStateFile(c, c.State), durable.Volatile)
}

// SaveFinal writes the state where a reboot does not lose it.
func (r *Records) SaveFinal(c *Container) error {
	if err := r.SaveState(c); err != nil || c.Spec.AutoRemove {
		return err
	}
	return r.saveFinal(c, durable.Synced)
}

// SaveStarted writes the state of a container that was started just now, also
// where the next boot finds it. That copy is not synced: a power failure may take
// it, and then the container counts as never started, or leave a part of it, which
// says that the container ran.
func (r *Records) SaveStarted(c *Container) error {
	// Both at once: a file system takes its time to make a file.
	c.State.BootID = bootID()
	own := *c
	state := make(chan error, 1)
	go func() { state <- r.SaveState(&own) }()
	return errors.Join(r.saveFinal(c, durable.Volatile), <-state)
}

func (r *Records) saveFinal(c *Container, keep durable.Keep) error {
	final := c.State
	final.Endpoint, final.Pid, final.StartTicks = nil, 0, 0
	return durable.WriteJSON(r.finalPath(c.ID), newStateFile(c, final), keep)
}

// Delete removes the record and its name. It is the last step of a removal.
func (r *Records) Delete(c *Container) error {
	return errors.Join(r.Forget(c), r.deleteDirs(c.ID))
}

// Forget deletes what makes a container exist, and its name. Its directories stay,
// which are nobody's then.
func (r *Records) Forget(c *Container) error {
	return errors.Join(r.forget(c.ID), r.dropName(c.Spec.Name, c.ID))
}

// forget removes what makes a container exist.
func (r *Records) forget(id string) error {
	r.before("forget")
	// RemoveAll: a damaged record may be anything.
	return os.RemoveAll(r.configPath(id))
}

func (r *Records) deleteDirs(id string) error {
	r.before("delete run directory")
	err := removeAll(r.RunDir(id))
	r.before("delete directory")
	return errors.Join(err, removeAll(r.DataDir(id)))
}

// removeAll is os.RemoveAll of a directory in which somebody may still write: the
// supervisor of a container notes its end also when the record is gone.
func removeAll(dir string) error {
	var err error
	for range 10 {
		if err = os.RemoveAll(dir); !errors.Is(err, unix.ENOTEMPTY) {
			break
		}
	}
	return err
}

// Read returns the record with exactly this ID. The error wraps ErrNotFound, or is
// a *Broken.
func (r *Records) Read(id string) (*Container, error) {
	var c Container
	err := durable.ReadVersioned(r.configPath(id), &c, &c.Version, schemaVersion)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, id)
	}
	if err == nil && c.ID != id {
		err = &durable.BrokenError{Path: r.configPath(id), Err: fmt.Errorf("it is of container %q", c.ID)}
	}
	if err != nil {
		return nil, r.broken(id, err)
	}
	c.State = r.readState(&c)
	return &c, nil
}

// readState returns what the file of state says, and if that is lost or broken,
// what can be known without it.
func (r *Records) readState(c *Container) State {
	var f stateFile
	err := durable.ReadJSON(r.statePath(c.ID), &f)
	if err == nil && f.BootID == bootID() {
		return f.State
	}
	if err != nil && durable.Broken(err) != nil {
		r.tell("container %s: %v; its state is taken from what the kernel knows", c.Spec.Name, err)
	}
	f = stateFile{}
	switch err := durable.ReadJSON(r.finalPath(c.ID), &f); {
	case err == nil:
	case durable.Broken(err) != nil: // half of what is written at a start, see SaveStarted
		f.State = State{Phase: Running}
	default:
		f.State = State{Phase: Created}
	}
	s := f.State
	if r.facts != nil {
		known := *c
		known.State = s
		if running, ok := r.facts(&known); ok {
			return running
		}
	}
	if s.Phase == Running || s.Phase == Paused || s.Phase == Restarting {
		// It did not survive, and nobody was there to see how it ended.
		s.Phase, s.ExitCode, s.Error = Exited, lostExitCode, "the host stopped while the container ran"
		s.FinishedAt = bootTime()
		if s.BootID == bootID() {
			s.Error = "the container ended after its state was lost"
		}
		if s.FinishedAt.Before(s.StartedAt) {
			s.FinishedAt = s.StartedAt // the clock was set meanwhile
		}
	}
	return s
}

// IDs lists the IDs of all containers' directories.
func (r *Records) IDs() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(r.data, "containers"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var ids []string
	for _, e := range entries {
		if isID(e.Name()) {
			ids = append(ids, e.Name())
		}
	}
	return ids, err
}

// List returns all containers, those that vanish meanwhile left out, ordered by
// project, service, number, creation. Broken records are left out, and told of.
func (r *Records) List() ([]*Container, error) {
	all, broken, err := r.Scan()
	for _, b := range broken {
		r.tell("%v", b)
	}
	return all, err
}

// Scan returns what List does, and the records that cannot be used.
func (r *Records) Scan() (all []*Container, broken []*Broken, err error) {
	ids, err := r.IDs()
	if err != nil {
		return nil, nil, fmt.Errorf("cannot list containers: %w", err)
	}
	for _, id := range ids {
		c, err := r.Read(id)
		var b *Broken
		switch {
		case err == nil:
			all = append(all, c)
		case errors.As(err, &b):
			broken = append(broken, b)
		}
	}
	slices.SortFunc(all, func(a, b *Container) int {
		return cmp.Or(
			strings.Compare(a.Project, b.Project), strings.Compare(a.Service, b.Service),
			a.Index-b.Index, a.Created.Compare(b.Created),
		)
	})
	return all, broken, nil
}

// Find returns the container with this name, ID or unambiguous ID prefix. The
// error wraps ErrNotFound, or is a *Broken.
func (r *Records) Find(ref string) (*Container, error) {
	ref = strings.TrimPrefix(ref, "/")
	if ref == "" || strings.ContainsRune(ref, '/') {
		return nil, fmt.Errorf("%w: %q", ErrNotFound, ref)
	}
	if id, err := os.Readlink(r.namePath(ref)); err == nil {
		if c, err := r.Read(id); !errors.Is(err, ErrNotFound) {
			return c, err
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
		if c := r.unlinked(ref, ids); c != nil {
			return c, nil
		}
		return nil, fmt.Errorf("%w: %s", ErrNotFound, ref)
	case 1:
		return r.Read(found[0])
	}
	return nil, fmt.Errorf("cannot tell which container %q means: %d IDs begin so; give more digits", ref, len(found))
}

// unlinked finds a container by the name in its record, which has lost its link.
func (r *Records) unlinked(name string, ids []string) *Container {
	if links, err := os.ReadDir(filepath.Join(r.data, "names")); err == nil && len(links) >= len(ids) {
		return nil
	}
	for _, id := range ids {
		if c, err := r.Read(id); err == nil && c.Spec.Name == name {
			return c
		}
	}
	return nil
}

func (r *Records) tell(format string, args ...any) {
	if r.warn != nil {
		r.warn(format, args...)
	}
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

// BootID tells one boot of the machine from the next.
func BootID() string { return bootID() }

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
