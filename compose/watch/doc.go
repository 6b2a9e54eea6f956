// Package watch is develop.watch: which rule a changed file falls under, what
// must be done about a batch of changes, and when a batch is complete. It is
// pure; package tree sees the changes, package session acts on them.
package watch
