package engine

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/stack-run/stack/engine/runtime"
)

// BuildUserNS is the mode of a build for that of the containers of its image. keep-id is
// auto there: it is about the directories of the host that a container mounts, and the
// commands of a build mount none.
func BuildUserNS(mode string) (string, error) {
	kind, ids, err := parseUserNS(mode)
	switch {
	case err != nil || kind == "":
		return "", err
	case ids == nil:
		return userNSAuto, nil
	}
	return mode, nil
}

// AskedBuildUserNS is BuildUserNS for a mode that is the build's alone.
func AskedBuildUserNS(mode string) (string, error) {
	if mode == userNSKeepID {
		return "", errors.New("keep-id means nothing for a build, whose commands mount no directories of the host; use auto, nomap or a range of the host's user IDs such as 100000:65536")
	}
	return BuildUserNS(mode)
}

// BuildNamespaces are what a command of a build starts in that has a user namespace of
// its own.
type BuildNamespaces struct {
	User, Net *os.File
	IDs       runtime.IDs

	leave func(context.Context) error
}

// BuildNamespaces makes the namespaces of a command of a build; nil where it has the
// host's. The command has the range of IDs that the containers of its project have, and
// without a project, which is "", the build has one of its own.
func (e *Engine) BuildNamespaces(ctx context.Context, id, project, build, mode string) (_ *BuildNamespaces, err error) {
	if mode, err = BuildUserNS(mode); err != nil || mode == "" {
		return nil, err
	}
	id = BuildEndpoint + id
	key := rangeKey(&Container{ID: BuildEndpoint + build, Project: project})
	_, ids, _ := parseUserNS(mode)
	if ids, err = e.takeRange(ctx, key, id, ids); err != nil {
		return nil, err
	}
	n := &BuildNamespaces{IDs: ids, leave: func(ctx context.Context) error { return e.leaveRange(ctx, key, id) }}
	var network func() (*os.File, error)
	if n.User, network, err = runtime.NewUserAndNetwork(ids, ids); err == nil {
		if n.Net, err = network(); err != nil {
			n.User.Close()
		}
	}
	if err != nil {
		return nil, errors.Join(err, n.leave(detached(ctx)))
	}
	return n, nil
}

// Root is the host's ID of the command's root.
func (n *BuildNamespaces) Root() int {
	root, _ := n.IDs.Host(0)
	return int(root)
}

// AsRoot runs fn so that what it makes belongs to the command's root.
func (n *BuildNamespaces) AsRoot(fn func() error) error { return asRoot(n.IDs, fn) }

// HostID is who an ID of the command is on the host.
func (n *BuildNamespaces) HostID(id uint32) (uint32, error) { return hostID(n.IDs, id) }

// Close lets go of the namespaces and of their range of IDs.
func (n *BuildNamespaces) Close(ctx context.Context) error {
	n.User.Close()
	n.Net.Close()
	if err := n.leave(detached(ctx)); err != nil {
		return fmt.Errorf("cannot give back the user IDs of a build: %w", err)
	}
	return nil
}
