package compose

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/stack-run/stack/compose/supervise"
	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/engine/snapshot"
	"github.com/stack-run/stack/netns"
)

// Rename gives a container another name.
func (c *Client) Rename(ctx context.Context, container, name string) error {
	r, err := c.Engine.Records.Find(container)
	if err != nil {
		return err
	}
	return c.call(ctx, r.Project, "rename", supervise.RenameRequest{ID: r.ID, Name: name}, nil, nil)
}

// Update changes a container's limits and restart policy, at once if it runs.
func (c *Client) Update(ctx context.Context, container string, limits engine.Limits, restart engine.Restart) error {
	r, err := c.Engine.Records.Find(container)
	if err != nil {
		return err
	}
	return c.call(ctx, r.Project, "update", supervise.UpdateRequest{ID: r.ID, Limits: limits, Restart: restart}, nil, nil)
}

// Connect attaches a container to one more network.
func (c *Client) Connect(ctx context.Context, container string, a netns.Attachment) error {
	r, err := c.Engine.Records.Find(container)
	if err != nil {
		return err
	}
	return c.call(ctx, r.Project, "connect", supervise.ConnectRequest{ID: r.ID, Attachment: a}, nil, nil)
}

// Disconnect takes a container off a network.
func (c *Client) Disconnect(ctx context.Context, container, network string, force bool) error {
	r, err := c.Engine.Records.Find(container)
	if err != nil {
		return err
	}
	req := supervise.ConnectRequest{ID: r.ID, Attachment: netns.Attachment{Network: network}, Disconnect: true, Force: force}
	return c.call(ctx, r.Project, "connect", req, nil, nil)
}

// Diff calls change for each path in which a container differs from its image:
// 'A' added, 'C' changed, 'D' deleted.
func (c *Client) Diff(ctx context.Context, container string, change func(kind byte, path string) error) error {
	r, layers, err := c.layers(ctx, container)
	if err != nil {
		return err
	}
	changes, err := layers.Changes(ctx, r.ID)
	if err != nil {
		return err
	}
	for _, ch := range changes {
		if snapshot.IsMountPoint(ch.Path) {
			continue
		}
		if err := change(ch.String()[0], ch.Path); err != nil {
			return err
		}
	}
	return nil
}

// Export writes a container's files as a tar archive, without volumes and what
// else is mounted.
func (c *Client) Export(ctx context.Context, container string, w io.Writer) error {
	r, layers, err := c.layers(ctx, container)
	if err != nil {
		return err
	}
	return layers.ArchiveRoot(ctx, r.ID, w)
}

// layers finds a container, and the store of its layers.
func (c *Client) layers(ctx context.Context, container string) (*engine.Container, *snapshot.Store, error) {
	r, err := c.Engine.Records.Find(container)
	if err != nil {
		return nil, nil, err
	}
	layers, err := c.Engine.LayersOf(ctx, r)
	return r, layers, err
}

// Commit makes an image of a container and returns its ID. With pause a running
// container rests meanwhile, so that no file is half written in it.
func (c *Client) Commit(ctx context.Context, container string, o engine.CommitOptions, pause bool) (id string, err error) {
	r, err := c.Engine.Records.Find(container)
	if err != nil {
		return "", err
	}
	if pause && r.State.Phase == engine.Running {
		thaw, err := c.rest(ctx, []engine.Container{*r})
		if err != nil {
			return "", fmt.Errorf("cannot commit container %s: %w", r.Spec.Name, err)
		}
		defer func() { err = errors.Join(err, thaw()) }()
	}
	img, err := c.Engine.Commit(ctx, r, o)
	return img.ID.String(), err
}

// StartAttached starts a stopped container with the caller's streams connected.
func (c *Client) StartAttached(ctx context.Context, container string, o RunOptions) (int, error) {
	r, err := c.Engine.Records.Find(container)
	if err != nil {
		return 125, err
	}
	return c.attached(ctx, r, o, true, nil)
}
