package inode

import (
	"os"

	"golang.org/x/sys/unix"
)

// MakeFilesOf lets what the calling thread makes from now on belong to id, as user and
// group, setfsuid(2). The goroutine must be locked to its thread, and the thread end
// with it. It keeps its capabilities, so that it still may change all files.
func MakeFilesOf(id int) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&header, &caps[0]); err != nil {
		return os.NewSyscallError("capget", err)
	}
	if _, err := unix.SetfsgidRetGid(id); err != nil {
		return os.NewSyscallError("setfsgid", err)
	}
	if _, err := unix.SetfsuidRetUid(id); err != nil {
		return os.NewSyscallError("setfsuid", err)
	}
	// Which took those over files away, capabilities(7).
	return os.NewSyscallError("capset", unix.Capset(&header, &caps[0]))
}
