package logs

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// holders names the processes that have a file under a flock, as proc_locks(5)
// tells: one that inherited the descriptor of such a process is not seen.
func holders(f *os.File) string {
	const unknown = "another process"
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil {
		return unknown
	}
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		return unknown
	}
	if names := flockers(string(locks), st.Ino); len(names) > 0 {
		return strings.Join(names, ", ")
	}
	return unknown
}

// flockers goes by the inode alone: the device in the list is not always the one
// that stat(2) tells.
func flockers(locks string, inode uint64) (names []string) {
	for line := range strings.Lines(locks) {
		// 1: FLOCK  ADVISORY  WRITE 1234 fd:01:5678 0 EOF; one that waits has "->" in
		// the second place.
		f := strings.Fields(line)
		if len(f) < 6 || f[1] != "FLOCK" || !strings.HasSuffix(f[5], fmt.Sprintf(":%d", inode)) {
			continue
		}
		name := "process " + f[4]
		if comm, err := os.ReadFile("/proc/" + f[4] + "/comm"); err == nil {
			name += fmt.Sprintf(" (%s)", bytes.TrimSpace(comm))
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}
