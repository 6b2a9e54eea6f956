package daemon

import (
	"context"
	"errors"

	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/source"
	srctypes "github.com/moby/buildkit/source/types"
)

// noGit takes the place of BuildKit's source of git repositories, which runs the
// program git, on a machine without.
type noGit struct{}

var errNoGit = errors.New("cannot fetch a git repository: this machine has no git; install it")

func (noGit) Schemes() []string { return []string{srctypes.GitScheme} }

func (noGit) Identifier(string, string, map[string]string, *pb.Platform) (source.Identifier, error) {
	return nil, errNoGit
}

func (noGit) Resolve(context.Context, source.Identifier, *session.Manager, solver.Vertex) (source.SourceInstance, error) {
	return nil, errNoGit
}
