package nft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Watch tells of changes of tables, chains and rules, by whomever, until the
// context ends. Changes that come while one is not yet received are one. Elements
// of sets, which come and go with containers, do not count.
func Watch(ctx context.Context) (<-chan struct{}, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("cannot watch the firewall: %w", err)
	}
	socket := os.NewFile(uintptr(fd), "firewall events")
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)}); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot watch the firewall: %w", err), socket.Close())
	}
	changes := make(chan struct{}, 1)
	stop := context.AfterFunc(ctx, func() { _ = socket.Close() })
	go func() {
		defer stop()
		defer close(changes)
		buffer := make([]byte, 1<<16)
		for {
			n, err := socket.Read(buffer)
			if err != nil && !errors.Is(err, unix.ENOBUFS) { // so many that some are lost
				return
			}
			if err != nil || concerns(buffer[:n]) {
				select {
				case changes <- struct{}{}:
				default:
				}
			}
		}
	}()
	return changes, nil
}

// concerns reports whether a datagram of netlink messages (netlink(7)) has one
// about a table, chain or rule.
func concerns(b []byte) bool {
	for len(b) >= unix.SizeofNlMsghdr {
		size := int(binary.NativeEndian.Uint32(b))
		switch binary.NativeEndian.Uint16(b[4:]) & 0xff {
		case unix.NFT_MSG_NEWTABLE, unix.NFT_MSG_DELTABLE, unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_DELCHAIN, unix.NFT_MSG_NEWRULE, unix.NFT_MSG_DELRULE:
			return true
		}
		if size < unix.SizeofNlMsghdr || size > len(b) {
			return false
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return false
}
