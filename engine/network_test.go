package engine

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/stack-run/stack/netns"
)

func openTemporary(t *testing.T) *Engine {
	t.Helper()
	dir := t.TempDir()
	e, err := Open(Options{DataRoot: filepath.Join(dir, "data"), RunRoot: filepath.Join(dir, "run")})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// The endpoint that a container kept is also in what others read meanwhile.
func TestAttachLeavesTheEndpointThatOthersRead(t *testing.T) {
	e := openTemporary(t)
	spec := netns.EndpointSpec{ID: NewID(), Ports: []netns.Port{{ContainerPort: 80}}}
	kept := &netns.Endpoint{Spec: spec, NetNS: "/nowhere", Ports: []netns.Port{{HostPort: 8080, ContainerPort: 80}}}
	c := &Container{ID: spec.ID, Spec: Spec{Name: "web", Network: spec}, State: State{Endpoint: kept}}
	ep, err := e.attach(t.Context(), c, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(ep.Ports) != 0 || len(ep.Warnings) != 1 {
		t.Errorf("without a way out it has ports %v, warnings %q", ep.Ports, ep.Warnings)
	}
	if len(kept.Ports) != 1 || len(kept.Warnings) != 0 {
		t.Errorf("what others read was changed: ports %v, warnings %q", kept.Ports, kept.Warnings)
	}
}

// Two containers of one definition may have their networks in the same memory.
func TestConnectLeavesTheDefinition(t *testing.T) {
	e := openTemporary(t)
	definition := make([]netns.Attachment, 1, 4)
	definition[0].Network = "default"
	var all []*Container
	for _, name := range []string{"one", "two"} {
		c := &Container{ID: NewID(), Spec: Spec{Name: name, Network: netns.EndpointSpec{Networks: definition}}}
		if err := e.Records.Insert(c); err != nil {
			t.Fatal(err)
		}
		if err := e.Connect(t.Context(), c, netns.Attachment{Network: "of-" + name}); err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	for _, c := range all {
		var networks []string
		for _, a := range c.Spec.Network.Networks {
			networks = append(networks, a.Network)
		}
		if want := []string{"default", "of-" + c.Spec.Name}; !slices.Equal(networks, want) {
			t.Errorf("%s is on %v, want %v", c.Spec.Name, networks, want)
		}
	}
}
