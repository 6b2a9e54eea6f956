package plan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/stack-run/stack/compose/desired"
	"github.com/stack-run/stack/volumes/volume"
)

// ImageOpKind says how an image comes to be here.
type ImageOpKind string

const (
	PullImage  ImageOpKind = "PullImage"
	BuildImage ImageOpKind = "BuildImage"
	// SkipImage says why an image that was asked for is not pulled.
	SkipImage ImageOpKind = "SkipImage"
)

// ImageOp is an image that must come before containers can be planned.
type ImageOp struct {
	Kind     ImageOpKind `json:"kind"`
	Image    string      `json:"image"`              // as the file names it; "" of a SkipImage without
	Platform string      `json:"platform,omitempty"` // "" for this machine's
	// Services need the image. Those of a BuildImage have a build section.
	Services []string `json:"services"`
	// OrBuild says of a PullImage that the services build the image if no
	// registry has it.
	OrBuild bool   `json:"orBuild,omitempty"`
	Cause   string `json:"cause"`
}

// LocalImage is what is here under a name, for a platform.
type LocalImage struct {
	Present bool
	Tagged  time.Time // when it was last pulled, built or tagged
}

// ImageOptions choose the services to make ready for.
type ImageOptions struct {
	Services []string // none: all
	NoDeps   bool
	// NoBuild keeps what is here from being built anew.
	NoBuild bool
	Now     time.Time
}

// Images decides which images are pulled or built before anything else is done,
// by the pull policies of the services that the options choose and by what is
// here. Pulls come before builds; each image comes once.
func Images(d *desired.Project, o ImageOptions, local func(image, platform string) (LocalImage, error)) ([]ImageOp, error) {
	if len(o.Services) == 0 {
		d = d.WithDue() // when they are due, nobody is there who pulls
	}
	if err := checkServices(d, o.Services); err != nil {
		return nil, err
	}
	_, scope := inScope(d, o.Services, o.NoDeps)
	var pulls, builds []ImageOp
	for _, name := range slices.Sorted(slices.Values(scope)) {
		svc := d.Services[name]
		if svc == nil || len(svc.Replicas) == 0 {
			continue
		}
		sp := svc.Replicas[0].Spec
		here, err := local(sp.Image, sp.Platform)
		if err != nil {
			return nil, err
		}
		op := imageOp(svc, here, o)
		op.Image, op.Platform, op.Services = sp.Image, sp.Platform, []string{name}
		switch op.Kind {
		case PullImage:
			pulls = addImageOp(pulls, op)
		case BuildImage:
			builds = addImageOp(builds, op)
		}
		for _, step := range stepImages(d, svc) {
			here, err := local(step.Spec.Image, step.Spec.Platform)
			if err != nil {
				return nil, err
			}
			if imageOp(&desired.Service{PullPolicy: step.PullPolicy, PullEvery: step.PullEvery}, here, o).Kind == PullImage {
				pulls = addImageOp(pulls, stepPull(name, step))
			}
		}
		for _, m := range sp.Mounts {
			if m.Type != volume.TypeImage {
				continue
			}
			here, err := local(m.Source, "")
			if err != nil {
				return nil, err
			}
			if !here.Present && !builtHere(d, m.Source) {
				pulls = addImageOp(pulls, ImageOp{Kind: PullImage, Image: m.Source, Services: []string{name}, Cause: "mounted and not here"})
			}
		}
	}
	// What one service builds, another need not pull.
	pulls = slices.DeleteFunc(pulls, func(p ImageOp) bool {
		return slices.ContainsFunc(builds, func(b ImageOp) bool { return b.Image == p.Image && b.Platform == p.Platform })
	})
	return append(pulls, builds...), nil
}

// stepImages are the steps of a service's pre_start whose images are not built here and
// come with the service's own only by another policy, one for each image and policy.
func stepImages(d *desired.Project, s *desired.Service) []desired.Step {
	var out []desired.Step
	own := &s.Replicas[0].Spec
	for _, step := range s.PreStart {
		sp := &step.Spec
		seen := func(o desired.Step) bool {
			return o.Spec.Image == sp.Image && o.Spec.Platform == sp.Platform && o.PullPolicy == step.PullPolicy
		}
		if sp.Image == own.Image && sp.Platform == own.Platform && step.PullPolicy == s.PullPolicy || builtHere(d, sp.Image) || slices.ContainsFunc(out, seen) {
			continue
		}
		out = append(out, step)
	}
	return out
}

func stepPull(service string, step desired.Step) ImageOp {
	return ImageOp{Kind: PullImage, Image: step.Spec.Image, Platform: step.Spec.Platform, Services: []string{service}, Cause: fmt.Sprintf("of pre_start[%d]", step.Hook)}
}

// PullOptions choose what Pulls brings.
type PullOptions struct {
	Services []string // none: all
	NoDeps   bool
	// Policy replaces the services' own: "missing" or "always".
	Policy string
	// IgnoreBuildable leaves out what can be built.
	IgnoreBuildable bool
}

// Pulls decides which images are pulled where nothing but that is asked for, and
// says of the others why they are not. Each comes once.
func Pulls(d *desired.Project, o PullOptions, local func(image, platform string) (LocalImage, error)) ([]ImageOp, error) {
	d = d.WithJobs(slices.Collect(maps.Keys(d.Jobs))...)
	if err := checkServices(d, o.Services); err != nil {
		return nil, err
	}
	_, scope := inScope(d, o.Services, o.NoDeps)
	var ops []ImageOp
	for _, name := range slices.Sorted(slices.Values(scope)) {
		s := d.Services[name]
		if s == nil || !s.OnlyBuilt && len(s.Replicas) == 0 {
			continue
		}
		skip := func(image, cause string) {
			ops = append(ops, ImageOp{Kind: SkipImage, Image: image, Services: []string{name}, Cause: cause})
		}
		if s.OnlyBuilt {
			skip("", "No image to be pulled")
			continue
		}
		sp := s.Replicas[0].Spec
		policy := cmp.Or(o.Policy, s.PullPolicy)
		for _, step := range stepImages(d, s) {
			policy := cmp.Or(o.Policy, step.PullPolicy)
			if policy == "never" || policy == "build" {
				continue
			}
			here, err := local(step.Spec.Image, step.Spec.Platform)
			if err != nil {
				return nil, err
			}
			if policy != "missing" || !here.Present || isLatest(step.Spec.Image) {
				ops = addImageOp(ops, stepPull(name, step))
			}
		}
		switch {
		case policy == "never", policy == "build":
			skip(sp.Image, "")
			continue
		case s.HasBuild && o.IgnoreBuildable:
			skip(sp.Image, "Image can be built")
			continue
		}
		// The tag "latest" is expected to move.
		if policy == "missing" && !isLatest(sp.Image) {
			here, err := local(sp.Image, sp.Platform)
			if err != nil {
				return nil, err
			}
			if here.Present {
				skip(sp.Image, "Image is already present locally")
				continue
			}
		}
		ops = addImageOp(ops, ImageOp{
			Kind: PullImage, Image: sp.Image, Platform: sp.Platform, Services: []string{name}, OrBuild: s.HasBuild, Cause: "asked for",
		})
	}
	return ops, nil
}

// imageOp is what one service's image needs; an empty Kind for nothing.
func imageOp(s *desired.Service, here LocalImage, o ImageOptions) ImageOp {
	build := func(cause string) ImageOp {
		if o.NoBuild && here.Present {
			return ImageOp{}
		}
		return ImageOp{Kind: BuildImage, Cause: cause}
	}
	pull := func(cause string) ImageOp {
		if s.OnlyBuilt {
			if here.Present {
				return ImageOp{}
			}
			return build("not here")
		}
		return ImageOp{Kind: PullImage, OrBuild: s.HasBuild && !o.NoBuild, Cause: cause}
	}
	switch s.PullPolicy {
	case "always":
		return pull("pull policy always")
	case "build":
		if s.HasBuild {
			return build("pull policy build")
		}
	case "refresh":
		age := o.Now.Sub(here.Tagged)
		if here.Present && age < s.PullEvery {
			return ImageOp{}
		}
		if here.Present {
			return pull(fmt.Sprintf("last pulled %s ago, pull policy every %s", age.Round(time.Second), s.PullEvery))
		}
	case "never":
		if !s.HasBuild {
			return ImageOp{} // missing, it is told when the plan needs it
		}
		if !here.Present {
			return build("not here")
		}
	}
	switch {
	case here.Present:
		return ImageOp{}
	case s.HasBuild && s.PullPolicy == "":
		return build("not here")
	}
	return pull("not here")
}

// isLatest tells whether an image's name has the tag "latest", or none.
func isLatest(image string) bool {
	name, _, pinned := strings.Cut(image, "@")
	_, tag, tagged := strings.Cut(name[strings.LastIndex(name, "/")+1:], ":")
	return !pinned && (!tagged || tag == "latest")
}

// addImageOp adds op, or its services to the operation on the same image.
func addImageOp(ops []ImageOp, op ImageOp) []ImageOp {
	for i, other := range ops {
		if other.Kind == op.Kind && other.Image == op.Image && other.Platform == op.Platform {
			ops[i].Services = append(ops[i].Services, op.Services...)
			// What one of them builds, the others have, too.
			ops[i].OrBuild = other.OrBuild || op.OrBuild
			return ops
		}
	}
	return append(ops, op)
}

// builtHere tells whether a service of the project builds the image.
func builtHere(d *desired.Project, image string) bool {
	for _, s := range d.Services {
		if s.HasBuild && len(s.Replicas) > 0 && s.Replicas[0].Spec.Image == image {
			return true
		}
	}
	return false
}

// InScope are the services that the options of up choose, with what they depend
// on, and the jobs that will be due.
func InScope(d *desired.Project, services []string, noDeps bool) []string {
	if len(services) == 0 {
		d = d.WithDue()
	}
	_, scope := inScope(d, services, noDeps)
	return scope
}
