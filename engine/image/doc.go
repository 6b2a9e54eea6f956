// Package image keeps images: names, manifests and configs over the blobs of
// engine/content.
//
// # Layout
//
//	images/index           names, one line each: NAME TAB JSON
//	images/records/ID-MANIFEST.json  one parsed image, so that "run" reads one small file
//	images/lock            held by whoever changes the two above
//
// Both are replaced atomically and read without a lock. A record is derived
// from its manifest and config and is written after they are durable; a name is
// written after the records that it leads to. So whatever is killed when, a
// name leads to a complete image, and the worst that is left is an image
// without a name, which "image prune" removes.
//
// # Identity
//
// As in Docker, an image's ID is the digest of its config. A name leads to a
// manifest, or to an index with manifests for several platforms; one name may
// thus stand for several images.
//
// # Adding
//
// Everything that brings images in (Import, Load, a registry, a builder) stores
// blobs under a content.Lease and then calls Add, which verifies manifest and
// config and gives the names. Nothing wrong ever gets a name.
package image
