package netns

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// endpointRecord is our own copy of an endpoint below the run root. It exists
// from before the first to after the last kernel object of the endpoint.
type endpointRecord struct {
	Endpoint
	// Published says that the ports are in the firewall's maps.
	Published bool `json:"published,omitempty"`
}

func (m *Manager) loadEndpoint(id string) (endpointRecord, error) {
	var e endpointRecord
	b, err := os.ReadFile(m.endpointPath(id))
	if err == nil {
		err = json.Unmarshal(b, &e)
	}
	if err != nil {
		return e, fmt.Errorf("cannot read endpoint %s: %w", short(id), err)
	}
	return e, nil
}

// Endpoint returns our own copy of an endpoint, for an engine that was killed
// before it stored what [Manager.Attach] returned.
func (m *Manager) Endpoint(id string) (*Endpoint, error) {
	e, err := m.loadEndpoint(id)
	if err != nil {
		return nil, err
	}
	return &e.Endpoint, nil
}

func (m *Manager) saveEndpoint(e *Endpoint, published bool) error {
	return writeFile(m.endpointPath(e.Spec.ID), endpointRecord{Endpoint: *e, Published: published}, false)
}

// endpoints reads all endpoints. Unreadable ones are left out: they are from
// another version, or half removed.
func (m *Manager) endpoints() ([]endpointRecord, error) {
	entries, err := os.ReadDir(m.endpointDir())
	if err != nil {
		return nil, fmt.Errorf("cannot list endpoints: %w", err)
	}
	var all []endpointRecord
	for _, entry := range entries {
		if id, ok := strings.CutSuffix(entry.Name(), ".json"); ok {
			if e, err := m.loadEndpoint(id); err == nil {
				all = append(all, e)
			}
		}
	}
	return all, nil
}

// live reports whether an endpoint has kernel objects, or may have.
func (m *Manager) live(endpointID string) bool {
	if endpointID == "" {
		return false
	}
	_, err := os.Lstat(m.endpointPath(endpointID))
	return err == nil
}

// present is live for many IDs, with one look at the directory.
func (m *Manager) present() func(endpointID string) bool {
	entries, err := os.ReadDir(m.endpointDir())
	if err != nil {
		return m.live
	}
	files := make(map[string]bool, len(entries))
	for _, e := range entries {
		files[e.Name()] = true
	}
	return func(id string) bool { return id != "" && files[filepath.Base(m.endpointPath(id))] }
}

func short(id string) string { return id[:min(12, len(id))] }

// checkEndpoint checks what needs no knowledge of the host.
func checkEndpoint(s EndpointSpec) error {
	if s.ID == "" || strings.ContainsAny(s.ID, "/\x00") || s.ID == "." || s.ID == ".." {
		return fmt.Errorf("endpoint ID %q is not usable as a file name", s.ID)
	}
	_, sharing := s.Shares()
	switch {
	case s.Mode != "" && s.Mode != "host" && s.Mode != "none" && !sharing:
		return fmt.Errorf("network mode %q is not known; use host, none or container:ID", s.Mode)
	case s.Mode != "" && len(s.Networks) > 0:
		return fmt.Errorf("network mode %q goes with no networks", s.Mode)
	case sharing && len(s.Ports) > 0:
		return errors.New("ports cannot be published by a container that shares another one's network; publish them there")
	case s.Mode == "host" && len(s.Sysctls) > 0:
		return errors.New("net sysctls cannot be set in the host's network")
	}
	names := map[string]bool{"lo": true}
	for i, a := range s.Networks {
		if slices.ContainsFunc(s.Networks[:i], func(o Attachment) bool { return o.Network == a.Network }) {
			return fmt.Errorf("network %s is attached twice", a.Network)
		}
		if err := a.Validate(); err != nil {
			return fmt.Errorf("network %s: %w", a.Network, err)
		}
		for _, p := range CheckAttachmentOptions(a.DriverOpts) {
			if p.Refused {
				return fmt.Errorf("network %s: %w", a.Network, p)
			}
		}
		name := interfaceName(a)
		if name != "" && names[name] {
			return fmt.Errorf("network %s: interface name %q is used twice", a.Network, name)
		}
		names[name] = name != ""
	}
	for _, p := range s.Ports {
		if err := checkPort(p); err != nil {
			return err
		}
	}
	for key := range s.Sysctls {
		if !strings.HasPrefix(key, "net.") && !strings.HasPrefix(key, "net/") || strings.Contains(key, "..") {
			return fmt.Errorf("sysctl %s is not one of a network namespace", key)
		}
	}
	return nil
}
