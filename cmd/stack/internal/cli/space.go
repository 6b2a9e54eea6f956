package cli

import (
	"fmt"
	"strings"
	"syscall"

	"github.com/docker/go-units"
)

// Disk is a file system that stack keeps things on.
type Disk struct {
	path   string // of a root on it
	free   uint64 // bytes
	size   uint64 // bytes
	inodes uint64 // free
	advice string
}

const (
	// Less than this is too little for nearly everything.
	fullBytes = 1 << 20
	// With more left, it is something else that has no space.
	amplyBytes = 1 << 30
)

// Full tells whether hardly anything can be written.
func (d Disk) Full() bool { return d.free < fullBytes || d.inodes == 0 }

// ample tells whether there is more room than most things need.
func (d Disk) ample() bool { return d.free > amplyBytes && d.free > d.size/20 && d.inodes > 0 }

// SpeaksOfSpace tells whether an error's text says that a disk is full. The error
// itself may have come from another process.
func SpeaksOfSpace(text string) bool {
	text = strings.ToLower(text)
	return strings.Contains(text, syscall.ENOSPC.Error()) || strings.Contains(text, syscall.EDQUOT.Error())
}

// SpaceHint says which of the disks is full and what to do, or "" if none is.
func SpaceHint(disks []Disk) string {
	var least *Disk
	for i, d := range disks {
		if least == nil || d.Full() && !least.Full() || d.Full() == least.Full() && d.free < least.free {
			least = &disks[i]
		}
	}
	switch {
	case least == nil || least.ample():
		return ""
	case least.inodes == 0:
		return fmt.Sprintf("the disk with %s has no inodes left: %s", least.path, least.advice)
	}
	return fmt.Sprintf("the disk with %s has %s of %s left: %s", least.path, units.HumanSize(float64(least.free)), units.HumanSize(float64(least.size)), least.advice)
}

// Disks are those of the two roots, as far as they can be looked at.
func (a *App) Disks() []Disk {
	r := a.Roots()
	var out []Disk
	for _, d := range []Disk{
		{path: r.Data, advice: `free some with "stack system prune" or "stack builder prune", or set STACK_DATA_ROOT to a larger one`},
		{path: r.Run, advice: "free some, or set STACK_RUN_ROOT to a larger one"},
	} {
		var fs syscall.Statfs_t
		if syscall.Statfs(d.path, &fs) != nil {
			continue
		}
		d.free, d.size, d.inodes = fs.Bavail*uint64(fs.Bsize), fs.Blocks*uint64(fs.Bsize), fs.Ffree
		if fs.Files == 0 { // btrfs, for one, does not count them
			d.inodes = 1
		}
		out = append(out, d)
	}
	return out
}
