package supervise

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// dropText unmaps the pages of the program's own file, which come back from the page
// cache when they are needed: for a supervisor that idles, nearly half of its memory.
// An error only costs memory.
func dropText() {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if from, to, ok := readOnlyMapping(lines.Text(), program); ok {
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED)
		}
	}
}

// readOnlyMapping reads a line of proc_pid_maps(5) and tells whether nothing was
// ever written to that part of a file's mapping. In a program that can lie anywhere
// (PIE), far up, the loader wrote to pages that are read-only since.
func readOnlyMapping(line, file string) (from, to uintptr, ok bool) {
	var mode string
	if n, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); n != 3 || err != nil {
		return 0, 0, false
	}
	return from, to, to < 1<<32 && strings.HasPrefix(mode, "r-") && strings.HasSuffix(line, " "+file)
}
