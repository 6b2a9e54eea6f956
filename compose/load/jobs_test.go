package load

import (
	"slices"
	"strings"
	"testing"

	"github.com/stack-run/stack/compose/spec"
)

const withJobs = `name: shop
services:
  db: {image: db}
jobs:
  backup:
    image: backup
    env_file: backup.env
    networks: [back]
    volumes: ["data:/data"]
    environment: {HERE: yes}
    depends_on: {prepare: {condition: service_completed_successfully}, db: {condition: service_healthy}}
    triggers: {manual: false, schedule: ["@daily", {cron: "0 3 * * 7", timezone: Europe/Paris, concurrency: queue, missed_fires: skip}]}
  prepare: {build: {context: .}, triggers: {manual: true}}
  extra: {image: extra, profiles: [more], triggers: {manual: true}}
networks: {back: , unused: }
volumes: {data: }
`

func TestJobs(t *testing.T) {
	o := project(t, map[string]string{"compose.yaml": withJobs, "backup.env": "A=from file\n"})
	l, err := Load(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	p := l.Project
	if got := p.ServiceNames(); !slices.Equal(got, []string{"db"}) {
		t.Errorf("services: %v", got)
	}
	if got := p.NetworkNames(); !slices.Equal(got, []string{"back", "default"}) {
		t.Errorf("networks: %v", got)
	}
	if got := sortedNames(map[string]bool{}); len(p.Jobs) != 2 || len(p.DisabledJobs) != 1 || len(got) != 0 {
		t.Errorf("jobs: %v, disabled: %v", p.Jobs, p.DisabledJobs)
	}
	d, _, err := spec.Build(p, spec.HostFacts{Touched: l.Touched, Aside: l.Aside, Locate: l.Locate})
	if err != nil {
		t.Fatal(err)
	}
	backup := d.Jobs["backup"]
	if env := backup.Replicas[0].Spec.Process.Env; !slices.Equal(env, []string{"A=from file", "HERE=yes"}) {
		t.Errorf("environment: %q", env)
	}
	if !backup.NotByHand || len(backup.Schedules) != 2 || backup.Schedules[1].String() != "0 3 * * 7, Europe/Paris, queued, missed ones skipped" {
		t.Errorf("triggers: %v, %v", backup.NotByHand, backup.Schedules)
	}
	if backup.DependsOn["prepare"].Condition != "service_completed_successfully" || backup.Replicas[0].Hash == "" {
		t.Errorf("job: %+v", backup)
	}
	if prepare := d.Jobs["prepare"]; !prepare.OnlyBuilt || prepare.Replicas[0].Spec.Image != "shop-prepare" {
		t.Errorf("a job that is built: %+v", prepare)
	}
	if !slices.Contains(d.Disabled, "extra") || len(d.Services) != 1 {
		t.Errorf("services: %v, disabled: %v", d.Services, d.Disabled)
	}
	if with, err := d.ForRun("backup", false); err != nil || len(with.Services) != 3 || len(d.Services) != 1 {
		t.Errorf("for a run: %v, %v", with, err)
	}
	if with := d.WithDue(); len(with.Services) != 3 {
		t.Errorf("when due: %v", with.Services)
	}
	stored := d.WithoutSecrets()
	if stored.Jobs["backup"] == backup || stored.Jobs["backup"].Replicas[0].Hash != backup.Replicas[0].Hash {
		t.Error("what is stored shares jobs with what runs, or lacks them")
	}
}

// run selects a job with its profile; nothing else does.
func TestJobsByName(t *testing.T) {
	o := project(t, map[string]string{"compose.yaml": withJobs, "backup.env": ""})
	o.Services = []string{"extra"}
	if _, err := Load(t.Context(), o); err == nil || !strings.Contains(err.Error(), `job "extra" can only be triggered with "docker compose run"`) {
		t.Errorf("a job as a service: %v", err)
	}
	o.Jobs = true
	l, err := Load(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := l.Project.Jobs["extra"]; !ok || !slices.Equal(l.Touched, []string{"extra"}) {
		t.Errorf("jobs %v, touched %v", l.Project.Jobs, l.Touched)
	}
}

// What is wrong with a job that only an explicit run starts keeps no other verb from
// working.
func TestFaultsOfJobs(t *testing.T) {
	broken := strings.ReplaceAll(withJobs, "prepare: {build: {context: .},", "prepare: {build: {context: .}, env_file: missing.env,")
	broken = strings.Replace(broken, "depends_on: {prepare: {condition: service_completed_successfully}, db", "depends_on: {db", 1)
	o := project(t, map[string]string{"compose.yaml": broken, "backup.env": ""})
	l, err := Load(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	d, _, err := spec.Build(l.Project, spec.HostFacts{Touched: l.Touched, Aside: l.Aside})
	if err != nil || d.Jobs["prepare"] != nil || d.Jobs["backup"] == nil || !slices.Contains(d.Disabled, "prepare") {
		t.Errorf("jobs %v, disabled %v, %v", d.Jobs, d.Disabled, err)
	}
	o.Jobs, o.Services = true, []string{"prepare"}
	if _, err := Load(t.Context(), o); err == nil || !strings.Contains(err.Error(), "jobs.prepare.env_file[0]: env file missing.env not found") {
		t.Errorf("run of the broken one: %v", err)
	}
	for text, want := range map[string]string{
		"jobs: {a: {image: x}}":                                                      `"triggers" is missing`,
		"jobs: {a: {image: x, triggers: {}}}":                                        "nothing triggers the job",
		"jobs: {a: {triggers: {schedule: ['@daily']}}}":                              "jobs.a: neither image nor build is set",
		"jobs: {a: {image: x, triggers: {schedule: [{cron: 'x'}]}}}":                 "jobs.a.triggers.schedule[0].cron: cannot read",
		"jobs: {a: {image: x, triggers: {schedule: [{cron: '@daily', when: now}]}}}": `unknown attribute "when"`,
		"jobs: {a: }":     "jobs.a",
		"jobs: {a: text}": "jobs.a",
		"jobs: {a: [b]}":  "jobs.a",
		"jobs: [a]":       "jobs",
		"services: {a: {image: x}}\njobs: {a: {image: x, triggers: {manual: true}}}":                                                         "there is a service of the same name",
		"jobs: {a: {image: x, depends_on: [b], triggers: {schedule: ['@daily']}}, b: {image: x, depends_on: [a], triggers: {manual: true}}}": "dependency cycle: a -> b -> a",
		"jobs: {a: {image: x, ports: ['80:80', '80:81'], triggers: {schedule: ['@daily']}}}":                                                 "jobs.a.ports[1]: host port 80/tcp",
		"jobs: {a: {image: x, depends_on: [nobody], triggers: {schedule: ['@daily']}}}":                                                      `jobs.a.depends_on.nobody: no such service "nobody"`,
	} {
		o := project(t, map[string]string{"compose.yaml": text + "\n"})
		if _, err := Load(t.Context(), o); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "internal error") {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

// What config shows of jobs loads again to the same.
func TestConfigOfJobs(t *testing.T) {
	o := project(t, map[string]string{"compose.yaml": withJobs, "backup.env": "A=from file\n"})
	for _, format := range []string{"yaml", "json"} {
		first, _, err := Config(t.Context(), o, ConfigOptions{Format: format})
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(first), "backup.env") {
			t.Errorf("env_file of a job is not shown: %s", first)
		}
		again := project(t, map[string]string{"compose.yaml": string(first)})
		second, _, err := Config(t.Context(), again, ConfigOptions{Format: format})
		if err != nil {
			t.Fatalf("%v in\n%s", err, first)
		}
		if string(second) != string(first) {
			t.Errorf("%s\nhas become\n%s", first, second)
		}
	}
}
