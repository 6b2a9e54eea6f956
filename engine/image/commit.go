package image

import (
	"context"
	"io"
	"slices"
	"time"
)

// CommitOptions say what Commit makes of a container's changes.
type CommitOptions struct {
	// Config is what the container was told, which the image's containers are
	// told then, after Changes, which are as in ImportOptions.
	Config  ContainerConfig
	Changes []string
	// Author, Message and CreatedBy, the container's command, are for the
	// history.
	Author, Message, CreatedBy string
	// Created is the image's creation time, zero for now.
	Created time.Time
	// Ready is as in AddOptions.
	Ready func(context.Context, Image) error
}

// Commit makes an image of base and one more layer, which is read from r. ref is
// its name, "" for none.
func (s *Store) Commit(ctx context.Context, base Image, r io.Reader, ref string, o CommitOptions) (Image, error) {
	names, err := newNames("commit", ref)
	if err != nil {
		return Image{}, err
	}
	created := creation(o.Created)
	config := base.Config
	config.Created, config.Author, config.Config = &created, o.Author, o.Config
	config.History = append(slices.Clone(config.History), History{Created: &created, CreatedBy: o.CreatedBy, Author: o.Author, Comment: o.Message})
	if err := config.Config.Apply(o.Changes); err != nil {
		return Image{}, err
	}
	return s.onTop(ctx, base.Layers, r, config, AddOptions{Names: names, Ready: o.Ready})
}
