// Package request is what a build is asked for and answered with, as plain data.
//
// It is what the light command line and the heavy builder program have in
// common: "stack" writes a Build to the descriptor RequestFD of "stack-builder
// build" and reads a Result from ResultFD. It imports nothing of BuildKit's.
package request

import "time"

// The descriptors of "stack-builder build". The writing end of RequestFD stays
// open for as long as somebody wants the result: its end cancels the build.
const (
	RequestFD = 3
	ResultFD  = 4
)

// Build is one request: targets that are built together, in parallel and in the
// order of their dependencies, against one daemon.
type Build struct {
	DataRoot string   `json:"dataRoot"`
	RunRoot  string   `json:"runRoot"`
	Targets  []Target `json:"targets"`
	// Progress is auto, tty, plain, quiet, rawjson or none.
	Progress string `json:"progress,omitempty"`
	// ProgressOut has the progress on the standard output: there docker compose
	// has it, while docker build has it on the standard error.
	ProgressOut bool `json:"progressOut,omitempty"`
	// Parallel limits how many targets are built at a time; 0 is no limit.
	Parallel int `json:"parallel,omitempty"`
	// Call asks for something else than an image: "check", "outline" or
	// "targets", each with ",format=json" for a machine to read.
	Call string `json:"call,omitempty"`
}

// Target is one image to build.
type Target struct {
	// Name tells targets of one request apart. It is a service's name.
	Name string `json:"name"`
	// Context is a directory, a URL (IsRemote), or "-" for a tar archive on the
	// standard input.
	Context string `json:"context"`
	// Dockerfile is a path: in the context where that is remote or an archive,
	// else absolute. "-" is the standard input. Empty is "Dockerfile" in the context.
	Dockerfile string `json:"dockerfile,omitempty"`
	// Inline is the Dockerfile itself.
	Inline string            `json:"inline,omitempty"`
	Args   map[string]string `json:"args,omitempty"`
	Stage  string            `json:"stage,omitempty"` // the stage to build; empty is the last
	Labels map[string]string `json:"labels,omitempty"`
	// Names are the references that the image gets.
	Names       []string `json:"names,omitempty"`
	CacheFrom   []Entry  `json:"cacheFrom,omitempty"`
	CacheTo     []Entry  `json:"cacheTo,omitempty"`
	Outputs     []Entry  `json:"outputs,omitempty"` // empty: the engine's image store
	Annotations []string `json:"annotations,omitempty"`
	// Contexts are additional contexts by name: a directory, a URL,
	// "docker-image://REF", "oci-layout://DIR", or "target:NAME" for the image
	// of another target of the same request.
	Contexts map[string]string `json:"contexts,omitempty"`
	Secrets  []Secret          `json:"secrets,omitempty"`
	SSH      []SSH             `json:"ssh,omitempty"`
	Network  string            `json:"network,omitempty"` // default, none or host
	// UserNS is the user namespace that commands run in: "" is the host's, else a mode
	// that engine.BuildUserNS returns. Project has a range of user IDs for auto, which is
	// one of its own where that is "".
	UserNS       string   `json:"userNS,omitempty"`
	Project      string   `json:"project,omitempty"`
	ShmSize      int64    `json:"shmSize,omitempty"` // bytes
	ExtraHosts   []Host   `json:"extraHosts,omitempty"`
	Ulimits      []Ulimit `json:"ulimits,omitempty"`
	CgroupParent string   `json:"cgroupParent,omitempty"`
	NoCache      bool     `json:"noCache,omitempty"`
	// NoCacheStages are the stages that are built anew.
	NoCacheStages []string `json:"noCacheStages,omitempty"`
	Pull          bool     `json:"pull,omitempty"` // ask the registry even for images that are here
	Platforms     []string `json:"platforms,omitempty"`
	// Entitlements are network.host and security.insecure.
	Entitlements []string `json:"entitlements,omitempty"`
	// Attestations are the parameters by type, "provenance" or "sbom".
	Attestations map[string]string `json:"attestations,omitempty"`
}

// Entry is an output or a cache, as BuildKit names its type and attributes.
type Entry struct {
	Type  string            `json:"type"`
	Attrs map[string]string `json:"attrs,omitempty"`
}

// Secret is one secret: the field that is set says where it comes from.
type Secret struct {
	ID    string  `json:"id"`
	File  string  `json:"file,omitempty"`
	Env   string  `json:"env,omitempty"`
	Value *string `json:"value,omitempty"`
}

// SSH exposes an agent's socket or keys to the build. Without paths it is the
// agent of SSH_AUTH_SOCK.
type SSH struct {
	ID    string   `json:"id"`
	Paths []string `json:"paths,omitempty"`
}

// Host is a line of /etc/hosts. Address may be "host-gateway".
type Host struct {
	Name    string `json:"name"`
	Address string `json:"address"`
}

// Ulimit is a limit of the processes that RUN starts.
type Ulimit struct {
	Name string `json:"name"`
	Soft int64  `json:"soft"`
	Hard int64  `json:"hard"`
}

// Result answers a Build.
type Result struct {
	Targets []Built `json:"targets"`
}

// Built is what became of one target.
type Built struct {
	Name string `json:"name"`
	// ImageID is the digest of the image's configuration, Digest that of its
	// manifest or index. Both are empty for outputs that are no image.
	ImageID string   `json:"imageID,omitempty"`
	Digest  string   `json:"digest,omitempty"`
	Names   []string `json:"names,omitempty"`
	// Metadata are BuildKit's words on the result, what --metadata-file shows.
	Metadata map[string]any `json:"metadata,omitempty"`
	Took     time.Duration  `json:"took,omitempty"`
	// Error says why there is no image. The program has printed it already.
	Error string `json:"error,omitempty"`
}

// Of returns what became of a target.
func (r *Result) Of(name string) (Built, bool) {
	for _, b := range r.Targets {
		if b.Name == name {
			return b, true
		}
	}
	return Built{}, false
}
