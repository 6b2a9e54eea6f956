// Package images makes the images that the examples and the end-to-end tests
// run: PostgreSQL, Redis, nginx and BusyBox out of Debian's packages, and
// static Go programs out of this module.
//
// There is no registry involved. A [Recipe] names Debian packages;
// mmdebstrap(1) resolves, downloads and verifies them with the machine's own
// apt sources, and the stream of extracted files is trimmed to what a server
// needs. The result is a root file system tar, ready for "stack image import"
// or "docker import".
//
// Tars are cached under the digest of everything that decides their content,
// so that the second build of an image is a look-up.
package images
