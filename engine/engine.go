package engine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/engine/cgroup"
	"github.com/stack-run/stack/engine/content"
	"github.com/stack-run/stack/engine/image"
	"github.com/stack-run/stack/engine/sealed"
	"github.com/stack-run/stack/engine/snapshot"
	"github.com/stack-run/stack/netns"
	"github.com/stack-run/stack/volumes"
)

// DefaultStopGrace is the time between the stop signal and SIGKILL.
const DefaultStopGrace = 10 * time.Second

// Where state lives unless STACK_DATA_ROOT and STACK_RUN_ROOT say otherwise.
const (
	defaultDataRoot = "/var/lib/stack"
	defaultRunRoot  = "/run/stack"
)

// Options open an Engine.
type Options struct {
	DataRoot string // survives reboots
	RunRoot  string // does not
	Warn     func(string)
}

// Engine runs the containers of one data root. Opening one is cheap: its stores
// are opened when first used.
type Engine struct {
	Records *Records

	data, run, instance string
	sharedRanges        string
	warn                func(string)
	warned              sync.Map

	images     func() (*image.Store, error)
	layers     func() (*snapshot.Store, error)
	nets       func() (*netns.Manager, error)
	vols       func() (*volumes.Store, error)
	cgroups    func() (*cgroup.Hierarchy, error)
	detaching  batcher[[]*netns.Endpoint]
	removing   batcher[networkRemoval]
	deliveries deliveries
	checks     sync.Map // image ID → *healthcheck.Spec: what an ID stands for never changes
}

// Open opens the engine's roots, making what is missing.
func Open(o Options) (*Engine, error) {
	data, err := root(o.DataRoot, "STACK_DATA_ROOT", defaultDataRoot)
	if err != nil {
		return nil, err
	}
	run, err := root(o.RunRoot, "STACK_RUN_ROOT", defaultRunRoot)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(data + "\x00" + run))
	e := &Engine{data: data, run: run, instance: hex.EncodeToString(sum[:3]), sharedRanges: sharedRanges, warn: o.Warn, Records: NewRecords(data, run)}
	e.Records.warn, e.Records.facts = e.Warnf, e.stateFromKernel
	e.images = sync.OnceValues(func() (*image.Store, error) { return image.Open(data) })
	e.layers = sync.OnceValues(func() (*snapshot.Store, error) { return snapshot.Open(data) })
	e.nets = sync.OnceValues(func() (*netns.Manager, error) {
		return netns.Open(netns.Options{DataRoot: data, RunRoot: run, Instance: e.instance, Live: e.endpointLives, Logf: e.Warnf})
	})
	e.vols = sync.OnceValues(func() (*volumes.Store, error) {
		return volumes.Open(volumes.Options{DataRoot: data, RunRoot: run, ImageView: e.imageView, Warnf: e.Warnf})
	})
	e.cgroups = sync.OnceValues(cgroup.Detect)
	e.detaching.gather = 4 * time.Millisecond
	e.detaching.do = func(ctx context.Context, endpoints [][]*netns.Endpoint) error {
		nets, err := e.nets()
		if err != nil {
			return err
		}
		return nets.DetachAll(ctx, slices.Concat(endpoints...))
	}
	e.removing.do = func(ctx context.Context, removals []networkRemoval) error {
		nets, err := e.nets()
		if err != nil {
			return err
		}
		var names []string
		var leaving []*netns.Endpoint
		for _, r := range removals {
			names = append(names, r.network)
			if r.leaving != nil {
				leaving = append(leaving, r.leaving()...)
			}
		}
		return nets.RemoveWith(ctx, leaving, names...)
	}
	return e, nil
}

func root(option, variable, fallback string) (string, error) {
	p := first(option, os.Getenv(variable), fallback)
	p, err := filepath.Abs(p)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(p, rootMode); err != nil {
		return "", fmt.Errorf("cannot make %s: %w; run as root or set %s to a directory of yours", p, err, variable)
	}
	if err := closeToOthers(p); err != nil {
		return "", fmt.Errorf("cannot close %s to other users, who could run set-user-ID programs that containers leave in their volumes: %w; set %s to a directory of its own", p, err, variable)
	}
	return p, nil
}

// rootMode lets nobody else through to what containers write.
const rootMode = 0o710

// isOurs says that a directory has nothing in it but what we make: an empty file
// system that was mounted for us looks like one that everybody uses.
func isOurs(root string) bool {
	if slices.Contains([]string{"/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", "/run", "/run/lock"}, root) {
		return false // empty or not
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		return false
	}
	ours := []string{
		"lost+found", "build", "builder", "cgroup-parents", "containers", "containers-rw", "content", "endpoints", rangesDir, "images", "layers",
		"locks", "logs", "names", "netns", "networks", "projects", "remote", sealed.Dir, "volumes", "watch",
	}
	return !slices.ContainsFunc(entries, func(e os.DirEntry) bool { return !slices.Contains(ours, e.Name()) })
}

// closeToOthers takes the rights of others from a root that an earlier version, or
// somebody else, made.
func closeToOthers(root string) error {
	fd, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == unix.EACCES {
		return nil // not ours to list, so not ours to change; what needs it will say so
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	switch {
	case st.Mode&0o027 == 0:
		return nil
	case root == "/" || st.Mode&unix.S_ISVTX != 0 && !isOurs(root):
		return errors.New("everybody uses this directory")
	case st.Uid != uint32(os.Geteuid()):
		return nil // its owner's affair
	}
	return unix.Fchmod(fd, st.Mode&0o7750)
}

// DataRoot and RunRoot are the engine's directories.
func (e *Engine) DataRoot() string { return e.data }
func (e *Engine) RunRoot() string  { return e.run }

// Instance is a short name for this pair of roots, used in the names of links,
// tables and cgroups so that two roots on one machine do not meet.
func (e *Engine) Instance() string { return e.instance }

// Images, Layers, Networks and Volumes are the engine's stores.
func (e *Engine) Images() (*image.Store, error)       { return e.images() }
func (e *Engine) Layers() (*snapshot.Store, error)    { return e.layers() }
func (e *Engine) Networks() (*netns.Manager, error)   { return e.nets() }
func (e *Engine) Volumes() (*volumes.Store, error)    { return e.vols() }
func (e *Engine) Cgroups() (*cgroup.Hierarchy, error) { return e.cgroups() }

// Sealed is the store of secrets and configs.
func (e *Engine) Sealed() *sealed.Store { return sealed.Open(e.data) }

// imageView mounts an image's files, read-only, for a volume of type image.
func (e *Engine) imageView(ctx context.Context, ref string, userNS *os.File) (*os.File, error) {
	img, err := e.resolve(ctx, Spec{Image: ref})
	if err != nil {
		return nil, err
	}
	if err := e.unpack(ctx, img); err != nil {
		return nil, err
	}
	layers, err := e.Layers()
	if err != nil {
		return nil, err
	}
	return layers.View(diffIDs(img), userNS)
}

// Content is the store of the images' blobs.
func (e *Engine) Content() (*content.Store, error) {
	images, err := e.Images()
	if err != nil {
		return nil, err
	}
	return images.Content(), nil
}

// OnWarn has f told instead of Options.Warn. It is called before the engine is
// used.
func (e *Engine) OnWarn(f func(string)) { e.warn = f }

// Warnf tells the user something once.
func (e *Engine) Warnf(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if _, seen := e.warned.LoadOrStore(text, true); !seen && e.warn != nil {
		e.warn(text)
	}
}

// LogDir is where a container's log lives.
func (e *Engine) LogDir(id string) string { return e.Records.LogDir(id) }

// undo collects what has to be taken back when a later step fails.
type undo []func() error

func (u *undo) add(f func() error) { *u = append(*u, f) }

// run takes everything back, last first, going on after errors.
func (u undo) run() error {
	var errs []error
	for i := len(u) - 1; i >= 0; i-- {
		errs = append(errs, u[i]())
	}
	return errors.Join(errs...)
}

// detached is ctx without its cancellation: a teardown must not stop half-way
// because the request that started it went away.
func detached(ctx context.Context) context.Context { return context.WithoutCancel(ctx) }
