// Package e2e tests the whole program: the stack binary, on real images, on
// the real kernel.
//
// The tests run as root inside a machine of their own: TestMain starts the test
// binary again in new pid, mount, network and ipc namespaces, with a veth pair
// to a second network namespace that plays the local network (a client, a DNS
// server, a web server). So the tests need no network, leave no process, mount,
// link or firewall rule behind whatever happens, and may be run beside anything
// else. Each test has a data root and a run root of its own.
//
// A test states an obligation and checks it on observed state: the kernel's
// files, sockets, inspect's JSON. Text is checked only where the text is the
// obligation (errors that must name file and line).
package e2e
