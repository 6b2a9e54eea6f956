// Package plan decides what has to be done so that what exists becomes what is
// wanted. It is pure: it reads no file, no clock and no network, and its result
// is a graph of small operations that can be printed, stored and run.
//
// Compute plans up and create, Down, Stop, Start and Restart the rest. Each
// operation says why it is there; a container is recreated only with at least
// one named difference. Plan.String is what a person reads ("stack plan"),
// Plan.Graph what the executor follows.
package plan
