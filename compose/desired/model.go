// Package desired is what a project must be: the Compose model translated into
// the engine's terms. It is plain data, with the fingerprint that tells whether
// a container was made from it.
package desired

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/stack-run/stack/engine/container"
	"github.com/stack-run/stack/netns/endpoint"
	"github.com/stack-run/stack/volumes/volume"
)

// A reference to a sibling service inside an container.Spec is the placeholder
// "service:NAME" and is resolved when the container is created, against the
// container of NAME with the lowest number:
//
//	Network.Mode, Isolation.PIDMode, Isolation.IPCMode   "service:NAME"
//	VolumesFrom                                          "service:NAME:rw" or ":ro"
//
// References to containers outside the project read "container:NAME" and, in
// VolumesFrom, "container:NAME:rw" or ":ro".

// Version is the schema version of Project.
const Version = 1

// Project is stored as the project's definition, so that a supervisor can bring
// it up again after a crash or a boot.
type Project struct {
	Version     int                 `json:"version"` // of this schema, now 1
	Project     string              `json:"project"`
	WorkingDir  string              `json:"workingDir,omitempty"`
	ConfigFiles []string            `json:"configFiles,omitempty"`
	EnvFiles    []string            `json:"envFiles,omitempty"`
	Profiles    []string            `json:"profiles,omitempty"`
	Services    map[string]*Service `json:"services"`
	// Networks and Volumes are by Compose key.
	Networks map[string]*Network `json:"networks,omitempty"`
	Volumes  map[string]*Volume  `json:"volumes,omitempty"`
	// Providers are the services that a program provides and no container, see package
	// provider.
	Providers map[string]Provider `json:"providers,omitempty"`
	// Jobs run when they are told to. No name is of a service and of a job.
	Jobs map[string]*Job `json:"jobs,omitempty"`
	// Disabled are the services and jobs that an inactive profile or a selection turns
	// off: their containers are no orphans.
	Disabled []string `json:"disabled,omitempty"`
	// Coming are images that will be pulled or built before anything is created, so
	// that a plan can be made without them. It is not stored.
	Coming []string `json:"-"`
	// Environment is what a one-off's "-e NAME" without a value is looked up in.
	// It is not stored.
	Environment map[string]string `json:"-"`
}

// Check tells what keeps a project that was decoded from being used. Whoever makes one
// from a Compose file makes it so; a file may be damaged, a request anybody's.
func (d *Project) Check() error {
	if d.Project == "" || d.Project == "." || d.Project == ".." || strings.ContainsAny(d.Project, "/\x00") {
		return fmt.Errorf("a project cannot be named %q", d.Project)
	}
	for _, name := range slices.Sorted(maps.Keys(d.Jobs)) {
		if d.Jobs[name] == nil {
			return fmt.Errorf("job %q is empty", name)
		}
		if d.Services[name] != nil {
			return fmt.Errorf("%q is a service and a job", name)
		}
	}
	all := d.All()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		s := all[name]
		if s == nil {
			return fmt.Errorf("service %q is empty", name)
		}
		if s.Name != name {
			return fmt.Errorf("service %q has the name %q", name, s.Name)
		}
		for i, r := range s.Replicas {
			if r.Index != i+1 {
				return fmt.Errorf("container %d of service %q has the number %d", i+1, name, r.Index)
			}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(d.Networks)) {
		if d.Networks[key] == nil {
			return fmt.Errorf("network %q is empty", key)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(d.Volumes)) {
		if d.Volumes[key] == nil {
			return fmt.Errorf("volume %q is empty", key)
		}
	}
	return nil
}

// Provider is what stands for a service without a container.
type Provider struct {
	Type    string              `json:"type"`
	Options map[string][]string `json:"options,omitempty"`
	// Service is the service as the file has it, for the provider to read.
	Service json.RawMessage `json:"service,omitempty"`
	// DependsOn are the services that the provider's depends on.
	DependsOn []string `json:"dependsOn,omitempty"`
}

// Service is one service of a project.
type Service struct {
	Name string `json:"name"`
	// Replicas holds one spec per replica; index i is container number i+1.
	Replicas  []Replica             `json:"replicas"`
	DependsOn map[string]Dependency `json:"dependsOn,omitempty"`
	// PullPolicy is "" where nothing was said, always, never, missing, build, or
	// refresh, which pulls what has been here for PullEvery.
	PullPolicy string        `json:"pullPolicy,omitempty"`
	PullEvery  time.Duration `json:"pullEvery,omitempty"`
	// HasBuild says that the service has a build section, OnlyBuilt that it names
	// no image besides, so that no registry can have it.
	HasBuild  bool `json:"hasBuild,omitempty"`
	OnlyBuilt bool `json:"onlyBuilt,omitempty"`
	// Update and Rollback are deploy.update_config and rollback_config, nil where there
	// is no update_config: then replicas are made anew as their dependencies allow.
	Update   *Rollout `json:"update,omitempty"`
	Rollback *Rollout `json:"rollback,omitempty"`
	// Once (x-once: true) is of a job that, once it has succeeded, is not run again
	// before it changes.
	Once bool `json:"once,omitempty"`
	// PreStart are the containers that run, one after the other and to their ends,
	// before the service's own where none of those runs.
	PreStart []Step `json:"preStart,omitempty"`
	// PostStart and PreStop are the lifecycle hooks.
	PostStart []Hook `json:"postStart,omitempty"`
	PreStop   []Hook `json:"preStop,omitempty"`
	// Watch is develop.watch, which is of the checkout and not of what runs: it is
	// not stored.
	Watch []Trigger `json:"-"`
	// NoAttach (attach: false) keeps the service's log out of a foreground up.
	NoAttach bool `json:"noAttach,omitempty"`
	// Profiles are those that the service is part of.
	Profiles []string `json:"profiles,omitempty"`
}

// Replica is one container of a service.
type Replica struct {
	Index int            `json:"index"`
	Spec  container.Spec `json:"spec"`
	// Hash is "v1:" and 64 hex digits over Spec without ImageID, without what
	// differs between replicas and without com.docker.compose.* labels (Hash).
	Hash string `json:"hash"`
}

// Rollout is how the containers of a service are replaced. Compose Deploy
// Specification, "update_config".
type Rollout struct {
	// Parallelism is how many at a time, 0 for all; Delay what is waited between them.
	Parallelism int           `json:"parallelism"`
	Delay       time.Duration `json:"delay,omitempty"`
	// Monitor is how long a new container must run before it counts as good.
	Monitor time.Duration `json:"monitor,omitempty"`
	// FailureAction is Halt, Continue or Rollback, MaxFailureRatio how many of the
	// containers may fail before it is acted on.
	FailureAction   string  `json:"failureAction,omitempty"`
	MaxFailureRatio float64 `json:"maxFailureRatio,omitempty"`
	// StartFirst starts a new container before the old one is stopped.
	StartFirst bool `json:"startFirst,omitempty"`
}

// What a failed update leads to.
const (
	Halt     = "pause"
	Continue = "continue"
	Rollback = "rollback"
)

// Dependency is one entry of depends_on.
type Dependency struct {
	Condition string `json:"condition"` // service_started, service_healthy, service_completed_successfully
	Restart   bool   `json:"restart,omitempty"`
	Required  bool   `json:"required"`
	// Implicit is set where network_mode, volumes_from, ipc, pid or links made it.
	Implicit bool `json:"implicit,omitempty"`
}

// Step is a container that runs before those of a service.
type Step struct {
	Hook    int            `json:"hook"`              // of pre_start, from 0
	Replica int            `json:"replica,omitempty"` // whose number it runs for, 0 for all
	Spec    container.Spec `json:"spec"`
	// PullPolicy and PullEvery are as a Service's.
	PullPolicy string        `json:"pullPolicy,omitempty"`
	PullEvery  time.Duration `json:"pullEvery,omitempty"`
}

// Hook is a lifecycle hook.
type Hook struct {
	Command    []string `json:"command"`
	User       string   `json:"user,omitempty"`
	Privileged bool     `json:"privileged,omitempty"`
	WorkingDir string   `json:"workingDir,omitempty"`
	Env        []string `json:"env,omitempty"`
}

// Network and Volume are the project's networks and volumes.
type Network struct {
	Spec     endpoint.NetworkSpec `json:"spec"`
	External bool                 `json:"external,omitempty"`
}

type Volume struct {
	Spec     volume.Spec `json:"spec"`
	External bool        `json:"external,omitempty"`
}

// VolumeNames are the names of the volumes that are the project's own.
func (d *Project) VolumeNames() []string {
	names := []string{}
	for _, v := range d.Volumes {
		if !v.External {
			names = append(names, v.Spec.Name)
		}
	}
	slices.Sort(names)
	return names
}

// Images are those of services, or of all, that down --rmi takes away: with "all"
// all, with "local" only those that were built, and else none.
func (d *Project) Images(which string, services ...string) []string {
	var out []string
	for name, svc := range d.All() {
		if len(services) > 0 && !slices.Contains(services, name) {
			continue
		}
		for _, r := range svc.Replicas {
			if (which == "all" || which == "local" && svc.HasBuild) && !slices.Contains(out, r.Spec.Image) {
				out = append(out, r.Spec.Image)
			}
		}
		for _, s := range svc.PreStart {
			if which == "all" && !slices.Contains(out, s.Spec.Image) {
				out = append(out, s.Spec.Image)
			}
		}
	}
	slices.Sort(out)
	return out
}
