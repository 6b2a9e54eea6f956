// Package daemon is the builder's server: BuildKit's solver, its Dockerfile
// frontend and its API on a unix socket, with the engine's images as the first
// place to look for FROM and as the target of exports. What runs the commands of
// RUN is handed in.
package daemon
