// Package engine runs containers. It turns a resolved Spec into a running
// process: image and writable layer (engine/image, engine/snapshot), network
// (netns), mounts (volumes), cgroup (engine/cgroup), log (engine/logs) and at
// last the process itself (engine/runtime).
//
// # Records
//
// A container's record is data-root/containers/ID/config.json, written when it is
// created, renamed or updated. What changes by itself is State. While the container's boot lasts,
// State lives in run-root/containers/ID/state.json, which is cheap to write and
// rightly gone after a reboot; what must outlive a reboot (exit code, times,
// "stopped by the user") is written to data-root/containers/ID/final.json when
// the container ends.
//
// # Who may call what
//
// Reading (Get, List) needs nothing. Everything that changes a container is
// called by the one supervisor of the container's project, so there is no lock
// per container; what projects share (names, addresses, volumes, images) has
// locks of its own. Exec is called by the process that wants the output.
package engine
