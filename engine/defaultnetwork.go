package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/netns"
)

// DefaultNetwork is what a container that names no network is attached to, as
// Docker's "bridge". It exists while somebody uses it.
const DefaultNetwork = "bridge"

// HoldDefaultNetwork makes the default network if it is not there, and keeps
// others from removing it until release.
func (e *Engine) HoldDefaultNetwork(ctx context.Context) (release func(), err error) {
	lock, err := e.lockDefaultNetwork(unix.LOCK_SH)
	if err != nil {
		return nil, err
	}
	release = func() { lock.Close() }
	nets, err := e.Networks()
	if err == nil {
		if _, getErr := nets.Get(DefaultNetwork); getErr != nil {
			_, err = nets.Create(ctx, netns.NetworkSpec{Name: DefaultNetwork, Driver: "bridge", DisableIPv6: true})
			if _, getErr := nets.Get(DefaultNetwork); getErr == nil {
				err = nil // another process made it meanwhile
			}
		}
	}
	if err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// DropDefaultNetwork removes the default network if nobody is on it. While
// somebody holds it, it waits, or, without wait, leaves the network to him.
func (e *Engine) DropDefaultNetwork(ctx context.Context, wait bool) error {
	how := unix.LOCK_EX
	if !wait {
		how |= unix.LOCK_NB
	}
	lock, err := e.lockDefaultNetwork(how)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	nets, err := e.Networks()
	if err != nil {
		return err
	}
	if users, err := nets.Users(DefaultNetwork); err != nil || len(users) > 0 {
		return nil //nolint:nilerr // it is gone already
	}
	return nets.Remove(ctx, DefaultNetwork)
}

// lockDefaultNetwork takes a flock(2) on a directory, which leaves no file.
func (e *Engine) lockDefaultNetwork(how int) (*os.File, error) {
	dir := filepath.Join(e.run, "locks", "default-network")
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
