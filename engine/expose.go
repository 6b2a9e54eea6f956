package engine

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/stack-run/stack/netns"
)

// ParseExpose reads PORT[-PORT][/PROTOCOL], as EXPOSE, "expose" and --expose
// have it, and lists the ports as "80/tcp".
func ParseExpose(text string) ([]string, error) {
	bad := fmt.Errorf("%q is no port: write PORT[-PORT][/PROTOCOL], such as 8080 or 6000-6010/udp", text)
	numbers, protocol, ok := strings.Cut(text, "/")
	protocol = strings.ToLower(protocol)
	switch {
	case !ok:
		protocol = "tcp"
	case protocol != "tcp" && protocol != "udp" && protocol != "sctp":
		return nil, bad
	}
	low, high, isRange := strings.Cut(numbers, "-")
	if !isRange {
		high = low
	}
	a, err := strconv.ParseUint(low, 10, 16)
	z, err2 := strconv.ParseUint(high, 10, 16)
	if err != nil || err2 != nil || a == 0 || z < a {
		return nil, bad
	}
	var out []string
	for n := a; n <= z; n++ {
		out = append(out, strconv.FormatUint(n, 10)+"/"+protocol)
	}
	return out, nil
}

// publishAll publishes on any host port what is exposed and not yet published.
func publishAll(ports []netns.Port, exposed []string) []netns.Port {
	out := slices.Clone(ports)
	for _, e := range exposed {
		if slices.ContainsFunc(ports, func(p netns.Port) bool { return portKey(p) == e }) {
			continue
		}
		number, protocol, _ := strings.Cut(e, "/")
		n, err := strconv.ParseUint(number, 10, 16)
		if err != nil {
			continue // an image may say what it likes
		}
		out = append(out, netns.Port{ContainerPort: uint16(n), Protocol: protocol})
	}
	return out
}

func portKey(p netns.Port) string {
	return fmt.Sprintf("%d/%s", p.ContainerPort, p.Transport())
}
