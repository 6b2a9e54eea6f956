// Package confine is how a client tells the daemon in which user namespace the commands of
// its build run.
//
// It is part of the session, not of the build's options and graph: these would end up in
// the image's provenance and in the keys of the cache, and a command gives the same result
// in any user namespace. So what was built in one is found by a build in another.
package confine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/moby/buildkit/executor"
	resourcestypes "github.com/moby/buildkit/executor/resources/types"
	"github.com/moby/buildkit/session"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Confinement is what the commands of a build may be on the host. It is a
// session.Attachable.
type Confinement struct {
	// UserNS is a mode that engine.BuildUserNS returns, "" for the host's user namespace.
	UserNS string `json:"userNS,omitempty"`
	// Project has a range of user IDs that the build shares, "" for one of its own.
	Project string `json:"project,omitempty"`
	// Build tells builds without a project apart. The daemon fills it in.
	Build string `json:"-"`
}

const (
	service = "stack.build.Confinement"
	method  = "Get"
)

// Register has c answered to the daemon.
func (c Confinement) Register(server *grpc.Server) {
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: service,
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: method, Handler: func(any, context.Context, func(any) error, grpc.UnaryServerInterceptor) (any, error) {
			text, err := json.Marshal(c)
			return wrapperspb.String(string(text)), err
		}}},
	}, c)
}

// ask returns what the client of a session has registered.
func ask(ctx context.Context, caller session.Caller) (c Confinement, err error) {
	url := session.MethodURL(service, method)
	if !caller.Supports(url) {
		return c, nil
	}
	var answer wrapperspb.StringValue
	if err := caller.Conn().Invoke(ctx, url, &emptypb.Empty{}, &answer); err != nil {
		return c, err
	}
	return c, json.Unmarshal([]byte(answer.Value), &c)
}

// of returns what holds for a command of the builds whose sessions are in a group.
func of(ctx context.Context, sessions *session.Manager, group session.Group) (Confinement, error) {
	var all []Confinement
	var lastErr error
	for ids := group.SessionIterator(); ; {
		id := ids.NextSession()
		if id == "" {
			break
		}
		caller, err := sessions.Get(ctx, id, true)
		if err == nil && caller != nil {
			var c Confinement
			if c, err = ask(caller.Context(ctx), caller); err == nil {
				c.Build = id
				all = append(all, c)
			}
		}
		if err != nil {
			lastErr = err // its client may have gone away
		}
	}
	if len(all) == 0 && lastErr != nil {
		return Confinement{}, fmt.Errorf("cannot ask the client in which user namespace to run a command: %w", lastErr)
	}
	return shared(all), nil
}

// shared is what holds for a command that several builds have in common: the host's user
// namespace if one of them wants that, who may need it. The others lose nothing, since it
// is the same command on the same files, which that one trusts.
func shared(all []Confinement) (c Confinement) {
	for i, other := range all {
		if other.UserNS == "" {
			return Confinement{}
		}
		if i == 0 {
			c = other
		}
	}
	return c
}

type contextKey struct{}

// From is how the command is confined that an executor is called for with ctx.
func From(ctx context.Context) Confinement {
	c, _ := ctx.Value(contextKey{}).(Confinement)
	return c
}

// Executor calls another one with the confinement of the sessions that Group returns, nil
// where they are not known.
type Executor struct {
	executor.Executor
	Sessions *session.Manager
	Group    func() session.Group
}

// Run runs a command.
func (e *Executor) Run(ctx context.Context, id string, root executor.Mount, mounts []executor.Mount, process executor.ProcessInfo, started chan<- struct{}) (resourcestypes.Recorder, error) {
	group := e.Group()
	if group == nil {
		return nil, errors.New("cannot run a command that writes nothing: it is not known whose build it is of")
	}
	c, err := of(ctx, e.Sessions, group)
	if err != nil {
		return nil, err
	}
	return e.Executor.Run(context.WithValue(ctx, contextKey{}, c), id, root, mounts, process, started)
}
