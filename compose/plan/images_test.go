package plan

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stack-run/stack/compose/desired"
	"github.com/stack-run/stack/engine/container"
	"github.com/stack-run/stack/volumes/volume"
)

func TestImages(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	service := func(image, policy string, change ...func(*desired.Service)) *desired.Service {
		s := &desired.Service{PullPolicy: policy, Replicas: []desired.Replica{{Index: 1, Spec: container.Spec{Image: image}}}}
		for _, c := range change {
			c(s)
		}
		return s
	}
	built := func(s *desired.Service) { s.HasBuild = true }
	onlyBuilt := func(s *desired.Service) { s.HasBuild, s.OnlyBuilt = true, true }
	daily := func(s *desired.Service) { s.PullEvery = 24 * time.Hour }
	needs := func(name string) func(*desired.Service) {
		return func(s *desired.Service) { s.DependsOn = map[string]desired.Dependency{name: {Required: true}} }
	}
	here := map[string]time.Duration{"here": time.Hour, "old": 48 * time.Hour}

	for _, c := range []struct {
		name     string
		services map[string]*desired.Service
		o        ImageOptions
		want     string
	}{
		{"what is here is left alone", map[string]*desired.Service{"a": service("here", ""), "b": service("here", "missing")}, ImageOptions{}, ""},
		{"what is missing is pulled once", map[string]*desired.Service{"a": service("x", ""), "b": service("x", "missing"), "c": service("y", "")}, ImageOptions{},
			"PullImage x for a, b, not here\nPullImage y for c, not here\n"},
		{"always and never", map[string]*desired.Service{"a": service("here", "always"), "b": service("x", "never")}, ImageOptions{},
			"PullImage here for a, pull policy always\n"},
		{"refresh", map[string]*desired.Service{"a": service("here", "refresh", daily), "b": service("old", "refresh", daily), "c": service("x", "refresh", daily)}, ImageOptions{},
			"PullImage old for b, last pulled 48h0m0s ago, pull policy every 24h0m0s\nPullImage x for c, not here\n"},
		{"builds come last, and are no pulls", map[string]*desired.Service{"a": service("x", "", built), "b": service("y", ""), "c": service("here", "", built), "d": service("here", "build", built)}, ImageOptions{},
			"PullImage y for b, not here\nBuildImage x for a, not here\nBuildImage here for d, pull policy build\n"},
		{"a policy has what can be built pulled, and built if that fails", map[string]*desired.Service{"a": service("x", "missing", built), "b": service("y", "always", built)}, ImageOptions{},
			"PullImage x for a, not here, else build\nPullImage y for b, pull policy always, else build\n"},
		{"what has no name but its build's is never pulled", map[string]*desired.Service{"a": service("x", "always", onlyBuilt), "b": service("here", "always", onlyBuilt)}, ImageOptions{},
			"BuildImage x for a, not here\n"},
		{"never does not keep from building", map[string]*desired.Service{"a": service("x", "never", built)}, ImageOptions{}, "BuildImage x for a, not here\n"},
		{"no build", map[string]*desired.Service{"a": service("here", "build", built), "b": service("x", "missing", built)}, ImageOptions{NoBuild: true},
			"PullImage x for b, not here\n"},
		{"one service builds what another names", map[string]*desired.Service{"a": service("x", "", built), "b": service("x", "")}, ImageOptions{},
			"BuildImage x for a, not here\n"},
		{"only what is asked for, and what it needs", map[string]*desired.Service{"a": service("x", "", needs("b")), "b": service("y", ""), "c": service("z", "")}, ImageOptions{Services: []string{"a"}},
			"PullImage x for a, not here\nPullImage y for b, not here\n"},
		{"without what it needs", map[string]*desired.Service{"a": service("x", "", needs("b")), "b": service("y", "")}, ImageOptions{Services: []string{"a"}, NoDeps: true},
			"PullImage x for a, not here\n"},
		{"platforms", map[string]*desired.Service{"a": service("x", "", func(s *desired.Service) { s.Replicas[0].Spec.Platform = "linux/arm64" }), "b": service("x", "")}, ImageOptions{},
			"PullImage x (linux/arm64) for a, not here\nPullImage x for b, not here\n"},
		{"mounted images", map[string]*desired.Service{"a": service("here", "", func(s *desired.Service) {
			s.Replicas[0].Spec.Mounts = []volume.Mount{{Type: volume.TypeImage, Source: "m", Target: "/m"}}
		})}, ImageOptions{}, "PullImage m for a, mounted and not here\n"},
		{"no replica needs no image", map[string]*desired.Service{"a": {}}, ImageOptions{}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.o.Now = now
			for name, s := range c.services {
				s.Name = name
			}
			ops, err := Images(&desired.Project{Services: c.services}, c.o, func(image, _ string) (LocalImage, error) {
				age, ok := here[image]
				return LocalImage{Present: ok, Tagged: now.Add(-age)}, nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, printImages(ops)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestPulls(t *testing.T) {
	service := func(image, policy string, built bool) *desired.Service {
		return &desired.Service{PullPolicy: policy, HasBuild: built, Replicas: []desired.Replica{{Index: 1, Spec: container.Spec{Image: image}}}}
	}
	d := &desired.Project{Services: map[string]*desired.Service{
		"a": service("here:1", "", false), "b": service("x", "", true), "c": service("x", "", false),
		"d": service("y", "never", false), "e": service("z", "build", true), "f": {OnlyBuilt: true}, "g": service("reg:1/here", "", false),
	}}
	d.Services["a"].DependsOn = map[string]desired.Dependency{"c": {Required: true}}
	local := func(image, _ string) (LocalImage, error) {
		return LocalImage{Present: image == "here:1" || image == "reg:1/here"}, nil
	}
	step := func(image string, hook int) desired.Step {
		return desired.Step{Hook: hook, Spec: container.Spec{Image: image}}
	}
	d.Services["s"] = service("own", "", false)
	d.Services["s"].Name = "s"
	d.Services["s"].PreStart = []desired.Step{step("own", 0), step("tool:1", 1), step("tool:1", 1), step("here:1", 2), step("tool:1", 3)}
	all := []string{"a", "b", "c", "d", "e", "f"}
	for _, c := range []struct {
		name string
		o    PullOptions
		want string
	}{
		{"all, each image once", PullOptions{}, "PullImage here:1 for a, asked for\nPullImage x for b, c, asked for, else build\nSkipImage y for d, \nSkipImage z for e, \nSkipImage  for f, No image to be pulled\n"},
		{"missing", PullOptions{Policy: "missing"}, "SkipImage here:1 for a, Image is already present locally\nPullImage x for b, c, asked for, else build\nPullImage y for d, asked for\nPullImage z for e, asked for, else build\nSkipImage  for f, No image to be pulled\n"},
		{"not what can be built", PullOptions{IgnoreBuildable: true}, "PullImage here:1 for a, asked for\nSkipImage x for b, Image can be built\nPullImage x for c, asked for\nSkipImage y for d, \nSkipImage z for e, \nSkipImage  for f, No image to be pulled\n"},
		{"missing, but the latest may have moved", PullOptions{Services: []string{"g"}, NoDeps: true, Policy: "missing"}, "PullImage reg:1/here for g, asked for\n"},
		{"what runs before it", PullOptions{Services: []string{"s"}}, "PullImage tool:1 for s, of pre_start[1]\nPullImage here:1 for s, of pre_start[2]\nPullImage own for s, asked for\n"},
		{"what is missing of that", PullOptions{Services: []string{"s"}, Policy: "missing"}, "PullImage tool:1 for s, of pre_start[1]\nPullImage own for s, asked for\n"},
		{"one", PullOptions{Services: []string{"a"}, NoDeps: true}, "PullImage here:1 for a, asked for\n"},
		{"one, and what it needs", PullOptions{Services: []string{"a"}}, "PullImage here:1 for a, asked for\nPullImage x for c, asked for\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.o.Services == nil {
				c.o.Services = all
			}
			ops, err := Pulls(d, c.o, local)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, printImages(ops)); diff != "" {
				t.Error(diff)
			}
		})
	}
	if _, err := Pulls(d, PullOptions{Services: []string{"h"}}, local); err == nil {
		t.Error("a service that is not there was passed over")
	}
}

// printImages is the decision in words, one line for each image.
func printImages(ops []ImageOp) string {
	var b strings.Builder
	for _, op := range ops {
		fmt.Fprintf(&b, "%s %s", op.Kind, op.Image)
		if op.Platform != "" {
			fmt.Fprintf(&b, " (%s)", op.Platform)
		}
		fmt.Fprintf(&b, " for %s, %s", strings.Join(op.Services, ", "), op.Cause)
		if op.OrBuild {
			b.WriteString(", else build")
		}
		b.WriteByte('\n')
	}
	return b.String()
}
