package runtime

import (
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// isBelow reports whether a clean path is dir or lies below it.
func isBelow(p, dir string) bool {
	return p == dir || dir == "/" || strings.HasPrefix(p, dir) && p[len(dir)] == '/'
}

// maxLinks is how many symbolic links a path may go through, as in the kernel.
const maxLinks = 40

// resolveInRoot follows the symbolic links of a path inside a root file system,
// as far as it exists, and never outside. The result has no links, so that it
// says where a mount really goes, and its missing part can be created.
//
// Nobody changes the root meanwhile: nothing runs in it yet.
func resolveInRoot(root *os.File, p string) (string, error) {
	p = path.Clean("/" + p)
	if p == "/" {
		return p, nil
	}
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS}
	fd, err := unix.Openat2(fdOf(root), p[1:], &how)
	if err == nil {
		return p, unix.Close(fd)
	}
	if err != unix.ENOENT && err != unix.ELOOP {
		return "", &os.PathError{Op: "open", Path: p, Err: err}
	}
	return followLinks(p, func(prefix string) (string, error) {
		var buf [unix.PathMax]byte
		n, err := unix.Readlinkat(fdOf(root), prefix[1:], buf[:])
		if err != nil {
			return "", err
		}
		return string(buf[:n]), nil
	})
}

// followLinks resolves a clean absolute path with readlink, which returns EINVAL
// for what is no link.
func followLinks(p string, readlink func(prefix string) (string, error)) (string, error) {
	done, rest := "", p
	for links := 0; rest != ""; {
		var name string
		name, rest, _ = strings.Cut(strings.TrimLeft(rest, "/"), "/")
		switch name {
		case "", ".":
			continue
		case "..":
			done = strings.TrimSuffix(path.Dir("/"+done), "/")
			continue
		}
		next := done + "/" + name
		to, err := readlink(next)
		switch {
		case err == unix.EINVAL:
			done = next
		case err == unix.ENOENT:
			return path.Join("/", next, rest), nil
		case err != nil:
			return "", &os.PathError{Op: "readlink", Path: next, Err: err}
		default:
			if links++; links > maxLinks {
				return "", &os.PathError{Op: "open", Path: p, Err: unix.ELOOP}
			}
			if path.IsAbs(to) {
				done = ""
			}
			rest = to + "/" + rest
		}
	}
	return path.Join("/", done), nil
}
