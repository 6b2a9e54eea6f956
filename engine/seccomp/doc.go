// Package seccomp compiles seccomp profiles of the OCI runtime specification
// (config-linux.md, "Seccomp") into BPF programs for seccomp(2), without cgo.
//
// A program first branches on the architecture, then searches the system
// call's number in a balanced tree of ranges, so that the cost of a call does
// not grow with the length of the profile (about ten instructions instead of
// hundreds), and at last compares arguments where a rule wants that.
//
// Where the specification is silent, behaviour is that of runc with
// libseccomp:
//
//   - the native architecture is always included; a call of an architecture
//     that is not included kills the process;
//   - names that an architecture does not know are skipped;
//   - several conditions on one argument are alternatives, conditions on
//     different arguments must all hold;
//   - a system call newer than all that the profile mentions returns ENOSYS
//     instead of the default error, so that programs fall back to older calls.
package seccomp
