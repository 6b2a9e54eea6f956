// Package terminal tells terminals from other files, measures them, and puts
// them into the modes that interactive commands need (termios(3), ioctl_tty(2)).
package terminal

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// File returns the terminal behind a stream, or nil when it is none.
func File(stream any) *os.File {
	f, ok := stream.(*os.File)
	if !ok || f == nil {
		return nil
	}
	if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err != nil {
		return nil
	}
	return f
}

// Is reports whether a stream is a terminal.
func Is(stream any) bool { return File(stream) != nil }

// Size returns the width and height of the terminal behind w in cells, 80×24
// when it does not say.
func Size(w io.Writer) (width, height int) {
	width, height = 80, 24
	f := File(w)
	if f == nil {
		return width, height
	}
	ws, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return width, height
	}
	if ws.Col > 0 {
		width = int(ws.Col)
	}
	if ws.Row > 0 {
		height = int(ws.Row)
	}
	return width, height
}

// Raw puts f into raw mode, in which every byte typed is passed on as it is:
// what cfmakeraw(3) does. The returned function restores the former mode; it
// may be called more than once.
func Raw(f *os.File) (restore func(), err error) {
	return change(f, func(t *unix.Termios) {
		t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
		t.Oflag &^= unix.OPOST
		t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
		t.Cflag &^= unix.CSIZE | unix.PARENB
		t.Cflag |= unix.CS8
		t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	})
}

// Keys puts f into a mode in which single keys can be read without an echo
// while Ctrl-C and Ctrl-Z still send their signals and output is processed.
func Keys(f *os.File) (restore func(), err error) {
	return change(f, func(t *unix.Termios) {
		t.Lflag &^= unix.ECHO | unix.ICANON
		t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	})
}

// NoEcho keeps what is typed from being shown, for a password.
func NoEcho(f *os.File) (restore func(), err error) {
	return change(f, func(t *unix.Termios) { t.Lflag &^= unix.ECHO })
}

func change(f *os.File, edit func(*unix.Termios)) (func(), error) {
	fd := int(f.Fd())
	before, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return func() {}, err
	}
	after := *before
	edit(&after)
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &after); err != nil {
		return func() {}, err
	}
	return func() { unix.IoctlSetTermios(fd, unix.TCSETS, before) }, nil
}
