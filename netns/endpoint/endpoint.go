package endpoint

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// Validate checks what needs no knowledge of the host.
func (a Attachment) Validate() error {
	if a.IPv4.IsValid() && !a.IPv4.Is4() || a.IPv6.IsValid() && !a.IPv6.Is6() {
		return fmt.Errorf("address %s or %s is of the wrong family", a.IPv4, a.IPv6)
	}
	if a.Interface != "" && !LinkName(a.Interface) {
		return fmt.Errorf("interface name %q is not usable; up to 15 characters without space, slash and colon", a.Interface)
	}
	if a.MAC != "" {
		mac, ok := parseMAC(a.MAC)
		if !ok {
			return fmt.Errorf("MAC address %q is not six bytes in hex, such as 02:42:ac:10:00:02", a.MAC)
		}
		if mac[0]&1 != 0 {
			return fmt.Errorf("MAC address %q is a multicast address", a.MAC)
		}
	}
	for _, ll := range a.LinkLocal {
		if !ll.IsLinkLocalUnicast() {
			return fmt.Errorf("address %s is not link-local", ll)
		}
	}
	return nil
}

// parseMAC reads six bytes in the forms that net.ParseMAC takes:
// 02:42:ac:10:00:02, 02-42-ac-10-00-02 and 0242.ac10.0002.
func parseMAC(text string) (mac [6]byte, ok bool) {
	group := 2
	switch {
	case len(text) == 17 && (text[2] == ':' || text[2] == '-'):
	case len(text) == 14 && text[4] == '.':
		group = 4
	default:
		return mac, false
	}
	parts := strings.Split(text, text[group:group+1])
	if len(parts) != 12/group {
		return mac, false
	}
	digits := strings.Join(parts, "")
	for _, p := range parts {
		if len(p) != group {
			return mac, false
		}
	}
	_, err := hex.Decode(mac[:], []byte(digits))
	return mac, err == nil
}

// OwnerInFull says whom an error is about, for people: "project shop, service web".
func (s Spec) OwnerInFull() string {
	project, _, ok := strings.Cut(s.Key, "/")
	name := s.Owner
	if name == "" {
		name = "container " + short(s.ID)
	}
	if ok && project != "" {
		return "project " + project + ", " + name
	}
	return name
}

// Service is what the replicas of a service have in common, such as "shop/web", and
// "" for a single container.
func (s Spec) Service() string {
	project, rest, _ := strings.Cut(s.Key, "/")
	service, _, ok := strings.Cut(rest, "/")
	if !ok {
		return ""
	}
	return project + "/" + service
}

// Subject is Owner, or the container by its short ID.
func (s Spec) Subject() string {
	if s.Owner != "" {
		return s.Owner
	}
	return "container " + short(s.ID)
}

// Shares returns the endpoint whose namespace the mode names.
func (s Spec) Shares() (id string, ok bool) { return strings.CutPrefix(s.Mode, "container:") }

func short(id string) string { return id[:min(12, len(id))] }

// Attachment is what was asked for on a network of the endpoint.
func (e *Endpoint) Attachment(network string) Attachment {
	for _, a := range e.Spec.Networks {
		if a.Network == network {
			return a
		}
	}
	return Attachment{}
}

// Outlet is the link whose gateway is the way out for a family, and at whose
// address ports are published; nil when there is none. The attachment with the
// highest gateway priority wins, then the network whose name comes first.
func (e *Endpoint) Outlet(v6 bool) *Link {
	var best *Link
	for i := range e.Links {
		l := &e.Links[i]
		if l.Internal || v6 && !l.IPv6.IsValid() || !v6 && !l.IPv4.IsValid() {
			continue
		}
		if best == nil {
			best = l
			continue
		}
		a, b := e.Attachment(l.Network).GatewayPrio, e.Attachment(best.Network).GatewayPrio
		if a > b || a == b && l.Network < best.Network {
			best = l
		}
	}
	return best
}

// Publisher is the outlet if the host can publish ports there, else nil.
func (e *Endpoint) Publisher(v6 bool) *Link {
	if l := e.Outlet(v6); l != nil && l.Parent == "" {
		return l
	}
	return nil
}

// Warn adds a warning, once.
func (e *Endpoint) Warn(text string) {
	if !slices.Contains(e.Warnings, text) {
		e.Warnings = append(e.Warnings, text)
	}
}

// Routed reports whether a family is not translated on the link.
func (l Link) Routed(v6 bool) bool {
	if v6 {
		return l.RoutedBefore || l.Routed6
	}
	return l.RoutedBefore || l.Routed4
}

// RoutedOnly reports whether nothing of the endpoint is translated.
func (e *Endpoint) RoutedOnly() bool {
	for _, v6 := range []bool{false, true} {
		if out := e.Publisher(v6); out != nil && !out.Routed(v6) {
			return false
		}
	}
	return true
}
