package plan

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/stack-run/stack/compose/desired"
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
	// NetworkUsers and VolumeUsers say, by name, who uses a network or volume and
	// is not of this project: "container pg of project db".
	NetworkUsers map[string][]string
	VolumeUsers  map[string][]string
	// Schedules are those that are armed, by job.
	Schedules map[string][]desired.Schedule
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
	// Aside says that it runs beside the one that it is to replace.
	Aside bool
	// Restarted says that it has ended by itself and a restart policy has started it.
	Restarted bool
	// Stopping says that a stop is under way, RestartPending that a restart policy
	// will start it again.
	Stopping       bool
	RestartPending bool
	Created        time.Time
	StartedAt      time.Time
	FinishedAt     time.Time
	// Anonymous are the names of its anonymous volumes, by target.
	Anonymous map[string]string
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
	phase := c.State.Phase
	if c.State.Doomed {
		phase = container.Removing // it has been killed, and goes once it has ended
	}
	return Container{
		ID:            c.ID,
		Name:          c.Spec.Name,
		Service:       c.Service,
		Index:         c.Index,
		OneOff:        c.OneOff,
		Hash:          c.Hash,
		ImageID:       c.Spec.ImageID,
		Phase:         phase,
		Health:        c.State.Health,
		ExitCode:      c.State.ExitCode,
		StoppedByUser: c.State.StoppedByUser,
		Stopping:      c.State.Stopping,
		Aside:         c.State.Aside,
		Restarted:     c.State.RestartCount > 0,
		Created:       c.Created,
		StartedAt:     c.State.StartedAt,
		FinishedAt:    c.State.FinishedAt,
		Anonymous:     c.Volumes,
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
	return c.RestartPending
}

// waits says that it has no process now, and will have one again by itself.
func (c *Container) waits() bool { return c.RestartPending || c.Phase == container.Restarting }

// Observe puts together what is to be observed of a project: the records of all
// containers, and the machine's networks and volumes.
func Observe(project string, records []*container.Record, networks []endpoint.Network, volumes []volume.Volume) Observed {
	o := Observed{
		Project: project, Networks: networks, Volumes: volumes,
		NetworkUsers: map[string][]string{}, VolumeUsers: map[string][]string{},
	}
	for _, c := range records {
		if c.Project == project {
			o.Containers = append(o.Containers, FromRecord(c))
			continue
		}
		user := fmt.Sprintf("container %s of project %s", c.Spec.Name, c.Project)
		if strings.HasPrefix(c.Project, "single.") {
			user = "container " + c.Spec.Name
		}
		if x := FromRecord(c); x.live() {
			for _, a := range c.Spec.Network.Networks {
				o.NetworkUsers[a.Network] = append(o.NetworkUsers[a.Network], user)
			}
		}
		for _, m := range c.Spec.Mounts {
			if m.Type == volume.TypeVolume && m.Source != "" {
				o.VolumeUsers[m.Source] = append(o.VolumeUsers[m.Source], user)
			}
		}
	}
	return o
}

// from says that the container belongs to the application that a project is: it
// was made in the same directory, and from the same files, others beside them or
// earlier ones. Two applications may share a project's name by chance, as all
// those do whose directory is called "deploy".
func (c *Container) from(d *desired.Project) bool {
	if c.Spec == nil || d.WorkingDir == "" {
		return true
	}
	dir, files := c.Spec.Labels[desired.LabelWorkingDir], c.Spec.Labels[desired.LabelConfigFiles]
	if dir == "" {
		return true
	}
	if dir != d.WorkingDir {
		return false
	}
	if files == "" || len(d.ConfigFiles) == 0 {
		return true
	}
	for theirs := range strings.SplitSeq(files, ",") {
		for _, ours := range d.ConfigFiles {
			if path.Dir(theirs) == path.Dir(ours) {
				return true
			}
		}
	}
	return false
}

// Belongs says that a container is of a service that a project declares, and was
// not made by another application of the same name.
func Belongs(c *container.Record, d *desired.Project) bool {
	x := FromRecord(c)
	return declares(d, c.Service) && x.from(d)
}

// declares says that the project has the service or job, be it disabled. What belongs
// to no service is not for files to declare.
func declares(d *desired.Project, service string) bool {
	return d.Services[service] != nil || d.Jobs[service] != nil || slices.Contains(d.Disabled, service)
}

// tellOthers warns of another application of the same name.
func (p *Plan) tellOthers(others []*Container) {
	byDir := map[string][]string{}
	for _, x := range others {
		dir := x.Spec.Labels[desired.LabelWorkingDir]
		byDir[dir] = append(byDir[dir], x.Name)
	}
	for _, dir := range slices.Sorted(maps.Keys(byDir)) {
		slices.Sort(byDir[dir])
		p.warn("the project's name is also that of an application in %s, which is left alone (%s); give one of them another name, with name: in its file or -p", dir, strings.Join(byDir[dir], ", "))
	}
}

func (p *Plan) tellOrphans(orphans []*Container) {
	var names []string
	for _, x := range orphans {
		names = append(names, x.Name)
	}
	if slices.Sort(names); len(names) > 0 {
		p.warn("the project has orphan containers, of services that it no longer has: %s; remove them with --remove-orphans", strings.Join(names, ", "))
	}
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
	Wait            bool
	WaitTimeout     time.Duration

	only bool // Services alone are meant, even if there are none
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
