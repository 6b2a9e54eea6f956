package supervise

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/stack-run/stack/compose/apply"
	"github.com/stack-run/stack/compose/plan"
	"github.com/stack-run/stack/compose/spec"
	"github.com/stack-run/stack/compose/supervise/guard"
	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/netns"
)

// The protocol between the command line and a supervisor: a request is
//
//	POST /v1/VERB  with a JSON body
//
// on the project's unix socket, and the answer a stream of Messages, one JSON
// object a line. The status line is sent before any work begins: a client that
// sees the connection end without one knows that nothing was done and may ask
// again. Closing the connection cancels the request.

// Singles is the realm of all containers that belong to no Compose file: they share
// one supervisor. The dot keeps it apart from Compose's project names, which have
// none.
const Singles = "single."

// SingleProject is the project of a container that belongs to no Compose file.
func SingleProject(name string) string { return Singles + name }

// RealmOf is whose supervisor a project's containers have: each project its own, but
// for single containers.
func RealmOf(project string) string {
	if strings.HasPrefix(project, Singles) {
		return Singles
	}
	return project
}

const (
	socketName   = guard.Socket
	listenerName = guard.HeldListener
)

// Message is one line of an answer. The last one has Final set.
type Message struct {
	Event *apply.Event `json:"event,omitempty"`
	Final *Final       `json:"final,omitempty"`
}

// Final ends an answer.
type Final struct {
	Error string `json:"error,omitempty"`
	// ExitCode is what the command line should exit with after Error, 0 for 1.
	ExitCode int             `json:"exitCode,omitempty"`
	Result   json.RawMessage `json:"result,omitempty"`
	// Leaving says that the supervisor has nothing left to own and ends now.
	Leaving bool `json:"leaving,omitempty"`
}

// ApplyRequest is the body of "apply": a verb of one or more containers, as the plan
// decides it.
type ApplyRequest struct {
	Project string `json:"project"` // or a realm
	plan.Request
	// Parallel bounds the operations under way at once; 0 does not.
	Parallel int `json:"parallel,omitempty"`
	// RemoveImages, "local" or "all", has down remove images of the project; Images
	// are further ones, of a file whose project is down already.
	RemoveImages string   `json:"removeImages,omitempty"`
	Images       []string `json:"images,omitempty"`
}

func (r *ApplyRequest) check() error { return checkDesired(r.Desired) }

func (r *CreateRequest) check() error { return checkDesired(r.Desired) }

func checkDesired(d *spec.Desired) error {
	if d == nil {
		return nil
	}
	return d.Check()
}

// ContainerRequest names a container by its ID.
type ContainerRequest struct {
	ID string `json:"id"`
}

// RestRequest is the body of "rest": containers that are to be frozen until somebody
// unpauses them or the connection ends.
type RestRequest struct {
	IDs []string `json:"ids"`
}

// StatusResting is the status of the event that "rest" sends when all are frozen.
const StatusResting = "Resting"

// CreateRequest is the body of "create": one container outside the graph. With
// Desired the networks, volumes and dependencies of its service come up first.
type CreateRequest struct {
	// ID is the container's, chosen by who asks: where a supervisor is lost, and the next
	// one is asked, it makes no second one.
	ID      string        `json:"id,omitempty"`
	Project string        `json:"project"`
	Spec    engine.Spec   `json:"spec"`
	Service string        `json:"service,omitempty"`
	Due     time.Time     `json:"due,omitzero"` // of a job that a schedule runs
	Hash    string        `json:"hash,omitempty"`
	Desired *spec.Desired `json:"desired,omitempty"`
	NoDeps  bool          `json:"noDeps,omitempty"`
	// Follows says that another request follows at once.
	Follows bool `json:"follows,omitempty"`
}

// CreateResult is the result of "create".
type CreateResult struct {
	ID string `json:"id"`
}

// WaitResult is the result of "wait": the container ended with this code.
type WaitResult struct {
	ExitCode int    `json:"exitCode"`
	Error    string `json:"error,omitempty"`
}

// FDRequest asks for a held descriptor of a container: "tty" or "stdin". The
// answer names a process and a descriptor number for pidfd_getfd(2).
type FDRequest struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	// Close closes the supervisor's own copy instead (end of input).
	Close bool `json:"close,omitempty"`
}

// FDResult is the result of "fd".
type FDResult struct {
	Pid int `json:"pid"`
	FD  int `json:"fd"`
}

// ConnectRequest is the body of "connect".
type ConnectRequest struct {
	ID         string           `json:"id"`
	Attachment netns.Attachment `json:"attachment"`
	Disconnect bool             `json:"disconnect,omitempty"`
	Force      bool             `json:"force,omitempty"`
}

// RunRequest is the body of "run": start a created container and, with Wait,
// answer with its WaitResult once it has ended for good. With Attached it runs
// already and is only waited for.
type RunRequest struct {
	ID            string `json:"id"`
	Wait          bool   `json:"wait,omitempty"`
	Attached      bool   `json:"attached,omitempty"`
	Rows, Columns uint16 `json:",omitempty"`
	// Feeds says that the client gives the container its input.
	Feeds bool `json:"feeds,omitempty"`
}

// StatusRunning is the status of the event that "run" sends when the process
// runs and input can be sent.
const StatusRunning = "Attached"

// StatusEnded is the status of the event that "run" sends when the process has
// ended and all of its output is in the log, which may be some time before the
// answer: a container may have to be removed, or start again.
const StatusEnded = "Ended"

// ExecRequest is the body of "exec": a command that runs on in the background.
// The supervisor is its parent, so that somebody reaps it: a process that nobody
// does keeps its pid namespace from ending, pid_namespaces(7).
type ExecRequest struct {
	ID         string         `json:"id"`
	Process    engine.Process `json:"process"`
	Privileged bool           `json:"privileged,omitempty"`
	// ExecID names it in events.
	ExecID string `json:"execID"`
}

// HandOverRequest is the body of "handover": the supervisor is to be the program
// at Program from now on, a path such as "/proc/PID/exe".
type HandOverRequest struct {
	Program string `json:"program"`
}

// RenameRequest is the body of "rename".
type RenameRequest struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// UpdateRequest is the body of "update".
type UpdateRequest struct {
	ID      string         `json:"id"`
	Limits  engine.Limits  `json:"limits"`
	Restart engine.Restart `json:"restart"`
}
