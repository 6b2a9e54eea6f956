package summary

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

func comparePublishers(a, b Publisher) int {
	ipA, _ := netip.ParseAddr(a.URL)
	ipB, _ := netip.ParseAddr(b.URL)
	return cmp.Or(
		cmp.Compare(a.TargetPort, b.TargetPort),
		ipA.Compare(ipB),
		cmp.Compare(a.PublishedPort, b.PublishedPort),
		strings.Compare(a.Protocol, b.Protocol),
	)
}

// FormatPorts writes sorted ports as docker does, "0.0.0.0:8080->80/tcp".
// Neighbouring ports that keep their number on the host become a range; the
// ranges stand before the ports that change their number.
func FormatPorts(ports []Publisher) string {
	type span struct {
		host, protocol string
		first, last    int
	}
	var spans []*span
	var ranges, single []string
	open := map[string]*span{}
	text := func(s *span) string {
		numbers := strconv.Itoa(s.first)
		if s.last != s.first {
			numbers += "-" + strconv.Itoa(s.last)
		}
		if s.host == "" {
			return numbers + "/" + s.protocol
		}
		return fmt.Sprintf("%s->%s/%s", net.JoinHostPort(s.host, numbers), numbers, s.protocol)
	}
	for _, p := range ports {
		if p.URL != "" && p.PublishedPort != p.TargetPort {
			single = append(single, fmt.Sprintf("%s->%d/%s", p.HostPort(), p.TargetPort, p.Protocol))
			continue
		}
		key := p.URL + "/" + p.Protocol
		s := open[key]
		if s != nil && p.TargetPort == s.last+1 {
			s.last = p.TargetPort
			continue
		}
		if s != nil {
			ranges = append(ranges, text(s))
			s.first, s.last = p.TargetPort, p.TargetPort
			continue
		}
		s = &span{host: p.URL, protocol: p.Protocol, first: p.TargetPort, last: p.TargetPort}
		open[key] = s
		spans = append(spans, s)
	}
	for _, s := range spans {
		ranges = append(ranges, text(s))
	}
	return strings.Join(append(ranges, single...), ", ")
}

// HostPort is the host's side of a published port, "0.0.0.0:8080".
func (p Publisher) HostPort() string {
	return net.JoinHostPort(p.URL, strconv.Itoa(p.PublishedPort))
}
