// Package plan decides what has to be done so that what exists becomes what is
// wanted. It is pure: it reads no file, no clock and no network, and its result
// is a graph of small operations that can be printed, stored and run.
//
// Make is the one entry, for every verb: what "--dry-run" prints is what is
// carried out. Each operation says why it is there; a container is recreated only
// with at least one named difference. Plan.String is what a person reads ("stack
// plan"), Plan.Graph what the executor follows.
//
// Where files say what is meant, containers of services that they do not declare
// are orphans, which go on request only, or those of another application that has
// the same name by chance, which are left alone.
package plan
