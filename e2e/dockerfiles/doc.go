// Package dockerfiles builds many small Dockerfiles, each about one instruction
// or flag, and compares what comes out with what docker build makes of them.
//
// A case is a file testdata/NAME.txtar: lines "KEY: VALUE", then the build
// context. The keys:
//
//	flags   further arguments of the build
//	setup   a shell line run in the context before the build, for what a text
//	        archive cannot hold
//	xattr   an extended attribute, "PATH NAME VALUE" with the value in hex
//	env     a variable of the build command
//	error   text that the build's failure must contain; nothing is compared then
//	times   "yes" compares the times of the configuration too
//	peer    "no; WHY" where docker build cannot do it in the test: the golden file
//	        is written by hand
//	images  further images, "NAME CONFIG…", that are there before the build
//
// testdata/NAME.golden says what docker build (buildx with BuildKit and runc)
// made of it: all files that are not the base image's, and the configuration.
//
//	go test ./e2e/dockerfiles              # stack's result against the golden file
//	go test ./e2e/dockerfiles -peer        # against docker build's, and this against the golden file
//	go test ./e2e/dockerfiles -peer -update
package dockerfiles
