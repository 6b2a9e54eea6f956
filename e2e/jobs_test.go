package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stack-run/stack/e2e/conformance"
)

// A job runs when it is told to, after what it depends on: services, and jobs to their
// ends.
func TestRunJob(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.write(t, "job.env", "FROM_FILE=yes\n")
	b.compose(t, `
		name: shop
		services:
			db:
				image: busybox
				command: sleep 1000
				init: true
				stop_signal: SIGKILL
				healthcheck: {test: [CMD, "true"], interval: 100ms}
			web: {image: busybox, command: [sleep, "1000"], init: true, stop_signal: SIGKILL}
		jobs:
			prepare:
				image: busybox
				command: sh -c 'echo prepared >>/data/log'
				volumes: [data:/data]
				triggers: {manual: true}
				depends_on: {db: {condition: service_healthy}}
			migrate:
				image: busybox
				command: sh -c 'cat /data/log; echo "migrated $$FROM_FILE $$HERE $$GIVEN"; exit 3'
				env_file: job.env
				environment: {HERE: here}
				volumes: [data:/data]
				triggers: {manual: true}
				depends_on: {prepare: {condition: service_completed_successfully}}
			rotate:
				image: busybox
				command: "true"
				triggers: {manual: false, schedule: ["0 3 1 * *"]}
			around:
				image: busybox
				command: "true"
				triggers: {manual: true}
				depends_on: {db: {condition: service_started}, rotate: {condition: service_completed_successfully}}
			broken:
				image: busybox
				command: "true"
				triggers: {manual: true}
				depends_on: {fails: {condition: service_completed_successfully}}
			fails: {image: busybox, command: ["sh", "-c", "echo no >&2; exit 9"], triggers: {manual: true}}
			profiled: {image: busybox, command: [echo, profiled], profiles: [extra], triggers: {manual: true}}
		volumes: {data: {}}
	`)
	for _, verb := range [][]string{{"up", "-d"}, {"create"}, {"start"}, {"stop"}, {"restart"}, {"down"}} {
		if r := b.fails(t, append(verb, "migrate")...); !strings.Contains(r.stderr, `job "migrate" can only be triggered with "docker compose run"`) {
			t.Errorf("%v of a job: %v", verb, r)
		}
	}
	for job, text := range map[string]string{
		"rotate": `job "rotate" is declared with manual: false, it cannot be run manually`,
		"around": `job "rotate" is declared with manual: false, it cannot be triggered even as a dependency`,
	} {
		if r := b.fails(t, "run", "--rm", job); !strings.Contains(r.stderr, text) {
			t.Errorf("run of %s: %v", job, r)
		}
	}
	if ids := b.ids(t); len(ids) != 0 {
		t.Errorf("what was refused has made %v", ids)
	}

	r := b.stack(t, "run", "--rm", "-T", "-e", "GIVEN=given", "migrate")
	if r.code != 3 || r.stdout != "prepared\nmigrated yes here given\n" {
		t.Errorf("run of a job: %v", r)
	}
	var names []string
	for _, c := range b.ps(t) {
		names = append(names, c.Name+" "+c.State)
	}
	if got := strings.Join(names, ", "); got != "shop-db-1 running, shop-prepare-1 exited" {
		t.Errorf("then there are %s", got)
	}
	if r := b.fails(t, "run", "--rm", "-T", "broken"); !strings.Contains(r.stderr, "shop-fails-1 didn't complete successfully: exit 9") {
		t.Errorf("run of a job that depends on one that fails: %v", r)
	}
	if out := b.ok(t, "run", "--rm", "-T", "profiled"); out != "profiled\n" {
		t.Errorf("run of a job with a profile: %q", out)
	}
	if out := b.ok(t, "--dry-run", "run", "migrate"); !strings.Contains(out, "shop-migrate-run-") {
		t.Errorf("dry run: %s", out)
	}
	conformance.Works(t, "jobs", "jobs.*", "jobs.*.triggers", "jobs.*.triggers.manual", "jobs.*.image", "jobs.*.command", "jobs.*.profiles",
		"jobs.*.env_file", "jobs.*.environment", "jobs.*.environment.*", "jobs.*.depends_on", "jobs.*.depends_on.*", "jobs.*.depends_on.*.condition")
	// Its containers are the project's: no orphans, and gone with it.
	b.ok(t, "run", "-d", "--name", "by-hand", "migrate")
	if code := strings.TrimSpace(b.ok(t, "container", "wait", "by-hand")); code != "3" {
		t.Errorf("it ended with %s", code)
	}
	if out := b.ok(t, "logs", "--no-log-prefix", "migrate"); !strings.Contains(out, "migrated yes here") {
		t.Errorf("its output: %q", out)
	}
	if r := b.stack(t, "up", "-d", "web"); r.code != 0 || strings.Contains(r.stderr, "orphan") {
		t.Errorf("up: %v", r)
	}
	if r := b.stack(t, "config", "--images"); r.stdout != "busybox\n" {
		t.Errorf("images: %v", r)
	}
	if out := b.ok(t, "config", "--services"); out != "db\nweb\n" {
		t.Errorf("services: %q", out)
	}
	again := b.in(t, "again")
	again.write(t, "compose.yaml", b.ok(t, "config"))
	if out := again.ok(t, "config"); !strings.Contains(out, "0 3 1 * *") {
		t.Errorf("config of config: %s", out)
	}
	b.ok(t, "down", "-v")
	if ids := b.ids(t); len(ids) != 0 {
		t.Errorf("down leaves %v", ids)
	}
}

// jobRun is a line of jobs --history.
type jobRun struct{ Job, Due, Started, Duration, Status, Container string }

func (b *box) jobRuns(t *testing.T, args ...string) []jobRun {
	t.Helper()
	return jsonLines[jobRun](t, b.ok(t, append([]string{"jobs", "--history", "--format", "json"}, args...)...))
}

// eventuallyRan waits until a job has had a number of runs that ended.
func (b *box) eventuallyRan(t *testing.T, job string, n int) []jobRun {
	t.Helper()
	var runs []jobRun
	eventually(t, 60*time.Second, func() error {
		runs = nil
		for _, r := range b.jobRuns(t, job) {
			if strings.HasPrefix(r.Status, "exited") {
				runs = append(runs, r)
			}
		}
		if len(runs) < n {
			return fmt.Errorf("%d runs of %s have ended, not %d: %v", len(runs), job, n, b.jobRuns(t, job))
		}
		return nil
	})
	return runs
}

// once fails if a due time has two runs, and returns how many there are.
func once(t *testing.T, runs []string) int {
	t.Helper()
	seen := map[string]bool{}
	for _, r := range runs {
		if seen[r] {
			t.Errorf("%s has two runs: %v", r, runs)
		}
		seen[r] = true
	}
	return len(runs)
}

const scheduled = `
	name: shop
	services:
		db: {image: busybox, command: [sleep, "1000"], init: true, stop_signal: SIGKILL}
	jobs:
		backup:
			image: busybox
			command: ["sh", "-c", "echo $$HOSTNAME; cat /proc/uptime >>/data/log; [ $$(cat /run/secrets/key) = opened ] && exit 4"]
			volumes: ["./data:/data"]
			secrets: [key]
			depends_on: {db: {condition: service_started}}
			triggers: {schedule: [{cron: "@every 2s"}]}
	secrets: {key: {file: ./key}}
`

// backups is a box with that project.
func backups(t *testing.T) *box {
	t.Helper()
	b := newBox(t, "busybox:latest")
	b.compose(t, scheduled)
	b.write(t, "key", "opened")
	must(t, os.Mkdir(filepath.Join(b.dir, "data"), 0o777))
	return b
}

// A job with a schedule runs when it is due, for as long as the project is up.
func TestScheduledJob(t *testing.T) {
	b := backups(t)
	if r := b.stack(t, "plan"); r.code != 2 || !strings.Contains(r.stdout, "schedule job backup: @every 2s\n") {
		t.Errorf("the plan: %v", r)
	}
	if out := b.ok(t, "jobs"); !strings.Contains(out, "not scheduled") {
		t.Errorf("before up: %s", out)
	}
	b.ok(t, "up", "-d")
	if out := b.ok(t, "plan"); !strings.Contains(out, "Nothing to do") {
		t.Errorf("the plan after up: %s", out)
	}
	if out := b.ok(t, "ls"); !strings.Contains(out, "running(1), scheduled(1)") {
		t.Errorf("ls: %s", out)
	}
	runs := b.eventuallyRan(t, "backup", 5)
	if runs[0].Status != "exited (4)" || runs[0].Container == "" {
		t.Errorf("the last run: %+v", runs[0])
	}
	// The containers of the last runs stay, and no more.
	var kept int
	for _, c := range b.ps(t) {
		if c.Service == "backup" {
			kept++
		}
	}
	if kept < 3 || kept > 4 { // one may just run
		t.Errorf("%d containers of runs are kept", kept)
	}
	if out := b.ok(t, "logs", "--no-log-prefix", "backup"); len(strings.Fields(out)) < 3 {
		t.Errorf("their output: %q", out)
	}
	// Without what it depends on it brings that up, as run does.
	b.ok(t, "stop", "db")
	before := len(b.eventuallyRan(t, "backup", 6))
	b.eventuallyRan(t, "backup", before+1)
	conformance.Works(t, "jobs.*.triggers.schedule", "jobs.*.triggers.schedule.[].cron")
	if ps := b.ok(t, "ps", "--services"); !strings.Contains(ps, "db\n") {
		t.Errorf("what it depends on does not run: %s", ps)
	}

	b.ok(t, "stop")
	if out := b.ok(t, "jobs"); !strings.Contains(out, "not scheduled") || !strings.Contains(out, "exited (4)") {
		t.Errorf("after stop: %s", out)
	}
	eventually(t, 10*time.Second, func() error { // with nothing to do it is gone
		if _, err := b.keeper("shop", "supervisor"); !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("the supervisor stays: %v", err)
		}
		return nil
	})
	n := len(b.jobRuns(t))
	b.ok(t, "start")
	b.eventuallyRan(t, "backup", n)
	log, err := os.ReadFile(filepath.Join(b.dir, "data", "log"))
	must(t, err)
	if once(t, strings.Split(strings.TrimSpace(string(log)), "\n")) < 7 {
		t.Errorf("it ran: %s", log)
	}
	// Another schedule; and a project without it.
	b.compose(t, strings.Replace(scheduled, `"@every 2s"`, `"0 3 * * *", timezone: Europe/Paris`, 1))
	if r := b.stack(t, "plan"); !strings.Contains(r.stdout, "schedule job backup: @every 2s → 0 3 * * *, Europe/Paris\n") {
		t.Errorf("the plan of another schedule: %v", r)
	}
	b.ok(t, "up", "-d")
	if out := b.ok(t, "jobs"); !strings.Contains(out, "03:00:00") && !strings.Contains(out, "02:00:00") && !strings.Contains(out, "01:00:00") {
		t.Errorf("when it is due next: %s", out)
	}
	conformance.Works(t, "jobs.*.triggers.schedule.[].timezone")
	b.compose(t, scheduled[:strings.Index(scheduled, "\tjobs:")])
	if r := b.stack(t, "up", "-d"); r.code != 0 || !strings.Contains(r.stderr, "Job backup Unscheduled") {
		t.Errorf("up without the job: %v", r)
	}
	b.ok(t, "down", "--remove-orphans")
	if _, err := os.Stat(filepath.Join(b.dataRoot(), "projects", "shop")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("down leaves what it knew: %v", err)
	}
}

// What is due while the run before it goes on is skipped, or waits.
func TestScheduledJobsDoNotOverlap(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.compose(t, `
		name: shop
		services: {db: {image: busybox, command: [sleep, "1000"], init: true, stop_signal: SIGKILL}}
		jobs:
			skips: {image: busybox, command: [sleep, "5"], triggers: {schedule: ["@every 2s"]}}
			waits: {image: busybox, command: [sleep, "3"], triggers: {schedule: [{cron: "@every 2s", concurrency: queue}]}}
	`)
	b.ok(t, "up", "-d")
	b.eventuallyRan(t, "skips", 2)
	b.eventuallyRan(t, "waits", 3)
	skipped := false
	for _, r := range b.jobRuns(t) {
		switch {
		case strings.HasPrefix(r.Status, "skipped"):
			skipped = true
			if r.Job != "skips" {
				t.Errorf("%+v", r)
			}
		case r.Job == "skips" && strings.HasPrefix(r.Status, "exited"):
			if d, err := time.ParseDuration(r.Duration); err != nil || d < 5*time.Second {
				t.Errorf("a run took %s: %v", r.Duration, err)
			}
		}
	}
	if !skipped {
		t.Errorf("nothing was skipped: %+v", b.jobRuns(t))
	}
	conformance.Works(t, "jobs.*.triggers.schedule.[].concurrency")
	b.ok(t, "down")
}

// What was due while nobody was there runs once, or not at all.
func TestMissedFires(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.compose(t, `
		name: shop
		jobs:
			late: {image: busybox, command: ["true"], triggers: {schedule: [{cron: "@every 7m", missed_fires: one}]}}
			never: {image: busybox, command: ["true"], triggers: {schedule: [{cron: "@every 7m", missed_fires: skip}]}}
	`)
	b.ok(t, "up", "--detach")
	b.killKeepers(t, "shop", "supervisor", "guardian", "warden")
	// Twenty minutes ago, for what the record knows.
	file := filepath.Join(b.dataRoot(), "projects", "shop", "schedules.json")
	text, err := os.ReadFile(file)
	must(t, err)
	text = regexp.MustCompile(`"seen": *"[^"]*"`).ReplaceAll(text, []byte(`"seen":"`+time.Now().Add(-20*time.Minute).Format(time.RFC3339Nano)+`"`))
	must(t, os.WriteFile(file, text, 0o600))
	b.ok(t, "system", "resume")
	b.eventuallyRan(t, "late", 1)
	var got []string
	for _, r := range b.jobRuns(t) {
		got = append(got, r.Job+" "+r.Status)
	}
	slices.Sort(got)
	if s := strings.Join(got, ", "); s != "late exited (0), never missed" {
		t.Errorf("the runs are: %s", s)
	}
	conformance.Works(t, "jobs.*.triggers.schedule.[].missed_fires")
	b.ok(t, "down")
}

// A project of nothing but jobs is up as long as their schedules are armed: after a boot,
// too.
func TestJobsAlone(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.compose(t, `
		name: shop
		jobs:
			tick: {image: busybox, command: ["true"], triggers: {schedule: ["@every 2s"]}}
			long: {image: busybox, command: [sleep, "1000"], init: true, triggers: {manual: true}}
	`)
	if r := b.stack(t, "up", "-d"); r.code != 0 || !strings.Contains(r.stderr, `"stack run JOB" runs one: long`) {
		t.Errorf("up: %v", r)
	}
	b.eventuallyRan(t, "tick", 1)
	b.killKeepers(t, "shop", "supervisor", "guardian", "warden")
	n := len(b.eventuallyRan(t, "tick", 1)) // which brings them back
	b.eventuallyKept(t, "shop")
	b.killKeepers(t, "shop", "supervisor", "guardian", "warden")
	b.ok(t, "system", "resume")
	b.eventuallyKept(t, "shop")
	b.eventuallyRan(t, "tick", n+1)
	if out := b.ok(t, "ls"); !strings.Contains(out, "scheduled(1)") {
		t.Errorf("ls: %s", out)
	}
	b.ok(t, "run", "-d", "--name", "by-hand", "long")
	b.ok(t, "kill", "long")
	if code := strings.TrimSpace(b.ok(t, "container", "wait", "by-hand")); code != "137" {
		t.Errorf("a job that was killed ended with %s", code)
	}
	b.ok(t, "rm", "-f", "long")
	if _, err := b.tryLook(t, "by-hand"); err == nil {
		t.Error("rm of a job leaves what run has made")
	}
	b.ok(t, "restart")
	if out := b.ok(t, "plan"); !strings.Contains(out, "Nothing to do") {
		t.Errorf("the plan after restart: %s", out)
	}
	b.ok(t, "stop")
	b.ok(t, "start")
	b.eventuallyRan(t, "tick", len(b.eventuallyRan(t, "tick", 1))+1)
	b.ok(t, "down")
	if out := b.ok(t, "ls", "--all", "--quiet"); out != "" {
		t.Errorf("ls after down: %q", out)
	}
}

// The end of an up in the foreground ends the schedules, too.
func TestForegroundUpOfJobs(t *testing.T) {
	b := backups(t)
	up := b.start(t, "up", "--menu=false")
	b.eventuallyRan(t, "backup", 1)
	up.signal(t, os.Interrupt)
	if code := up.wait(t, 30*time.Second); code != 130 {
		t.Errorf("it ended with %d", code)
	}
	if out := b.ok(t, "jobs"); !strings.Contains(out, "not scheduled") {
		t.Errorf("then: %s", out)
	}
	b.ok(t, "down")
}

// A due time has one run, whoever is killed meanwhile, and whenever.
func TestScheduledJobOutlivesKeepers(t *testing.T) {
	for _, which := range [][]string{{"supervisor"}, {"supervisor", "guardian", "warden"}} {
		t.Run(fmt.Sprint(len(which)), func(t *testing.T) {
			b := backups(t)
			b.ok(t, "up", "-d")
			for n := 1; n <= 3; n++ { // when one has just ended
				b.eventuallyRan(t, "backup", n)
				b.killKeepers(t, "shop", which...)
				b.ok(t, "jobs") // brings them back
				b.eventuallyKept(t, "shop")
			}
			// At any moment. A supervisor that is killed again and again is started later
			// each time, unless its guards go, too.
			for until := time.Now().Add(12 * time.Second); len(which) > 1 && time.Now().Before(until); {
				b.killKeepers(t, "shop", which...)
				b.ok(t, "jobs")
				b.eventuallyKept(t, "shop")
			}
			b.ok(t, "stop")
			eventually(t, 10*time.Second, func() error { // the end of one that began just before
				if out := b.ok(t, "jobs", "--history"); strings.Contains(out, "running") {
					return errors.New(out)
				}
				return nil
			})
			b.checkRuns(t)
			b.ok(t, "down")
		})
	}
}

// checkRuns looks whether as many runs happened as are known, each for another time.
func (b *box) checkRuns(t *testing.T) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(b.dataRoot(), "projects", "shop", "schedules.json"))
	must(t, err)
	var known struct {
		Jobs map[string]struct {
			Runs []struct {
				Due, Outcome, Error string
				ExitCode            int
			}
		}
	}
	must(t, json.Unmarshal(text, &known))
	var due []string
	ended, unseen := 0, 0
	for _, r := range known.Jobs["backup"].Runs {
		due = append(due, r.Due)
		switch {
		case r.Outcome == "exited" && r.ExitCode == 4:
			ended++
		case r.Outcome == "exited" && (r.ExitCode == 255 || r.ExitCode == 137):
			unseen++ // it ended while none of the three was there, or stop came as it began
		case r.Outcome == "skipped": // who is killed all the time takes long
		case r.Outcome == "failed" && strings.HasSuffix(r.Error, "its schedule was ended meanwhile"):
		default:
			t.Errorf("a run: %+v", r)
		}
	}
	once(t, due)
	log, err := os.ReadFile(filepath.Join(b.dir, "data", "log"))
	must(t, err)
	if n := strings.Count(string(log), "\n"); n < ended || n > ended+unseen || n < 3 {
		t.Errorf("%d runs are known to have ended, %d more were cut off or not seen, and %d happened:\n%s\n%s", ended, unseen, n, text, log)
	}
}

// What is wrong with a job is told with its place.
func TestBrokenJobs(t *testing.T) {
	b := newBox(t)
	b.compose(t, `
		services: {web: {image: x, depends_on: [nightly]}}
		jobs:
			nightly: {image: x, triggers: {schedule: [{cron: "0 25 * * *"}, {cron: "@daily", timezone: Mars/Olympus}]}}
			never: {image: x, triggers: {}}
			unknown: {image: x, restart: always, triggers: {manual: true}}
			none: {image: x}
	`)
	r := b.fails(t, "config", "-q")
	for _, want := range []string{
		`compose.yaml:5`, `unknown attribute "restart"`, `"triggers" is missing`,
	} {
		if !strings.Contains(r.stderr, want) {
			t.Errorf("nothing says %q: %v", want, r)
		}
	}
	b.compose(t, `
		services: {web: {image: x, depends_on: [nightly]}}
		jobs:
			nightly: {image: x, triggers: {schedule: [{cron: "0 25 * * *"}, {cron: "@daily", timezone: Mars/Olympus}]}}
			web2: {image: x, networks: [nowhere], triggers: {schedule: ["@daily"]}}
	`)
	r = b.fails(t, "config", "-q")
	for _, want := range []string{
		`compose.yaml:1: services.web.depends_on.nightly: is a job; a service can only depend on services`,
		`compose.yaml:3: jobs.nightly.triggers.schedule[0].cron: cannot read "0 25 * * *"`,
		`jobs.nightly.triggers.schedule[1].timezone: there is no time zone "Mars/Olympus"`,
		`compose.yaml:4: jobs.web2.networks.nowhere: no such network "nowhere"`,
	} {
		if !strings.Contains(r.stderr, want) {
			t.Errorf("nothing says %q: %v", want, r)
		}
	}
}
