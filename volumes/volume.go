package volumes

import "github.com/stack-run/stack/volumes/volume"

// The words of package volume, for those that also make and mount them.
type (
	Spec      = volume.Spec
	Volume    = volume.Volume
	Mount     = volume.Mount
	MountType = volume.MountType
)

const (
	TypeVolume = volume.TypeVolume
	TypeBind   = volume.TypeBind
	TypeTmpfs  = volume.TypeTmpfs
	TypeFile   = volume.TypeFile
	TypeImage  = volume.TypeImage
)

// StoreSource is the ContentFrom of what the store of secrets and configs has.
func StoreSource(kind, name string) string { return volume.StoreSource(kind, name) }
