package engine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/engine/runtime"
	"github.com/stack-run/stack/internal/lock"
)

// Which ranges of the host's user IDs are taken is in the run root: a directory
// "FIRST.KEY", or "FIRST:SIZE.KEY" where the user has chosen, for each range that a project,
// a single container or a build has. In it is a link for each container, to its record, and a
// file for each command of a build. All is done under a lock on the directory of these.
//
// Other installations of this machine find that directory by a link in sharedRanges. Who
// needs a range that he does not have yet looks there under a lock that they all use.
// Nothing in there has to be cleaned up after a crash: a link to a run root that is gone, a
// container without a record and a builder that does not run have no range.

const (
	rangesDir    = "ids"
	sharedRanges = "/run/stack-ids"
	// idsPerRange is how many IDs a container has, as many as /etc/subuid gives a user.
	idsPerRange = 1 << 16
)

// takenRange is a range that somebody has.
type takenRange struct {
	span
	key    string
	chosen bool   // by the user
	run    string // the run root of another installation, "" for this one
}

func (r takenRange) dirName() string {
	first := strconv.FormatUint(r.first, 10)
	if r.chosen {
		first += ":" + strconv.FormatUint(r.end-r.first, 10)
	}
	return first + "." + url.PathEscape(r.key)
}

// parseRange reads the name of a range's directory.
func parseRange(name string) (r takenRange, ok bool) {
	ids, escaped, found := strings.Cut(name, ".")
	first, size, chosen := strings.Cut(ids, ":")
	key, err := url.PathUnescape(escaped)
	if !found || err != nil {
		return r, false
	}
	r = takenRange{key: key, chosen: chosen}
	n := uint64(idsPerRange)
	if chosen {
		if n, err = strconv.ParseUint(size, 10, 32); err != nil {
			return r, false
		}
	}
	if r.first, err = strconv.ParseUint(first, 10, 32); err != nil {
		return r, false
	}
	r.end = r.first + n
	return r, true
}

// ids are the range as a container has it.
func (r takenRange) ids() runtime.IDs {
	return runtime.IDs{{HostID: uint32(r.first), Size: uint32(r.end - r.first)}}
}

// rangeKey is who has a range of IDs together: a project, or one container.
func rangeKey(c *Container) string {
	if c.Project != "" {
		return "project." + c.Project
	}
	return "container." + c.ID
}

// rangeOwner names who has a range.
func (e *Engine) rangeOwner(r takenRange) string {
	kind, name, _ := strings.Cut(r.key, ".")
	if kind != "project" {
		if isBuild(name) {
			kind, name = "a", "build"
		} else if c, err := e.Records.Read(name); err == nil {
			name = c.Spec.Name
		}
	}
	if r.run != "" {
		name += " of the run root " + r.run
	}
	return kind + " " + name
}

func (e *Engine) rangesPath() string { return filepath.Join(e.run, rangesDir) }

func (e *Engine) lockRanges(ctx context.Context) (*lock.Held, error) {
	return lock.Exclusive(ctx, e.rangesPath(), lock.MakeDir(), lock.Patiently())
}

func (e *Engine) lockSharedRanges(ctx context.Context) (*lock.Held, error) {
	return lock.Exclusive(ctx, e.sharedRanges, lock.MakeDir(), lock.Patiently())
}

// takeRange returns the IDs that id, a container or a command of a build, has together with
// the others of its key: those that the user has chosen, or a range that nobody has.
func (e *Engine) takeRange(ctx context.Context, key, id string, chosen runtime.IDs) (runtime.IDs, error) {
	held, err := e.lockRanges(ctx)
	if err != nil {
		return nil, err
	}
	defer held.Unlock()
	own, err := readRanges(e.rangesPath(), e.rangeLives)
	if err != nil {
		return nil, err
	}
	want := takenRange{key: key, chosen: chosen != nil}
	if chosen != nil {
		want.first, want.end = uint64(chosen[0].HostID), uint64(chosen[0].HostID)+uint64(chosen[0].Size)
	}
	i := slices.IndexFunc(own, func(r takenRange) bool {
		return r.key == key && r.chosen == want.chosen && (chosen == nil || r.span == want.span)
	})
	if _, err := os.Lstat(e.rangesLink()); i >= 0 && err == nil {
		return own[i].ids(), e.enterRange(own[i], id)
	}
	shared, err := e.lockSharedRanges(ctx)
	if err != nil {
		return nil, err
	}
	defer shared.Unlock()
	if err := replaceLink(e.rangesPath(), e.rangesLink()); err != nil {
		return nil, err
	}
	if i >= 0 {
		return own[i].ids(), e.enterRange(own[i], id)
	}
	others, err := e.othersRanges()
	if err != nil {
		return nil, err
	}
	all := append(own, others...)
	if chosen == nil {
		if want.span, err = e.freeRange(key, all); err != nil {
			return nil, err
		}
	} else if with := overlapping(want, all); len(with) > 0 {
		// It is allowed, as with podman: two may be meant to have files in common. But who
		// chose one range seldom knows of the other.
		var text []string
		for _, other := range with {
			text = append(text, fmt.Sprintf("%s (%s)", e.rangeOwner(other), other.span))
		}
		e.Warnf("%s has the user IDs %s of the host, of which some are those of %s, too: to the host they are the same users; choose another range for one of them, or userns_mode: auto", e.rangeOwner(want), want.span, strings.Join(text, " and "))
	}
	return want.ids(), e.enterRange(want, id)
}

// overlapping are the ranges of others that have IDs of r.
func overlapping(r takenRange, all []takenRange) []takenRange {
	return slices.DeleteFunc(slices.Clone(all), func(other takenRange) bool {
		return !r.overlaps(other.span) || other.key == r.key && other.run == r.run
	})
}

// enterRange notes that id has a range.
func (e *Engine) enterRange(r takenRange, id string) error {
	dir := filepath.Join(e.rangesPath(), r.dirName())
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if isBuild(id) {
		return os.WriteFile(filepath.Join(dir, id), nil, 0o600)
	}
	return replaceLink(e.Records.DataDir(id), filepath.Join(dir, id))
}

// replaceLink makes path a link to target.
func replaceLink(target, path string) error {
	if now, err := os.Readlink(path); err == nil && now == target {
		return nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.Symlink(target, path)
}

// leaveRanges gives back what a container has of takeRange, if it has.
func (e *Engine) leaveRanges(ctx context.Context, c *Container) error {
	if kind, _, err := parseUserNS(c.Spec.Isolation.UserNSMode); err != nil || kind == "" {
		return nil //nolint:nilerr // one that cannot be read has never had any
	}
	return e.leaveRange(ctx, rangeKey(c), c.ID)
}

// leaveRange gives back what takeRange gave, if it did.
func (e *Engine) leaveRange(ctx context.Context, key, id string) error {
	return e.sweepRanges(ctx, func(r takenRange, who string) bool {
		return (r.key != key || who != id) && e.rangeLives(r, who)
	})
}

// DropBuildRanges gives back the ranges of IDs that a killed builder had; there is no
// other one.
func (e *Engine) DropBuildRanges(ctx context.Context) error {
	return e.sweepRanges(ctx, func(r takenRange, id string) bool { return !isBuild(id) && e.rangeLives(r, id) })
}

// sweepRanges drops the ranges of whoever does not live, and is found by others no more if
// none is left.
func (e *Engine) sweepRanges(ctx context.Context, lives func(r takenRange, id string) bool) error {
	held, err := e.lockRanges(ctx)
	if err != nil {
		return err
	}
	defer held.Unlock()
	left, err := readRanges(e.rangesPath(), lives)
	if err != nil || len(left) > 0 {
		return err
	}
	if _, err := os.Lstat(e.rangesLink()); err != nil {
		return nil //nolint:nilerr // there is none to remove
	}
	shared, err := e.lockSharedRanges(ctx)
	if err != nil {
		return err
	}
	defer shared.Unlock()
	if err := os.Remove(e.rangesLink()); err != nil {
		return err
	}
	if err := os.Remove(e.sharedRanges); err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

// rangesLink is where others find the ranges of this run root.
func (e *Engine) rangesLink() string {
	sum := sha256.Sum256([]byte(e.run))
	return filepath.Join(e.sharedRanges, hex.EncodeToString(sum[:8]))
}

func (e *Engine) rangeLives(_ takenRange, id string) bool { return e.endpointLives(id) }

// readRanges reads the ranges in a directory, and drops those of whoever does not live.
func readRanges(path string, lives func(r takenRange, id string) bool) ([]takenRange, error) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var all []takenRange
	for _, entry := range entries {
		r, ok := parseRange(entry.Name())
		if !ok {
			continue
		}
		dir := filepath.Join(path, entry.Name())
		ids, err := os.ReadDir(dir)
		if err != nil {
			return nil, err
		}
		left := len(ids)
		for _, id := range ids {
			if !lives(r, id.Name()) && os.Remove(filepath.Join(dir, id.Name())) == nil {
				left--
			}
		}
		if left == 0 && os.Remove(dir) == nil {
			continue
		}
		all = append(all, r)
	}
	return all, nil
}

// othersRanges reads the ranges of this machine's other installations, with the lock that
// all of them use. What is theirs is not changed.
func (e *Engine) othersRanges() ([]takenRange, error) {
	links, err := os.ReadDir(e.sharedRanges)
	if err != nil {
		return nil, err
	}
	var all []takenRange
	for _, l := range links {
		link := filepath.Join(e.sharedRanges, l.Name())
		path, err := os.Readlink(link)
		if err != nil || link == e.rangesLink() {
			continue
		}
		dirs, err := os.ReadDir(path)
		if errors.Is(err, os.ErrNotExist) {
			if err := os.Remove(link); err != nil {
				return nil, err
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		run := filepath.Dir(path)
		for _, d := range dirs {
			if r, ok := parseRange(d.Name()); ok && anyLives(run, filepath.Join(path, d.Name())) {
				r.run = run
				all = append(all, r)
			}
		}
	}
	return all, nil
}

// anyLives tells whether anybody of another installation has the range of a directory.
func anyLives(run, dir string) bool {
	ids, err := os.ReadDir(dir)
	if err != nil {
		return false // it is gone by now
	}
	return slices.ContainsFunc(ids, func(id os.DirEntry) bool {
		if isBuild(id.Name()) {
			return builderLives(run)
		}
		_, err := os.Stat(filepath.Join(dir, id.Name()))
		return err == nil
	})
}

// freeRange chooses a range for key that is nobody's of all, and of no process that has
// IDs of somebody else's, such as systemd-nspawn.
func (e *Engine) freeRange(key string, all []takenRange) (span, error) {
	taken := idsInUse()
	for _, r := range all {
		taken = append(taken, r.span)
	}
	uids, _ := os.ReadFile("/etc/subuid") // which may not be there
	gids, _ := os.ReadFile("/etc/subgid")
	first, err := freeRange(key, []string{string(uids), string(gids)}, taken)
	return span{uint64(first), uint64(first) + idsPerRange}, err
}

// idsInUse are the IDs that processes in user namespaces have on this host, but for those
// who are there what they are here.
func idsInUse() []span {
	var all []span
	for id := range runtime.IDsInUse() {
		if id.HostID != id.ContainerID {
			all = append(all, span{uint64(id.HostID), uint64(id.HostID) + uint64(id.Size)})
		}
	}
	return all
}

// The IDs of projects, where /etc/subuid has none for the user "stack": a part of what
// systemd leaves to containers (systemd.io/UIDS-GIDS).
const (
	poolFirst = 0x20000000
	poolEnd   = 0x60000000
	poolUser  = "stack"
)

// freeRange chooses a range of IDs for key, the same one again where it can. subids are
// the contents of /etc/subuid and /etc/subgid.
func freeRange(key string, subids []string, taken []span) (uint32, error) {
	pool, others := span{poolFirst, poolEnd}, slices.Clone(taken)
	for i, file := range subids {
		own, theirs := parseSubIDs(file)
		others = append(others, theirs...)
		if i == 0 {
			pool = own
		} else {
			pool = span{max(pool.first, own.first), min(pool.end, own.end)}
		}
	}
	if pool.end-pool.first < idsPerRange || pool.end < pool.first {
		return 0, fmt.Errorf("user %q has no %d IDs that are the same in /etc/subuid and /etc/subgid; give it some, or remove its lines", poolUser, idsPerRange)
	}
	slots := uint32((pool.end - pool.first) / idsPerRange)
	h := fnv.New32a()
	h.Write([]byte(key))
	for i := range slots {
		a := pool.first + uint64((h.Sum32()%slots+i)%slots)*idsPerRange
		if !slices.ContainsFunc(others, span{a, a + idsPerRange}.overlaps) {
			return uint32(a), nil
		}
	}
	return 0, fmt.Errorf("no range of %d user IDs is free for a user namespace between %d and %d; give user %q more in /etc/subuid and /etc/subgid, or remove projects", idsPerRange, pool.first, pool.end, poolUser)
}

// span is IDs from first up to, and without, end.
type span struct{ first, end uint64 }

func (s span) String() string { return fmt.Sprintf("%d:%d", s.first, s.end-s.first) }

func (s span) overlaps(o span) bool { return s.first < o.end && o.first < s.end }

// parseSubIDs reads /etc/subuid or /etc/subgid, subuid(5): the largest span of our own, or
// the pool, and those of others. What is no line of such a file counts for nothing.
func parseSubIDs(file string) (own span, others []span) {
	for line := range strings.Lines(file) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if len(fields) != 3 {
			continue
		}
		first, err1 := strconv.ParseUint(fields[1], 10, 32)
		size, err2 := strconv.ParseUint(fields[2], 10, 32)
		s := span{first, first + size}
		switch {
		case err1 != nil || err2 != nil || first == 0 || s.end > math.MaxUint32:
		case fields[0] != poolUser:
			others = append(others, s)
		case s.end-s.first > own.end-own.first:
			own = s
		}
	}
	if own == (span{}) {
		own = span{poolFirst, poolEnd}
	}
	return own, others
}
