package main

import (
	"strings"
	"testing"
	"time"

	"github.com/stack-run/stack/compose/desired"
	"github.com/stack-run/stack/compose/spec"
	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/healthcheck"
)

func TestBlame(t *testing.T) {
	s := newSession(t, lay(t, map[string]string{"compose.yaml": "name: shop\nservices: {web: {image: x}, db: {image: x}, migrate: {image: x}}\n"}))
	s.fake.containers = nil
	if _, errOut, code := s.do(t, "blame"); code == 0 || !strings.Contains(errOut, "project shop was never up") {
		t.Errorf("before it was up: exit %d, %s", code, errOut)
	}
	needs := func(on, condition string) *spec.Service {
		return &spec.Service{DependsOn: map[string]desired.Dependency{on: {Condition: condition, Required: true}}}
	}
	s.fake.definition["shop"] = &spec.Desired{Project: "shop", Services: map[string]*spec.Service{
		"web": needs("migrate", "service_completed_successfully"), "migrate": needs("db", "service_healthy"), "db": {},
	}}
	if _, errOut, code := s.do(t, "blame"); code == 0 || !strings.Contains(errOut, "nothing of project shop was started; \"stack why\" says why") {
		t.Errorf("before anything was started: exit %d, %s", code, errOut)
	}
	ran := func(service string, started time.Duration, st engine.State) {
		st.StartedAt = clock().Add(started)
		s.fake.containers = append(s.fake.containers, engine.Container{
			ID: id('a'), Project: "shop", Service: service, Index: 1, Created: clock(), Spec: engine.Spec{Name: "shop-" + service + "-1"}, State: st,
		})
	}
	ran("db", 50*time.Millisecond, engine.State{Phase: engine.Running, Health: healthcheck.Healthy, HealthyAt: clock().Add(1250 * time.Millisecond)})
	ran("migrate", 1300*time.Millisecond, engine.State{Phase: engine.Exited, FinishedAt: clock().Add(2 * time.Second)})
	ran("web", 2040*time.Millisecond, engine.State{Phase: engine.Running})
	ran("loop", time.Minute, engine.State{Phase: engine.Restarting, RestartCount: 4})
	for _, tt := range []struct{ args, want string }{
		{"blame", `SERVICE   CREATED   STARTED   READY            WAITED FOR
db        +0s       +50ms     +1.25s healthy
migrate   +0s       +1.3s     +2s completed    db 1.25s
web       +0s       +2.04s    +2.04s started   migrate 2s
loop      +0s                                  not known: restarted 4 times since

web was ready last, after 2.04s. The critical chain:
web @2.04s +0s
└─migrate @1.3s +700ms
  └─db @50ms +1.2s
`},
		{"critical-chain migrate", `SERVICE   CREATED   STARTED   READY           WAITED FOR
migrate   +0s       +1.3s     +2s completed   db 1.25s

migrate was ready last, after 2s. The critical chain:
migrate @1.3s +700ms
└─db @50ms +1.2s
`},
		{"blame --format json db", `{"Service":"db","Created":"+0s","Started":"+50ms","Ready":"+1.25s healthy","Readiness":"healthy","Waited":"",` +
			`"CreatedAt":"2026-03-04T05:06:07Z","StartedAt":"2026-03-04T05:06:07.05Z","ReadyAt":"2026-03-04T05:06:08.25Z","Critical":1}
`},
	} {
		out, errOut, code := s.do(t, strings.Fields(tt.args)...)
		var lines []string
		for line := range strings.Lines(out) {
			lines = append(lines, strings.TrimRight(line, " \n")+"\n")
		}
		if got := strings.Join(lines, ""); got != tt.want || code != 0 {
			t.Errorf("%s: exit %d, %s\n%s\nwant\n%s", tt.args, code, errOut, got, tt.want)
		}
	}
	if _, errOut, code := s.do(t, "blame", "wep"); code != 1 || !strings.Contains(errOut, `no such service: wep; did you mean "web"?`) {
		t.Errorf("a service that is not there: exit %d, %s", code, errOut)
	}
}
