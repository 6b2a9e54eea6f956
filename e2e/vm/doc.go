// Package vm runs stack in a virtual machine with Debian's own kernel (6.1) and
// cgroup v2 alone, and takes its power away.
//
//	go test ./e2e/vm -vm
//
// It needs qemu-system-x86, cpio, kmod and e2fsprogs, and apt-get to fetch the
// kernel.
package vm
