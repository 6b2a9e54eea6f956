package main

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// claim says on a link, for a while, that an address is this container's, and with a
// third argument that it has the Ethernet address of another one:
//
//	probe claim eth0 172.18.0.2 [02:42:ac:12:00:02]
func claim(args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("want a link and an address, have %q", args)
	}
	dev, err := net.InterfaceByName(args[0])
	if err != nil {
		return err
	}
	addr, err := netip.ParseAddr(args[1])
	if err != nil {
		return err
	}
	source := dev.HardwareAddr
	if len(args) > 2 {
		if source, err = net.ParseMAC(args[2]); err != nil {
			return err
		}
	}
	proto := uint16(unix.ETH_P_ARP)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, int(proto<<8|proto>>8))
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	to := &unix.SockaddrLinklayer{Ifindex: dev.Index, Protocol: proto<<8 | proto>>8, Halen: 6}
	for range 20 {
		for _, operation := range []byte{1, 2} { // request, reply
			// Tags of VLAN 0 are none to who receives them, IEEE 802.1Q.
			for _, tags := range [][]byte{nil, {0x81, 0, 0, 0}, {0x81, 0, 0, 0, 0x81, 0, 0, 0}, {0x88, 0xa8, 0, 0, 0x81, 0, 0, 0}} {
				frame := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, source...)
				frame = append(append(frame, tags...), 8, 6, 0, 1, 8, 0, 6, 4, 0, operation) // ARP of Ethernet and IPv4
				frame = append(append(frame, source...), addr.AsSlice()...)
				frame = append(append(frame, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), addr.AsSlice()...)
				if err := unix.Sendto(fd, frame, 0, to); err != nil {
					return err
				}
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	return nil
}
