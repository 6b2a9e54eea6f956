package supervise

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/stack-run/stack/compose/plan"
	"github.com/stack-run/stack/compose/spec"
	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/engine/container"
	"github.com/stack-run/stack/engine/image"
	"github.com/stack-run/stack/volumes"
)

// Observe reads what exists of a project, or of all single containers, and the
// machine's networks and volumes.
func Observe(e *engine.Engine, project string) (plan.Observed, error) {
	all, err := e.Records.List()
	if err != nil {
		return plan.Observed{}, err
	}
	for i := range all {
		if all[i], _, err = keyDigests(e, all[i]); err != nil {
			return plan.Observed{}, err
		}
	}
	if project == Singles {
		for i, c := range all {
			if RealmOf(c.Project) == Singles {
				one := *c
				one.Project = Singles
				all[i] = &one
			}
		}
	}
	nets, err := e.Networks()
	if err != nil {
		return plan.Observed{}, err
	}
	networks, err := nets.List()
	if err != nil {
		return plan.Observed{}, err
	}
	vols, err := e.Volumes()
	if err != nil {
		return plan.Observed{}, err
	}
	there, err := vols.List()
	if err != nil {
		return plan.Observed{}, err
	}
	out := plan.Observe(project, all, networks, there)
	schedules, err := NewProjectStore(e).Schedules(project)
	out.Schedules = schedules.Armed()
	return out, err
}

// PinImages resolves the images of all replicas and pins their IDs, so that what
// is planned is what is run. All that are missing are named at once; those of
// services that the options leave alone may be missing.
func PinImages(e *engine.Engine, d *spec.Desired, services []string, noDeps bool) error {
	images, err := e.Images()
	if err != nil {
		return err
	}
	scope := plan.InScope(d, services, noDeps)
	type key struct{ image, platform string }
	type found struct {
		id  string
		err error
	}
	known := map[key]found{}
	resolve := func(ref, platform string) found {
		k := key{ref, platform}
		if f, ok := known[k]; ok {
			return f
		}
		img, err := images.ResolvePlatform(context.Background(), ref, platform)
		known[k] = found{string(img.ID), err}
		return known[k]
	}
	told := map[key]bool{}
	var errs []error
	all := d.All()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		svc := all[name]
		var specs []*container.Spec
		for i := range svc.Replicas {
			specs = append(specs, &svc.Replicas[i].Spec)
		}
		for i := range svc.PreStart {
			specs = append(specs, &svc.PreStart[i].Spec)
		}
		for _, sp := range specs {
			f := resolve(sp.Image, sp.Platform)
			sp.ImageID = f.id
			if f.err == nil && sp.Labels != nil {
				sp.Labels[spec.LabelImage] = f.id
			}
			for j := range sp.Mounts {
				// One that is missing is told of when it is mounted, and where.
				if m := &sp.Mounts[j]; m.Type == volumes.TypeImage {
					m.ImageID = resolve(m.Source, "").id
				}
			}
			k := key{sp.Image, sp.Platform}
			if f.err == nil || told[k] || errors.Is(f.err, image.ErrNotFound) && (!slices.Contains(scope, name) || slices.Contains(d.Coming, sp.Image)) {
				continue
			}
			told[k] = true
			err := fmt.Errorf("service %s: %w", name, f.err)
			if errors.Is(f.err, image.ErrNotFound) && svc.HasBuild {
				err = fmt.Errorf("service %s: image %s is not built yet; run \"stack build %s\"", name, sp.Image, name)
			}
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
