package spec

import (
	"strings"
	"time"

	"github.com/compose-spec/compose-go/v2/types"

	"github.com/stack-run/stack/compose/desired"
)

// firstFailures is how long a container without a health check is watched where the file
// does not say, as "docker service update" does.
const firstFailures = 5 * time.Second

// rollouts are how a service's containers are replaced, and brought back where that
// fails; nil where the file has no update_config.
func (b *builder) rollouts(s types.ServiceConfig) (update, rollback *Rollout) {
	if s.Deploy == nil || s.Deploy.UpdateConfig == nil {
		if s.Deploy != nil && s.Deploy.RollbackConfig != nil {
			b.warn("services."+s.Name+".deploy.rollback_config", "has no effect without update_config")
		}
		return nil, nil
	}
	path := "services." + s.Name + ".deploy."
	update = b.rollout(path+"update_config", s, s.Deploy.UpdateConfig, desired.Halt, desired.Continue, desired.Rollback)
	back := s.Deploy.RollbackConfig
	if back == nil {
		back = &types.UpdateConfig{}
	}
	return update, b.rollout(path+"rollback_config", s, back, desired.Halt, desired.Continue)
}

// rollout reads one of the two. The first of actions is what is done where none is named.
func (b *builder) rollout(path string, s types.ServiceConfig, in *types.UpdateConfig, actions ...string) *Rollout {
	out := &Rollout{
		Parallelism: 1, Delay: time.Duration(in.Delay), Monitor: time.Duration(in.Monitor),
		FailureAction: actions[0], MaxFailureRatio: float64(in.MaxFailureRatio),
	}
	if in.Parallelism != nil {
		out.Parallelism = int(min(*in.Parallelism, maxReplicas))
	}
	if in.Monitor == 0 && !Checked(s) {
		out.Monitor = firstFailures
	}
	if in.FailureAction != "" {
		out.FailureAction = ""
		for _, a := range actions {
			if a == in.FailureAction {
				out.FailureAction = a
			}
		}
		if out.FailureAction == "" {
			b.fail(path+".failure_action", "invalid failure_action %q; use one of %s", in.FailureAction, strings.Join(actions, ", "))
		}
	}
	if in.MaxFailureRatio < 0 || in.MaxFailureRatio > 1 {
		b.fail(path+".max_failure_ratio", "invalid max_failure_ratio %v; give a number from 0 to 1", in.MaxFailureRatio)
	}
	switch in.Order {
	case "", "stop-first":
	case "start-first":
		out.StartFirst = true
	default:
		b.fail(path+".order", "invalid order %q; use stop-first or start-first", in.Order)
	}
	if in.Delay < 0 || in.Monitor < 0 {
		b.fail(path, "delay and monitor cannot be below 0")
	}
	return out
}
