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
	"github.com/stack-run/stack/engine/image"
)

// Observe reads what exists of a project, and the machine's networks and volumes.
func Observe(e *engine.Engine, project string) (plan.Observed, error) {
	o := plan.Observed{Project: project}
	all, err := e.Records.List()
	if err != nil {
		return o, err
	}
	for _, c := range all {
		if c.Project == project {
			o.Containers = append(o.Containers, plan.FromRecord(c))
		}
	}
	nets, err := e.Networks()
	if err != nil {
		return o, err
	}
	if o.Networks, err = nets.List(); err != nil {
		return o, err
	}
	vols, err := e.Volumes()
	if err != nil {
		return o, err
	}
	o.Volumes, err = vols.List()
	return o, err
}

// PinImages resolves the images of all replicas and pins their IDs, so that what
// is planned is what is run. All that are missing are named at once; those of
// services that the options leave alone may be missing.
func PinImages(e *engine.Engine, d *spec.Desired, o UpOptions) error {
	images, err := e.Images()
	if err != nil {
		return err
	}
	scope := plan.InScope(d, o.Services, o.NoDeps)
	type key struct{ image, platform string }
	ids := map[key]string{}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(d.Services)) {
		svc := d.Services[name]
		for i := range svc.Replicas {
			sp := &svc.Replicas[i].Spec
			k := key{sp.Image, sp.Platform}
			id, known := ids[k]
			if !known {
				img, err := images.ResolvePlatform(context.Background(), k.image, k.platform)
				switch {
				case errors.Is(err, image.ErrNotFound) && !slices.Contains(scope, name):
					continue
				case errors.Is(err, image.ErrNotFound) && svc.HasBuild:
					err = fmt.Errorf("service %s: image %s is not built yet; run \"stack build %s\"", name, k.image, name)
				case err != nil:
					err = fmt.Errorf("service %s: %w", name, err)
				}
				if err != nil {
					errs = append(errs, err)
				}
				id = string(img.ID)
				ids[k] = id
			}
			sp.ImageID = id
		}
	}
	return errors.Join(errs...)
}

// ComputePlan is plan.Compute with the options of up.
func ComputePlan(d *spec.Desired, observed plan.Observed, o UpOptions) (*plan.Plan, error) {
	return plan.Compute(d, observed, plan.Options{
		Services: o.Services, NoDeps: o.NoDeps, ForceRecreate: o.ForceRecreate, NoRecreate: o.NoRecreate,
		RecreateDeps: o.RecreateDeps, NoStart: o.NoStart, RemoveOrphans: o.RemoveOrphans, IgnoreOrphans: o.IgnoreOrphans,
		RenewAnonymous: o.RenewAnonymous, StopTimeout: o.StopTimeout, KeepCompleted: true,
		AssumeYes: o.AssumeYes, RecreateVolumes: o.RecreateVolumes,
	})
}
