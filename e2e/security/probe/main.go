// Probe prints, as JSON, what it may see and do; see package security.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/stack-run/stack/e2e/security"
)

func main() {
	for command, f := range map[string]func([]string) error{"claim": claim, "dns": names} {
		if len(os.Args) > 1 && os.Args[1] == command {
			if err := f(os.Args[2:]); err != nil {
				fmt.Fprintln(os.Stderr, "probe:", err)
				os.Exit(1)
			}
			return
		}
	}
	out := json.NewEncoder(os.Stdout)
	out.SetIndent("", " ")
	report := security.Report{
		Capabilities: capabilities(),
		Status:       status(),
		Paths:        paths(),
		Mounts:       mounts(),
		Dev:          dev(),
		Namespaces:   namespaces(os.Getenv(security.HostNamespacesVariable)),
		Rlimits:      rlimits(),
		Label:        label(),
		Devices:      devices(),
		Syscalls:     syscalls(), // last: some change their thread
	}
	if err := out.Encode(report); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}
