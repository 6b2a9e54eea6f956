// Package sock listens on and dials unix sockets whose path may be of any length.
//
// The kernel takes at most 107 bytes (sun_path, unix(7)), which a long run root or
// project name exceeds. A longer path is reached through a descriptor of its
// directory: /proc/self/fd/N/NAME.
package sock

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// maxPath is the length in bytes of what fits sun_path with its final zero.
const maxPath = len(unix.RawSockaddrUnix{}.Path) - 1

// Listen makes a socket that only this user may connect to. Closing the listener
// does not remove it.
func Listen(path string) (*net.UnixListener, error) {
	short, free, err := shorten(path)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", path, err)
	}
	defer free()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: short})
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", path, err)
	}
	// The name that it knows may be the short one, which is good for now only.
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Dial connects to a socket.
func Dial(ctx context.Context, path string) (*net.UnixConn, error) {
	short, free, err := shorten(path)
	if err != nil {
		return nil, err
	}
	defer free()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", short)
	if err != nil {
		return nil, err
	}
	return conn.(*net.UnixConn), nil
}

// shorten returns a path to the same socket that the kernel takes, until free is
// called.
func shorten(path string) (short string, free func(), err error) {
	if len(path) <= maxPath {
		return path, func() {}, nil
	}
	fd, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", nil, &os.PathError{Op: "open", Path: filepath.Dir(path), Err: err}
	}
	short = fmt.Sprintf("/proc/self/fd/%d/%s", fd, filepath.Base(path))
	return short, func() { unix.Close(fd) }, nil
}
