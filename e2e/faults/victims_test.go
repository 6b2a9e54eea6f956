package faults

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/e2e/machine"
)

// roles are our processes that a point of the matrix may kill: the command, and
// whatever it has started that is not a container.
var roles = []string{"client", "supervisor", "guardian", "warden", "builder"}

// subset draws some of them, at least one.
func subset(r *rand.Rand, from []string) []string {
	for {
		var out []string
		for _, s := range from {
			if r.IntN(2) == 0 {
				out = append(out, s)
			}
		}
		if len(out) > 0 {
			return out
		}
	}
}

// keepers finds the project's own processes by their titles, and the builder.
func keepers(project string) map[string][]int {
	out := map[string][]int{}
	pids, _ := machine.PIDs()
	for _, pid := range pids {
		p, err := machine.ReadProc(pid)
		if err != nil || p.State == "Z" {
			continue
		}
		for _, role := range roles[1:4] {
			if strings.HasPrefix(p.Cmdline, "stack: "+role+" "+project) {
				out[role] = append(out[role], pid)
			}
		}
		if exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); strings.HasPrefix(p.Cmdline, "stack-builder") || strings.Contains(exe, "stack-builder") {
			out["builder"] = append(out["builder"], pid)
		}
	}
	return out
}

// killAt kills processes of a project with SIGKILL, all at the same moment, and
// says which were there.
func killAt(project string, c *client, which []string) (killed []string) {
	pids := keepers(project)
	if slices.Contains(which, "client") {
		select {
		case <-c.done:
		default:
			c.killed = true
			pids["client"] = []int{c.cmd.Process.Pid}
		}
	}
	var fds []int
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	for _, role := range which {
		for _, pid := range pids[role] {
			if fd, err := unix.PidfdOpen(pid, 0); err == nil {
				fds = append(fds, fd)
				killed = append(killed, role)
			}
		}
	}
	// Stopped first, none of them sees another die.
	for _, s := range []unix.Signal{unix.SIGSTOP, unix.SIGKILL} {
		for _, fd := range fds {
			unix.PidfdSendSignal(fd, s, nil, 0) // it may have ended by itself
		}
	}
	for _, fd := range fds { // a pidfd is readable once its process has ended
		unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 5000)
	}
	return killed
}
