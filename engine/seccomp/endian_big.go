//go:build s390x

package seccomp

// wordOffset is where the low (0) or high (1) word of a 64-bit argument is.
func wordOffset(half uint32) uint32 { return 4 - 4*half }
