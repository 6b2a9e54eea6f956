package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/stack-run/stack/engine/content"
	"github.com/stack-run/stack/engine/image"
	"github.com/stack-run/stack/engine/sealed"
	"github.com/stack-run/stack/engine/snapshot"
)

// CheckOptions say how Check works.
type CheckOptions struct {
	// Repair removes what is corrupt, takes the names from images that are not
	// whole, unpacks wrong layers again, and removes leftovers.
	Repair bool
	// RemoveBroken, if not nil, is called instead of Engine.RemoveBroken: somebody
	// may know more of the container.
	RemoveBroken func(context.Context, *Broken) error
	// Read is told of progress, from several goroutines: bytes since the last call.
	Read func(n int64)
}

// Problem is one thing that is wrong.
type Problem struct {
	Kind       string   `json:"kind"`
	Subject    string   `json:"subject"`
	Error      string   `json:"error"`
	Images     []string `json:"images,omitempty"`     // affected
	Containers []string `json:"containers,omitempty"` // affected, by name
	Repaired   string   `json:"repaired,omitempty"`   // what was done
}

// What is wrong with a record.
const (
	containerRecord = "container record"
	networkRecord   = "network record"
	volumeRecord    = "volume record"
	storedObject    = "secret or config"
)

// CheckReport is what Check found. Leftovers of killed processes are no problem.
type CheckReport struct {
	Problems      []Problem `json:"problems"`
	Blobs         int       `json:"blobs"`
	Bytes         int64     `json:"bytes"` // of the blobs
	Layers        int       `json:"layers"`
	Leftovers     int       `json:"leftovers"`
	LeftoverBytes int64     `json:"leftoverBytes"`
	// Left is what has no record and is nobody's; with Repair it was removed.
	Left []Leftover `json:"left,omitempty"`
}

// Check verifies the records of containers, networks and volumes, the stores of
// images, unpacked layers and the build cache, and looks for what killed processes
// left. The error is for Check itself having failed.
func (e *Engine) Check(ctx context.Context, o CheckOptions) (CheckReport, error) {
	r := CheckReport{Problems: []Problem{}}
	images, err := e.Images()
	if err != nil {
		return r, err
	}
	layers, err := e.Layers()
	if err != nil {
		return r, err
	}
	known, err := images.Layers() // before a repair makes some unknown
	if err != nil {
		return r, err
	}
	wrong, err := images.Check(ctx, image.CheckOptions{Repair: o.Repair, Read: o.Read, InUse: e.ImageUsers})
	if err != nil {
		return r, err
	}
	for _, p := range wrong {
		q := Problem{Kind: p.Kind, Subject: p.Subject, Error: p.Err.Error(), Images: p.Images, Repaired: p.Repaired}
		if p.Kind == "image" {
			q.Containers = e.ImageUsers(digest.Digest(p.Subject))
		}
		r.Problems = append(r.Problems, q)
	}
	blobs := images.Content()
	if r.Blobs, r.Bytes, err = blobs.Size(); err != nil {
		return r, err
	}
	if err := e.checkLayers(ctx, o, layers, known, blobs, &r); err != nil {
		return r, err
	}
	return r, errors.Join(e.checkBuild(ctx, o, &r), e.checkRecords(ctx, o, &r), e.checkLeftovers(ctx, o, layers, blobs, &r))
}

// checkRecords finds the records that cannot be used. With Repair it removes what
// they are of, except volumes, secrets and configs, which somebody may miss.
func (e *Engine) checkRecords(ctx context.Context, o CheckOptions, r *CheckReport) error {
	remove := o.RemoveBroken
	if remove == nil {
		remove = e.RemoveBroken
	}
	_, broken, err := e.Records.Scan()
	errs := []error{err}
	repaired := func(newer bool, remove func() error) string {
		if !o.Repair || newer {
			return ""
		}
		if err := remove(); err != nil {
			errs = append(errs, err)
			return ""
		}
		return "removed"
	}
	for _, b := range broken {
		r.Problems = append(r.Problems, Problem{
			Kind: containerRecord, Subject: b.String(), Error: b.Error(),
			Repaired: repaired(b.Newer, func() error { return remove(ctx, b) }),
		})
	}
	nets, err := e.Networks()
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	brokenNets, err := nets.Broken()
	errs = append(errs, err)
	for _, b := range brokenNets {
		r.Problems = append(r.Problems, Problem{
			Kind: networkRecord, Subject: cmp.Or(b.Name, b.ID[:12]), Error: b.Error(),
			Repaired: repaired(b.Newer, func() error { return e.RemoveNetwork(ctx, b.ID, nil) }),
		})
	}
	vols, err := e.Volumes()
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	brokenVols, err := vols.Broken()
	for _, b := range brokenVols {
		r.Problems = append(r.Problems, Problem{Kind: volumeRecord, Subject: b.Name, Error: b.Error()})
	}
	for _, err := range e.Sealed().Check() {
		p := Problem{Kind: storedObject, Subject: "store", Error: err.Error()}
		var damaged *sealed.DamagedError
		if errors.As(err, &damaged) {
			p.Kind, p.Subject = string(damaged.Kind), damaged.Name
		}
		r.Problems = append(r.Problems, p)
	}
	if err = errors.Join(append(errs, err)...); err != nil {
		return err
	}
	if o.Repair {
		r.Left, err = e.Sweep(ctx)
	} else {
		r.Left, err = e.Leftovers()
	}
	return err
}

func (e *Engine) checkLayers(ctx context.Context, o CheckOptions, layers *snapshot.Store, known []content.Layer, blobs *content.Store, r *CheckReport) error {
	all, err := e.Records.List()
	if err != nil {
		return err
	}
	byID := make(map[string]*Container)
	for _, c := range all {
		byID[c.ID] = c
	}
	unpacked, err := layers.Layers()
	if err != nil {
		// One that cannot be read is what is looked for.
		unpacked = nil
	}
	r.Layers = len(unpacked)
	wrong, err := layers.Check(ctx, known, blobs, snapshot.CheckOptions{Repair: o.Repair, Read: o.Read, Running: e.mayBeMounted})
	for _, p := range wrong {
		q := Problem{Kind: p.Kind, Subject: p.Subject, Error: p.Err.Error(), Repaired: p.Repaired}
		for _, id := range p.Containers {
			if c := byID[id]; c != nil {
				id = c.Spec.Name
			}
			q.Containers = append(q.Containers, id)
		}
		r.Problems = append(r.Problems, q)
	}
	return err
}

// mayBeMounted tells whether a container's files are, or may be, mounted: only
// of one that is known to be at rest they are not.
func (e *Engine) mayBeMounted(id string) bool {
	all, err := e.Records.List()
	if err != nil {
		return true
	}
	i := slices.IndexFunc(all, func(c *Container) bool { return c.ID == id })
	if i < 0 {
		return false
	}
	s := all[i].State
	return s.Pid != 0 || s.Phase != Created && s.Phase != Exited && s.Phase != Dead
}

// checkBuild verifies the blobs of the build cache. They belong to the builder,
// so they are only reported.
func (e *Engine) checkBuild(ctx context.Context, o CheckOptions, r *CheckReport) error {
	bad, err := content.At(filepath.Join(e.data, "build", "content")).VerifyAll(ctx, o.Read)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, b := range bad {
		r.Problems = append(r.Problems, Problem{
			Kind: "build blob", Subject: b.Digest.String(),
			Error: fmt.Sprintf("its content does not have that digest; \"stack builder prune --all\" empties the build cache (%v)", b.Err),
		})
	}
	return err
}

func (e *Engine) checkLeftovers(ctx context.Context, o CheckOptions, layers *snapshot.Store, blobs *content.Store, r *CheckReport) error {
	left, err := blobs.Leftovers()
	if err != nil {
		return err
	}
	dirs, bytes, err := layers.Leftovers(ctx)
	if err != nil {
		return err
	}
	r.Leftovers, r.LeftoverBytes = left.Partials+left.Leases+dirs, left.Bytes+bytes
	if !o.Repair {
		return nil
	}
	return errors.Join(blobs.Tidy(), layers.Tidy())
}
