//go:build !amd64

package main

// archAttempts are system calls that this architecture alone has.
func archAttempts() []attempt { return nil }
