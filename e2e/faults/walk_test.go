package faults

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var (
	walkFor     = flag.Duration("walk", 8*time.Second, "how long the random walk takes")
	walkClients = flag.Int("clients", 3, "clients of the random walk")
)

// walkProject has services that do not need each other, so that what a verb does to
// one does not depend on the others.
func walkProject(in *installation, name string, port int) project {
	p := project{name: name, services: map[string]service{
		"web":    {code: 21, port: strconv.Itoa(port)},
		"talker": {code: 23},
		"worker": {code: 24},
	}}
	p.text = fmt.Sprintf(`name: %[1]s
x-all: &all {image: probe, volumes: ["%[2]s:/facts"], stop_grace_period: 5s, logging: {options: {max-size: 1g}}}
services:
  web: {<<: *all, command: [payload, -name, %[1]s.web, -code, "21", -port, "80"], restart: always, ports: ["%[3]d:80"]}
  talker: {<<: *all, command: [payload, -name, %[1]s.talker, -code, "23", -batch, "20", -pause, 10ms]}
  worker: {<<: *all, command: [payload, -name, %[1]s.worker, -code, "24", -pause, 20ms], restart: on-failure}
`, name, in.facts, port)
	return p
}

// walked are the containers whose states the model of the walk knows.
var walked = []struct {
	service string
	index   int
}{{"web", 1}, {"talker", 1}, {"worker", 1}, {"worker", 2}, {"worker", 3}}

// randomCommand draws a command; most act on the whole project, some on one service.
func randomCommand(r *rand.Rand, n int) []string {
	services := []string{"web", "talker", "worker"}
	one := func(args ...string) []string {
		if r.IntN(2) == 0 {
			args = append(args, services[r.IntN(len(services))])
		}
		return args
	}
	switch r.IntN(20) {
	case 0, 1, 2:
		return []string{"up", "--detach"}
	case 3:
		return []string{"up", "--detach", "--force-recreate"}
	case 4:
		return []string{"down"}
	case 5, 6:
		return one("stop")
	case 7, 8:
		return one("start")
	case 9:
		return one("restart")
	case 10:
		return one("rm", "--force", "--stop")
	case 11, 12:
		return []string{"scale", fmt.Sprintf("worker=%d", 1+r.IntN(3))}
	case 13:
		return one("kill")
	case 14:
		return one("pause")
	case 15:
		return one("unpause")
	case 16:
		return []string{"create"}
	case 17:
		return []string{"run", "--rm", "-T", "--no-deps", "worker", "payload", "-name", fmt.Sprintf("oneoff-%d", n), "-code", "7", "-for", "200ms"}
	case 18:
		return []string{"exec", "-T", "web", "/probe", "payload", "-name", fmt.Sprintf("exec-%d", n), "-code", "9", "-for", "100ms"}
	}
	return [][]string{{"ps", "--all"}, {"logs", "--tail", "20"}, {"events"}, {"ps", "--format", "json"}}[r.IntN(4)]
}

// A walk is what the clients have done since the last quiet moment.
type walk struct {
	in       *installation
	projects []project
	is       map[string]stateSet // by container
	mu       sync.Mutex
	told     []string
	ops      [][]done // by client
	errs     []error
}

// A done is a command with its result.
type done struct {
	project    string
	args       []string
	begin, end time.Time
	code       int
}

func TestRandomWalk(t *testing.T) {
	begin(t)
	s := seed(t)
	var w *walk
	var err error
	commands, quiet := 0, 0
	deadline := time.Now().Add(*walkFor)
	for epoch := 0; epoch == 0 || time.Now().Before(deadline); epoch++ {
		if w == nil {
			if w, err = newWalk(); err != nil {
				t.Fatal(err)
			}
		}
		w.epoch(s, epoch)
		for _, l := range w.ops {
			commands += len(l)
		}
		quiet++
		if err := w.check(); err != nil {
			t.Errorf("epoch %d of seed %d:\n  %s\n  %v\n%s", epoch, s, strings.Join(w.told, "\n  "), err, w.in.state())
			w.close(t)
			w = nil
		}
	}
	if w != nil {
		if err := w.end(); err != nil {
			t.Errorf("at the end: %v\n%s", err, w.in.state())
		}
		w.close(t)
	}
	t.Logf("%d commands, %d quiet moments", commands, quiet)
}

func newWalk() (*walk, error) {
	in, err := newInstallation()
	if err != nil {
		return nil, err
	}
	w := &walk{in: in, is: map[string]stateSet{}}
	for i, name := range []string{"one", "two"} {
		p := walkProject(in, name, 18100+i)
		w.projects = append(w.projects, p)
		err = errors.Join(err, p.write(in)) // where files are given, this one is not meant
		err = errors.Join(err, os.WriteFile(filepath.Join(in.Root, "app", name+".yaml"), []byte(p.text), 0o644))
		for _, c := range walked {
			w.is[containerName(name, c.service, c.index)] = none
		}
	}
	return w, err
}

func containerName(project, service string, index int) string {
	return fmt.Sprintf("%s-%s-%d", project, service, index)
}

func (w *walk) close(t *testing.T) {
	if err := w.in.destroy(); err != nil {
		t.Logf("cannot remove the installation: %v", err)
	}
}

// epoch has all clients give some commands, and waits for the last one.
func (w *walk) epoch(seed uint64, n int) {
	w.told, w.errs, w.ops = nil, nil, make([][]done, *walkClients)
	var wg sync.WaitGroup
	for c := range *walkClients {
		r := source(seed, uint64(n)<<8|uint64(c))
		wg.Go(func() {
			for i := range 2 + r.IntN(4) {
				// Most of them meet at the same project.
				p := w.projects[max(0, r.IntN(4)-2)]
				w.give(c, p, randomCommand(r, n<<16|c<<8|i))
			}
		})
	}
	wg.Wait()
}

func (w *walk) give(c int, p project, args []string) {
	begin := time.Now()
	cl, err := w.in.start(nil, append([]string{"-f", p.name + ".yaml"}, args...)...)
	if err != nil {
		w.fail(err)
		return
	}
	if args[0] == "events" { // it has no end of its own
		timer := time.AfterFunc(300*time.Millisecond, func() { cl.cmd.Process.Signal(unix.SIGTERM) }) // SIGINT may be ignored, as a shell has it in the background
		defer timer.Stop()
	}
	r := cl.wait()
	d := done{p.name, args, begin, time.Now(), r.code}
	w.mu.Lock()
	w.ops[c] = append(w.ops[c], d)
	w.told = append(w.told, fmt.Sprintf("client %d, %d ms to %d ms: %s %s: exit %d %s", c,
		d.begin.UnixMilli()%1e6, d.end.UnixMilli()%1e6, p.name, strings.Join(args, " "), r.code, tail(r.stderr, 300)))
	w.mu.Unlock()
	// A command in a container that somebody pauses rests as well.
	if args[0] != "exec" || !strings.Contains(r.stderr, "is paused") {
		w.fail(r.mustEnd())
	}
	switch args[0] {
	case "ps", "logs":
		w.fail(r.mustSucceed())
	}
	if r.code == 2 && strings.Contains(r.stderr, "goroutine ") || strings.Contains(r.stderr, "internal error") {
		w.fail(fmt.Errorf("a fault inside: %v", r))
	}
	if r.code != 0 && strings.TrimSpace(r.stderr) == "" && args[0] != "run" && args[0] != "exec" && args[0] != "events" {
		w.fail(fmt.Errorf("it failed without a word: %v", r))
	}
}

func (w *walk) fail(err error) {
	if err == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.errs = append(w.errs, err)
}

// check compares what is with what may be, and both with the kernel.
func (w *walk) check() error {
	errs := w.errs
	for _, p := range w.projects {
		may := map[string]stateSet{}
		for _, c := range walked {
			name := containerName(p.name, c.service, c.index)
			may[name] = reachable(w.is[name], w.opsOn(p.name, c.service, c.index))
		}
		err := eventually(20*time.Second, func() error { return w.compare(p, may) })
		if err == nil {
			err = p.checkLogs(w.in, nil)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", p.name, err))
		}
	}
	errs = append(errs, eventually(10*time.Second, func() error {
		var all []row
		for _, p := range w.projects {
			rows, err := w.in.ps(p.name)
			if err != nil {
				return err
			}
			all = append(all, rows...)
		}
		return errors.Join(w.in.strays(all)...)
	}))
	return errors.Join(errs...)
}

// afterFailure is how long what a command has asked for may take once it has failed.
const afterFailure = time.Second

// opsOn are the commands that may have changed a container.
func (w *walk) opsOn(project, service string, index int) [][]op {
	out := make([][]op, len(w.ops))
	for c, l := range w.ops {
		for _, d := range l {
			if d.project != project {
				continue
			}
			steps := opsOf(d.args, service, index)
			end := d.end
			if d.code != 0 {
				// What it had asked of other containers when one failed goes on.
				end = end.Add(afterFailure)
				for i, f := range steps {
					steps[i] = maybe(f)
				}
				switch d.args[0] {
				case "up", "scale", "create": // so far it came
					steps = append(steps, maybe(when(none, created)), maybe(when(running|paused, exited)))
				}
			}
			if len(steps) > 0 {
				out[c] = append(out[c], op{strings.Join(d.args, " "), d.begin, end, steps})
			}
		}
	}
	return out
}

func (w *walk) compare(p project, may map[string]stateSet) error {
	rows, err := w.in.ps(p.name)
	if err != nil {
		return err
	}
	procs, err := livings(p.name + ".")
	if err != nil {
		return err
	}
	runs, err := w.in.runs()
	if err != nil {
		return err
	}
	if oneoffs, err := livings("oneoff-"); err != nil || len(oneoffs) > 0 {
		return fmt.Errorf("one-off containers run on: %v, %v", oneoffs, err)
	}
	is, errs := judge(rows, may)
	if len(errs) > 0 {
		if other, none := judge(lowered(rows), may); len(none) == 0 {
			is, errs = other, nil
		}
	}
	errs = append(errs, sameProcesses(rows, procs)...)
	errs = append(errs, p.checkCodes(w.in, rows, runs, target{})...)
	if is[p.name+"-web-1"] == running {
		errs = append(errs, p.checkPorts()...)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for name := range may {
		w.is[name] = is[name]
	}
	return nil
}

var stateNames = map[string]stateSet{"created": created, "running": running, "paused": paused, "exited": exited}

// judge compares rows with the states that containers may be in.
func judge(rows []row, may map[string]stateSet) (is map[string]stateSet, errs []error) {
	is = map[string]stateSet{}
	for _, r := range rows {
		state, ok := stateNames[r.State]
		if _, known := may[r.Name]; !ok || !known || is[r.Name] != 0 {
			errs = append(errs, fmt.Errorf("%v must not be there", r))
		}
		is[r.Name] = state
	}
	for name, set := range may {
		if is[name] == 0 {
			is[name] = none
		}
		if is[name]&set == 0 {
			errs = append(errs, fmt.Errorf("%s is %v, must be %v", name, is[name], set))
		}
	}
	return is, errs
}

// lowered has the containers of each service count from one: up keeps one that is
// up to date in the place of another that is missing.
func lowered(rows []row) []row {
	out := slices.Clone(rows)
	slices.SortFunc(out, func(a, b row) int { return strings.Compare(a.Name, b.Name) })
	count := map[string]int{}
	for i, r := range out {
		service := r.Name[:strings.LastIndexByte(r.Name, '-')]
		count[service]++
		out[i].Name = fmt.Sprintf("%s-%d", service, count[service])
	}
	return out
}

// sameProcesses compares rows with processes, one by one.
func sameProcesses(rows []row, procs []living) (errs []error) {
	left := map[string]living{}
	for _, l := range procs {
		left[l.host] = l
	}
	for _, r := range rows {
		var l *living
		for host, one := range left {
			if host != "" && strings.HasPrefix(r.ID, host) {
				l = &one
				delete(left, host)
			}
		}
		switch {
		case (r.State == "running" || r.State == "paused") && l == nil:
			errs = append(errs, fmt.Errorf("%v has no process", r))
		case r.State != "running" && r.State != "paused" && l != nil:
			errs = append(errs, fmt.Errorf("%v has process %d", r, l.pid))
		case l != nil && l.frozen != (r.State == "paused"):
			errs = append(errs, fmt.Errorf("%v: frozen is %t", r, l.frozen))
		}
	}
	for _, l := range left {
		errs = append(errs, fmt.Errorf("process %d of %s, host %q, has no row", l.pid, l.name, l.host))
	}
	return errs
}

// end takes both projects down and looks for what they left.
func (w *walk) end() error {
	for _, p := range w.projects {
		if err := w.in.run("-f", p.name+".yaml", "down", "--volumes").mustSucceed(); err != nil {
			return err
		}
	}
	return w.in.nothingLeft()
}
