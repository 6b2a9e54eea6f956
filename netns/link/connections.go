package link

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Multicast groups of linux/sock_diag.h: a TCP socket has been closed for good.
const (
	groupTCP4Destroyed = 1 // SKNLGRP_INET_TCP_DESTROY
	groupTCP6Destroyed = 3 // SKNLGRP_INET6_TCP_DESTROY
)

// Drained returns when nobody outside the network namespace of the file path has a TCP
// connection to a socket that listens in it.
func Drained(ctx context.Context, path string) error {
	var events *os.File
	var query *netlink.Handle
	err := Enter(path, func(int) (err error) {
		if query, err = netlink.NewHandle(unix.NETLINK_INET_DIAG); err != nil {
			return err
		}
		events, err = openDestroyed()
		return err
	})
	if query != nil {
		defer query.Close()
	}
	if err != nil {
		return fmt.Errorf("cannot watch connections: %w", err)
	}
	defer events.Close()
	// A read that waits ends with the file.
	defer context.AfterFunc(ctx, func() { events.Close() })()
	buffer := make([]byte, 64<<10)
	for {
		n, err := served(query)
		if err != nil || n == 0 {
			return err
		}
		// Whatever happens is a reason to look again, also that events were lost.
		if _, err := events.Read(buffer); err != nil && !errors.Is(err, unix.ENOBUFS) {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("cannot watch connections: %w", err)
		}
	}
}

// openDestroyed opens a socket that tells when TCP sockets are closed.
func openDestroyed() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_INET_DIAG)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "sock_diag")
	groups := uint32(1<<(groupTCP4Destroyed-1) | 1<<(groupTCP6Destroyed-1))
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// served counts the connections that come from outside to sockets that listen.
func served(h *netlink.Handle) (int, error) {
	var all []*netlink.Socket
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		some, err := h.SocketDiagTCP(family)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return 0, fmt.Errorf("cannot list connections: %w", err)
		}
		all = append(all, some...)
	}
	listens := map[uint16]bool{}
	for _, s := range all {
		if s.State == netlink.TCP_LISTEN {
			listens[s.ID.SourcePort] = true
		}
	}
	n := 0
	for _, s := range all {
		switch s.State {
		case netlink.TCP_LISTEN, netlink.TCP_TIME_WAIT, netlink.TCP_CLOSE, netlink.TCP_SYN_SENT:
			continue
		}
		if listens[s.ID.SourcePort] && !s.ID.Destination.IsLoopback() {
			n++
		}
	}
	return n, nil
}
