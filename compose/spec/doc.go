// Package spec translates a loaded Compose project into the engine's terms:
// what each replica of each service, each network and each volume must be.
//
// Build is the one entry; OneOff derives the container of "stack run SERVICE";
// Hash is the versioned fingerprint that decides whether a container is
// recreated. Nothing here looks at what exists on the machine. What it reads
// from the host are the files that the project names itself (configs, secrets,
// seccomp profiles), through HostFacts.
package spec
