package volumes

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Request is what one container asks for at one start.
type Request struct {
	ContainerID string
	Project     string // whose the anonymous volumes become
	Mounts      []Mount
	// ImageVolumes are the targets of the image's VOLUME instructions. Each
	// becomes an anonymous volume, unless a mount has that target.
	ImageVolumes []string
	// RootFS is the (detached) mount of the container's root filesystem. It
	// tells whether a target is a file or a directory, and what to copy up.
	RootFS *os.File
	// Anonymous are the names of the container's anonymous volumes by target,
	// from an earlier Resolved; they are used again.
	Anonymous map[string]string
	// UID and GID are the container's user on the host, the owner of host
	// directories that are created for it.
	UID, GID int
	// Owners is set for a container in a user namespace of its own.
	Owners *Owners
	// SELinuxLabel is the file label for mounts that ask for "Z".
	SELinuxLabel string
}

// Owners say whose files are whose in a container that has a user namespace of its own.
// Its mounts are ID-mapped, mount_setattr(2), so that nothing is copied or changes its
// owner on disk.
type Owners struct {
	// UserNS maps each ID on disk to the same one in the container.
	UserNS *os.File
	// Host is what a user or group ID of the container is on this host.
	Host func(id uint32) (uint32, error)
	// Bind returns the user namespace by which to map a bind mount, whose source
	// belongs to uid and gid. The mount is not mapped where it returns nil.
	Bind func(uid, gid uint32) (*os.File, error)
	// Content returns a mount of what is in the image, with its owners as they are on
	// disk, from which fresh volumes are filled.
	Content func() (*os.File, error)
}

// Resolved is what Resolve made.
type Resolved struct {
	// Mounts are in the order in which to attach them: parents first.
	Mounts    []ResolvedMount
	Anonymous map[string]string // target → name of the anonymous volume
	// Notes are what the user should be told, such as a directory that was
	// created on the host.
	Notes []string
}

// Close closes all mounts. Those that a container attached stay there.
func (r *Resolved) Close() error {
	var errs []error
	for _, m := range r.Mounts {
		for _, f := range []*os.File{m.FD, m.File} {
			if f != nil {
				errs = append(errs, f.Close())
			}
		}
	}
	return errors.Join(errs...)
}

// ResolvedMount is one mount, ready to be attached: flags, ID mapping and
// propagation are set, so that only move_mount(2) is left to do. Where its
// propagation is not private, nothing may change it afterwards.
type ResolvedMount struct {
	Target      string
	FD          *os.File // a detached mount
	File        *os.File // the file of a Mount.Own, to write its content to; else nil
	IsFile      bool     // the mount point is to be a file, not a directory
	ReadOnly    bool
	Type        MountType
	Source      string   // path on the host, image reference, or ""
	VolumeName  string   // of TypeVolume
	Anonymous   bool     // the volume is
	Propagation string   // "rprivate" unless the bind asks for another
	Options     []string // of TypeTmpfs, as mounted
}

// Resolve makes a container's mounts. It creates volumes that do not exist, and
// fills fresh ones with what the image has at the target. If it fails, the
// anonymous volumes it created are removed again.
func (s *Store) Resolve(ctx context.Context, req Request) (*Resolved, error) {
	mounts, err := arrange(req.Mounts, req.ImageVolumes)
	if err != nil {
		return nil, err
	}
	r := &resolver{store: s, req: req, out: &Resolved{Anonymous: map[string]string{}}}
	defer func() {
		if r.filling != nil {
			r.filling.Close()
		}
	}()
	if err := r.all(ctx, mounts); err != nil {
		return nil, errors.Join(err, r.undo(context.WithoutCancel(ctx)))
	}
	return r.out, nil
}

// resolver is the work of one Resolve.
type resolver struct {
	store   *Store
	req     Request
	out     *Resolved
	created []string // anonymous volumes; a named one may have got other users
	filling *os.File // what content has opened
}

func (r *resolver) undo(ctx context.Context) error {
	errs := []error{r.out.Close()}
	for _, name := range slices.Backward(r.created) {
		errs = append(errs, r.store.Remove(ctx, name, nil))
	}
	return errors.Join(errs...)
}

func (r *resolver) all(ctx context.Context, mounts []Mount) error {
	files, err := r.files(mounts)
	if err != nil {
		return err
	}
	// Those not handed to r.out yet are closed on the way out.
	defer func() { closeFiles(files) }()
	for _, m := range mounts {
		if err := ctx.Err(); err != nil {
			return err
		}
		var done ResolvedMount
		var err error
		switch m.Type {
		case TypeVolume:
			done, err = r.volume(ctx, m)
		case TypeBind:
			done, err = r.bind(m)
		case TypeTmpfs:
			done, err = r.tmpfs(m)
		case TypeImage:
			done, err = r.image(ctx, m)
		case TypeFile:
			done = ResolvedMount{FD: files[0].mount, File: files[0].file, IsFile: true, ReadOnly: m.ReadOnly || !m.Own}
			files = files[1:]
			if at := r.look(m.Target); at.isDir {
				err = refuse(m, nil, "cannot mount a file at %s: the image has a directory there; name a file, such as %s", m.Target, path.Join(m.Target, "config"))
			}
		default:
			err = refuse(m, nil, "there is no mount type %q", m.Type)
		}
		done.Target, done.Type = m.Target, m.Type
		if done.Propagation == "" {
			done.Propagation = "rprivate"
		}
		r.out.Mounts = append(r.out.Mounts, done)
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *resolver) note(m Mount, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if m.Origin != "" {
		text = m.Origin + ": " + text
	}
	r.out.Notes = append(r.out.Notes, text)
}

// place is what is at a target before the mount.
type place struct {
	exists, isDir bool
	mode          uint32 // permission bits
}

// look tells what is at target, in the mount that will cover it or in the
// container's root. What cannot be looked at is taken for absent.
func (r *resolver) look(target string) place {
	root, rest := r.req.RootFS, target
	for _, m := range slices.Backward(r.out.Mounts) { // the deepest first
		if inside, ok := strings.CutPrefix(target, m.Target+"/"); ok && !m.IsFile {
			root, rest = m.FD, inside
			break
		}
	}
	if root == nil {
		return place{}
	}
	f, err := openIn(root, rest)
	if err != nil {
		return place{}
	}
	defer f.Close()
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil {
		return place{}
	}
	return place{exists: true, isDir: st.Mode&unix.S_IFMT == unix.S_IFDIR, mode: st.Mode & 0o7777}
}

// finish sets flags and propagation of a detached mount.
func (r *resolver) finish(mount *os.File, attrs int, readOnly, roRecursive bool, prop uint64, propRecursive bool) error {
	all := unix.MountAttr{Attr_set: uint64(attrs)}
	top := unix.MountAttr{}
	if attrs&unix.MOUNT_ATTR__ATIME != 0 {
		all.Attr_clr = unix.MOUNT_ATTR__ATIME // atime values are not bits, all are cleared first
	}
	if readOnly && roRecursive {
		all.Attr_set |= unix.MOUNT_ATTR_RDONLY
	} else if readOnly {
		top.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if propRecursive {
		all.Propagation = prop
	} else {
		top.Propagation = prop
	}
	if all != (unix.MountAttr{}) {
		if err := setAttr(mount, true, all); err != nil {
			return err
		}
	}
	if top != (unix.MountAttr{}) {
		return setAttr(mount, false, top)
	}
	return nil
}

func (r *resolver) tmpfs(m Mount) (ResolvedMount, error) {
	at := r.look(m.Target)
	if at.exists && !at.isDir {
		return ResolvedMount{}, refuse(m, nil, "cannot mount a tmpfs at %s: the image has a file there; choose a directory", m.Target)
	}
	fs, err := tmpfsOptions(m, at.mode)
	if err != nil {
		return ResolvedMount{}, refuse(m, err, "cannot mount %s: %v", describe(m), err)
	}
	if r.req.Owners != nil {
		if fs.data, err = ownedBy(fs.data, r.req.Owners.Host); err != nil {
			return ResolvedMount{}, refuse(m, err, "cannot mount %s: %v", describe(m), err)
		}
	}
	mount, err := fs.mount()
	if err != nil {
		return ResolvedMount{}, refuse(m, err, "cannot mount %s: %v", describe(m), err)
	}
	return ResolvedMount{FD: mount, ReadOnly: fs.attrs&unix.MOUNT_ATTR_RDONLY != 0, Options: fs.data}, nil
}

func (r *resolver) image(ctx context.Context, m Mount) (ResolvedMount, error) {
	if r.store.opts.ImageView == nil {
		return ResolvedMount{}, refuse(m, nil, "cannot mount %s: images cannot be mounted here", describe(m))
	}
	var userNS *os.File
	if r.req.Owners != nil {
		userNS = r.req.Owners.UserNS
	}
	view, err := r.store.opts.ImageView(ctx, m.Source, userNS)
	if err != nil {
		return ResolvedMount{}, refuse(m, err, "cannot mount %s: %v", describe(m), err)
	}
	done := ResolvedMount{FD: view, Source: m.Source, ReadOnly: true}
	if m.Subpath != "" {
		if done.FD, err = subtree(view, m); err != nil {
			return ResolvedMount{}, err
		}
	}
	return r.closeFailed(r.settle(m, done, 0))
}

// subtree replaces the detached mount whole by what lies at m.Subpath in it.
// It closes whole.
func subtree(whole *os.File, m Mount) (*os.File, error) {
	defer whole.Close()
	clones, err := cloneWithin(whole, m.Subpath)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil, refuse(m, err, "cannot mount %s: there is no %q in it; create it first, or leave subpath out", describe(m), m.Subpath)
	case err != nil:
		return nil, refuse(m, err, "cannot mount %q of %s: %v", m.Subpath, describe(m), err)
	}
	return clones[0], nil
}

// settle checks source against target and sets the flags of a mount that is
// read-only as a whole or not at all.
func (r *resolver) settle(m Mount, done ResolvedMount, attrs int) (ResolvedMount, error) {
	dir, err := isDir(done.FD)
	if err != nil {
		return done, refuse(m, err, "cannot mount %s: %v", describe(m), err)
	}
	done.IsFile = !dir
	if at := r.look(m.Target); at.exists && at.isDir != dir {
		return done, refuse(m, nil, "cannot mount %s: %s", describe(m), mismatch(dir, m.Target))
	}
	if err := r.finish(done.FD, attrs, done.ReadOnly, true, unix.MS_PRIVATE, true); err != nil {
		return done, refuse(m, err, "cannot set the flags of %s: %v", describe(m), err)
	}
	return done, nil
}

func mismatch(sourceIsDir bool, target string) string {
	if sourceIsDir {
		return fmt.Sprintf("the source is a directory, but %s is a file in the container; name a file as the source, or the directory %s as the target", target, path.Dir(target))
	}
	return fmt.Sprintf("the source is a file, but %s is a directory in the container; name the file in it too, such as %s/NAME", target, target)
}

// closeFailed closes the mount of a step that failed.
func (r *resolver) closeFailed(done ResolvedMount, err error) (ResolvedMount, error) {
	if err != nil && done.FD != nil {
		done.FD.Close()
		done.FD = nil
	}
	return done, err
}

func (r *resolver) volume(ctx context.Context, m Mount) (ResolvedMount, error) {
	v, err := r.volumeRecord(ctx, m)
	if err != nil {
		return ResolvedMount{}, err
	}
	if at := r.look(m.Target); m.Subpath == "" && at.exists && !at.isDir {
		return ResolvedMount{}, refuse(m, nil, "cannot mount %s: %s", describe(m), mismatch(true, m.Target))
	}
	opts, err := parseDriverOpts(v.DriverOpts)
	if err != nil {
		return ResolvedMount{}, refuse(m, err, "cannot mount %s: %v", describe(m), err)
	}
	fill := copyUp{target: m.Target, off: m.NoCopy || m.Subpath != ""}
	if !fill.off {
		if fill.root, err = r.content(); err != nil {
			return ResolvedMount{}, refuse(m, err, "cannot mount %s: %v", describe(m), err)
		}
	}
	whole, err := r.store.provide(ctx, v, opts, fill)
	if err != nil {
		return ResolvedMount{}, refuse(m, err, "cannot mount %s: %v", describe(m), err)
	}
	done := ResolvedMount{FD: whole, Source: v.Mountpoint, VolumeName: v.Name, Anonymous: v.Anonymous,
		ReadOnly: m.ReadOnly || opts.fs.attrs&unix.MOUNT_ATTR_RDONLY != 0}
	if m.Subpath != "" {
		if done.FD, err = subtree(whole, m); err != nil {
			return ResolvedMount{}, err
		}
	}
	if r.req.Owners != nil {
		if err := mapOwners(done.FD, r.req.Owners.UserNS); err != nil {
			return r.closeFailed(done, refuse(m, err, "cannot mount %s: %v", describe(m), err))
		}
	}
	return r.closeFailed(r.settle(m, done, opts.fs.attrs&^unix.MOUNT_ATTR_RDONLY))
}

// volumeRecord finds or makes the volume of a mount.
func (r *resolver) volumeRecord(ctx context.Context, m Mount) (Volume, error) {
	spec := Spec{Name: m.Source, Labels: maps.Clone(m.Labels), DriverOpts: m.DriverOpts}
	if spec.Name == "" {
		spec.Name = r.req.Anonymous[m.Target]
		if spec.Name == "" {
			spec.Name = anonymousName()
		}
		spec.Project = r.req.Project
		spec.Anonymous = true
		spec.Labels = map[string]string{AnonymousLabel: ""}
		maps.Copy(spec.Labels, m.Labels)
		r.out.Anonymous[m.Target] = spec.Name
	}
	v, err := r.store.Get(spec.Name)
	if isNotFound(err) {
		v, err = r.store.Create(ctx, spec)
		var differs *DifferError
		if errors.As(err, &differs) { // another process was faster
			err = nil
		} else if err == nil && v.Anonymous {
			r.created = append(r.created, v.Name)
		}
	}
	if err != nil {
		return Volume{}, refuse(m, err, "%v", err)
	}
	return v, nil
}

// AnonymousOf returns names for the anonymous volumes that a container asks for,
// by target. It takes over those of old, whom it may replace.
func AnonymousOf(old map[string]string, mounts []Mount, imageVolumes []string) (map[string]string, error) {
	all, err := arrange(mounts, imageVolumes)
	if err != nil {
		return nil, err
	}
	var names map[string]string
	for _, m := range all {
		if m.Type != TypeVolume || m.Source != "" {
			continue
		}
		if names == nil {
			names = map[string]string{}
		}
		names[m.Target] = cmp.Or(old[m.Target], anonymousName())
	}
	return names, nil
}

// anonymousName is as long as Docker's.
func anonymousName() string { return randomHex(32) }
