package spec

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"

	"github.com/stack-run/stack/compose/desired"
	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/netns"
	"github.com/stack-run/stack/volumes"
)

// preStart are the containers that run before those of a service. The loader has
// filled in what a step takes over from its service, but for mounts.
func (b *builder) preStart(d *Desired, s types.ServiceConfig, replicas []Replica) []desired.Step {
	if len(replicas) == 0 || len(s.PreStart) == 0 {
		return nil
	}
	defer func() { b.step = "" }()
	var out []desired.Step
	digest := sha256.New()
	for i, hook := range s.PreStart {
		step := types.ServiceConfig{Name: s.Name, ContainerSpec: hook.ContainerSpec}
		if step.Image == "" {
			step.Image = ImageName(b.project.Name, s, b.host.Separator)
		}
		errs, warnings := len(b.errs), len(b.warnings)
		b.step = fmt.Sprintf("services.%s.pre_start[%d]", s.Name, i)
		c := b.container(d, step, 0)
		policy, every := b.pullPolicy(step)
		if len(b.errs) > errs {
			return nil
		}
		b.takenOver("services."+s.Name, warnings)
		c.Restart, c.OnUnhealthy, c.Network.Ports = engine.Restart{}, "", nil
		c.Labels[LabelOneOff] = "True"
		c.Labels[LabelHook], c.Labels[LabelHookIndex] = "pre_start", strconv.Itoa(i)
		delete(c.Labels, LabelContainerNumber)
		on := replicas[:1]
		if hook.PerReplica {
			on = replicas
		}
		for _, r := range on {
			c := c
			parts := []string{b.project.Name, s.Name, "pre_start", strconv.Itoa(i)}
			replica := 0
			if hook.PerReplica {
				replica = r.Index
				parts = append(parts, strconv.Itoa(replica))
			}
			c.Name = strings.Join(parts, b.host.Separator)
			// It is none of those whom the service's name means.
			c.Network.Names = []string{c.Name}
			c.Network.Networks = slices.Clone(c.Network.Networks)
			for j := range c.Network.Networks {
				a := &c.Network.Networks[j]
				*a = netns.Attachment{Network: a.Network, Interface: a.Interface, DriverOpts: a.DriverOpts, GatewayPrio: a.GatewayPrio, Priority: a.Priority}
			}
			c.Mounts = volumes.Inherit(c.Mounts, r.Spec.Mounts, false)
			out = append(out, desired.Step{Hook: i, Replica: replica, Spec: c, PullPolicy: policy, PullEvery: every})
		}
		fmt.Fprintln(digest, desired.Hash(&c), hook.PerReplica)
	}
	// Another step is another service, as for Docker Compose.
	sum := hex.EncodeToString(digest.Sum(nil))
	for i := range replicas {
		replicas[i].Spec.PreStart = sum
	}
	return out
}

// takenOver leaves out the warnings of a step, from the given one on, that are about
// what it takes over from its service: they have been given there.
func (b *builder) takenOver(service string, from int) {
	given := func(w Warning) bool {
		rest, _ := strings.CutPrefix(w.Path, b.step)
		return slices.ContainsFunc(b.warnings[:from], func(o Warning) bool { return o.Path == service+rest && o.Text == w.Text })
	}
	own := slices.DeleteFunc(slices.Clone(b.warnings[from:]), given)
	b.warnings = append(b.warnings[:from], own...)
}
