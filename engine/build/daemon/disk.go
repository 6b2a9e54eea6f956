package daemon

import "syscall"

// diskSize returns the bytes of the file system that dir is on, 0 if unknown.
func diskSize(dir string) int64 {
	var st syscall.Statfs_t
	if syscall.Statfs(dir, &st) != nil {
		return 0
	}
	return int64(st.Blocks) * st.Bsize
}
