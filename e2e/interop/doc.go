// Package interop checks that images go back and forth between stack and the
// tools that people have: a registry, Docker, podman, skopeo, buildah.
//
//	go test ./e2e/interop -peer
package interop
