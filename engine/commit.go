package engine

import (
	"context"
	"fmt"
	"io"
	"maps"
	"strings"

	"github.com/stack-run/stack/engine/image"
	"github.com/stack-run/stack/engine/snapshot"
	"github.com/stack-run/stack/healthcheck"
)

// CommitOptions say what Commit makes of a container.
type CommitOptions struct {
	Ref             string // of the new image, "" for none
	Author, Message string
	Changes         []string // Dockerfile instructions
}

// Commit makes an image of a container: that which it was made from, and a layer
// of what it changed. What is in volumes and other mounts is not part of it.
func (e *Engine) Commit(ctx context.Context, c *Container, o CommitOptions) (image.Image, error) {
	images, err := e.Images()
	if err != nil {
		return image.Image{}, err
	}
	layers, err := e.Layers()
	if err != nil {
		return image.Image{}, err
	}
	base, err := images.Resolve(ctx, c.Spec.ImageID)
	if err != nil {
		return image.Image{}, fmt.Errorf("cannot commit container %s: the image it was made from: %w", c.Spec.Name, err)
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(layers.ArchiveChanges(ctx, c.ID, snapshot.MountPoints(), w)) }()
	defer r.Close() // ends the goroutine if the reader gave up
	img, err := images.Commit(ctx, base, r, o.Ref, image.CommitOptions{
		Config: committed(c, base.Config.Config, e.Health(c)), Changes: o.Changes,
		Author: o.Author, Message: o.Message, CreatedBy: strings.Join(c.Args, " "), Ready: e.unpack,
	})
	if err != nil {
		return image.Image{}, fmt.Errorf("cannot commit container %s: %w", c.Spec.Name, err)
	}
	return img, nil
}

// committed is the configuration of an image that is made of a container: what
// the container was told over what its image says. Compose's own labels say what
// the container is in its project, and are not the image's.
func committed(c *Container, base image.ContainerConfig, check *healthcheck.Spec) image.ContainerConfig {
	out, p := base, c.Spec.Process
	if p.Entrypoint != nil {
		out.Entrypoint, out.Cmd = p.Entrypoint, nil
	}
	if p.Command != nil {
		out.Cmd = p.Command
	}
	out.Env = mergeEnv(base.Env, p.Env)
	out.User, out.WorkingDir = first(p.User, base.User), first(p.WorkingDir, base.WorkingDir)
	out.StopSignal = first(c.Spec.StopSignal, base.StopSignal)
	out.Labels = maps.Clone(base.Labels)
	for k, v := range c.Spec.Labels {
		if strings.HasPrefix(k, "com.docker.compose.") {
			continue
		}
		if out.Labels == nil {
			out.Labels = make(map[string]string)
		}
		out.Labels[k] = v
	}
	out.ExposedPorts = maps.Clone(base.ExposedPorts)
	for _, port := range c.Exposed() {
		if out.ExposedPorts == nil {
			out.ExposedPorts = make(map[string]struct{})
		}
		out.ExposedPorts[port] = struct{}{}
	}
	switch {
	case c.Spec.Health == nil:
	case check == nil:
		out.Healthcheck = &image.Healthcheck{Test: []string{"NONE"}}
	case check.Direct(): // no other engine knows it
	default:
		out.Healthcheck = &image.Healthcheck{
			Test: check.Test, Interval: check.Interval, Timeout: check.Timeout,
			StartPeriod: check.StartPeriod, StartInterval: check.StartInterval, Retries: check.Retries,
		}
	}
	return out
}
