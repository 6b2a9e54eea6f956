// Package registry speaks to image registries: pull, push, log in.
//
// It is a client of its own on net/http, after the OCI distribution
// specification v1.1. The known client libraries were weighed: those that are
// light cannot resume a blob in the middle, say nothing of Retry-After and hide
// which connection a byte came by; the one that can costs every command its
// package initialisation. What is needed of the protocol is small.
//
// # Pulling
//
// The manifest and the config come first, because they say what each layer is.
// Then the layers come in parallel. Each is written to an ingest of the content
// store, hashed as it is written, and unpacked by a second goroutine that reads
// behind the writer, so that a pull ends shortly after the last byte arrived. A
// connection that breaks or stalls is replaced by one that asks for the rest
// (RFC 9110, section 14). The ingest's lock makes several processes that pull
// one layer fetch it once. Only when all is verified and unpacked does the image
// get its name.
//
// # Which server, and how
//
// A registry is spoken to by HTTPS, its certificate being verified. Plain HTTP
// is for registries on the loopback and for those named as insecure. Mirrors are
// asked before the registry itself, for pulls only. The settings are in
//
//	$STACK_CONFIG/registries.json, by default /etc/stack/registries.json
//
//	{
//	  "insecure-registries": ["registry.lan:5000", "10.1.0.0/16"],
//	  "registry-mirrors": {"docker.io": ["https://mirror.lan"]}
//	}
//
// and, read only, in /etc/docker/daemon.json. Certificates of private
// authorities and of this client are found as Docker finds them, in
// certs.d/HOST[:PORT]/{*.crt,*.cert,*.key} below $STACK_CONFIG and /etc/docker.
// Credentials are Docker's: $DOCKER_CONFIG/config.json or ~/.docker/config.json,
// with credential helpers.
package registry
