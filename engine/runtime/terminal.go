package runtime

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// newTerminal makes the container's devpts, which takes the place of the one in
// the specification, and a terminal in it. So the master never passes through
// the container.
func (l *launch) newTerminal(s *specs.Spec, facts *startFacts) error {
	i := slices.IndexFunc(s.Mounts, func(m specs.Mount) bool { return path.Clean(m.Destination) == "/dev/pts" && m.Type == "devpts" })
	if i < 0 {
		return errors.New("cannot give the container a terminal: it has no devpts at /dev/pts")
	}
	pts, err := mountDevpts(s.Mounts[i].Options, s.Linux.GIDMappings)
	if err != nil {
		return fmt.Errorf("cannot mount devpts: %w", err)
	}
	l.keep(fmt.Sprint("mount ", i), pts)
	facts.mounts[i].fd, facts.mounts[i].dir, facts.mounts[i].ready = true, true, true
	return l.terminal(fdOf(pts), "ptmx", s.Process.ConsoleSize)
}

// mountDevpts mounts devpts with options that are the container's: its group, too.
func mountDevpts(options []string, gids IDs) (*os.File, error) {
	o := parseMountOptions(options)
	fs, err := unix.Fsopen("devpts", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fs)
	for _, option := range o.data {
		key, value, isString := strings.Cut(option, "=")
		switch {
		case key == "newinstance": // always so, and unknown to newer kernels
		case isString:
			if gid, perr := strconv.ParseUint(value, 10, 32); perr == nil && key == "gid" {
				host, ok := gids.Host(uint32(gid))
				if !ok {
					return nil, fmt.Errorf("option %q: the container's user namespace has no group %d", option, gid)
				}
				value = strconv.FormatUint(uint64(host), 10)
			}
			err = unix.FsconfigSetString(fs, key, value)
		default:
			err = unix.FsconfigSetFlag(fs, key)
		}
		if err != nil {
			return nil, fmt.Errorf("option %q: %w", option, err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, err
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, int(o.set))
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "devpts"), nil
}

// terminal opens a new terminal through a ptmx device: the slave becomes the
// child's descriptor "terminal", the master the process's Console.
func (l *launch) terminal(dir int, ptmx string, size *specs.Box) error {
	fd, err := unix.Openat(dir, ptmx, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("cannot open a terminal: %w", err)
	}
	master := os.NewFile(uintptr(fd), "terminal")
	err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	if err == nil && size != nil {
		err = setSize(fd, size.Height, size.Width)
	}
	var slave int
	if err == nil {
		// TIOCGPTPEER opens the other side without a path, ioctl_tty(2).
		slave, err = ptyPeer(fd)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("cannot open a terminal: %w", err), master.Close())
	}
	l.keep("terminal", os.NewFile(uintptr(slave), "terminal"))
	l.console = master
	return nil
}

func ptyPeer(master int) (int, error) {
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

// Resize sets the terminal's size in characters; the foreground processes get SIGWINCH.
func (p *Process) Resize(rows, columns uint) error {
	if p.Console == nil {
		return errors.New("cannot resize: the process has no terminal")
	}
	return Resize(p.Console, rows, columns)
}

// Resize sets the size of the terminal with this master side.
func Resize(console *os.File, rows, columns uint) error {
	conn, err := console.SyscallConn()
	if err != nil {
		return err
	}
	if cerr := conn.Control(func(fd uintptr) { err = setSize(int(fd), rows, columns) }); cerr != nil {
		return cerr
	}
	return err
}

func setSize(fd int, rows, columns uint) error {
	return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(rows), Col: uint16(columns)})
}
