package daemon

import (
	"cmp"
	"context"

	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/executor"
	"github.com/moby/buildkit/frontend"
	"github.com/moby/buildkit/session"
	bksnapshot "github.com/moby/buildkit/snapshot"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/llbsolver/linuxresources"
	"github.com/moby/buildkit/solver/llbsolver/ops"
	"github.com/moby/buildkit/solver/pb"
	buildworker "github.com/moby/buildkit/worker"

	"github.com/stack-run/stack/engine/build/confine"
)

// ResolveOp returns what carries out a step of a build. A command is run as the sessions
// want it whose builds have this step.
//
// BuildKit tells an executor nothing of these. But before it runs a command it makes the
// snapshot that the command writes to, for the same sessions.
func (w *worker) ResolveOp(v solver.Vertex, bridge frontend.FrontendLLBBridge, sm *session.Manager, proxy buildworker.ProxyOpt) (solver.Op, error) {
	op, ok := v.Sys().(*pb.Op)
	if !ok {
		return w.Worker.ResolveOp(v, bridge, sm, proxy)
	}
	exec, ok := op.Op.(*pb.Op_Exec)
	if !ok {
		return w.Worker.ResolveOp(v, bridge, sm, proxy)
	}
	var limits *pb.LinuxResources
	if m, ok := v.Options().Metadata.(*linuxresources.Metadata); ok && m != nil {
		limits = m.LinuxResources
	}
	heard := &listener{Manager: w.CacheMgr}
	return ops.NewExecOp(v, exec, op.Platform, heard, w.ParallelismSem, sm, &confine.Executor{
		Executor: w.Executor(), Sessions: sm, Group: func() session.Group { return heard.group },
	}, w.Worker, limits, proxy.Network && exec.Exec.Network != pb.NetMode_NONE)
}

// listener is a cache.Manager that remembers for which sessions a snapshot was made last.
type listener struct {
	cache.Manager
	group session.Group
}

func (l *listener) New(ctx context.Context, parent cache.ImmutableRef, group session.Group, opts ...cache.RefOption) (cache.MutableRef, error) {
	l.group = group
	return l.Manager.New(ctx, parent, group, opts...)
}

// mapping is a cache.Manager whose snapshots can be mounted for a user namespace.
type mapping struct {
	cache.Manager
	snapshots bksnapshot.Snapshotter
}

func (m mapping) New(ctx context.Context, parent cache.ImmutableRef, group session.Group, opts ...cache.RefOption) (cache.MutableRef, error) {
	ref, err := m.Manager.New(ctx, parent, group, opts...)
	return m.mapped(ref, err)
}

func (m mapping) GetMutable(ctx context.Context, id string, opts ...cache.RefOption) (cache.MutableRef, error) {
	ref, err := m.Manager.GetMutable(ctx, id, opts...)
	return m.mapped(ref, err)
}

func (m mapping) mapped(ref cache.MutableRef, err error) (cache.MutableRef, error) {
	if err != nil {
		return nil, err
	}
	return &mappedRef{ref, m.snapshots}, nil
}

// mappedRef is a snapshot that tells of its directories whoever mounts it for a user
// namespace. BuildKit itself shows an overlay that it has mounted, so that commands can
// share it; but owners are mapped below overlayfs, not above.
type mappedRef struct {
	cache.MutableRef
	snapshots bksnapshot.Snapshotter
}

// snapshotKey is under what BuildKit keeps a snapshot's name, where it is not the ref's.
const snapshotKey = "cache.snapshot"

func (r *mappedRef) Mount(ctx context.Context, readonly bool, group session.Group) (bksnapshot.Mountable, error) {
	if confine.From(ctx).UserNS == "" {
		return r.MutableRef.Mount(ctx, readonly, group)
	}
	return r.snapshots.Mounts(ctx, cmp.Or(r.GetString(snapshotKey), r.ID()))
}

// confinedFrontend has what a frontend runs itself, such as that of an image, confined as
// its build is.
type confinedFrontend struct{ frontend.Frontend }

func (f confinedFrontend) Solve(ctx context.Context, bridge frontend.FrontendLLBBridge, exec executor.Executor, opt map[string]string, inputs map[string]*pb.Definition, sid string, sm *session.Manager) (*frontend.Result, error) {
	exec = &confine.Executor{Executor: exec, Sessions: sm, Group: func() session.Group { return session.NewGroup(sid) }}
	return f.Frontend.Solve(ctx, bridge, exec, opt, inputs, sid, sm)
}
