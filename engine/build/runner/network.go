package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	resourcestypes "github.com/moby/buildkit/executor/resources/types"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/internal/glob"
	"github.com/stack-run/stack/netns"
)

// networks gives commands their networks.
type networks struct {
	engine   *engine.Engine
	m        *netns.Manager
	resolver *netns.Resolver

	mu      sync.Mutex
	release func() // lets go of the default network, nil while it is not held
}

func newNetworks(e *engine.Engine, m *netns.Manager) *networks {
	return &networks{engine: e, m: m, resolver: m.NewResolver(netns.ResolverOptions{Owner: "build"})}
}

// namespace is the network of one command. It implements network.Namespace.
type namespace struct {
	nets *networks
	mode pb.NetMode
	ep   *netns.Endpoint // nil with the host's network
	all  []netns.Network
}

// attach makes the network of container id, whose namespaces are users', if it has any.
func (n *networks) attach(ctx context.Context, id string, mode pb.NetMode, users *engine.BuildNamespaces) (*namespace, error) {
	ns := &namespace{nets: n, mode: mode}
	spec := netns.EndpointSpec{ID: engine.BuildEndpoint + id, Key: engine.BuildEndpoint + id, Owner: "a build", Hostname: defaultHostname, OwnAddresses: true}
	switch mode {
	case pb.NetMode_HOST:
		return ns, nil
	case pb.NetMode_NONE:
		spec.Mode = "none"
	case pb.NetMode_UNSET:
		if err := n.hold(ctx); err != nil {
			return nil, err
		}
		spec.Networks = []netns.Attachment{{Network: engine.DefaultNetwork}}
	default:
		return nil, fmt.Errorf("cannot run a command with network mode %s: not supported", mode)
	}
	var own *os.File
	if users != nil {
		own = users.Net
	}
	var err error
	if ns.ep, err = n.m.AttachTo(ctx, own, spec); err != nil {
		return nil, err
	}
	if ns.all, err = n.m.List(); err == nil {
		err = n.serve(ctx, ns.ep)
	}
	if err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	return ns, nil
}

// serve answers names in an endpoint's namespace.
func (n *networks) serve(ctx context.Context, ep *netns.Endpoint) error {
	opened, err := n.resolver.Serve(ctx, ep, nil)
	closeFiles(opened...)
	return err
}

// Set puts the namespace into a specification.
func (ns *namespace) Set(s *specs.Spec) error {
	var kept []specs.LinuxNamespace
	for _, n := range s.Linux.Namespaces {
		if n.Type != specs.NetworkNamespace {
			kept = append(kept, n)
		}
	}
	if ns.ep != nil {
		kept = append(kept, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: ns.ep.NetNS})
	}
	s.Linux.Namespaces = kept
	return nil
}

// Sample counts nothing.
func (ns *namespace) Sample() (*resourcestypes.NetworkSample, error) { return nil, nil }

// Close takes the network away.
func (ns *namespace) Close() error {
	if ns.ep == nil {
		return nil
	}
	ns.nets.resolver.Stop(ns.ep.Spec.ID)
	return ns.nets.m.Detach(context.Background(), ns.ep)
}

// resolvConf is the container's /etc/resolv.conf.
func (ns *namespace) resolvConf() []byte {
	host := ns.nets.m.HostFiles()
	if ns.ep == nil {
		return host.ResolvConf
	}
	_, resolv := netns.Files(ns.ep, ns.all, netns.FileOptions{Hostname: defaultHostname, Host: host})
	return resolv
}

// gateway is the host's address as the container sees it.
func (ns *namespace) gateway() string {
	if ns.mode == pb.NetMode_HOST {
		return "127.0.0.1"
	}
	if ns.ep != nil && len(ns.ep.Links) > 0 {
		l := ns.ep.Links[0]
		if l.Gateway4.IsValid() {
			return l.Gateway4.String()
		}
		if l.Gateway6.IsValid() {
			return l.Gateway6.String()
		}
	}
	return ""
}

// hold keeps the default network, which single containers are on, too, until
// close.
func (n *networks) hold(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.release != nil {
		return nil
	}
	release, err := n.engine.HoldDefaultNetwork(ctx)
	if err != nil {
		return err
	}
	if _, err := n.m.Ensure(ctx, engine.DefaultNetwork); err != nil {
		release()
		return err
	}
	n.release = release
	return nil
}

// close lets go of the default network, and removes it if nobody is on it.
func (n *networks) close(ctx context.Context) error {
	n.resolver.Close()
	n.mu.Lock()
	release := n.release
	n.release = nil
	n.mu.Unlock()
	if release == nil {
		return nil
	}
	release()
	return n.engine.DropDefaultNetwork(ctx)
}

// sweep removes the endpoints of a killed runner. There is no other one.
func (n *networks) sweep(ctx context.Context) error {
	files, err := glob.In(filepath.Join(n.engine.RunRoot(), "endpoints"), engine.BuildEndpoint+"*.json")
	if err != nil {
		return err
	}
	var dead []*netns.Endpoint
	for _, file := range files {
		ep, err := n.m.Endpoint(strings.TrimSuffix(filepath.Base(file), ".json"))
		if err == nil && ep != nil {
			dead = append(dead, ep)
		}
	}
	// Without one, too: then it removes what there was before the first record.
	return n.m.DetachAll(ctx, dead)
}
