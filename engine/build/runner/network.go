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
	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/netns"
)

// defaultNetwork is the network that single containers are on, too.
const defaultNetwork = "bridge"

// networks gives commands their networks.
type networks struct {
	m        *netns.Manager
	runRoot  string
	resolver *netns.Resolver

	mu   sync.Mutex
	held *os.File // the lock that keeps the default network
}

func newNetworks(m *netns.Manager, runRoot string) *networks {
	return &networks{m: m, runRoot: runRoot, resolver: m.NewResolver(netns.ResolverOptions{Owner: "build"})}
}

// namespace is the network of one command. It implements network.Namespace.
type namespace struct {
	nets *networks
	mode pb.NetMode
	ep   *netns.Endpoint // nil with the host's network
	all  []netns.Network
}

// attach makes the network of container id.
func (n *networks) attach(ctx context.Context, id string, mode pb.NetMode) (*namespace, error) {
	ns := &namespace{nets: n, mode: mode}
	spec := netns.EndpointSpec{ID: engine.BuildEndpoint + id, Key: engine.BuildEndpoint + id, Owner: "a build", Hostname: defaultHostname}
	switch mode {
	case pb.NetMode_HOST:
		return ns, nil
	case pb.NetMode_NONE:
		spec.Mode = "none"
	case pb.NetMode_UNSET:
		if err := n.hold(ctx); err != nil {
			return nil, err
		}
		spec.Networks = []netns.Attachment{{Network: defaultNetwork}}
	default:
		return nil, fmt.Errorf("cannot run a command with network mode %s: not supported", mode)
	}
	var err error
	if ns.ep, err = n.m.Attach(ctx, spec); err != nil {
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

// hold makes the default network, if it is not there, and keeps it from being
// removed until close. Its lock is that of the single containers' supervisors.
func (n *networks) hold(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.held != nil {
		return nil
	}
	lock, err := n.lock(unix.LOCK_SH)
	if err != nil {
		return err
	}
	if _, err := n.m.Get(defaultNetwork); err != nil {
		_, createErr := n.m.Create(ctx, netns.NetworkSpec{Name: defaultNetwork, Driver: "bridge"})
		if _, err := n.m.Get(defaultNetwork); err != nil {
			return errors.Join(createErr, lock.Close())
		}
	}
	if _, err := n.m.Ensure(ctx, defaultNetwork); err != nil {
		return errors.Join(err, lock.Close())
	}
	n.held = lock
	return nil
}

func (n *networks) lock(how int) (*os.File, error) {
	dir := filepath.Join(n.runRoot, "locks", "default-network")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), how)
		if err == nil {
			return f, nil
		}
		if err != unix.EINTR {
			return nil, errors.Join(fmt.Errorf("cannot lock the default network: %w", err), f.Close())
		}
	}
}

// close lets go of the default network, and removes it if nobody is on it.
func (n *networks) close(ctx context.Context) error {
	n.resolver.Close()
	n.mu.Lock()
	held := n.held
	n.held = nil
	n.mu.Unlock()
	if held == nil {
		return nil
	}
	held.Close()
	// Another supervisor may hold it: then it is not ours to remove.
	lock, err := n.lock(unix.LOCK_EX | unix.LOCK_NB)
	if err != nil {
		return nil //nolint:nilerr // it is in use
	}
	defer lock.Close()
	if users, err := n.m.Users(defaultNetwork); err == nil && len(users) == 0 {
		return n.m.Remove(ctx, defaultNetwork)
	}
	return nil
}

// sweep removes the endpoints of a killed runner. There is no other one.
func (n *networks) sweep(ctx context.Context) error {
	files, err := filepath.Glob(filepath.Join(n.runRoot, "endpoints", engine.BuildEndpoint+"*.json"))
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
	if len(dead) == 0 {
		return nil
	}
	return n.m.DetachAll(ctx, dead)
}
