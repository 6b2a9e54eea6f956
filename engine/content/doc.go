// Package content stores blobs by their digest.
//
// # Layout
//
//	content/blobs/sha256/HEX   a blob; its content was hashed before it got this name
//	content/ingest/KEY.data    a blob that is being written; KEY.lock is its lock
//	content/leases/ID          digests that a living process relies on
//	content/lock               shared by those who add, exclusive for collection
//
// # Durability
//
// A blob is written to the ingest directory, its size and digest are compared
// with what was announced, it is fsynced, renamed and its directory fsynced.
// So a name under blobs is a promise that survives SIGKILL and power loss.
// What is under ingest promises nothing: a partial file may be resumed, but all
// of it is hashed again before it is believed.
//
// # Many processes
//
// An ingest has a key, its digest where that is known. The key's lock lets one
// process write while others that want the same blob wait, and then find it.
//
// # Leases
//
// A blob is kept because something refers to it: an image, or a lease. Whoever
// adds an image first takes a Lease, protects with it each digest he is going
// to refer to *before* he asks whether the blob is there, and closes the lease
// after the reference is written. A lease is a file locked by its owner, so it
// ends with the process; no clean-up is ever needed, and no clock is involved.
//
// Collect holds the store's lock exclusively while it reads the references and
// the leases and deletes the rest. Protect holds it shared for the moment that
// it takes to write a digest down. Thus collection waits neither for a download
// that takes minutes nor can it come between "the blob is there" and its use.
package content
