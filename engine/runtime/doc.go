// Package runtime is an OCI runtime as a library: it turns a resolved
// specs.Spec into a running process (Start) and runs further processes in it
// (Exec), without a helper program and without executing this one again.
//
// # How
//
// A pure function compiles the specification to a program: a list of raw
// system calls with results that later calls use (program.go). Its print is
// what the tests in testdata compare. The parent prepares everything that has
// to do with the host (descriptors of mounts, namespaces, cgroups, terminals),
// forks, and the child interprets the program with nothing of Go underneath,
// up to execve (fork.go). A failing call comes back through a pipe as its index
// and errno, and becomes "cannot mount proc at /proc: operation not permitted".
//
// # Why it is safe
//
//   - The child enters the container's root first and mounts afterwards, so a
//     path or a symbolic link of the image cannot lead to the host.
//   - It closes every descriptor that its program does not use before anything
//     else, and all of them before it follows paths of the container's choosing.
//   - It cannot be traced from inside the container until execve.
//   - No part of this binary runs in the container, nor is it reachable as
//     /proc/PID/exe there: a program of some hundred bytes executes the command
//     (step.go).
//   - /proc, /sys and /dev are mounted only where no link leads elsewhere, and
//     device nodes and masks go through the descriptors of these mounts.
//
// # Identity
//
// A process is its pid and start time (StartTicks), and while somebody holds
// one, its pidfd. Adopt checks both, so that a stored pid never means a newer
// process. Where the kernel can (Linux 6.15), Pin keeps the exit status of a
// process beyond the death of all who could wait for it.
//
// # Not supported
//
// New user namespaces, time namespaces, seccomp's notify listener, personality,
// Intel RDT, memory policies, schedulers, I/O priorities and hooks are refused.
// Linux.Resources and CgroupsPath are not looked at: the cgroup is the caller's.
package runtime
