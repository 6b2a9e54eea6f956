package snapshot

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Project quotas limit the files below a directory on ext4 and XFS (quotactl(2),
// Documentation/filesystems/quota.rst). A container's writable files are a project.

// From linux/fs.h and linux/quota.h.
const (
	getAttributes      = 0x801c581f // FS_IOC_FSGETXATTR
	setAttributes      = 0x401c5820 // FS_IOC_FSSETXATTR
	inheritProject     = 0x200      // FS_XFLAG_PROJINHERIT
	projectQuota       = 2          // PRJQUOTA
	quotaInfo          = 0x800005   // Q_GETINFO
	setQuota           = 0x800008   // Q_SETQUOTA
	blockLimits        = 1          // QIF_BLIMITS
	quotaBlock         = 1024       // bytes
	lowestProject      = 1 << 24    // below it are those of whoever numbers by hand
	projectMask        = 0x7fffffff
	quotactlCommandLen = 8
)

// fileAttributes is struct fsxattr.
type fileAttributes struct {
	flags, extent, extents, project, cowExtent uint32
	_                                          [8]byte
}

// diskQuota is struct if_dqblk.
type diskQuota struct {
	blockHard, blockSoft, space, inodeHard, inodeSoft, inodes, blockTime, inodeTime uint64
	valid                                                                           uint32
	_                                                                               uint32
}

// CanLimit tells what keeps containers' writable files from being limited in size.
func (s *Store) CanLimit() error {
	f, err := os.Open(s.containers)
	if err != nil {
		return err
	}
	defer f.Close()
	var info [24]byte // struct if_dqinfo
	if err := quotactl(f, quotaInfo, 0, unsafe.Pointer(&info)); err != nil {
		return fmt.Errorf("the file system of %s has no project quotas (%w); use XFS or ext4 (mkfs.ext4 -O quota,project) and mount it with the option prjquota", s.containers, err)
	}
	return nil
}

// Limit bounds the size of what a container writes, bytes. Only what is written after it
// counts, so it is called before the container runs.
func (s *Store) Limit(containerID string, size int64) error {
	dir, err := s.containerDir(containerID)
	if err != nil {
		return err
	}
	project, err := projectOf(containerID)
	if err == nil {
		err = s.limit(project, size)
	}
	// Files are renamed from one to the other, which a project does not let out.
	for _, part := range []string{"work", "upper"} {
		if err == nil {
			err = setProject(filepath.Join(dir, part), project)
		}
	}
	if err != nil {
		return fmt.Errorf("cannot limit the files of container %s to %d bytes: %w", short(containerID), size, err)
	}
	return nil
}

// limit sets the limit of a project; 0 lifts it.
func (s *Store) limit(project uint32, size int64) error {
	f, err := os.Open(s.containers)
	if err != nil {
		return err
	}
	defer f.Close()
	q := diskQuota{blockHard: uint64((size + quotaBlock - 1) / quotaBlock), valid: blockLimits}
	q.blockSoft = q.blockHard
	return quotactl(f, setQuota, project, unsafe.Pointer(&q))
}

// unlimit forgets the limit of a container whose files are gone, if it had one.
func (s *Store) unlimit(containerID string, limited bool) error {
	if !limited {
		return nil
	}
	project, err := projectOf(containerID)
	if err != nil {
		return err
	}
	return s.limit(project, 0)
}

// limited tells whether a container's files are a project.
func limited(dir string) bool {
	f, err := os.Open(filepath.Join(dir, "upper"))
	if err != nil {
		return false
	}
	defer f.Close()
	a, err := attributesOf(f)
	return err == nil && a.project != 0 && a.flags&inheritProject != 0
}

// projectOf is the number of a container's project, made of its ID, which is random.
func projectOf(containerID string) (uint32, error) {
	b, err := hex.DecodeString(containerID[:min(8, len(containerID))])
	if err != nil || len(b) < 4 {
		return 0, fmt.Errorf("internal error: %q is no container ID", containerID)
	}
	return max(binary.BigEndian.Uint32(b)&projectMask, lowestProject), nil
}

func setProject(path string, project uint32) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	a, err := attributesOf(f)
	if err != nil {
		return err
	}
	a.project, a.flags = project, a.flags|inheritProject
	if err := ioctl(f, setAttributes, unsafe.Pointer(&a)); err != nil {
		return fmt.Errorf("cannot make %s a project: %w", path, err)
	}
	return nil
}

func attributesOf(f *os.File) (a fileAttributes, err error) {
	return a, ioctl(f, getAttributes, unsafe.Pointer(&a))
}

func ioctl(f *os.File, request uintptr, p unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(p)); errno != 0 {
		return errno
	}
	return nil
}

func quotactl(f *os.File, command int, id uint32, p unsafe.Pointer) error {
	_, _, errno := unix.Syscall6(unix.SYS_QUOTACTL_FD, f.Fd(), uintptr(command<<quotactlCommandLen|projectQuota), uintptr(id), uintptr(p), 0, 0)
	switch errno {
	case 0:
		return nil
	case unix.ESRCH, unix.ENOSYS, unix.EOPNOTSUPP:
		return errors.New("they are not switched on")
	}
	return errno
}
