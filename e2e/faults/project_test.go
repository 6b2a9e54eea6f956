package faults

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stack-run/stack/e2e/machine"
)

// A kind is what becomes of a service when it is left alone.
type kind int

const (
	resident kind = iota // runs until it is stopped
	oneshot              // ends by itself
	looping              // ends by itself, and is started again
)

// A service is what the model knows of one.
type service struct {
	kind kind
	code int    // what it exits with, asked or not
	port string // of the host
	// foreign says that it leaves no facts.
	foreign bool
}

// A project is the model of one: what its file says.
type project struct {
	name     string
	services map[string]service
	text     string
}

// matrixProject is a chain of services that wait for each other, a one-shot that
// others need and one that nobody needs, a restart loop, published ports, and one
// that writes as many lines as it can be asked to.
func matrixProject(in *installation, name string, port int) project {
	p := project{name: name, services: map[string]service{
		"db":      {code: 20},
		"migrate": {kind: oneshot},
		"web":     {code: 21, port: strconv.Itoa(port)},
		"proxy":   {code: 22, port: strconv.Itoa(port + 1)},
		"talker":  {code: 23},
		"worker":  {code: 24},
		"once":    {kind: oneshot, code: 3},
		"loop":    {kind: looping, code: 5},
	}}
	const rest = ", stop_grace_period: 5s, logging: {options: {max-size: 1g}}}\n"
	line := func(s, command, more string) string {
		code := p.services[s].code
		return fmt.Sprintf("  %s: {image: probe, command: [payload, -name, %s.%s, -code, %q, %s], volumes: [%q], %s",
			s, name, s, strconv.Itoa(code), command, in.facts+":/facts", strings.TrimPrefix(more+rest, ", "))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "name: %s\nservices:\n", name)
	database := ""
	if *withPostgres {
		p.services["postgres"] = service{foreign: true}
		b.WriteString(`  postgres:
    image: postgres:15
    environment: {POSTGRES_PASSWORD: secret}
    volumes: ["pgdata:/var/lib/postgresql/data"]
    healthcheck: {test: ["CMD", "pg_isready", "-U", "postgres", "-h", "127.0.0.1"], interval: 5s, start_period: 60s, start_interval: 300ms}
    shm_size: 128mb
    restart: unless-stopped
`)
		database = ", postgres: {condition: service_healthy}"
	}
	b.WriteString(line("db", `-port, "5432"`, `, healthcheck: {test: [CMD, /probe, get, "http://127.0.0.1:5432/"], interval: 1s, start_period: 20s, start_interval: 100ms}`))
	b.WriteString(line("migrate", "-for, 200ms", `, depends_on: {db: {condition: service_healthy}`+database+`}`))
	b.WriteString(line("web", `-port, "80"`, `, environment: ["CHANGE=${CHANGE:-0}"], restart: always, ports: ["`+p.services["web"].port+`:80"], depends_on: {migrate: {condition: service_completed_successfully}}`))
	b.WriteString(line("proxy", `-port, "80"`, `, restart: unless-stopped, ports: ["`+p.services["proxy"].port+`:80"], depends_on: [web]`))
	b.WriteString(line("talker", `-batch, "30", -pause, 10ms`, ``))
	b.WriteString(line("worker", `-pause, 20ms`, `, restart: on-failure`))
	b.WriteString(line("once", "-for, 300ms", ``))
	b.WriteString(line("loop", "-for, 400ms", `, restart: always`))
	if *withPostgres {
		b.WriteString("volumes: {pgdata: {}}\n")
	}
	p.text = b.String()
	return p
}

// write writes the project's file where commands are started.
func (p project) write(in *installation) error {
	return os.WriteFile(filepath.Join(in.Root, "app", "compose.yaml"), []byte(p.text), 0o644)
}

// keep begins the lines of what a down without --volumes leaves.
func (p project) keep() string { return "file data/volumes/" + p.name + "_" }

// A run is one start of a payload, as it has noted it.
type run struct {
	name, host string
	start      int
	lines      int64
	code       int       // -1: has not ended by itself
	noted      time.Time // when it noted something for the last time
}

func (r run) id() string { return fmt.Sprintf("%s.%s.%d", r.name, r.host, r.start) }

// runs reads the facts, in the order of the starts of each container.
func (in *installation) runs() ([]run, error) {
	entries, err := os.ReadDir(in.facts)
	if err != nil {
		return nil, err
	}
	var out []run
	for _, e := range entries {
		f := strings.Split(e.Name(), ".")
		if len(f) < 3 {
			continue
		}
		r := run{name: strings.Join(f[:len(f)-2], "."), host: f[len(f)-2]}
		if r.start, err = strconv.Atoi(f[len(f)-1]); err != nil {
			return nil, err
		}
		text, err := os.ReadFile(filepath.Join(in.facts, e.Name()))
		if err != nil {
			return nil, err
		}
		if i, err := e.Info(); err == nil {
			r.noted = i.ModTime()
		}
		// An empty one was killed before it could note anything.
		if len(text) == 0 {
			r.code = -1
		} else if _, err := fmt.Sscanf(string(text), "%d %d", &r.lines, &r.code); err != nil {
			return nil, fmt.Errorf("%s: %q: %w", e.Name(), text, err)
		}
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b run) int { return a.start - b.start })
	return out, nil
}

// A living is a payload's process.
type living struct {
	pid    int
	name   string
	frozen bool
	change string // its variable CHANGE
	host   string
}

// livings finds the payloads that run. The pid namespace is the tests' own.
func livings(prefix string) ([]living, error) {
	pids, err := machine.PIDs()
	if err != nil {
		return nil, err
	}
	var out []living
	for _, pid := range pids {
		p, err := machine.ReadProc(pid)
		if err != nil || p.State == "Z" || p.State == "X" {
			continue
		}
		rest, ok := strings.CutPrefix(p.Cmdline, "/probe payload -name ")
		if !ok {
			continue
		}
		name, _, _ := strings.Cut(rest, " ")
		if !strings.HasPrefix(name, prefix) {
			continue
		}
		l := living{pid: pid, name: name, frozen: frozen(pid)}
		env, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		for _, v := range strings.Split(string(env), "\x00") {
			if v, ok := strings.CutPrefix(v, "CHANGE="); ok {
				l.change = v
			}
			if v, ok := strings.CutPrefix(v, "HOSTNAME="); ok {
				l.host = v
			}
		}
		out = append(out, l)
	}
	return out, nil
}

// frozen says whether a process's control group is, in the hierarchy of v1 or v2.
func frozen(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return false
	}
	for l := range strings.Lines(string(text)) {
		f := strings.SplitN(strings.TrimSpace(l), ":", 3)
		if len(f) < 3 {
			continue
		}
		for _, file := range []string{
			filepath.Join("freezer", f[2], "freezer.state"),
			filepath.Join("unified", f[2], "cgroup.events"), filepath.Join(f[2], "cgroup.events"),
		} {
			state, _ := os.ReadFile(filepath.Join(machine.CgroupRoot, file))
			if strings.Contains(string(state), "FROZEN") || strings.Contains(string(state), "frozen 1") {
				return true
			}
		}
	}
	return false
}

// A target is what a project must become.
type target struct {
	// phase is "none", "up", "stopped", "killed", "created" or "paused".
	phase string
	scale map[string]int // of services that do not have one container
	// change is what web's variable must be, "" if any.
	change string
	// had are the containers that there were, for phases that make none; nil: any number.
	had map[string]bool
	// blind says that for a moment there was no keeper at all. What has ended then
	// has no exit code that anybody could know; forgiven are those containers.
	blind    bool
	forgiven map[string]bool
}

// reaches is an error unless the project becomes what it must: rows, exit codes,
// processes, ports, each by itself and compared with the others.
func (p project) reaches(in *installation, want target) error {
	return eventually(20*time.Second, func() error { return p.is(in, want) })
}

func (p project) is(in *installation, want target) error {
	rows, err := in.ps(p.name)
	if err != nil {
		return err
	}
	runs, err := in.runs()
	if err != nil {
		return err
	}
	procs, err := livings(p.name + ".")
	if err != nil {
		return err
	}
	errs := p.checkRows(rows, want)
	errs = append(errs, p.checkProcesses(rows, procs, want)...)
	errs = append(errs, p.checkCodes(in, rows, runs, want)...)
	if want.phase == "up" {
		errs = append(errs, p.checkPorts()...)
	}
	if len(errs) > 0 {
		return fmt.Errorf("the project must be %s: %w\n    rows: %v", want.phase, errors.Join(errs...), rows)
	}
	return nil
}

// checkRows compares names and states.
func (p project) checkRows(rows []row, want target) (errs []error) {
	expected := map[string]bool{}
	switch {
	case want.phase == "none":
	case want.had != nil:
		expected = want.had
	default:
		for name := range p.services {
			n, ok := want.scale[name]
			if !ok {
				n = 1
			}
			for i := range n {
				expected[fmt.Sprintf("%s-%s-%d", p.name, name, i+1)] = true
			}
		}
	}
	seen := map[string]bool{}
	for _, r := range rows {
		if strings.Contains(r.Name, "-run-") {
			continue // looked at by who started it
		}
		if seen[r.Name] {
			errs = append(errs, fmt.Errorf("two rows are called %s", r.Name))
		}
		seen[r.Name] = true
		if !expected[r.Name] {
			errs = append(errs, fmt.Errorf("%s must not be there", r))
			continue
		}
		if may := p.states(p.services[r.Service].kind, want); !slices.Contains(may, r.State) {
			errs = append(errs, fmt.Errorf("%s must be %s", r, strings.Join(may, " or ")))
		}
	}
	for name := range expected {
		if !seen[name] {
			errs = append(errs, fmt.Errorf("%s is not there", name))
		}
	}
	return errs
}

// states are those a container of a kind may settle in.
func (p project) states(k kind, want target) []string {
	switch want.phase {
	case "up":
		return map[kind][]string{resident: {"running"}, oneshot: {"exited"}, looping: {"running", "restarting"}}[k]
	case "stopped", "killed":
		return []string{"exited", "created"}
	case "created":
		return []string{"created"}
	case "paused":
		return map[kind][]string{resident: {"paused"}, oneshot: {"exited"}, looping: {"restarting", "running"}}[k]
	}
	return nil
}

// checkProcesses compares rows with the processes that there are.
func (p project) checkProcesses(rows []row, procs []living, want target) (errs []error) {
	count := map[string]int{}
	for _, l := range procs {
		count[strings.TrimPrefix(l.name, p.name+".")]++
		if strings.HasSuffix(l.name, ".web") && want.change != "" && l.change != want.change {
			errs = append(errs, fmt.Errorf("web runs with CHANGE=%s, must be %s", l.change, want.change))
		}
	}
	alive := map[string]int{}
	for _, r := range rows {
		if (r.State == "running" || r.State == "paused") && !strings.Contains(r.Name, "-run-") {
			alive[r.Service]++
		}
	}
	for name, s := range p.services {
		// One that comes and goes may do so between the two looks.
		if s.foreign || s.kind != resident && (want.phase == "up" || want.phase == "paused") {
			continue
		}
		if count[name] != alive[name] {
			errs = append(errs, fmt.Errorf("%s: %d rows run, %d processes do", name, alive[name], count[name]))
		}
	}
	return errs
}

// checkCodes compares the exit codes that ps tells with what the payloads know.
func (p project) checkCodes(in *installation, rows []row, runs []run, want target) (errs []error) {
	for _, r := range rows {
		if r.State != "exited" || p.services[r.Service].foreign {
			continue
		}
		var last *run
		for i := range runs {
			if strings.HasPrefix(r.ID, runs[i].host) && !strings.HasPrefix(runs[i].name, "exec-") {
				last = &runs[i]
			}
		}
		if r.ExitCode == 255 && (want.blind || want.forgiven[r.ID]) {
			want.forgiven[r.ID] = true
			continue
		}
		switch {
		case last == nil && r.ExitCode == 255 && in.cutOff(r.ID): // with its supervisor
		case last == nil && r.ExitCode == 255:
			errs = append(errs, fmt.Errorf("%s: the exit code is lost", r))
		case last == nil: // it ended before it began
		case last.code >= 0 && r.ExitCode == last.code, last.code < 0 && r.ExitCode == 137:
		case (r.ExitCode == 137 || r.ExitCode == 2) && in.startedAfter(r.ID, last.noted):
			// A signal ended a run that had not got as far as to note its start.
		case r.ExitCode == 2 && last.code < 0:
			// Go's runtime exits so for a signal that came before a handler stood, and
			// nothing else of a payload's does. It yields before: the run got on
			// meanwhile, to its note and perhaps, on a busy machine, to some lines.
		case last.code < 0:
			errs = append(errs, fmt.Errorf("%s: its last run %s was killed", r, last.id()))
		default:
			errs = append(errs, fmt.Errorf("%s: its last run %s exited with %d", r, last.id(), last.code))
		}
	}
	return errs
}

// startedAfter tells whether a container's last start came after a time.
func (in *installation) startedAfter(id string, t time.Time) bool {
	r := in.run("container", "inspect", "--format", "{{.State.StartedAt}}", id)
	started, err := time.Parse(time.RFC3339Nano, strings.TrimSpace(r.stdout))
	return err == nil && started.After(t)
}

// checkPorts asks the published ports.
func (p project) checkPorts() (errs []error) {
	for name, s := range p.services {
		if s.port == "" {
			continue
		}
		c := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := c.Get("http://127.0.0.1:" + s.port)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s does not answer: %w", name, err))
			continue
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !strings.HasPrefix(string(body), p.name+"."+name+".") {
			errs = append(errs, fmt.Errorf("port %s of %s answers %q, %v", s.port, name, body, err))
		}
	}
	return errs
}

// checkLogs is an error unless each line that a payload wrote is in its
// container's log, once and in order. The last lines of forgiven runs may lack: a
// FIFO's buffer goes with the last process that has it open.
func (p project) checkLogs(in *installation, forgiven map[string]bool) error {
	before, err := in.runs()
	if err != nil {
		return err
	}
	rows, err := in.ps(p.name)
	if err != nil {
		return err
	}
	// What was written before the look must get to the log; what came later may.
	return eventually(15*time.Second, func() error {
		var errs []error
		for _, r := range rows {
			if p.services[r.Service].foreign {
				continue
			}
			errs = append(errs, in.checkLog(r, before, forgiven))
		}
		return errors.Join(errs...)
	})
}

func (in *installation) checkLog(r row, runs []run, forgiven map[string]bool) error {
	res := in.run("container", "logs", r.ID)
	if err := res.mustSucceed(); err != nil {
		return err
	}
	last, order := map[string]int64{}, []string{}
	for l := range strings.Lines(res.stdout) {
		l = strings.TrimSuffix(l, "\n")
		id, number, ok := strings.Cut(l, " ")
		n, err := strconv.ParseInt(number, 10, 64)
		if !ok || err != nil {
			return fmt.Errorf("log of %s: a torn line: %q", r.Name, l)
		}
		if n != last[id]+1 {
			return fmt.Errorf("log of %s: %q comes after %s %d: lines are lost or doubled", r.Name, l, id, last[id])
		}
		if n == 1 {
			order = append(order, id)
		} else if order[len(order)-1] != id {
			return fmt.Errorf("log of %s: %q comes after lines of %s", r.Name, l, order[len(order)-1])
		}
		last[id] = n
	}
	for _, f := range runs {
		if !strings.HasPrefix(r.ID, f.host) || strings.HasPrefix(f.name, "exec-") {
			continue
		}
		if last[f.id()] < f.lines && !forgiven[f.id()] {
			return fmt.Errorf("log of %s: %s has written %d lines, the log has %d", r.Name, f.id(), f.lines, last[f.id()])
		}
	}
	return nil
}
