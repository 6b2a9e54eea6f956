package netns

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/stack-run/stack/internal/durable"
	"github.com/stack-run/stack/internal/lock"
	"github.com/stack-run/stack/netns/link"
	"github.com/stack-run/stack/netns/nft"
)

// Options say where a manager keeps its things.
type Options struct {
	DataRoot string // survives reboots
	RunRoot  string // does not
	// Instance tells this pair of roots from others on the machine, in names of
	// links and tables. Four characters are used; empty: derived from the roots.
	Instance string
	// Pools are the subnets that networks without one of their own get theirs
	// from. nil: built in.
	Pools []Pool
	// ResolvConf is the host's resolv.conf(5), default /etc/resolv.conf.
	ResolvConf string
	// Live tells whether an endpoint ID belongs to a container, or to what else its
	// owner makes endpoints for. Those of which it says no do not keep a network from
	// being removed, and go with it. nil: all endpoints count.
	Live func(endpointID string) bool
	Logf func(format string, args ...any) // nil: discard
}

// Manager makes and removes networks and endpoints. Its methods may be called
// concurrently, and several processes may have managers of the same roots.
type Manager struct {
	o     Options
	table *nft.Table
	watch link.Watch
	// watched says that flushes of the firewall by others are seen and mended.
	watched atomic.Bool
	// portless says that it was told that the kernel has no table for ports of bridges.
	portless atomic.Bool
	turn     chan struct{} // held by the goroutine that may wait for the file lock

	// sharing is held while it is decided who has a published port.
	sharing sync.Mutex

	mu     sync.Mutex
	ready  map[string]int // ID of networks this process has ensured → bridge index
	leases map[string]*leaseFile
	held   map[string]*holding // by endpoint ID
	groups map[string][]string // endpoints whose ports are published, by service
}

// Open returns a manager. It makes directories and asks nothing of the kernel.
func Open(o Options) (*Manager, error) {
	if o.DataRoot == "" || o.RunRoot == "" {
		return nil, errors.New("cannot open networks: no data root or run root given")
	}
	if o.Instance == "" {
		sum := sha256.Sum256([]byte(o.DataRoot + "\x00" + o.RunRoot))
		o.Instance = hex.EncodeToString(sum[:])
	}
	o.Instance = o.Instance[:min(4, len(o.Instance))]
	if o.ResolvConf == "" {
		o.ResolvConf = "/etc/resolv.conf"
	}
	if o.Logf == nil {
		o.Logf = func(string, ...any) {}
	}
	m := &Manager{
		o:      o,
		table:  nft.NewTable("stack_" + o.Instance),
		turn:   make(chan struct{}, 1),
		ready:  map[string]int{},
		leases: map[string]*leaseFile{},
		held:   map[string]*holding{},
		groups: map[string][]string{},
	}
	for _, dir := range []string{m.networkDir(), filepath.Dir(m.lockPath()), m.endpointDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("cannot open networks: %w", err)
		}
	}
	return m, nil
}

func (m *Manager) networkDir() string { return filepath.Join(m.o.DataRoot, "networks") }

// lockPath is a directory: flock(2) takes those too, and no file is left.
func (m *Manager) lockPath() string    { return filepath.Join(m.o.RunRoot, "locks", "networks") }
func (m *Manager) pinDir() string      { return filepath.Join(m.o.RunRoot, "netns") }
func (m *Manager) endpointDir() string { return filepath.Join(m.o.RunRoot, "endpoints") }
func (m *Manager) nameDir(networkID string) string {
	return filepath.Join(m.o.RunRoot, "names", networkID)
}
func (m *Manager) pin(endpointID string) string { return filepath.Join(m.pinDir(), endpointID) }
func (m *Manager) endpointPath(id string) string {
	return filepath.Join(m.endpointDir(), id+".json")
}

// locked runs fn while no other goroutine or process of this instance decides
// about networks.
func (m *Manager) locked(ctx context.Context, fn func() error) error {
	select {
	case m.turn <- struct{}{}:
		defer func() { <-m.turn }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	held, err := lock.Exclusive(ctx, m.lockPath(), lock.MakeDir(), lock.Of("the networks"))
	if err != nil {
		return err
	}
	defer held.Unlock()
	return fn()
}

// writeFile replaces a file in one step. With synced it is on disk when the call
// returns.
func writeFile(path string, v any, synced bool) error {
	keep := durable.Volatile
	if synced {
		keep = durable.Synced
	}
	return durable.WriteJSON(path, v, keep)
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
