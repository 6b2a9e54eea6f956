// Package build reaches the builder: BuildKit, embedded in a program of its own
// so that commands that do not build pay nothing for it.
//
// # Processes
//
// "stack-builder daemon" serves BuildKit's own gRPC API on a unix socket in the
// run directory. There is one for a run root. Dial connects to it and starts it
// where there is none; it leaves by itself when nobody has been connected for a
// while. It lives in a pid and a mount namespace of its own, so whatever ends it
// ends its containers and takes its mounts along.
//
//	run-root/builder/buildkitd.sock  BuildKit's API
//	run-root/builder/lock            held while a daemon lives
//	run-root/builder/start           held while somebody starts one
//	run-root/builder/use             shared while somebody connects, exclusive
//	                                 while the daemon decides to leave
//	run-root/builder/log             what daemons have said
//	data-root/build                  the build cache
//	data-root/build/usage.json       what the daemon that left last had in it
//
// # Sharing
//
// The build cache and the engine have files in common, each of which is on the
// disk once. Blobs have a name in both places; see package blobs. Of a layer that
// the engine has unpacked the cache has a symbolic link: from the beginning where a
// build starts from one of the engine's images, and for what was built since the
// daemon left. It ends as "stack-builder share", which knows that nobody uses the
// cache. See snapshot.Store.Lend.
//
// # Packages
//
// This package is what clients import. Package daemon is the server, runner runs
// the build's commands with the engine's runtime, blobs and export share what the
// engine has with BuildKit and the other way round, and client asks the daemon. By package
// confine it says in which user namespace commands run.
// Package request, which imports nothing heavy, is how stack speaks to the client.
package build
