package plan_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stack-run/stack/compose/desired"
	"github.com/stack-run/stack/compose/plan"
	"github.com/stack-run/stack/compose/spec"
	"github.com/stack-run/stack/engine/container"
)

const jobs = `name: shop
services:
  db: {image: db, networks: [back]}
jobs:
  prepare:
    image: prepare
    networks: [back]
    triggers: {manual: true}
    depends_on: {db: {condition: service_started}}
  backup:
    image: backup
    networks: [back]
    triggers: {schedule: ["0 3 * * *", {cron: "@hourly", timezone: UTC, concurrency: queue, missed_fires: skip}]}
    depends_on: {prepare: {condition: service_completed_successfully}}
  rotate:
    image: rotate
    networks: [back]
    triggers: {manual: false, schedule: ["@daily"]}
networks:
  back:
`

// armed is the project while all its schedules are.
func armed(d *desired.Project) plan.Observed {
	o := running(d)
	o.Schedules = map[string][]desired.Schedule{}
	for _, name := range d.Scheduled() {
		o.Schedules[name] = d.Jobs[name].Schedules
	}
	return o
}

// ranAt adds the container of a run by schedule.
func ranAt(o *plan.Observed, d *desired.Project, job, due string, phase container.Phase) {
	sp := d.Jobs[job].Replicas[0].Spec
	sp.Labels = map[string]string{desired.LabelDue: due}
	name := "shop-" + job + "-run-" + due
	o.Containers = append(o.Containers, plan.Container{ID: name, Name: name, Service: job, OneOff: true, Phase: phase, Spec: &sp})
}

func TestSchedules(t *testing.T) {
	const onlyDB = "name: shop\nservices:\n  db: {image: db, networks: [back]}\nnetworks:\n  back:\n"
	nothing := func(d *desired.Project) plan.Observed { return plan.Observed{Project: d.Project} }
	down := func(d *desired.Project) plan.Observed { o := running(d); stopped(&o); return o }
	for _, tt := range []struct {
		name     string
		yaml     string // "" for jobs
		observed func(*desired.Project) plan.Observed
		request  plan.Request
		graph    string
	}{
		{
			name: "up arms the schedules once all runs", observed: nothing, request: plan.Request{Verb: plan.VerbUp},
			graph: `[1] create network shop_back: does not exist
[2] create container shop-db-1: no container yet [after 1]
[3] start container shop-db-1 [after 1 2]
[4] schedule job backup: 0 3 * * *; @hourly, UTC, queued, missed ones skipped [after 3]
[5] schedule job rotate: @daily [after 3]
`,
		},
		{name: "what is armed stays so", observed: armed, request: plan.Request{Verb: plan.VerbUp}},
		{name: "create arms nothing", observed: running, request: plan.Request{Verb: plan.VerbCreate}},
		{name: "nor does an up of a service", observed: running, request: plan.Request{Verb: plan.VerbUp, Services: []string{"db"}}},
		{
			name: "another schedule",
			observed: func(d *desired.Project) plan.Observed {
				o := armed(d)
				o.Schedules["rotate"] = []desired.Schedule{{Cron: "@weekly"}}
				return o
			},
			request: plan.Request{Verb: plan.VerbUp},
			graph:   "[1] schedule job rotate: @weekly → @daily\n",
		},
		{
			name: "a job that is no more, even where only a service is meant", yaml: onlyDB,
			observed: func(d *desired.Project) plan.Observed {
				o := armed(d)
				o.Schedules["backup"] = []desired.Schedule{{Cron: "@hourly"}}
				return o
			},
			request: plan.Request{Verb: plan.VerbUp, Services: []string{"db"}},
			graph:   "[1] unschedule job backup: the project no longer has it\n",
		},
		{
			name: "stop ends them first, and what they have running",
			observed: func(d *desired.Project) plan.Observed {
				o := armed(d)
				ranAt(&o, d, "backup", "1", container.Running)
				ranAt(&o, d, "backup", "0", container.Exited)
				return o
			},
			request: plan.Request{Verb: plan.VerbStop, Schedules: true, Containers: []string{strings.Repeat("db00", 16)}},
			graph: `[1] unschedule job backup: stop
[2] unschedule job rotate: stop
[3] stop container shop-backup-run-1: stop [after 1 2]
[4] stop container shop-db-1: stop [after 3]
`,
		},
		{
			name: "stop where no container is left", observed: func(d *desired.Project) plan.Observed {
				o := armed(d)
				stopped(&o)
				return o
			},
			request: plan.Request{Verb: plan.VerbStop, Schedules: true},
			graph:   "[1] unschedule job backup: stop\n[2] unschedule job rotate: stop\n",
		},
		{
			name: "stop of a service", observed: armed, request: plan.Request{Verb: plan.VerbStop, Containers: []string{strings.Repeat("db00", 16)}},
			graph: "[1] stop container shop-db-1: stop\n",
		},
		{
			name: "start arms them", observed: down, request: plan.Request{Verb: plan.VerbStart, Schedules: true, Containers: []string{strings.Repeat("db00", 16)}},
			graph: `[1] start container shop-db-1: exited with code 0
[2] schedule job backup: 0 3 * * *; @hourly, UTC, queued, missed ones skipped [after 1]
[3] schedule job rotate: @daily [after 1]
`,
		},
		{
			name: "down ends all", observed: func(d *desired.Project) plan.Observed {
				o := armed(d)
				ranAt(&o, d, "backup", "1", container.Running)
				return o
			},
			request: plan.Request{Verb: plan.VerbDown},
			graph: `[1] unschedule job backup: down
[2] unschedule job rotate: down
[3] stop container shop-backup-run-1: down [after 1 2]
[4] remove container shop-backup-run-1: down [after 3]
[5] stop container shop-db-1: down [after 4]
[6] remove container shop-db-1: down [after 5]
[7] remove network shop_back: down [after 3 5]
`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			yaml := tt.yaml
			if yaml == "" {
				yaml = jobs
			}
			d := wanted(t, yaml)
			o := tt.observed(d)
			for i := range o.Networks {
				o.Networks[i].Project = d.Project
			}
			tt.request.Desired = d
			p, err := plan.Make(tt.request, o)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.graph, p.Graph()); diff != "" {
				t.Errorf("%s", diff)
			}
		})
	}
}

func TestRunsOfJobs(t *testing.T) {
	due := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	run := func(t *testing.T, d *desired.Project, job string, due time.Time, byHand bool, o plan.Observed) (*plan.Plan, error) {
		t.Helper()
		with, err := d.ForRun(job, byHand)
		if err != nil {
			return nil, err
		}
		one, err := spec.OneOff(with, job, spec.Overrides{Slug: "x"})
		if err != nil {
			t.Fatal(err)
		}
		return plan.Make(plan.Request{Verb: plan.VerbRun, Desired: d, OneOff: &plan.OneOff{Service: job, Due: due, Spec: one}}, o)
	}
	d := wanted(t, jobs)
	p, err := run(t, d, "backup", time.Time{}, true, plan.Observed{Project: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	want := `[1] create network shop_back: does not exist
[2] create container shop-db-1: no container yet [after 1]
[3] start container shop-db-1 [after 1 2]
[4] create container shop-prepare-1: no container yet [after 1]
[5] start container shop-prepare-1 [after 1 3 4]
[6] wait for prepare: service_completed_successfully [after 5]
[7] create container shop-backup-run-x: run [after 1 6]
[8] start container shop-backup-run-x: run [after 7]
`
	if diff := cmp.Diff(want, p.Graph()); diff != "" {
		t.Errorf("by hand: %s", diff)
	}
	for _, job := range []string{"rotate"} {
		if _, err := run(t, d, job, time.Time{}, true, armed(d)); err == nil || !strings.Contains(err.Error(), "manual: false") {
			t.Errorf("%s by hand: %v", job, err)
		}
	}
	// One that is due leaves what it depends on as it is, and takes old runs away.
	o := armed(d)
	find(o, "shop-db-1").Hash = "v1:other"
	other := *find(o, "shop-db-1").Spec
	other.Image = "other"
	find(o, "shop-db-1").Spec = &other
	for _, at := range []string{"3", "1", "4", "2"} {
		ranAt(&o, d, "rotate", at, container.Exited)
	}
	ranAt(&o, d, "rotate", "0", container.Running)
	ranAt(&o, d, "backup", "0", container.Exited)
	p, err = run(t, d, "rotate", due, false, o)
	if err != nil {
		t.Fatal(err)
	}
	want = `[1] create container shop-rotate-run-x: due at 2026-01-02T03:00:00Z
[2] start container shop-rotate-run-x: due at 2026-01-02T03:00:00Z [after 1]
[3] remove container shop-rotate-run-2: the last 3 runs of job rotate are kept [after 1]
[4] remove container shop-rotate-run-1: the last 3 runs of job rotate are kept [after 1]
`
	if diff := cmp.Diff(want, p.Graph()); diff != "" {
		t.Errorf("when due: %s", diff)
	}
}

// No verb but run is for jobs; their containers are no orphans, and their images come
// with those of the services: for up of those that will be due, with what they need.
func TestJobsAmongServices(t *testing.T) {
	d := wanted(t, jobs)
	for _, verb := range []plan.Verb{plan.VerbUp, plan.VerbCreate, plan.VerbScale, plan.VerbDown, plan.VerbStart, plan.VerbStop, plan.VerbRestart} {
		_, err := plan.Make(plan.Request{Verb: verb, Desired: d, Services: []string{"backup"}}, armed(d))
		if err == nil || !strings.Contains(err.Error(), `job "backup" can only be triggered with "docker compose run"`) {
			t.Errorf("%s of a job: %v", verb, err)
		}
	}
	o := armed(d)
	sp := d.Jobs["prepare"].Replicas[0].Spec
	o.Containers = append(o.Containers, plan.Container{ID: "prepare", Name: "shop-prepare-1", Service: "prepare", Index: 1, Phase: container.Exited, Spec: &sp})
	p, err := plan.Make(plan.Request{Verb: plan.VerbUp, Desired: d, RemoveOrphans: true}, o)
	if err != nil || p.Graph() != "" {
		t.Errorf("up beside the container of a job: %v\n%s", err, p.Graph())
	}
	if want := []string{`jobs are not started by up; "stack run JOB" runs one: prepare`}; !slices.Equal(p.Warnings, want) {
		t.Errorf("warnings: %q", p.Warnings)
	}
	local := func(image, platform string) (plan.LocalImage, error) { return plan.LocalImage{}, nil }
	images := func(ops []plan.ImageOp, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, op := range ops {
			names = append(names, op.Image)
		}
		return strings.Join(names, " ")
	}
	up, pull := plan.ImageOptions{}, plan.PullOptions{}
	if got := images(plan.Images(d, up, local)); got != "backup db prepare rotate" {
		t.Errorf("images for up: %s", got)
	}
	delete(d.Jobs, "backup")
	if got := images(plan.Images(d, up, local)); got != "db rotate" {
		t.Errorf("images for up without the one that needs prepare: %s", got)
	}
	if got := images(plan.Pulls(d, pull, local)); got != "db prepare rotate" {
		t.Errorf("images for pull: %s", got)
	}
	pull.Services = []string{"prepare"}
	if got := images(plan.Pulls(d, pull, local)); got != "db prepare" {
		t.Errorf("images for pull of a job: %s", got)
	}
}
