package main

import (
	"fmt"
	"strings"
	"syscall"

	"github.com/docker/go-units"
)

// disk is a file system that stack keeps things on.
type disk struct {
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

// full tells whether hardly anything can be written.
func (d disk) full() bool { return d.free < fullBytes || d.inodes == 0 }

// ample tells whether there is more room than most things need.
func (d disk) ample() bool { return d.free > amplyBytes && d.free > d.size/20 && d.inodes > 0 }

// speaksOfSpace tells whether an error's text says that a disk is full. The error
// itself may have come from another process.
func speaksOfSpace(text string) bool {
	text = strings.ToLower(text)
	return strings.Contains(text, syscall.ENOSPC.Error()) || strings.Contains(text, syscall.EDQUOT.Error())
}

// spaceHint says which of the disks is full and what to do, or "" if none is.
func spaceHint(disks []disk) string {
	var least *disk
	for i, d := range disks {
		if least == nil || d.full() && !least.full() || d.full() == least.full() && d.free < least.free {
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

// disks are those of the two roots, as far as they can be looked at.
func (a *app) disks() []disk {
	r := a.roots()
	var out []disk
	for _, d := range []disk{
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
