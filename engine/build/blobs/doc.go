// Package blobs lets BuildKit and the engine share blobs and image names.
//
// Each side has a directory of blobs of its own and collects what it does not
// need on its own; a blob that both need is one file with two names (link(2)).
// A blob of the engine's gets its second name when BuildKit first asks for it, so
// what the engine has is never fetched again. A blob of BuildKit's gets its second
// name when an image that needs it is added to the engine.
//
// Both sides verify a blob by its digest before it has a name, so neither has to
// read what it takes over.
package blobs
