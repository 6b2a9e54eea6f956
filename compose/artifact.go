package compose

import (
	"context"

	"github.com/stack-run/stack/engine/registry"
)

// Artifact is what a registry keeps that is no image.
type Artifact = registry.Artifact

// ArtifactDocument is a part of an artifact.
type ArtifactDocument = registry.Document

// PushArtifact sends an artifact. The registries that are named insecure may be spoken
// to without a certificate, or in plain HTTP.
func (c *Client) PushArtifact(ctx context.Context, name string, a Artifact, insecure ...string) (string, error) {
	client, err := c.trusting(insecure)
	if err != nil {
		return "", err
	}
	from, err := registryTarget(c.Engine)
	if err != nil {
		return "", err
	}
	sum, err := client.PushArtifact(ctx, from, name, a)
	return sum.String(), err
}

// PullArtifact brings an artifact of a type, and the digest of its manifest.
func (c *Client) PullArtifact(ctx context.Context, name, kind string, insecure ...string) (Artifact, string, error) {
	client, err := c.trusting(insecure)
	if err != nil {
		return Artifact{}, "", err
	}
	a, sum, err := client.PullArtifact(ctx, name, kind)
	return a, sum.String(), err
}

// trusting is a client for which some registries more are insecure.
func (c *Client) trusting(insecure []string) (*registry.Client, error) {
	config, err := registry.LoadConfig()
	if err != nil {
		return nil, err
	}
	config.Insecure = append(config.Insecure, insecure...)
	return registry.NewClient(registry.Options{UserAgent: c.userAgent, Config: &config})
}
