package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/stack-run/stack/engine/image"
	"github.com/stack-run/stack/engine/logs"
	"github.com/stack-run/stack/engine/runtime"
	"github.com/stack-run/stack/engine/sealed"
	"github.com/stack-run/stack/engine/snapshot"
	"github.com/stack-run/stack/healthcheck"
	"github.com/stack-run/stack/internal/durable"
	"github.com/stack-run/stack/netns"
	"github.com/stack-run/stack/volumes"
)

// CreateOptions make a container.
type CreateOptions struct {
	Spec    Spec
	Hash    string
	Project string
	Service string
	Index   int
	OneOff  bool
	// Volumes are anonymous volumes to take over, name by target: those of the
	// container that this one replaces.
	Volumes map[string]string
	// ID, when set, is used instead of a fresh one.
	ID string
	// StartWithin, when set, is how long a container that removes itself waits to be
	// started, see State.StartBy.
	StartWithin time.Duration
}

// Create makes a container without starting it: record, name, writable layer.
// What can be known to fail at the start fails here.
func (e *Engine) Create(ctx context.Context, o CreateOptions) (*Container, error) {
	img, err := e.resolve(ctx, o.Spec)
	if err != nil {
		return nil, fmt.Errorf("cannot create container %s: %w", o.Spec.Name, err)
	}
	c := &Container{
		ID: o.ID, Spec: o.Spec, Hash: o.Hash, Project: o.Project, Service: o.Service, Index: o.Index, OneOff: o.OneOff,
		Created: time.Now().UTC(), Volumes: o.Volumes, State: State{Phase: Created},
	}
	if c.ID == "" {
		c.ID = NewID()
	} else if !isID(c.ID) {
		return nil, fmt.Errorf("cannot create container %s: internal error: %q is no ID", o.Spec.Name, c.ID)
	}
	c.Spec.ImageID = string(img.ID)
	base := imageConfig(img)
	c.Base = &base
	inherited, err := e.inherit(c, nil)
	if err != nil && !slices.ContainsFunc(c.Spec.VolumesFrom, func(ref string) bool { return strings.HasPrefix(ref, "service:") }) {
		return nil, fmt.Errorf("cannot create container %s: %w", o.Spec.Name, err)
	}
	c.Inherited = kept(inherited) // a sibling may come later
	if c.Spec.Network.Synonyms, err = e.named(c.Spec.Network.Synonyms); err != nil {
		return nil, fmt.Errorf("cannot create container %s: %w", o.Spec.Name, err)
	}
	if c.Volumes, err = volumes.AnonymousOf(o.Volumes, volumes.Inherit(o.Spec.Mounts, inherited, false), base.Volumes); err != nil {
		return nil, fmt.Errorf("cannot create container %s: %w", o.Spec.Name, err)
	}
	if c.Spec.PublishAll {
		c.Spec.Network.Ports = publishAll(c.Spec.Network.Ports, c.Exposed())
	}
	compiled, err := OCI(c.Spec, Facts{Image: base, HasCap: func(string) bool { return true }, BlkioDevice: deviceNumber})
	if err != nil {
		return nil, fmt.Errorf("cannot create container %s: %w", o.Spec.Name, err)
	}
	c.Args = compiled.Process.Args
	layers, err := e.Layers()
	if err != nil {
		return nil, err
	}
	if err := e.unpack(ctx, img); err != nil {
		return nil, fmt.Errorf("cannot create container %s: %w", o.Spec.Name, err)
	}
	if o.StartWithin > 0 {
		c.State.StartBy = time.Now().UTC().Add(o.StartWithin)
	}
	if err := e.Records.Insert(c); err != nil {
		return nil, err
	}
	if err = e.keepStored(ctx, c); err == nil {
		err = e.copyStored(c)
	}
	if err == nil {
		err = layers.Prepare(ctx, c.ID, diffIDs(img))
	}
	if err != nil {
		err = fmt.Errorf("cannot create container %s: %w", o.Spec.Name, err)
		return nil, errors.Join(err, e.Remove(detached(ctx), c, nil, false, false))
	}
	return c, nil
}

// keepStored makes sure that what a container has from the store of secrets and
// configs was not removed before the container's record was there to keep it.
func (e *Engine) keepStored(ctx context.Context, c *Container) error {
	for _, m := range c.Spec.Mounts {
		if kind, name, ok := m.Stored(); ok {
			if err := e.Sealed().Keep(ctx, sealed.Kind(kind), name); err != nil {
				return err
			}
		}
	}
	return nil
}

// copyStored keeps what a container has from the store of secrets and configs beside its
// record, sealed. A container is what it was made as until it is made anew: a boot must not
// give it what its name stands for in the store by then.
func (e *Engine) copyStored(c *Container) error {
	if c.Spec.AutoRemove {
		return nil // no boot finds it
	}
	copies := map[string]json.RawMessage{}
	for _, m := range c.Spec.Mounts {
		kind, name, ok := m.Stored()
		if !ok || m.Content == nil {
			continue
		}
		var err error
		if copies[m.Target], err = e.Sealed().Copy(sealed.Kind(kind), name, m.Content); err != nil {
			return err
		}
	}
	if len(copies) == 0 {
		return nil
	}
	return durable.WriteJSON(e.Records.sealedPath(c.ID), copies, durable.Synced)
}

// stored is the content that a container has from the store of secrets and configs.
func (e *Engine) stored(c *Container, m volumes.Mount, k sealed.Kind, name string) ([]byte, error) {
	var copies map[string]json.RawMessage
	err := durable.ReadJSON(e.Records.sealedPath(c.ID), &copies)
	if kept, ok := copies[m.Target]; ok && err == nil {
		return e.Sealed().OpenCopy(k, name, kept)
	}
	// An earlier version has kept no copy.
	content, object, err := e.Sealed().Content(k, name)
	if err == nil && object.Digest != m.ContentDigest {
		e.Warnf("container %s: %s %q was replaced since the container was made, and only the new content is there; run \"stack up\" so that the container counts as made with it", c.Spec.Name, k, name)
	}
	return content, err
}

// StoredUsers returns a function that names the containers which have an object of
// the store of secrets and configs.
func (e *Engine) StoredUsers(k sealed.Kind) func(name string) []string {
	return func(name string) []string {
		all, broken, err := e.Records.Scan()
		if err != nil {
			return []string{"unknown: " + err.Error()}
		}
		source := volumes.StoreSource(string(k), name)
		var out []string
		for _, b := range broken {
			if b.mentions(source) {
				out = append(out, "container "+b.String())
			}
		}
		for _, c := range all {
			if slices.ContainsFunc(c.Spec.Mounts, func(m volumes.Mount) bool { return m.ContentFrom == source }) {
				out = append(out, "container "+c.Spec.Name)
			}
		}
		return out
	}
}

// named puts names in place of other references to containers, which is what names
// are answered by.
func (e *Engine) named(synonyms []netns.Synonym) ([]netns.Synonym, error) {
	names := slices.Clone(synonyms)
	for i, y := range names {
		if strings.HasPrefix(y.Of, "service:") {
			continue
		}
		other, err := e.Records.Find(y.Of)
		if err != nil {
			return nil, fmt.Errorf("cannot link to %s: %w", y.Of, err)
		}
		names[i].Of = other.Spec.Name
	}
	return names, nil
}

// resolve finds the image of a spec: the pinned one if it is pinned.
func (e *Engine) resolve(ctx context.Context, s Spec) (image.Image, error) {
	images, err := e.Images()
	if err != nil {
		return image.Image{}, err
	}
	if s.ImageID != "" {
		if img, err := images.Resolve(ctx, s.ImageID); err == nil {
			return img, nil
		}
	}
	return images.ResolvePlatform(ctx, s.Image, s.Platform)
}

// unpack makes sure that the image's layers are there to be mounted.
func (e *Engine) unpack(ctx context.Context, img image.Image) error {
	layers, err := e.Layers()
	if err != nil {
		return err
	}
	blobs, err := e.Content()
	if err != nil {
		return err
	}
	return layers.Unpack(ctx, img.Layers, blobs)
}

// LayersOf returns the store of layers, in which that of c can be used. A power
// failure may have taken the record of what it lies on, which the image knows.
func (e *Engine) LayersOf(ctx context.Context, c *Container) (*snapshot.Store, error) {
	layers, err := e.Layers()
	if err != nil || layers.Prepared(c.ID) {
		return layers, err
	}
	img, err := e.resolve(ctx, c.Spec)
	if err == nil {
		err = e.prepareLayer(ctx, layers, c, img)
	}
	// Somebody may remove it, and have removed its layer already. He says so first, in
	// its state, which goes after the record: so that is asked for last.
	now, readErr := e.Records.Read(c.ID)
	if readErr == nil && now.State.Phase == Removing || !e.Records.Exists(c.ID) {
		err = errors.Join(err, fmt.Errorf("%w: %s", ErrNotFound, c.Spec.Name), layers.Remove(detached(ctx), c.ID))
	}
	return layers, err
}

// prepareLayer makes c's layer, or what a power failure took of it. A repair may have
// removed layers of the image, which are unpacked again.
func (e *Engine) prepareLayer(ctx context.Context, layers *snapshot.Store, c *Container, img image.Image) error {
	err := layers.Prepare(ctx, c.ID, diffIDs(img))
	if errors.Is(err, snapshot.ErrNotUnpacked) {
		if err := e.unpack(ctx, img); err != nil {
			return err
		}
		err = layers.Prepare(ctx, c.ID, diffIDs(img))
	}
	size, sizeErr := storageSize(c.Spec.Limits.StorageOpt)
	if err := errors.Join(err, sizeErr); err != nil || size == 0 {
		return err
	}
	return layers.Limit(c.ID, size)
}

func diffIDs(img image.Image) []digest.Digest {
	out := make([]digest.Digest, len(img.Layers))
	for i, l := range img.Layers {
		out[i] = l.DiffID
	}
	return out
}

// imageHealth is the check that the image brings, nil for none.
func imageHealth(img image.Image) *healthcheck.Spec {
	h := img.Config.Config.Healthcheck
	if h == nil {
		return nil
	}
	return &healthcheck.Spec{
		Test: h.Test, Interval: h.Interval, Timeout: h.Timeout,
		StartPeriod: h.StartPeriod, StartInterval: h.StartInterval, Retries: h.Retries,
	}
}

// imageConfig takes what running needs from an image's configuration.
func imageConfig(img image.Image) ImageConfig {
	c := img.Config.Config
	out := ImageConfig{
		Entrypoint: c.Entrypoint, Cmd: c.Cmd, Env: c.Env, User: c.User, WorkingDir: c.WorkingDir,
		StopSignal: c.StopSignal, Labels: c.Labels,
	}
	for v := range c.Volumes {
		out.Volumes = append(out.Volumes, v)
	}
	for p := range c.ExposedPorts {
		out.ExposedPorts = append(out.ExposedPorts, p)
	}
	return out
}

// base is what c's image says about running it.
func (e *Engine) base(c *Container) ImageConfig {
	if c.Base != nil {
		return *c.Base
	}
	img, err := e.resolve(context.Background(), c.Spec)
	if err != nil {
		return ImageConfig{} // it was made by an earlier version, and its image is gone
	}
	return imageConfig(img)
}

// Health returns the check in force: the container's own over the image's, nil
// for none.
func (e *Engine) Health(c *Container) *healthcheck.Spec {
	var of *healthcheck.Spec
	if known, ok := e.checks.Load(c.Spec.ImageID); ok {
		of = known.(*healthcheck.Spec)
	} else {
		img, err := e.resolve(context.Background(), c.Spec)
		if err != nil {
			return c.Spec.Health
		}
		of = imageHealth(img)
		if string(img.ID) == c.Spec.ImageID {
			e.checks.Store(c.Spec.ImageID, of)
		}
	}
	check := healthcheck.Merge(of, c.Spec.Health)
	if check == nil || !check.Enabled() {
		return nil
	}
	return check
}

// StopSignal is the name of the signal that asks the container to end.
func (e *Engine) StopSignal(c *Container) string {
	if c.Spec.StopSignal != "" {
		return c.Spec.StopSignal
	}
	return first(e.base(c).StopSignal, "SIGTERM")
}

// Remove takes away everything that is the container's own, but for its log, and with
// rest for the files that RemoveRest takes. That it is to go is in its record already.
// It is safe to call again after it failed, and on a container that was only half made.
func (e *Engine) Remove(ctx context.Context, c *Container, k FDs, anonymous, rest bool) error {
	ctx = detached(ctx)
	errs := []error{e.release(ctx, c, k), e.leaveRanges(ctx, c)}
	if h, err := e.Cgroups(); err == nil {
		if g, err := h.Open(e.cgroupPath(c)); err == nil {
			errs = append(errs, e.endGroup(ctx, g))
		}
	}
	errs = append(errs, runtime.Unpin(e.pinPath(c.ID)))
	if !rest {
		errs = append(errs, e.removeLayer(ctx, c.ID))
	}
	if anonymous && len(c.Volumes)+len(c.Inherited) > 0 {
		errs = append(errs, e.removeAnonymous(ctx, c))
	}
	errs = append(errs, e.ReleaseVolumes(ctx))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("cannot remove container %s: %w", c.Spec.Name, err)
	}
	if rest {
		return e.Records.Forget(c)
	}
	return e.Records.Delete(c)
}

func (e *Engine) removeLayer(ctx context.Context, id string) error {
	layers, err := e.Layers()
	if err != nil {
		return err
	}
	return layers.Remove(ctx, id)
}

// RemoveRest deletes the files of a container that is gone. A sweep does the same
// where this was cut off.
func (e *Engine) RemoveRest(ctx context.Context, id string) error {
	return errors.Join(e.removeLayer(ctx, id), e.Records.deleteDirs(id))
}

// RemoveLog deletes a container's log once nobody reads it any more who was
// promised all of it, or when ctx is done. What of it is to be sent away is sent before,
// if the receiver takes it.
func (e *Engine) RemoveLog(ctx context.Context, id string) error {
	e.endDelivery(ctx, id)
	return logs.Remove(ctx, e.LogDir(id))
}

// removeAnonymous removes the container's anonymous volumes, except those that
// a container made after it took over.
func (e *Engine) removeAnonymous(ctx context.Context, c *Container) error {
	vols, err := e.Volumes()
	if err != nil {
		return err
	}
	users := e.VolumeUsers(c.ID)
	names := slices.Collect(maps.Values(c.Volumes))
	for _, m := range c.Inherited {
		if v, err := vols.Get(m.Source); m.Type == volumes.TypeVolume && err == nil && v.Anonymous {
			names = append(names, v.Name)
		}
	}
	var errs []error
	for _, name := range names {
		if len(users(name)) == 0 {
			var missing *volumes.NotFoundError
			if err := vols.Remove(ctx, name, users); err != nil && !errors.As(err, &missing) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// ReleaseVolumes unmounts what was mounted on the host for volumes that no
// running container uses any more.
func (e *Engine) ReleaseVolumes(ctx context.Context) error {
	vols, err := e.Volumes()
	if err != nil {
		return err
	}
	var all []*Container
	read := sync.OnceValue(func() (err error) {
		all, err = e.Records.List()
		return err
	})
	return vols.Release(ctx, func(name string) bool {
		if read() != nil {
			return true
		}
		return slices.ContainsFunc(all, func(c *Container) bool { return c.State.Pid != 0 && usesVolume(c, name, anyMount) })
	})
}

// hostname is what the container calls itself: Docker's default is the short ID.
func (e *Engine) hostname(c *Container) string {
	if isShared(c.Spec.Network.Mode) {
		if donor, err := e.peer(c, c.Spec.Network.Mode); err == nil && donor.ID != c.ID {
			return e.hostname(donor) // its /etc/hosts has no other
		}
	}
	switch {
	case c.Spec.Hostname != "":
		return c.Spec.Hostname
	case c.Spec.Network.Mode == "host" || c.Spec.Isolation.UTSMode == "host":
		h, _ := os.Hostname()
		return h
	}
	return c.ID[:hostnameDigits]
}

// deviceRule is the cgroup rule of one extra device.
func deviceRule(d specs.LinuxDevice, access string) specs.LinuxDeviceCgroup {
	return specs.LinuxDeviceCgroup{Allow: true, Type: d.Type, Major: &d.Major, Minor: &d.Minor, Access: access}
}
