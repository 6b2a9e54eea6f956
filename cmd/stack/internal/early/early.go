// Package early answers "stack version" before the libraries initialise.
//
// Go initialises a program's packages one by one, each as soon as all that it
// imports are, and those that are ready in the order of their paths (The Go
// Programming Language Specification, "Program initialization"). This one
// imports nothing but os, so its turn comes before that of the large libraries,
// which take three times as long as all of this command.
package early

import "os"

// Version is set by the linker: -ldflags
// "-X github.com/stack-run/stack/cmd/stack/internal/early.Version=v1.2.3".
var Version = "v0.0.0-dev"

func init() {
	if Asked(os.Args) {
		if _, err := os.Stdout.WriteString(Line()); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// Asked tells whether the arguments are those that this package answers.
func Asked(args []string) bool {
	return len(args) == 2 && !likeDocker(args[0]) && (args[1] == "version" || args[1] == "--version" || args[1] == "-v")
}

// likeDocker tells whether a program was called by a name that begins as docker's do.
func likeDocker(path string) bool {
	for i := len(path) - 1; i >= 0; i-- {
		if path[i] == '/' {
			path = path[i+1:]
			break
		}
	}
	return len(path) >= len("docker") && path[:len("docker")] == "docker"
}

// Line is the answer.
func Line() string { return "Stack version " + Version + "\n" }
