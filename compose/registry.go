package compose

import (
	"context"

	"github.com/stack-run/stack/compose/apply"
	"github.com/stack-run/stack/compose/plan"
	"github.com/stack-run/stack/compose/spec"
	"github.com/stack-run/stack/engine/registry"
)

// Registries are where images come from and go to, with the user's settings and
// credentials in Docker's configuration file.
type Registries interface {
	// PlanPulls says which images of a project Pull is to pull, and which not.
	PlanPulls(ctx context.Context, d *spec.Desired, o plan.PullOptions) ([]plan.ImageOp, error)
	// Pull returns the operations that no registry has the image for, and whose
	// services can build it.
	Pull(ctx context.Context, ops []plan.ImageOp, o PullOptions, p Progress) ([]plan.ImageOp, error)
	// PullImage pulls one image; platform "" is this machine's. Its progress is that of
	// the layers.
	PullImage(ctx context.Context, ref, platform string, p Progress) (PulledImage, error)
	// Tags are those that a repository has in its registry.
	Tags(ctx context.Context, repository string) ([]string, error)
	Push(ctx context.Context, names []string, o PushOptions, p Progress) error
	// PushImage pushes one image; platform "" is all that the name leads to.
	PushImage(ctx context.Context, name, platform string, p Progress) (PushedImage, error)
	// PushArtifact and PullArtifact are for what is no image.
	PushArtifact(ctx context.Context, name string, a Artifact, insecure ...string) (digest string, err error)
	PullArtifact(ctx context.Context, name, kind string, insecure ...string) (a Artifact, digest string, err error)
	// Credential is what is kept for a server, the zero value where there is nothing.
	Credential(ctx context.Context, server string) (Credential, error)
	// Login tries a credential and keeps it. unsafe is the file where it stands in
	// clear text, "" if it does not.
	Login(ctx context.Context, server string, c Credential) (unsafe string, err error)
	// Logout forgets what is kept for a server, and tells whether anything was.
	Logout(ctx context.Context, server string) (known bool, err error)
}

// Credential is how one logs in to a registry.
type Credential = registry.Credential

// PulledImage is what PullImage did.
type PulledImage struct {
	Name   string // as Docker shows it
	Ref    string // in full
	Digest string // of the manifest or index that the registry named
	New    bool   // the name did not lead to this image before
}

// PushedImage is what PushImage did.
type PushedImage struct {
	Tag     string
	Digest  string
	Size    int64 // of the manifest, bytes
	Partial bool  // only the platform that is here was sent
}

// RegistryServer is the registry that a user means with a server's name or URL; "" is
// Docker Hub.
func RegistryServer(name string) string { return registry.Server(name) }

// registry is a client with this program's name and the user's settings.
func (c *Client) registry() (*registry.Client, error) {
	return registry.NewClient(registry.Options{UserAgent: c.userAgent})
}

// PlanPulls plans pulls.
func (c *Client) PlanPulls(ctx context.Context, d *spec.Desired, o plan.PullOptions) ([]plan.ImageOp, error) {
	images, err := c.Engine.Images()
	if err != nil {
		return nil, err
	}
	return plan.Pulls(d, o, localImages(ctx, images))
}

// Pull carries out the pulls among ops.
func (c *Client) Pull(ctx context.Context, ops []plan.ImageOp, o PullOptions, p Progress) ([]plan.ImageOp, error) {
	var pulls []plan.ImageOp
	for _, op := range ops {
		switch {
		case op.Kind == plan.PullImage:
			pulls = append(pulls, op)
		case op.Image == "":
			p.tell(apply.Event{Name: op.Services[0], Status: "Skipped", Text: op.Cause, Done: true})
		default:
			p.tell(apply.Event{Kind: "Image", Name: op.Image, Status: "Skipped", Text: op.Cause, Done: true})
		}
	}
	return c.pull(ctx, pulls, o, p)
}

// PullImage pulls an image.
func (c *Client) PullImage(ctx context.Context, ref, platform string, p Progress) (PulledImage, error) {
	name, err := registry.ParseName(ref)
	if err != nil {
		return PulledImage{}, err
	}
	client, err := c.registry()
	if err != nil {
		return PulledImage{}, err
	}
	to, err := registryTarget(c.Engine)
	if err != nil {
		return PulledImage{}, err
	}
	got, err := client.Pull(ctx, to, ref, registry.PullOptions{Platform: platform, Event: func(e registry.Event) { p.tell(layerEvent(e)) }})
	return PulledImage{Name: got.Name, Ref: name.String(), Digest: got.Digest.String(), New: got.New}, err
}

// Tags asks a registry.
func (c *Client) Tags(ctx context.Context, repository string) ([]string, error) {
	client, err := c.registry()
	if err != nil {
		return nil, err
	}
	return client.Tags(ctx, repository)
}

// PushImage pushes an image.
func (c *Client) PushImage(ctx context.Context, name, platform string, p Progress) (PushedImage, error) {
	client, err := c.registry()
	if err != nil {
		return PushedImage{}, err
	}
	from, err := registryTarget(c.Engine)
	if err != nil {
		return PushedImage{}, err
	}
	sent, err := client.Push(ctx, from, name, registry.PushOptions{Platform: platform, Event: func(e registry.Event) { p.tell(layerEvent(e)) }})
	return PushedImage{Tag: sent.Tag, Digest: sent.Digest.String(), Size: sent.Size, Partial: sent.Partial}, err
}

// Credential reads what is kept.
func (c *Client) Credential(ctx context.Context, server string) (Credential, error) {
	client, err := c.registry()
	if err != nil {
		return Credential{}, err
	}
	return client.Credentials().Get(ctx, registry.Server(server))
}

// Login logs in to a registry.
func (c *Client) Login(ctx context.Context, server string, cred Credential) (string, error) {
	client, err := c.registry()
	if err != nil {
		return "", err
	}
	return client.Login(ctx, registry.Server(server), cred)
}

// Logout forgets a credential.
func (c *Client) Logout(ctx context.Context, server string) (bool, error) {
	client, err := c.registry()
	if err != nil {
		return false, err
	}
	return client.Credentials().Erase(ctx, registry.Server(server))
}
