package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/defaults"
	"github.com/moby/buildkit/cache/remotecache"
	"github.com/moby/buildkit/cache/remotecache/inline"
	"github.com/moby/buildkit/cache/remotecache/local"
	registrycache "github.com/moby/buildkit/cache/remotecache/registry"
	"github.com/moby/buildkit/control"
	"github.com/moby/buildkit/executor"
	"github.com/moby/buildkit/frontend"
	dockerfile "github.com/moby/buildkit/frontend/dockerfile/builder"
	"github.com/moby/buildkit/frontend/gateway"
	"github.com/moby/buildkit/frontend/gateway/forwarder"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/bboltcachestorage"
	"github.com/moby/buildkit/util/db/boltutil"
	"github.com/moby/buildkit/util/grpcerrors"
	buildworker "github.com/moby/buildkit/worker"
	bolt "go.etcd.io/bbolt"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/stats"

	"github.com/stack-run/stack/engine/build"
	"github.com/stack-run/stack/engine/build/request"
	"github.com/stack-run/stack/engine/image"
	"github.com/stack-run/stack/engine/snapshot"
	"github.com/stack-run/stack/internal/durable"
	"github.com/stack-run/stack/internal/lock"
	"github.com/stack-run/stack/internal/sock"
)

// Options say what a daemon serves.
type Options struct {
	DataRoot, RunRoot string
	Images            *image.Store
	Layers            *snapshot.Store
	// Ready, if set, is called for each image that is built before it has a name.
	Ready func(context.Context, image.Image) error
	// Executor runs the commands of a build.
	Executor executor.Executor
	// Idle is how long the daemon stays when nobody is connected.
	Idle time.Duration
}

// Lock is held by the one daemon of a run root. Lock waits for one that is just
// leaving.
func Lock(ctx context.Context, runRoot string) (*lock.Held, error) {
	dir := request.Dir(runRoot)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	held, err := lock.Exclusive(ctx, filepath.Join(dir, "lock"))
	if err != nil {
		return nil, fmt.Errorf("another builder serves %s: %w", runRoot, err)
	}
	return held, nil
}

// TryLock is Lock if nobody holds it; ok tells whether it did.
func TryLock(runRoot string) (held *lock.Held, ok bool, err error) {
	return lock.TryExclusive(filepath.Join(request.Dir(runRoot), "lock"))
}

// Serve serves BuildKit's API, under Lock, until ctx ends or nobody has been
// connected for a while. It calls ready once connections are taken.
func Serve(ctx context.Context, o Options, ready func()) error {
	dir, state := request.Dir(o.RunRoot), request.StateDir(o.DataRoot)
	serving, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := os.MkdirAll(state, 0o700); err != nil {
		return err
	}
	if err := useTemp(filepath.Join(state, "tmp")); err != nil {
		return err
	}
	w, err := newWorker(serving, state, o)
	if err != nil {
		return err
	}
	controller, err := newController(serving, w, state)
	if err != nil {
		return err
	}
	defer controller.Close()
	idle := newIdle(o.Idle, filepath.Join(dir, "use"), func() {
		os.Remove(request.Socket(o.RunRoot)) // who comes from now on starts a new one
		cancel()
	})
	server := grpc.NewServer(grpc.StatsHandler(idle),
		// They carry what is behind an error, such as the place in the Dockerfile.
		grpc.UnaryInterceptor(grpcerrors.UnaryServerInterceptor), grpc.StreamInterceptor(grpcerrors.StreamServerInterceptor),
		grpc.MaxRecvMsgSize(defaults.DefaultMaxRecvMsgSize), grpc.MaxSendMsgSize(defaults.DefaultMaxSendMsgSize))
	healthv1.RegisterHealthServer(server, health.NewServer())
	controller.Register(server)
	listener, err := listen(request.Socket(o.RunRoot))
	if err != nil {
		return err
	}
	defer os.Remove(request.Socket(o.RunRoot))
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	ready()
	select {
	case err := <-served:
		return err
	case <-serving.Done():
		server.Stop()
	}
	if ctx.Err() == nil {
		// BuildKit collects at most once in a minute, which may be after the end.
		err = w.collect(ctx)
	}
	return errors.Join(err, noteUsage(context.WithoutCancel(ctx), controller, o.DataRoot))
}

// useTemp has temporary files and mount points made in dir, where the next daemon
// deletes those of a killed one.
func useTemp(dir string) error {
	// Of the files beside it, the last builder may have been killed writing one.
	if err := errors.Join(durable.RemoveTemps(filepath.Dir(dir)), os.RemoveAll(dir)); err != nil {
		return fmt.Errorf("cannot clean up after the last builder: %w", err)
	}
	// It makes dir.
	if err := mount.SetTempMountLocation(dir); err != nil {
		return fmt.Errorf("cannot make a directory for temporary files: %w", err)
	}
	return os.Setenv("TMPDIR", dir)
}

// listen makes the socket anew: whoever holds the lock is the only one to serve.
func listen(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	return sock.Listen(path)
}

func newController(ctx context.Context, w *worker, dir string) (*control.Controller, error) {
	sessions, err := session.NewManager()
	if err != nil {
		return nil, err
	}
	workers := &buildworker.Controller{}
	if err := workers.Add(w); err != nil {
		return nil, err
	}
	gw, err := gateway.NewGatewayFrontend(workers.Infos(), nil)
	if err != nil {
		return nil, err
	}
	builtin := forwarder.NewGatewayForwarder(workers.Infos(), dockerfile.Build)
	cache, err := bboltcachestorage.NewStore(filepath.Join(dir, "cache.db"))
	if err != nil {
		return nil, fmt.Errorf("cannot open the build cache: %w", err)
	}
	history, err := boltutil.SafeOpen(filepath.Join(dir, "history.db"), 0o600, &bolt.Options{FreelistType: bolt.FreelistMapType})
	if err != nil {
		return nil, fmt.Errorf("cannot open the history of builds: %w", err)
	}
	return control.NewController(control.Opt{
		SessionManager:   sessions,
		WorkerController: workers,
		Frontends: map[string]frontend.Frontend{
			"dockerfile.v0": confinedFrontend{builtin},
			"gateway.v0":    confinedFrontend{&gatewayFrontend{builtin: builtin, image: gw}},
		},
		CacheManager: solver.NewCacheManager(ctx, "local", cache, buildworker.NewCacheResultStorage(workers)),
		ResolveCacheExporterFuncs: map[string]remotecache.ResolveCacheExporterFunc{
			"registry": registrycache.ResolveCacheExporterFunc(sessions, w.RegistryHosts),
			"local":    local.ResolveCacheExporterFunc(sessions),
			"inline":   inline.ResolveCacheExporterFunc(),
		},
		ResolveCacheImporterFuncs: map[string]remotecache.ResolveCacheImporterFunc{
			"registry": registrycache.ResolveCacheImporterFunc(sessions, w.ContentStore(), w.RegistryHosts),
			"local":    local.ResolveCacheImporterFunc(sessions),
		},
		// As with Docker, a build may ask for these, and the client must allow them.
		Entitlements:   []string{"network.host", "security.insecure"},
		HistoryDB:      history,
		CacheStore:     cache,
		LeaseManager:   w.LeaseManager(),
		ContentStore:   w.ContentStore(),
		GarbageCollect: w.GarbageCollect,
		GracefulStop:   ctx.Done(),
	})
}

// idle ends the daemon when nobody has been connected for a while. It is a
// stats.Handler, which is told of connections.
type idle struct {
	after time.Duration
	use   string // held, shared, by whoever is about to connect
	leave func()

	mu        sync.Mutex
	connected int
	timer     *time.Timer
}

var _ stats.Handler = (*idle)(nil)

func newIdle(after time.Duration, use string, leave func()) *idle {
	if after <= 0 {
		after = build.DefaultIdle
	}
	i := &idle{after: after, use: use, leave: leave}
	i.timer = time.AfterFunc(after, i.elapsed)
	return i
}

func (i *idle) elapsed() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.connected > 0 {
		return
	}
	held, free, err := lock.TryExclusive(i.use)
	if err != nil || !free {
		i.timer.Reset(i.after)
		return
	}
	defer held.Unlock()
	i.leave()
}

// HandleConn counts connections.
func (i *idle) HandleConn(_ context.Context, s stats.ConnStats) {
	i.mu.Lock()
	defer i.mu.Unlock()
	switch s.(type) {
	case *stats.ConnBegin:
		i.connected++
		i.timer.Stop()
	case *stats.ConnEnd:
		if i.connected--; i.connected == 0 {
			i.timer.Reset(i.after)
		}
	}
}

func (i *idle) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (i *idle) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (i *idle) HandleRPC(context.Context, stats.RPCStats)                         {}
