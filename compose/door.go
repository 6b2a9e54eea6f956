package compose

import (
	"context"
	"fmt"
	"io"

	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/engine/sealed"
	"github.com/stack-run/stack/netns"
	"github.com/stack-run/stack/volumes"
)

// API is the one door to projects and to what they are made of. The command line
// calls nothing behind it, and neither does a server of other protocols: values,
// streams and contexts go in and out. *Client implements it.
type API interface {
	Verbs
	Containers
	Images
	Registries
	Builds
	Networks
	Volumes
	Stored
	System
}

// Containers are the verbs on single containers that no service has.
type Containers interface {
	Rename(ctx context.Context, container, name string) error
	// Update changes the limits and the restart policy of a container, which may run.
	Update(ctx context.Context, container string, limits engine.Limits, restart engine.Restart) error
	// Diff compares a container with its image. A change is 'A' (added), 'C'
	// (changed) or 'D' (deleted).
	Diff(ctx context.Context, container string, change func(kind byte, path string) error) error
	// Export writes an archive of a container's files, without what is mounted over them.
	Export(ctx context.Context, container string, w io.Writer) error
	// Commit makes an image of a container.
	Commit(ctx context.Context, container string, o engine.CommitOptions, pause bool) (id string, err error)
	// StartAttached connects the streams before a stopped container starts again.
	StartAttached(ctx context.Context, container string, o RunOptions) (exitCode int, err error)
	// ContainersDisk is what containers take, by their IDs.
	ContainersDisk(ctx context.Context, containers []engine.Container) (map[string]ContainerDisk, error)
}

// ContainerDisk is what a container takes on the disk, in bytes.
type ContainerDisk struct {
	Own     int64 // its own files
	Virtual int64 // with those of its image
}

// Networks are those of all projects and of none.
type Networks interface {
	Networks(ctx context.Context) ([]netns.Network, error)
	// CreateNetwork makes a network that belongs to no project.
	CreateNetwork(ctx context.Context, s netns.NetworkSpec) (netns.Network, error)
	// RemoveNetwork's error is netns.ErrInUse while a container is on it.
	RemoveNetwork(ctx context.Context, name string) error
	// PortsTaken tells which host ports of an endpoint that is not there somebody else
	// has now, and who. It only looks.
	PortsTaken(ctx context.Context, s netns.EndpointSpec) ([]string, error)
	// Connect and Disconnect change the networks of a container, which may run.
	Connect(ctx context.Context, container string, a netns.Attachment) error
	Disconnect(ctx context.Context, container, network string, force bool) error
}

// Volumes are those of all projects and of none.
type Volumes interface {
	Volumes(ctx context.Context) ([]volumes.Volume, error)
	// Volume's error is a *volumes.NotFoundError where there is none of that name.
	Volume(ctx context.Context, name string) (volumes.Volume, error)
	// CreateVolume's error is a *volumes.DifferError where there is another one of
	// that name, which comes with it.
	CreateVolume(ctx context.Context, s volumes.Spec) (volumes.Volume, error)
	RemoveVolume(ctx context.Context, name string) error
	// VolumeDisk is what a volume takes, in bytes.
	VolumeDisk(ctx context.Context, name string) (int64, error)
	// ExportVolume writes an archive of a volume's content.
	ExportVolume(ctx context.Context, name string, w io.Writer, o ReadVolumeOptions) error
	// ImportVolume gives a volume the content of an archive, and makes it if there is
	// none of that name. Its error is a *volumes.NotEmptyError where content is there
	// that is not to be replaced. Whatever fails, the volume is as it was.
	ImportVolume(ctx context.Context, name string, r io.Reader, o ImportVolumeOptions) error
	// CopyVolume copies a volume into one that is not there, or empty.
	CopyVolume(ctx context.Context, source, target string, o ReadVolumeOptions) error
	// RenameVolume's error is a *volumes.OwnedError for that of a project, without owned.
	RenameVolume(ctx context.Context, name, to string, owned bool) error
	// PruneVolumes removes what no container uses. With PruneOptions.DryRun it only tells.
	PruneVolumes(ctx context.Context, f volumes.PruneFilter, o PruneOptions) (volumes.PruneReport, error)
}

// ReadVolumeOptions say how a volume is read to which containers may write.
type ReadVolumeOptions struct {
	// Pause freezes them meanwhile, so that what is read is as it was at one moment.
	// Without it they are warned of.
	Pause bool
}

// ImportVolumeOptions say what becomes of an archive.
type ImportVolumeOptions struct {
	Replace bool // what is in the volume
	Devices bool // are made, too
}

// Stored are the secrets and configs that projects call external, encrypted at rest.
type Stored interface {
	// StoredObjects lists those of a kind that can be read, by name. The error names the
	// others.
	StoredObjects(ctx context.Context, k sealed.Kind) ([]sealed.Object, error)
	// StoredObject's error is a *sealed.NotFoundError where there is none of that name,
	// ID or beginning of an ID.
	StoredObject(ctx context.Context, k sealed.Kind, ref string) (sealed.Object, error)
	StoredContent(ctx context.Context, k sealed.Kind, name string) ([]byte, sealed.Object, error)
	// KeyDigest turns the digest of a secret into what records have of it.
	KeyDigest(ctx context.Context, digest string) (string, error)
	// CreateStored's error is a *sealed.ExistsError where the name is taken.
	CreateStored(ctx context.Context, k sealed.Kind, name string, content []byte, o sealed.CreateOptions) (sealed.Object, error)
	// RemoveStored returns the name of what it removed, or in a dry run would remove.
	// Its error is a *sealed.InUseError while a container has the object.
	RemoveStored(ctx context.Context, k sealed.Kind, ref string, dryRun bool) (name string, err error)
}

// PruneOptions say how a prune goes about it.
type PruneOptions struct {
	DryRun bool
	// Without are the IDs of containers that a dry run takes as removed already.
	Without []string
}

// System is about the whole data root.
type System interface {
	// Check verifies what is stored and, if asked to, repairs it.
	Check(ctx context.Context, o engine.CheckOptions) (engine.CheckReport, error)
	// Sweep removes what killed processes left behind. A dry run only tells of it.
	Sweep(ctx context.Context, dryRun bool) ([]engine.Leftover, error)
}

var _ API = (*Client)(nil)

// Networks lists the networks.
func (c *Client) Networks(context.Context) ([]netns.Network, error) {
	m, err := c.Engine.Networks()
	if err != nil {
		return nil, err
	}
	return m.List()
}

// CreateNetwork makes a network.
func (c *Client) CreateNetwork(ctx context.Context, s netns.NetworkSpec) (netns.Network, error) {
	m, err := c.Engine.Networks()
	if err != nil {
		return netns.Network{}, err
	}
	if _, err := m.Get(s.Name); err == nil {
		return netns.Network{}, fmt.Errorf("cannot create network: network with name %s already exists", s.Name)
	}
	return m.Create(ctx, s)
}

// RemoveNetwork removes a network.
func (c *Client) RemoveNetwork(ctx context.Context, name string) error {
	m, err := c.Engine.Networks()
	if err != nil {
		return err
	}
	return m.Remove(ctx, name)
}

// PortsTaken says who has an endpoint's ports.
func (c *Client) PortsTaken(_ context.Context, s netns.EndpointSpec) ([]string, error) {
	m, err := c.Engine.Networks()
	if err != nil {
		return nil, err
	}
	return m.PortsTaken(s)
}

// Volumes lists the volumes.
func (c *Client) Volumes(context.Context) ([]volumes.Volume, error) {
	store, err := c.Engine.Volumes()
	if err != nil {
		return nil, err
	}
	return store.List()
}

// Volume is the volume of a name.
func (c *Client) Volume(_ context.Context, name string) (volumes.Volume, error) {
	store, err := c.Engine.Volumes()
	if err != nil {
		return volumes.Volume{}, err
	}
	return store.Get(name)
}

// CreateVolume makes a volume.
func (c *Client) CreateVolume(ctx context.Context, s volumes.Spec) (volumes.Volume, error) {
	store, err := c.Engine.Volumes()
	if err != nil {
		return volumes.Volume{}, err
	}
	return store.Create(ctx, s)
}

// RemoveVolume removes a volume that no container uses.
func (c *Client) RemoveVolume(ctx context.Context, name string) error {
	store, err := c.Engine.Volumes()
	if err != nil {
		return err
	}
	return store.Remove(ctx, name, c.Engine.VolumeUsers())
}

// PruneVolumes removes the volumes that no container uses.
func (c *Client) PruneVolumes(ctx context.Context, f volumes.PruneFilter, o PruneOptions) (volumes.PruneReport, error) {
	store, err := c.Engine.Volumes()
	if err != nil {
		return volumes.PruneReport{}, err
	}
	if o.DryRun {
		users := c.Engine.VolumeUsers(o.Without...)
		return store.Prunable(ctx, f, func(name string) bool { return len(users(name)) > 0 })
	}
	users := c.Engine.VolumeUsers()
	return store.Prune(ctx, f, func(name string) bool { return len(users(name)) > 0 })
}

// StoredObjects lists secrets or configs.
func (c *Client) StoredObjects(_ context.Context, k sealed.Kind) ([]sealed.Object, error) {
	return c.Engine.Sealed().List(k)
}

// StoredObject is a secret or config.
func (c *Client) StoredObject(_ context.Context, k sealed.Kind, ref string) (sealed.Object, error) {
	return c.Engine.Sealed().Get(k, ref)
}

// StoredContent is the content of a secret or config.
func (c *Client) StoredContent(_ context.Context, k sealed.Kind, name string) ([]byte, sealed.Object, error) {
	return c.Engine.Sealed().Content(k, name)
}

// KeyDigest keys the digest of a secret.
func (c *Client) KeyDigest(ctx context.Context, digest string) (string, error) {
	return c.Engine.Sealed().KeyDigest(ctx, digest)
}

// CreateStored stores a secret or config.
func (c *Client) CreateStored(ctx context.Context, k sealed.Kind, name string, content []byte, o sealed.CreateOptions) (sealed.Object, error) {
	return c.Engine.Sealed().Create(ctx, k, name, content, o)
}

// RemoveStored removes a secret or config that no container has.
func (c *Client) RemoveStored(ctx context.Context, k sealed.Kind, ref string, dryRun bool) (string, error) {
	return c.Engine.Sealed().Remove(ctx, k, ref, c.Engine.StoredUsers(k), dryRun)
}

// Check verifies what is stored: images and layers, records, and the definitions
// of projects.
func (c *Client) Check(ctx context.Context, o engine.CheckOptions) (engine.CheckReport, error) {
	o.RemoveBroken = c.RemoveBroken
	report, err := c.Engine.Check(ctx, o)
	if err != nil {
		return report, err
	}
	broken, err := c.BrokenFiles(o.Repair)
	for _, d := range broken {
		p := engine.Problem{Kind: d.Kind, Subject: d.Project, Error: d.Err.Error()}
		if d.Removed {
			p.Repaired = "removed"
		}
		report.Problems = append(report.Problems, p)
	}
	return report, err
}

// VolumeDisk measures a volume.
func (c *Client) VolumeDisk(_ context.Context, name string) (int64, error) {
	store, err := c.Engine.Volumes()
	if err != nil {
		return 0, err
	}
	return store.Usage(name)
}

// ContainersDisk measures containers. What cannot be measured takes nothing.
func (c *Client) ContainersDisk(ctx context.Context, containers []engine.Container) (map[string]ContainerDisk, error) {
	images, err := c.Engine.Images()
	if err != nil {
		return nil, err
	}
	layers, err := c.Engine.Layers()
	if err != nil {
		return nil, err
	}
	disk := make(map[string]ContainerDisk, len(containers))
	for _, r := range containers {
		own, err := layers.Usage(ctx, r.ID)
		if err != nil {
			continue
		}
		virtual := own
		if img, err := images.Resolve(ctx, r.Spec.ImageID); err == nil {
			for _, l := range img.Layers {
				if info, err := layers.Layer(l.DiffID); err == nil {
					virtual += info.Disk
				}
			}
		}
		disk[r.ID] = ContainerDisk{Own: own, Virtual: virtual}
	}
	return disk, nil
}

// Sweep removes leftovers.
func (c *Client) Sweep(ctx context.Context, dryRun bool) ([]engine.Leftover, error) {
	if dryRun {
		return c.Engine.Leftovers()
	}
	return c.Engine.Sweep(ctx)
}
