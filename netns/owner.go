package netns

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// portHolder finds the endpoint of this instance that publishes a port, other
// than those in except.
func (m *Manager) portHolder(p Port, except []string) (*Endpoint, bool) {
	all, err := m.endpoints()
	if err != nil {
		return nil, false
	}
	return holderOf(p, all, except)
}

func holderOf(p Port, all []endpointRecord, except []string) (*Endpoint, bool) {
	for _, e := range all {
		if e.Published && !slices.Contains(except, e.Spec.ID) && slices.ContainsFunc(e.Ports, p.Clashes) {
			return &e.Endpoint, true
		}
	}
	return nil, false
}

// portOwner says in words who has a host port.
func (m *Manager) portOwner(p Port, except []string) string {
	if e, ok := m.portHolder(p, except); ok {
		return e.Spec.OwnerInFull()
	}
	if owner := processOf(p); owner != "" {
		return owner
	}
	return "another program on this host"
}

// PortsTaken tells which host ports of an endpoint that is not there somebody else has
// now, and who. Nothing is tried: whoever starts meanwhile gets what there is.
func (m *Manager) PortsTaken(s EndpointSpec) ([]string, error) {
	all, err := m.endpoints()
	if err != nil {
		return nil, err
	}
	published, busy := publishedPorts(all, nil), map[string]map[uint16]bool{}
	owner := func(p Port) string {
		if by, taken := published.clashing(p); taken {
			if by.Service() != "" && by.Service() == s.Service() {
				return ""
			}
			return by.OwnerInFull()
		}
		if busy[p.Transport()] == nil {
			busy[p.Transport()], _ = busyPorts(p.Transport())
		}
		if !busy[p.Transport()][p.HostPort] {
			return ""
		}
		return processOf(p)
	}
	var out []string
	for _, p := range s.Ports {
		if s.Mode != "" || checkPort(p) != nil || p.HostPort == 0 {
			continue
		}
		who := ""
		for port := int(p.HostPort); port <= int(p.Last()); port++ {
			one := p
			one.HostPort, one.HostPortEnd = uint16(port), 0
			by := owner(one)
			if who = cmp.Or(who, by); by == "" {
				who = ""
				break
			}
		}
		if who != "" {
			out = append(out, fmt.Sprintf("port %s/%s is used by %s", p.Host(), p.Transport(), who))
		}
	}
	return out, nil
}

// processOf names the process that has a socket on a host port:
// `PID 812 "node server.js" (user anna)`, or "" when none is found.
func processOf(p Port) string {
	inodes := map[string]bool{}
	for _, file := range []string{p.Transport(), p.Transport() + "6"} {
		for _, inode := range socketInodes(filepath.Join("/proc/thread-self/net", file), p) {
			inodes["socket:["+inode+"]"] = true
		}
	}
	if len(inodes) == 0 {
		return ""
	}
	procs, _ := os.ReadDir("/proc")
	for _, proc := range procs {
		pid, err := strconv.Atoi(proc.Name())
		if err != nil {
			continue
		}
		dir := filepath.Join("/proc", proc.Name())
		fds, _ := os.ReadDir(filepath.Join(dir, "fd"))
		for _, fd := range fds {
			if target, err := os.Readlink(filepath.Join(dir, "fd", fd.Name())); err == nil && inodes[target] {
				return describeProcess(pid, dir)
			}
		}
	}
	return ""
}

func describeProcess(pid int, dir string) string {
	text := fmt.Sprintf("PID %d", pid)
	command, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
	line := strings.TrimSpace(strings.ReplaceAll(string(command), "\x00", " "))
	if line == "" {
		comm, _ := os.ReadFile(filepath.Join(dir, "comm"))
		line = strings.TrimSpace(string(comm))
	}
	const most = 80
	if len(line) > most {
		line = line[:most] + "…"
	}
	if line != "" {
		text += fmt.Sprintf(" %q", line)
	}
	if uid := uidOf(dir); uid != "" {
		name := uid
		if u, err := user.LookupId(uid); err == nil {
			name = u.Username
		}
		text += " (user " + name + ")"
	}
	return text
}

func uidOf(dir string) string {
	status, _ := os.ReadFile(filepath.Join(dir, "status"))
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "Uid:"); ok {
			if f := strings.Fields(rest); len(f) > 0 {
				return f[0]
			}
		}
	}
	return ""
}

// socketInodes reads a file such as /proc/net/tcp6 (proc(5)) for sockets that
// keep the port: TCP ones that listen, UDP ones that are bound.
func socketInodes(path string, p Port) []string {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	var out []string
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) < 10 || p.Transport() == "tcp" && words[3] != tcpListen {
			continue
		}
		a, ok := procAddr(words[1])
		if !ok || a.Port() != p.HostPort {
			continue
		}
		for _, b := range p.Bindings() {
			// A socket on [::] takes IPv4 as well, as a rule.
			any6 := a.Addr().Is6() && a.Addr().IsUnspecified()
			if a.Addr().Unmap() == b || a.Addr().Is4() == b.Is4() && (a.Addr().IsUnspecified() || b.IsUnspecified()) || any6 {
				out = append(out, words[9])
				break
			}
		}
	}
	return out
}

// busyPorts are the host's ports of a protocol that a socket keeps, whatever its
// address. They are read at once, where asking for thousands one by one would
// take seconds.
func busyPorts(proto string) (map[uint16]bool, error) {
	busy := map[uint16]bool{}
	for _, file := range []string{proto, proto + "6"} {
		f, err := os.Open(filepath.Join("/proc/thread-self/net", file))
		if errors.Is(err, os.ErrNotExist) && file != proto {
			continue // no IPv6
		}
		if err != nil {
			return nil, err
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			words := strings.Fields(lines.Text())
			if len(words) > 3 && (proto != "tcp" || words[3] == tcpListen) {
				if a, ok := procAddr(words[1]); ok {
					busy[a.Port()] = true
				}
			}
		}
		if err := errors.Join(lines.Err(), f.Close()); err != nil {
			return nil, err
		}
	}
	return busy, nil
}

// tcpListen is the state TCP_LISTEN in /proc/net/tcp.
const tcpListen = "0A"

// procAddr reads 0100007F:1F90, words of four bytes in the machine's order.
func procAddr(s string) (netip.AddrPort, bool) {
	host, port, _ := strings.Cut(s, ":")
	raw, err := hex.DecodeString(host)
	n, err2 := strconv.ParseUint(port, 16, 16)
	if err != nil || err2 != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	a, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(a.Unmap(), uint16(n)), ok
}
