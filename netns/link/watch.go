package link

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Info is what the kernel says about a link.
type Info struct {
	Index int
	Name  string
	Alias string
	// Carries says that packets pass: the link is operational and, as a port of a
	// bridge, forwards.
	Carries bool
}

const (
	operUp          = 6 // IF_OPER_UP
	portForwarding  = 3 // BR_STATE_FORWARDING
	infoSlaveData   = 5 // IFLA_INFO_SLAVE_DATA
	attributeType   = 0x3fff
	eventBufferSize = 1 << 20
)

// parseInfo reads the body of an RTM_NEWLINK message.
func parseInfo(body []byte) Info {
	info := Info{Index: int(int32(binary.NativeEndian.Uint32(body[4:])))}
	attrs, _ := nl.ParseRouteAttr(body[unix.SizeofIfInfomsg:])
	oper, port := byte(operUp), byte(portForwarding)
	for _, a := range attrs {
		switch a.Attr.Type & attributeType {
		case unix.IFLA_IFNAME:
			info.Name = nl.BytesToString(a.Value)
		case unix.IFLA_IFALIAS:
			info.Alias = nl.BytesToString(a.Value)
		case unix.IFLA_OPERSTATE:
			if len(a.Value) > 0 {
				oper = a.Value[0]
			}
		case unix.IFLA_LINKINFO:
			details, _ := nl.ParseRouteAttr(a.Value)
			for _, d := range details {
				if d.Attr.Type&attributeType == infoSlaveData {
					port = firstByte(d.Value, brportState, port)
				}
			}
		case unix.IFLA_PROTINFO:
			port = firstByte(a.Value, brportState, port)
		}
	}
	info.Carries = oper == operUp && port == portForwarding
	return info
}

// firstByte is the value of a byte attribute of a nest.
func firstByte(nest []byte, kind uint16, otherwise byte) byte {
	attrs, _ := nl.ParseRouteAttr(nest)
	for _, a := range attrs {
		if a.Attr.Type&attributeType == kind && len(a.Value) > 0 {
			return a.Value[0]
		}
	}
	return otherwise
}

// Watch waits for links to carry packets, in the network namespace of the thread
// that calls [Watch.Begin].
//
// The kernel sets a link up at once but lets packets through only when a worker
// has seen its carrier (net/core/link_watch.c), once for the port and once more
// for a bridge that had none. A first ARP request that falls into this gap is
// lost and repeated after a second.
type Watch struct {
	mu      sync.Mutex
	users   int
	events  *os.File
	query   *Socket
	waiters map[*waiter]struct{}
}

type waiter struct {
	missing map[string]bool // by link name
	done    chan struct{}   // closed when nothing is missing
	lost    chan struct{}   // has an item when events were lost
}

// Begin starts listening, so that [Watch.Wait] misses nothing that happens from
// now on. Each Begin that succeeds needs an [Watch.End].
func (w *Watch) Begin() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.users == 0 {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
		if err == nil {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, eventBufferSize)
			err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: unix.RTMGRP_LINK})
			if err != nil {
				_ = unix.Close(fd)
			}
		}
		if err != nil {
			return fmt.Errorf("cannot listen to link events: %w", err)
		}
		if w.query, err = Open(); err != nil {
			return errors.Join(err, unix.Close(fd))
		}
		w.events = os.NewFile(uintptr(fd), "link events")
		w.waiters = map[*waiter]struct{}{}
		go w.read(w.events)
	}
	w.users++
	return nil
}

// End stops listening when it is the last one.
func (w *Watch) End() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.users--; w.users == 0 {
		_ = w.events.Close()
		_ = w.query.Close()
	}
}

// Wait returns when all links carry packets, or the context is done.
func (w *Watch) Wait(ctx context.Context, links []string) error {
	if len(links) == 0 {
		return nil
	}
	me := &waiter{missing: map[string]bool{}, done: make(chan struct{}), lost: make(chan struct{}, 1)}
	for _, name := range links {
		me.missing[name] = true
	}
	w.mu.Lock()
	w.waiters[me] = struct{}{}
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		delete(w.waiters, me)
		w.mu.Unlock()
	}()
	for {
		w.mu.Lock()
		for _, name := range links {
			if info, err := w.query.Find(name); err == nil && info.Carries {
				me.found(name)
			}
		}
		w.mu.Unlock()
		select {
		case <-me.done:
			return nil
		case <-me.lost:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// found is called under the watch's lock.
func (me *waiter) found(name string) {
	if !me.missing[name] {
		return
	}
	delete(me.missing, name)
	if len(me.missing) == 0 {
		close(me.done)
	}
}

func (w *Watch) read(events *os.File) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := events.Read(buffer)
		if errors.Is(err, unix.ENOBUFS) {
			w.mu.Lock()
			for me := range w.waiters {
				select {
				case me.lost <- struct{}{}:
				default:
				}
			}
			w.mu.Unlock()
			continue
		}
		if err != nil {
			return // closed
		}
		w.dispatch(buffer[:n])
	}
}

func (w *Watch) dispatch(in []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(in) >= unix.NLMSG_HDRLEN {
		size := int(binary.NativeEndian.Uint32(in))
		if size < unix.NLMSG_HDRLEN || size > len(in) {
			return
		}
		body := in[unix.NLMSG_HDRLEN:size]
		if binary.NativeEndian.Uint16(in[4:]) == unix.RTM_NEWLINK && len(body) >= unix.SizeofIfInfomsg {
			if info := parseInfo(body); info.Carries {
				for me := range w.waiters {
					me.found(info.Name)
				}
			}
		}
		in = in[min(len(in), (size+3)&^3):]
	}
}
