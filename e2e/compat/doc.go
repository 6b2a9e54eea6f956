// Package compat compares stack with docker compose where both need no containers:
// what config makes of Compose files, and which flags the verbs have.
//
// The files are drawn from a seed, out of testdata/values.yaml, which has each
// attribute of the specification in all its forms. What differs must be one of the
// rules in accepted_test.go, each with its reason.
//
// The flags of docker compose are in cmd/stack/testdata/compose, where a test beside
// the code compares those of stack with them; the test here compares the table with
// the program.
//
//	go test ./e2e/compat -peer                              # 400 projects
//	go test ./e2e/compat -peer -seed 17 -projects 1 -v      # one again
//	go test ./e2e/compat -peer -seed 1000 -projects 5000    # others
//	go test ./e2e/compat -peer -run Flags -update           # of another version
package compat
