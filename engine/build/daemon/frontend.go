package daemon

import (
	"context"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/executor"
	"github.com/moby/buildkit/frontend"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver/pb"
)

// gatewayFrontend is called for "# syntax=IMAGE". The Dockerfile frontend is
// built in, so its image need not be pulled; any other image is run as it is.
type gatewayFrontend struct {
	builtin, image frontend.Frontend
}

func (f *gatewayFrontend) Solve(ctx context.Context, bridge frontend.FrontendLLBBridge, exec executor.Executor, opt map[string]string, inputs map[string]*pb.Definition, sid string, sm *session.Manager) (*frontend.Result, error) {
	if !isBuiltin(opt[frontend.KeySource]) {
		return f.image.Solve(ctx, bridge, exec, opt, inputs, sid, sm)
	}
	return f.builtin.Solve(ctx, bridge, exec, opt, inputs, sid, sm)
}

// isBuiltin tells whether a frontend's image is the Dockerfile frontend, of a
// version that this one can stand in for: 1.x.
func isBuiltin(source string) bool {
	named, err := reference.ParseNormalizedNamed(source)
	if err != nil {
		return false
	}
	if named.Name() != "docker.io/docker/dockerfile" && named.Name() != "docker.io/docker/dockerfile-upstream" {
		return false
	}
	tagged, ok := named.(reference.Tagged)
	if !ok {
		return true
	}
	version, _, _ := strings.Cut(tagged.Tag(), "-")
	major, _, _ := strings.Cut(version, ".")
	switch major {
	case "1", "latest", "master", "labs":
		return true
	}
	return false
}
