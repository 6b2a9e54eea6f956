package engine

import "github.com/stack-run/stack/engine/container"

// The words of package container, for those that also run some.
type (
	Spec      = container.Spec
	Process   = container.Process
	Isolation = container.Isolation
	// DeviceRequest asks for devices of a kind.
	DeviceRequest = container.DeviceRequest
	Device        = container.Device
	Rlimit        = container.Rlimit
	Limits        = container.Limits
	BlkioDevice   = container.BlkioDevice
	Restart       = container.Restart
	LogConfig     = container.LogConfig
	Phase         = container.Phase
	Container     = container.Record
	State         = container.State
	ImageConfig   = container.ImageConfig
)

const (
	Created    = container.Created
	Running    = container.Running
	Paused     = container.Paused
	Restarting = container.Restarting
	Removing   = container.Removing
	Exited     = container.Exited
	Dead       = container.Dead
)
