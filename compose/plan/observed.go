package plan

import (
	"strings"
	"time"

	"github.com/stack-run/stack/engine/container"
	"github.com/stack-run/stack/healthcheck/health"
	"github.com/stack-run/stack/netns/endpoint"
	"github.com/stack-run/stack/volumes/volume"
)

// Observed is what exists.
type Observed struct {
	Project string
	// Containers are all of the project's, one-offs and stopped ones too.
	Containers []Container
	// Networks and Volumes are all on the machine: external ones are looked up
	// here as well.
	Networks []endpoint.Network
	Volumes  []volume.Volume
}

// Container is a container as it exists.
type Container struct {
	ID            string
	Name          string
	Service       string
	Index         int
	OneOff        bool
	Hash          string // "v1:…", of what it was made from
	ImageID       string
	Phase         container.Phase
	Health        health.Status
	ExitCode      int
	StoppedByUser bool
	Created       time.Time
	StartedAt     time.Time
	// NetworkOf is the ID of the container whose network it uses, "" for its own.
	NetworkOf string
	// Spec is what it was made from; nil if not known, then only hashes count.
	Spec *container.Spec
}

// FromRecord makes a Container of an engine's record.
func FromRecord(c *container.Record) Container {
	networkOf := ""
	if ep := c.State.Endpoint; ep != nil {
		networkOf, _ = strings.CutPrefix(ep.Spec.Mode, "container:")
		if networkOf == ep.Spec.Mode {
			networkOf = ""
		}
	}
	return Container{
		ID:            c.ID,
		Name:          c.Spec.Name,
		Service:       c.Service,
		Index:         c.Index,
		OneOff:        c.OneOff,
		Hash:          c.Hash,
		ImageID:       c.Spec.ImageID,
		Phase:         c.State.Phase,
		Health:        c.State.Health,
		ExitCode:      c.State.ExitCode,
		StoppedByUser: c.State.StoppedByUser,
		Created:       c.Created,
		StartedAt:     c.State.StartedAt,
		NetworkOf:     networkOf,
		Spec:          &c.Spec,
	}
}

// live says that the container has, or will have again by itself, a process.
func (c *Container) live() bool {
	switch c.Phase {
	case container.Running, container.Paused, container.Restarting:
		return true
	}
	return false
}

// Options are those of up and create.
type Options struct {
	Services       []string // empty: all
	NoDeps         bool
	ForceRecreate  bool // of Services (or all), not of their dependencies
	NoRecreate     bool
	RecreateDeps   bool // dependencies are recreated too
	NoStart        bool // create only
	RemoveOrphans  bool
	IgnoreOrphans  bool // no warning
	RenewAnonymous bool // recreated containers get new anonymous volumes
	StopTimeout    *time.Duration
	// RecreateVolumes are the keys of changed volumes that may be made anew,
	// their data lost; AssumeYes stands for all.
	RecreateVolumes []string
	AssumeYes       bool
	// KeepCompleted leaves a service alone that has completed successfully and
	// that others only wait for with service_completed_successfully. Docker
	// Compose runs it again on each up.
	KeepCompleted bool
}

// DownOptions are those of down.
type DownOptions struct {
	Services []string // empty: the whole project, with all that is tagged with it
	Volumes  bool     // named volumes of the project and anonymous ones
	// Declared are the names of the volumes that the Compose file declares; others
	// of the project are kept. nil: all are declared.
	Declared []string
	Timeout  *time.Duration
}

// StopOptions are those of stop, start and restart.
type StopOptions struct {
	Services []string
	Timeout  *time.Duration
	NoDeps   bool
}
