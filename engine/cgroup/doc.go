// Package cgroup makes control groups for containers, on cgroup v2, on v1, and
// on hosts that have both (hybrid).
//
// A Group is one path, such as "stack-1f3a/shop/0c2e…", in all hierarchies that
// the container needs. On a hybrid host the empty v2 hierarchy does what it does
// better (list, freeze and kill processes, tell when none is left, filter
// devices), and the v1 controllers limit and count. Only hierarchies with a
// purpose are joined: each costs a mkdir, a migration and an rmdir.
//
// What cannot be had (a controller, a file, a permission) is a Warning and not an
// error, unless it is what keeps the container from devices.
//
// Everything can be opened again by path: there is no state but the kernel's.
package cgroup
