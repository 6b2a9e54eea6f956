package compose

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/engine/snapshot"
	"github.com/stack-run/stack/volumes"
)

// ExportVolume archives a volume.
func (c *Client) ExportVolume(ctx context.Context, name string, w io.Writer, o ReadVolumeOptions) error {
	return c.readVolume(ctx, name, o, func(content *reading) error {
		tw := tar.NewWriter(w)
		if err := snapshot.Archive(ctx, tw, content.Dir, ".", sameID); err != nil {
			return fmt.Errorf("cannot export volume %q: %w", name, err)
		}
		// An archive without its end tells whoever reads it that it is not whole.
		if err := content.complete(); err != nil {
			return err
		}
		return tw.Close()
	})
}

func sameID(id uint32) uint32 { return id }

// CopyVolume copies a volume.
func (c *Client) CopyVolume(ctx context.Context, source, target string, o ReadVolumeOptions) error {
	if source == target {
		return fmt.Errorf("cannot copy volume %q to itself", source)
	}
	return c.readVolume(ctx, source, o, func(content *reading) error {
		spec := volumes.Spec{Name: target, Labels: maps.Clone(content.Volume.Labels)}
		maps.DeleteFunc(spec.Labels, func(key, _ string) bool {
			return key == volumes.AnonymousLabel || strings.HasPrefix(key, "com.docker.compose.")
		})
		err := c.fillVolume(ctx, volumes.FillOptions{Spec: spec, Write: func(ctx context.Context, dir string) error {
			if err := content.CopyTo(ctx, dir); err != nil {
				return err
			}
			return content.complete()
		}})
		var full *volumes.NotEmptyError
		if errors.As(err, &full) {
			return fmt.Errorf("cannot copy volume %q: %w; copy it into a new one, or remove that one first: stack volume rm %s", source, err, target)
		}
		return err
	})
}

// ImportVolume fills a volume from an archive.
func (c *Client) ImportVolume(ctx context.Context, name string, r io.Reader, o ImportVolumeOptions) error {
	var done snapshot.Extracted
	err := c.fillVolume(ctx, volumes.FillOptions{
		Spec: volumes.Spec{Name: name}, Replace: o.Replace,
		Write: func(ctx context.Context, dir string) (err error) {
			limits, err := limitsBelow(dir)
			if err == nil {
				done, err = snapshot.Extract(ctx, dir, r, snapshot.ExtractOptions{Devices: o.Devices, Limits: limits})
			}
			return err
		},
	})
	if err == nil && done.Omitted > 0 {
		c.Engine.Warnf("volume %s: %d devices of the archive were left out; --devices makes them", name, done.Omitted)
	}
	return err
}

// limitsBelow bounds what is unpacked on a file system: four times what it holds, since
// there may be holes in files, and so many entries as take no more memory than images.
func limitsBelow(dir string) (snapshot.Limits, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return snapshot.Limits{}, err
	}
	l := snapshot.DefaultLimits()
	l.Bytes = max(l.Bytes, 4*int64(st.Blocks)*st.Bsize)
	return l, nil
}

// RenameVolume renames a volume.
func (c *Client) RenameVolume(ctx context.Context, name, to string, owned bool) error {
	store, err := c.Engine.Volumes()
	if err != nil {
		return err
	}
	_, err = store.Rename(ctx, name, to, volumes.RenameOptions{
		Users: func(name string) []string { return c.Engine.VolumeUsers()(name) }, Owned: owned,
	})
	return err
}

func (c *Client) fillVolume(ctx context.Context, o volumes.FillOptions) error {
	store, err := c.Engine.Volumes()
	if err != nil {
		return err
	}
	o.Mounted = func(name string) ([]string, error) {
		return c.Engine.VolumeMounted(ctx, name, func(r *engine.Container) bool {
			now := *r
			c.correct(&now)
			return now.State.Pid == 0
		})
	}
	_, err = store.Fill(ctx, o)
	return err
}

// reading is a volume that is being read.
type reading struct {
	*volumes.Content
	thaw func() error // who writes to it
}

// complete is called once all has been read. It tells whether that was all, and of one
// moment if its writers were to rest, and lets them go on.
func (r *reading) complete() error { return errors.Join(r.Intact(), r.thaw()) }

// readVolume reads a volume while those who write to it rest, or are warned of.
func (c *Client) readVolume(ctx context.Context, name string, o ReadVolumeOptions, read func(*reading) error) (err error) {
	store, err := c.Engine.Volumes()
	if err != nil {
		return err
	}
	content, err := store.Content(ctx, name)
	if err != nil {
		return err
	}
	defer content.Close()
	r := &reading{content, func() error { return nil }}
	if o.Pause {
		writers, err := c.writers(ctx, name)
		if err != nil {
			return err
		}
		thaw, err := c.rest(ctx, writers)
		if err != nil {
			return fmt.Errorf("cannot pause what writes to volume %s: %w", name, err)
		}
		r.thaw = sync.OnceValue(thaw)
	}
	c.warnOfWriters(ctx, name)
	err = read(r)
	if thawErr := r.thaw(); err == nil {
		err = thawErr
	}
	return err
}

// writers are the containers that run and may write to a volume.
func (c *Client) writers(ctx context.Context, name string) ([]engine.Container, error) {
	all, err := c.Containers(ctx, Selector{All: true, OneOff: true})
	if err != nil {
		return nil, err
	}
	var out []engine.Container
	for _, r := range all {
		if r.State.Pid != 0 && r.State.Phase != engine.Paused && engine.WritesVolume(&r, name) {
			out = append(out, r)
		}
	}
	return out, nil
}

func (c *Client) warnOfWriters(ctx context.Context, name string) {
	writers, err := c.writers(ctx, name)
	if err != nil || len(writers) == 0 {
		return
	}
	var names []string
	for _, r := range writers {
		names = append(names, r.Spec.Name)
	}
	c.Engine.Warnf("volume %s is read while %s may write to it: what is written meanwhile may be in it by half; stop the writers, or use --pause", name, strings.Join(names, ", "))
}
