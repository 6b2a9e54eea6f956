// Package volume is what volumes and mounts are asked to be and are: plain data,
// which packages may speak of that touch no file.
package volume

import (
	"strings"
	"time"
)

// Spec is what a named volume must be.
type Spec struct {
	Name       string            `json:"name"` // name on this machine, such as "shop_data"
	Project    string            `json:"project,omitempty"`
	Key        string            `json:"key,omitempty"` // name inside the Compose file
	Driver     string            `json:"driver,omitempty"`
	DriverOpts map[string]string `json:"driverOpts,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
	Anonymous  bool              `json:"anonymous,omitempty"`
}

// Volume is a volume as it exists.
type Volume struct {
	Spec
	Mountpoint string    `json:"mountpoint"`
	Created    time.Time `json:"created"`
	// Seeded is set once image content was copied up, so that an interrupted
	// copy is done again from the start and a finished one never is.
	Seeded bool `json:"seeded,omitempty"`
	// Seeding is set while image content is being copied up.
	Seeding bool `json:"seeding,omitempty"`
}

// MountType tells what a Mount's Source means.
type MountType string

const (
	TypeVolume MountType = "volume" // Source: volume name; "" makes an anonymous one
	TypeBind   MountType = "bind"   // Source: absolute path on the host
	TypeTmpfs  MountType = "tmpfs"  // no Source
	TypeFile   MountType = "file"   // Content: a config or secret, written to a private tmpfs
	TypeImage  MountType = "image"  // Source: image reference
)

// Mount is one mount a container asks for.
type Mount struct {
	Type     MountType `json:"type"`
	Source   string    `json:"source,omitempty"`
	Target   string    `json:"target"`
	ReadOnly bool      `json:"readOnly,omitempty"`
	Subpath  string    `json:"subpath,omitempty"`
	// NoCopy turns copy-up of image content into a fresh volume off.
	NoCopy bool `json:"noCopy,omitempty"`
	// Propagation is a bind's: rprivate (default), private, rshared, shared,
	// rslave, slave.
	Propagation    string `json:"propagation,omitempty"`
	CreateHostPath bool   `json:"createHostPath,omitempty"`
	// Recursive is a bind's: "" or "enabled", "disabled", "writable", "readonly".
	Recursive string `json:"recursive,omitempty"`
	SELinux   string `json:"selinux,omitempty"` // "z" or "Z"
	// Size is a tmpfs' limit in bytes, 0 for none; Mode its mode, 0 for 1777.
	Size    int64    `json:"size,omitempty"`
	Mode    uint32   `json:"mode,omitempty"`
	Options []string `json:"options,omitempty"` // further tmpfs options: uid=, noexec, …
	// Content, UID, GID are a TypeFile's; Mode is its mode, 0 for 0444.
	// ContentDigest stands for the content where the content must not be
	// stored (Withheld).
	Content       []byte `json:"content,omitempty"`
	ContentDigest string `json:"contentDigest,omitempty"`
	// ContentFrom says where Content came from, so that a stored spec without
	// Content can be completed: "file:PATH", "environment:NAME" or StoreSource.
	ContentFrom string `json:"contentFrom,omitempty"`
	// Own makes a TypeFile one of the container's own files: it may be written
	// unless ReadOnly is set, within the little space that the container's own
	// files have together, and its content may come later (ResolvedMount.File).
	Own bool `json:"-"`
	// Secret marks Content as a secret: it must not reach a disk.
	Secret bool   `json:"secret,omitempty"`
	UID    string `json:"uid,omitempty"`
	GID    string `json:"gid,omitempty"`
	// Labels and DriverOpts go on a volume that is made for the mount.
	Labels     map[string]string `json:"labels,omitempty"`
	DriverOpts map[string]string `json:"driverOpts,omitempty"`
	// ImageID is the image's, of a TypeImage, when it was asked for; "" if it is not
	// known.
	ImageID string `json:"imageID,omitempty"`
	// Origin is where the user asked for it, for errors: "compose.yaml:12: services.web.volumes[0]".
	Origin string `json:"-"`
}

const storePrefix = "store:"

// StoreSource is the ContentFrom of what the store of secrets and configs has: kind
// is "secret" or "config".
func StoreSource(kind, name string) string { return storePrefix + kind + "/" + name }

// Stored is what StoreSource was made of, where the content came from the store.
func (m Mount) Stored() (kind, name string, ok bool) {
	rest, ok := strings.CutPrefix(m.ContentFrom, storePrefix)
	if !ok || m.Type != TypeFile {
		return "", "", false
	}
	return strings.Cut(rest, "/")
}

// Withheld says that Content must not reach a disk: of a secret, and of what is
// encrypted where it came from.
func (m Mount) Withheld() bool {
	_, _, stored := m.Stored()
	return m.Secret || stored
}
