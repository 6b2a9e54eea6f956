package supervise

import (
	"errors"
	"fmt"
	"os"

	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/healthcheck"
	"github.com/stack-run/stack/netns"
)

// refreshNames gives the resolver the containers that run now, but those that stand aside.
func (s *Supervisor) refreshNames() {
	s.naming.Lock()
	defer s.naming.Unlock()
	var table []netns.Entry
	for _, v := range s.views() {
		if ep := v.State.Endpoint; v.live() && ep != nil && !v.State.Aside {
			ready := v.State.Health == healthcheck.None || v.State.Health == healthcheck.Healthy
			table = append(table, netns.Entry{Endpoint: ep, NotReady: !ready})
		}
	}
	if err := s.runner.Publish(table); err != nil {
		s.warn(fmt.Errorf("cannot publish the names of project %s: %w", s.realm, err))
	}
}

// serveNames answers DNS queries in an endpoint's network namespace, on sockets
// that the guardian keeps when this process is killed.
func (s *Supervisor) serveNames(ep *netns.Endpoint) error {
	if ep.Shared || ep.NetNS == "" || len(ep.Links) == 0 {
		return nil
	}
	id := ep.Spec.ID
	var have []*os.File
	for _, name := range s.keeper.Names(engine.HeldName(id, "dns/")) {
		have = append(have, s.keeper.Get(name))
	}
	opened, err := s.resolver.Serve(s.ctx, ep, have)
	for i, f := range opened {
		err = errors.Join(err, s.keeper.Hold(engine.HeldName(id, fmt.Sprintf("dns/%d", i)), f), f.Close())
	}
	return err
}
