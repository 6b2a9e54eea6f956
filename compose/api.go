package compose

import (
	"context"
	"io"
	"os"
	"time"

	"github.com/moby/moby/api/types/container"

	"github.com/stack-run/stack/compose/apply"
	"github.com/stack-run/stack/compose/plan"
	"github.com/stack-run/stack/compose/schedule"
	"github.com/stack-run/stack/compose/spec"
	"github.com/stack-run/stack/engine"
)

// Progress receives events while a verb works. It may be called from several
// goroutines, one call at a time.
type Progress func(apply.Event)

// tell tells of what happens now, if anybody wants to know.
func (p Progress) tell(event apply.Event) {
	if p != nil {
		event.Time = time.Now()
		p(event)
	}
}

// Selector picks containers. Empty fields do not restrict.
type Selector struct {
	Project  string
	Services []string
	Index    int      // container number in its service
	All      bool     // stopped ones too
	OneOff   bool     // one-off containers of "stack run" too
	Singles  bool     // only containers that belong to no Compose project
	IDs      []string // IDs, unambiguous ID prefixes, or names
	Listed   bool     // the IDs were listed just now: what is gone since is left out
	Labels   []string // key or key=value
	// Declared is what the Compose files say that the project is. With it, what
	// they do not declare and what another application of the same name has is
	// not selected.
	Declared *spec.Desired
}

// UpOptions are the options of up and create.
type UpOptions struct {
	Services       []string       `json:"services,omitempty"` // empty: all
	NoDeps         bool           `json:"noDeps,omitempty"`
	ForceRecreate  bool           `json:"forceRecreate,omitempty"`
	NoRecreate     bool           `json:"noRecreate,omitempty"`
	RecreateDeps   bool           `json:"recreateDeps,omitempty"`
	NoStart        bool           `json:"noStart,omitempty"` // create only
	RemoveOrphans  bool           `json:"removeOrphans,omitempty"`
	IgnoreOrphans  bool           `json:"ignoreOrphans,omitempty"` // no warning
	RenewAnonymous bool           `json:"renewAnonymous,omitempty"`
	StopTimeout    *time.Duration `json:"stopTimeout,omitempty"`
	Wait           bool           `json:"wait,omitempty"` // until running or healthy
	WaitTimeout    time.Duration  `json:"waitTimeout,omitempty"`
	Parallel       int            `json:"parallel,omitempty"` // 0: unlimited
	// AssumeYes makes volumes anew whose definition changed, with the loss of
	// their data; RecreateVolumes, by their keys, only some.
	AssumeYes       bool     `json:"assumeYes,omitempty"`
	RecreateVolumes []string `json:"recreateVolumes,omitempty"`
}

// ImageOptions say which images EnsureImages sees to, and how.
type ImageOptions struct {
	Services []string // empty: all
	NoDeps   bool
	// Build builds the images of these services, nil where that is not wanted.
	Build func(ctx context.Context, services []string) error
	// Parallel bounds how many images are pulled at once; 0 does not.
	Parallel int
}

// DownOptions are the options of down.
type DownOptions struct {
	// Desired is what the Compose files say that the project is: what they do not
	// declare stays. nil: all that carries the project's name goes.
	Desired  *spec.Desired `json:"desired,omitempty"`
	Services []string      `json:"services,omitempty"`
	Volumes  bool          `json:"volumes,omitempty"`
	Images   string        `json:"images,omitempty"` // "", "local", "all"
	// Declared are the names of the volumes that the file declares, which alone
	// Volumes is about. nil: those of the last up, or all.
	Declared []string `json:"declared"`
	// ImageNames are further images to remove: those of a file whose project is
	// down already.
	ImageNames []string       `json:"imageNames,omitempty"`
	Orphans    bool           `json:"orphans,omitempty"`
	Timeout    *time.Duration `json:"timeout,omitempty"`
}

// StopOptions are the options of stop, restart, kill and rm.
type StopOptions struct {
	Timeout *time.Duration `json:"timeout,omitempty"`
	Signal  string         `json:"signal,omitempty"`
	NoDeps  bool           `json:"noDeps,omitempty"`
	Force   bool           `json:"force,omitempty"`   // rm: kill first
	Stop    bool           `json:"stop,omitempty"`    // rm: stop first
	Volumes bool           `json:"volumes,omitempty"` // rm: anonymous volumes too
}

// StartOptions are the options of start.
type StartOptions struct {
	Wait        bool // until running or healthy
	WaitTimeout time.Duration
	NoDeps      bool // not what the services depend on
}

// ExecOptions are one command to run in a running container.
type ExecOptions struct {
	Process    engine.Process
	Command    []string
	Privileged bool
	Detach     bool
	DetachKeys string // such as "ctrl-p,ctrl-q"
	// Stdin, Stdout and Stderr are used as they are; with Process.TTY, Stdin must
	// be the caller's terminal or nil.
	Stdin, Stdout, Stderr *os.File
}

// RunOptions are one container to run outside the graph: "stack run SERVICE"
// (a one-off of a service) or "stack container run IMAGE".
type RunOptions struct {
	Spec    engine.Spec
	Project string // empty: a project of its own
	Service string
	// Desired, with Service, has the networks, volumes and dependencies brought up first.
	Desired    *spec.Desired
	NoDeps     bool
	CreateOnly bool
	Detach     bool
	DetachKeys string
	NoSigProxy bool
	// Attach tells which of stdin, stdout, stderr are connected.
	Stdin, Stdout, Stderr *os.File
	// IDFile gets the container's ID.
	IDFile string
	// Started is called with the ID once the container is created.
	Started func(id string)
}

// LogOptions select log lines.
type LogOptions struct {
	Follow       bool
	Since, Until time.Time
	Tail         int // lines per container; -1 all
	// NewContainers makes Follow include containers of the same services that
	// appear later (recreated, scaled).
	NewContainers bool
	// Details fills in LogLine.Details.
	Details bool
	// Ended is called when a followed container ends, with its exit code.
	Ended func(c engine.Container, code int)
}

// LogLine is one line, or, with Partial, the beginning of one.
type LogLine struct {
	Container engine.Container
	Stream    string // "stdout" or "stderr"
	Time      time.Time
	Text      []byte // without the newline
	Partial   bool
	// Unfinished says of a Partial line that its container ended without finishing it.
	Unfinished bool
	// Details are what the container's logging options say about each line.
	Details string
}

// EngineEvent is one line of "stack events", in Docker's shape.
type EngineEvent struct {
	Time       time.Time         `json:"time"`
	Type       string            `json:"type"`   // container, network, volume, image
	Action     string            `json:"action"` // create, start, die, health_status: healthy …
	ID         string            `json:"id"`
	Project    string            `json:"project,omitempty"`
	Service    string            `json:"service,omitempty"`
	Attributes map[string]string `json:"attributes,omitempty"`
}

// Stats is one sample of a container's use of resources.
type Stats struct {
	Container             engine.Container
	Time                  time.Time
	CPUPercent            float64 // 100 is one CPU
	Memory, MemoryLimit   uint64  // bytes
	NetRx, NetTx          uint64  // bytes
	BlockRead, BlockWrite uint64  // bytes
	PIDs                  uint64
}

// ProjectSummary is one row of "stack ls".
type ProjectSummary struct {
	Name   string
	Status map[engine.Phase]int
	// Scheduled is how many jobs run by a schedule.
	Scheduled   int
	ConfigFiles []string
	WorkingDir  string
}

// Verbs is what the command line calls. *Client implements it.
type Verbs interface {
	// Plan says what Up would do. It writes nothing.
	Plan(ctx context.Context, d *spec.Desired, o UpOptions) (*plan.Plan, error)
	// Rehearse returns verbs that give their plans to show instead of carrying them
	// out: the very plans, made from the same facts.
	Rehearse(show func(*plan.Plan) error) API
	// EnsureImages pulls and builds the images that d needs, before anything of it
	// is planned or touched.
	EnsureImages(ctx context.Context, d *spec.Desired, o ImageOptions, p Progress) error
	// PlanImages says what EnsureImages would do; Plan of the same d counts on it.
	PlanImages(ctx context.Context, d *spec.Desired, o ImageOptions) ([]plan.ImageOp, error)
	Up(ctx context.Context, d *spec.Desired, o UpOptions, p Progress) error
	// Down takes the project's whole graph away, known from its records.
	Down(ctx context.Context, project string, o DownOptions, p Progress) error

	Start(ctx context.Context, s Selector, o StartOptions, p Progress) error
	Stop(ctx context.Context, s Selector, o StopOptions, p Progress) error
	Restart(ctx context.Context, s Selector, o StopOptions, p Progress) error
	Kill(ctx context.Context, s Selector, o StopOptions, p Progress) error
	Pause(ctx context.Context, s Selector, p Progress) error
	Unpause(ctx context.Context, s Selector, p Progress) error
	Remove(ctx context.Context, s Selector, o StopOptions, p Progress) error

	// Containers, Projects and Definition read records and need no supervisor.
	// Containers' order is project, service, index, creation.
	Containers(ctx context.Context, s Selector) ([]engine.Container, error)
	Projects(ctx context.Context) ([]ProjectSummary, error)
	Definition(ctx context.Context, project string) (*spec.Desired, error)
	// Schedules says what the project's jobs do, and did, by their schedules.
	Schedules(ctx context.Context, project string) (schedule.Record, error)

	// Watch acts on changes of files as develop.watch of d's services says, until
	// ctx ends.
	Watch(ctx context.Context, d *spec.Desired, o WatchOptions) error

	Run(ctx context.Context, o RunOptions, p Progress) (exitCode int, err error)
	Exec(ctx context.Context, container string, o ExecOptions) (exitCode int, err error)
	Attach(ctx context.Context, container string, o RunOptions) (exitCode int, err error)
	Wait(ctx context.Context, container string) (exitCode int, err error)
	// Logs calls line for each line, ordered by time.
	Logs(ctx context.Context, s Selector, o LogOptions, line func(LogLine) error) error
	Events(ctx context.Context, s Selector, since, until time.Time, event func(EngineEvent) error) error
	// Stats calls sample once per round with all containers; with stream false, once.
	Stats(ctx context.Context, s Selector, stream bool, sample func([]Stats) error) error
	// Top returns ps' titles and rows for the container's processes.
	Top(ctx context.Context, container string, psArgs []string) (titles []string, rows [][]string, err error)
	// CopyFrom writes a tar archive of path in the container; CopyTo unpacks one into dir.
	CopyFrom(ctx context.Context, container, path string, followLinks bool, w io.Writer) error
	CopyTo(ctx context.Context, container, dir string, r io.Reader, keepOwner bool) error
	// Inspect returns a container in docker's shape.
	Inspect(ctx context.Context, name string) (container.InspectResponse, error)
	// Resume brings up every project that ran before a crash or a boot.
	Resume(ctx context.Context, p Progress) error
}
