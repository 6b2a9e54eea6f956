// Package snapshot unpacks image layers and mounts containers' root file systems
// from them with overlayfs.
//
// # Layout
//
//	layers/HEX/fs            one unpacked layer, by its diff ID; never changed
//	layers/HEX/layer.json    what is known about it
//	layers/fix-HEX/fs        directories only; see "Implied directories"
//	layers/stacks/HEX.json   for a chain ID, the directories to mount, lowest first
//	layers/empty/fs          an empty directory, as a lowest layer
//	layers/empty/points      what is mounted over in every container, below all its layers
//	layers/tmp/HEX           a layer that is being unpacked, or deleted
//	layers/locks/HEX         held while that layer is unpacked
//	layers/lock              shared by those who use layers, exclusive for removal
//	containers-rw/ID/upper   what container ID changed
//	containers-rw/ID/work    overlayfs' own
//	containers-rw/ID/lower.json  the layers below it
//	containers-rw/ID/pin-HEX     further layers that the container needs
//
// # Layers
//
// A layer depends on nothing but its own archive, so layers are unpacked in
// parallel and shared by all images that have them. Whiteouts become what
// overlayfs uses: a character device 0:0, and the extended attribute
// trusted.overlay.opaque ("user.overlay.opaque" without privileges; kernel,
// Documentation/filesystems/overlayfs.rst).
//
// A layer is unpacked below tmp, its diff ID is verified meanwhile, the file
// system is synced (syncfs(2)), and only then the directory gets its name. So a
// layer's name is a promise that survives SIGKILL and power loss; what is below
// tmp is deleted by whoever comes next. A lock per layer makes concurrent
// unpackers of it do the work once.
//
// # Lending
//
// The builder has snapshots that are the same as layers. Such a snapshot is a
// symbolic link to the layer's files, and the link keeps the layer from removal;
// see Lend.
//
// # Implied directories
//
// An archive may contain "tmp/x" without "tmp/". In overlayfs the uppermost
// directory decides mode and owner, so the "tmp" that must be made for such an
// x would hide that of the layers below. The layer notes which directories it
// had to imply, and where their attributes differ from those below, a layer of
// just those directories, with the attributes from below, is put on top. It is
// named after the chain ID, because it depends on what is below.
//
// # Mounts
//
// Mounts are detached: they are file descriptors and have no place in any mount
// namespace until their receiver attaches them, so a killed process leaves none
// behind. They are made with the rights of the calling thread. With a kernel
// before 6.7, which has no "lowerdir+" option, the mount is made in a mount
// namespace that lives no longer than the call.
//
// A second mount of the same upper directory, such as one held by a process that
// is still dying, does not disturb: with index=off overlayfs only warns of it in
// the kernel log. The caller sees to it that only one of the two is written to.
package snapshot
