// Package faults tests what stack promises when things go wrong: its own processes
// killed, many clients at once, records damaged, room used up, the service manager
// in the way.
//
// Each test has a short form, which runs by itself, and a long one:
//
//	go test ./e2e/faults -run TestKillMatrix -points 500 -postgres
//
// What is random comes from -seed, which is printed. A point of the kill matrix
// that failed comes again with -seed and -point. A test goes on after a failure, in
// a new installation, and reports all of them in the end.
package faults
