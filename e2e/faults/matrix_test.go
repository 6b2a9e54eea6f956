package faults

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var (
	points    = flag.Int("points", 4, "points of the kill matrix; 0: each verb once, and nothing is killed")
	aimed     = flag.Int("aimed", 1, "further points, aimed at the steps of creation and removal")
	onlyPoint = flag.Int("point", -1, "the only point of the kill matrix to try")
)

// A verb is a command of the matrix.
type verb struct {
	name string
	from []string // phases of the project in which it has something to do
	args func(m *matrix) []string
	// to is the phase that it leads to; "" leaves the phase as it is.
	to string
	// change has the command set web's variable to another value.
	change bool
	// refuses says that the command may fail when it was done already.
	refuses bool
	// code is what it exits with when all goes well.
	code int
	// makes and removes say what kind of steps it has, for the aimed points.
	steps bool
}

func words(s string) func(*matrix) []string {
	return func(*matrix) []string { return strings.Fields(s) }
}

// residents are the services that are always there to be paused; one that is about
// to be started again refuses, as with Docker.
func residents() string {
	names := "db web proxy talker worker"
	if *withPostgres {
		names += " postgres"
	}
	return names
}

func verbs() []verb {
	return []verb{
		{name: "up", from: []string{"none", "stopped", "created", "up"}, args: words("up --detach"), to: "up", steps: true},
		{name: "up, a variable changed", from: []string{"up"}, args: words("up --detach"), to: "up", change: true, steps: true},
		{name: "up --force-recreate", from: []string{"up"}, args: words("up --detach --force-recreate"), to: "up", steps: true},
		{name: "down", from: []string{"up", "stopped", "created", "paused"}, args: words("down"), to: "none", steps: true},
		{name: "stop", from: []string{"up"}, args: words("stop"), to: "stopped"},
		{name: "start", from: []string{"stopped"}, args: words("start"), to: "up"},
		{name: "restart", from: []string{"up"}, args: words("restart"), to: "up"},
		{name: "rm -fs", from: []string{"up", "stopped"}, args: words("rm --force --stop"), to: "none", steps: true},
		{name: "scale", from: []string{"up"}, args: func(m *matrix) []string {
			m.next.scale["worker"] = 1 + m.rand.IntN(3)
			return []string{"scale", fmt.Sprintf("worker=%d", m.next.scale["worker"])}
		}, to: "up", steps: true},
		{name: "run --rm", from: []string{"up"}, args: func(m *matrix) []string { return append(words("run --rm -T worker")(m), m.oneoff(7)...) }, code: 7, steps: true},
		{name: "run -d", from: []string{"up"}, args: func(m *matrix) []string { return append(words("run -d worker")(m), m.oneoff(7)...) }, steps: true},
		{name: "exec", from: []string{"up"}, args: func(m *matrix) []string {
			return append(words("exec -T web /probe")(m), m.payload("exec", 9)...)
		}, code: 9},
		{name: "kill", from: []string{"up"}, args: words("kill"), to: "killed", refuses: true},
		{name: "pause", from: []string{"up"}, args: words("pause " + residents()), to: "paused", refuses: true},
		{name: "unpause", from: []string{"paused"}, args: words("unpause " + residents()), to: "up", refuses: true},
		{name: "create", from: []string{"none"}, args: words("create"), to: "created", steps: true},
	}
}

// A matrix is the state of the kill matrix between two points.
type matrix struct {
	in   *installation
	p    project
	rand *rand.Rand // of this point
	n    int        // of this point

	now, next target // what the project is, and what the verb makes of it
	took      map[string]time.Duration
	changes   map[string]int // files changed, by verb
	forgiven  map[string]bool
	blind     bool // for a moment, since gap, there was no keeper at all
	gap       time.Time
	then      []run // the runs that there were at that moment
	detached  int   // tries of run -d
	told      []string
}

func (m *matrix) oneoff(code int) []string { return m.payload("oneoff", code) }

// payload is a command of a service's image that ends by itself.
func (m *matrix) payload(kind string, code int) []string {
	return []string{"payload", "-name", fmt.Sprintf("%s-%d", kind, m.n), "-code", fmt.Sprint(code), "-for", "300ms", "-pause", "10ms"}
}

func (m *matrix) tell(format string, args ...any) {
	m.told = append(m.told, fmt.Sprintf(format, args...))
}

// do runs a command of the harness that must succeed.
func (m *matrix) do(args ...string) error {
	r := m.in.runWith(m.env(m.now.change), args...)
	m.tell("then %s: exit %d after %v", strings.Join(args, " "), r.code, r.took.Round(time.Millisecond))
	return r.mustSucceed()
}

func (m *matrix) env(change string) []string { return []string{"CHANGE=" + change} }

func TestKillMatrix(t *testing.T) {
	begin(t)
	s := seed(t)
	m := &matrix{took: map[string]time.Duration{}, changes: map[string]int{}}
	defer func() { m.close(t) }()
	kills := map[string]int{}
	count, failed := 0, 0
	try := func(n int, v verb, aim, quiet bool) {
		if *onlyPoint >= 0 && n != *onlyPoint {
			return
		}
		count++
		m.n, m.rand, m.told = n, source(s, uint64(n)), nil
		err := m.point(v, aim, quiet, kills)
		if err == nil {
			return
		}
		failed++
		t.Errorf("point %d of seed %d, %s:\n  %s\n  %v\n%s", n, s, v.name, strings.Join(m.told, "\n  "), err, m.in.state())
		m.close(t)
	}
	all := verbs()
	if *points == 0 {
		for i, v := range all {
			try(i, v, false, true)
		}
	}
	steps := slices.DeleteFunc(slices.Clone(all), func(v verb) bool { return !v.steps })
	for n := range *points + *aimed {
		r := source(s, uint64(n)+1<<32)
		if n < *points {
			try(n, all[r.IntN(len(all))], false, false)
		} else {
			try(n, steps[r.IntN(len(steps))], true, false)
		}
	}
	if m.in != nil {
		if err := m.end(); err != nil {
			failed++
			t.Errorf("at the end: %v\n%s", err, m.in.state())
		}
	}
	t.Logf("%d points, %d failed; killed: %v", count, failed, kills)
}

// open makes an installation if there is none.
func (m *matrix) open() error {
	if m.in != nil {
		return nil
	}
	in, err := newInstallation()
	if err != nil {
		return err
	}
	m.in, m.p = in, matrixProject(in, "app", 18080)
	m.now, m.forgiven, m.detached = target{phase: "none", scale: map[string]int{}, change: "0"}, map[string]bool{}, 0
	return m.p.write(in)
}

// close throws the installation away.
func (m *matrix) close(t *testing.T) {
	if m.in == nil {
		return
	}
	if t.Failed() && *keepDir != "" {
		to := filepath.Join(*keepDir, fmt.Sprintf("point-%d", m.n))
		os.MkdirAll(to, 0o755)
		exec.Command("cp", "-a", m.in.RunRoot(), filepath.Join(m.in.DataRoot(), "containers"), to).Run()
	}
	if err := m.in.destroy(); err != nil {
		t.Logf("cannot remove the installation: %v", err)
	}
	m.in = nil
}

// point kills once and looks at what has become of it.
func (m *matrix) point(v verb, aim, quiet bool, kills map[string]int) error {
	if err := m.open(); err != nil {
		return err
	}
	if err := m.prepare(v.from[m.rand.IntN(len(v.from))]); err != nil {
		return fmt.Errorf("before the kill: %w", err)
	}
	m.next = m.now
	m.next.scale = maps.Clone(m.now.scale)
	if v.to != "" {
		m.next.phase = v.to
	}
	if v.change {
		m.next.change = fmt.Sprint(m.n + 1)
	}
	if strings.HasPrefix(v.name, "up") || v.to == "none" || v.to == "created" {
		m.next.scale = map[string]int{}
	}
	which, when := subset(m.rand, roles[:4]), m.moment(v, aim)
	if quiet {
		which = nil
	}
	args := v.args(m)
	m.tell("%s, %v kill %v", strings.Join(args, " "), when, which)
	first, err := m.strike(v, args, which, when, kills)
	if err != nil {
		return err
	}
	if err := m.claimed(v, first); err != nil {
		return err
	}
	switch {
	case quiet:
		err = m.settled()
	case m.rand.IntN(2) == 0:
		err = m.again(v, args)
	case m.rand.IntN(2) == 0:
		err = m.up()
	default:
		err = m.down()
	}
	if err != nil {
		return err
	}
	if m.rand.IntN(4) == 0 {
		if m.now.phase != "up" {
			if err := m.up(); err != nil {
				return err
			}
		}
		if err := m.supervised(); err != nil {
			return err
		}
	}
	if m.rand.IntN(3) == 0 {
		return m.down()
	}
	return nil
}

// moment draws one from what the verb took when it was not disturbed.
func (m *matrix) moment(v verb, aim bool) moment {
	if aim {
		n, ok := m.changes[v.name]
		if !ok {
			n = 200
		}
		return moment{steps: 1 + m.rand.IntN(n)}
	}
	took, ok := m.took[v.name]
	if !ok {
		took = time.Second
	}
	return moment{after: time.Duration(m.rand.Float64() * 1.1 * float64(took))}
}

// strike runs the verb, kills at the moment and waits for the command's end.
func (m *matrix) strike(v verb, args, which []string, when moment, kills map[string]int) (result, error) {
	w, err := watchSteps(m.in)
	if err != nil {
		return result{}, err
	}
	defer w.close()
	c, err := m.in.start(m.env(m.next.change), args...)
	if err != nil {
		return result{}, err
	}
	m.blind = false
	if len(which) > 0 {
		when.wait(c, w, 100*time.Millisecond)
		killed := killAt(m.p.name, c, which)
		m.tell("killed %v", killed)
		for _, k := range killed {
			kills[k]++
		}
		// Whoever brings keepers back may have done so before anybody can look.
		m.blind = slices.Contains(killed, "supervisor") && slices.Contains(killed, "guardian") && slices.Contains(killed, "warden")
		m.gap = time.Now()
		if m.then, err = m.in.runs(); err != nil {
			return result{}, err
		}
	}
	r := c.wait()
	m.tell("%v", r)
	if !r.killed && r.code == v.code {
		m.took[v.name], m.changes[v.name] = r.took, w.close()
	}
	return r, r.mustEnd()
}

// claimed holds a command that was not killed to what it says it did.
func (m *matrix) claimed(v verb, r result) error {
	if v.name == "run -d" {
		m.detached++
	}
	if r.killed {
		return nil
	}
	if v.name == "exec" || v.name == "run --rm" {
		return m.told7(v, r)
	}
	if r.code != v.code {
		if strings.TrimSpace(r.stderr) == "" {
			return fmt.Errorf("it failed without a word: %v", r)
		}
		return nil
	}
	if v.to == "" {
		return nil
	}
	was := m.now
	m.now = m.next
	if err := m.settled(); err != nil {
		return fmt.Errorf("it said that it is done: %w", err)
	}
	if m.next.phase != was.phase {
		m.tell("it is %s", m.next.phase)
	}
	return nil
}

// told7 compares the exit code of a command that ran in a container with what
// the command itself knows.
func (m *matrix) told7(v verb, r result) error {
	runs, err := m.in.runs()
	if err != nil {
		return err
	}
	for _, f := range runs {
		if !strings.HasSuffix(f.name, fmt.Sprintf("-%d", m.n)) {
			continue
		}
		if f.code >= 0 && r.code != f.code && !(m.blind && r.code == 255) {
			return fmt.Errorf("the command exited with %d, which is lost: %v", f.code, r)
		}
		if f.code >= 0 && r.code == f.code && !m.blind && int64(strings.Count(r.stdout, "\n")) < f.lines {
			return fmt.Errorf("it wrote %d lines, %d have come: %v", f.lines, strings.Count(r.stdout, "\n"), r)
		}
		return nil
	}
	if strings.TrimSpace(r.stderr) == "" {
		return fmt.Errorf("it failed without a word: %v", r)
	}
	return nil
}

// again gives the same command once more, which must succeed.
func (m *matrix) again(v verb, args []string) error {
	if v.name == "run -d" {
		m.detached++
	}
	r := m.in.runWith(m.env(m.next.change), args...)
	m.tell("again: %v", r)
	if r.stuck || r.code != v.code && !v.refuses {
		return errors.New("the next try fails")
	}
	if v.to != "" {
		m.now = m.next
	}
	return m.settled()
}

func (m *matrix) up() error {
	if m.now.phase == "paused" || m.next.phase == "paused" {
		m.in.run("-p", m.p.name, "unpause") // as a user would, and it may not be paused
	}
	m.now.change = m.next.change
	if err := m.do("up", "--detach"); err != nil {
		return err
	}
	m.now.phase, m.now.scale = "up", map[string]int{}
	return m.settled()
}

func (m *matrix) down() error {
	if err := m.do("down"); err != nil {
		return err
	}
	m.now.phase, m.now.scale, m.detached = "none", map[string]int{}, 0
	if err := m.settled(); err != nil {
		return err
	}
	return m.in.nothingLeft(m.p.keep())
}

// end leaves nothing at all.
func (m *matrix) end() error {
	if err := m.do("down", "--volumes"); err != nil {
		return err
	}
	return m.in.nothingLeft()
}

// settled compares the project with the model, and its logs with the facts.
func (m *matrix) settled() error {
	m.now.blind, m.now.forgiven = m.blind, m.forgiven
	// Whoever looks brings the keepers back; until then more may end.
	if _, err := m.in.ps(m.p.name); err != nil {
		return err
	}
	if err := m.forgive(); err != nil {
		return err
	}
	if err := m.p.reaches(m.in, m.now); err != nil {
		return err
	}
	if err := m.oneoffs(); err != nil {
		return err
	}
	err := eventually(10*time.Second, func() error {
		rows, err := m.in.ps(m.p.name)
		return errors.Join(append(m.in.strays(rows), err)...)
	})
	if err != nil {
		return err
	}
	return m.p.checkLogs(m.in, m.forgiven)
}

// forgive notes the runs that ended while there was no keeper.
func (m *matrix) forgive() error {
	if !m.blind {
		return nil
	}
	runs, err := m.in.runs()
	if err != nil {
		return err
	}
	procs, err := livings("")
	for _, r := range runs {
		was := slices.ContainsFunc(m.then, func(t run) bool { return t.id() == r.id() })
		is := slices.ContainsFunc(procs, func(l living) bool { return l.host == r.host && l.name == r.name })
		if was && !r.noted.Before(m.gap.Add(-time.Second)) && (!is || r.code >= 0) {
			m.forgiven[r.id()] = true
		}
	}
	return err
}

// oneoffs looks for containers of run: those of --rm go by themselves, those of -d
// stay, at most one for each try.
func (m *matrix) oneoffs() error {
	// What was created and never started goes within half a minute.
	return eventually(40*time.Second, func() error {
		procs, err := livings("oneoff-")
		if err != nil {
			return err
		}
		rows, err := m.in.ps(m.p.name)
		if err != nil {
			return err
		}
		var stay []row
		for _, r := range rows {
			if strings.Contains(r.Name, "-run-") {
				stay = append(stay, r)
				if r.State != "exited" && r.State != "created" {
					return fmt.Errorf("%s does not end", r)
				}
			}
		}
		if len(procs) > 0 || len(stay) > m.detached {
			return fmt.Errorf("of %d detached runs there are %d processes and the rows %v", m.detached, len(procs), stay)
		}
		return nil
	})
}

// supervised kills a container that is started always, and waits for it.
func (m *matrix) supervised() error {
	procs, err := livings(m.p.name + ".web")
	if err != nil || len(procs) != 1 {
		return fmt.Errorf("of web there are the processes %v, %v", procs, err)
	}
	if err := unix.Kill(procs[0].pid, unix.SIGKILL); err != nil {
		return err
	}
	m.tell("killed the container of web")
	err = eventually(15*time.Second, func() error {
		now, err := livings(m.p.name + ".web")
		if err == nil && (len(now) != 1 || now[0].pid == procs[0].pid) {
			err = fmt.Errorf("web, that was %v, is %v", procs, now)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("nobody restarts it: %w", err)
	}
	return m.settled()
}

// prepare brings the project into a phase.
func (m *matrix) prepare(phase string) error {
	if m.now.phase == phase {
		return nil
	}
	m.next = m.now
	m.blind = false
	if phase == "none" {
		return m.down()
	}
	if phase == "created" {
		if m.now.phase != "none" {
			if err := m.down(); err != nil {
				return err
			}
		}
		if err := m.do("create"); err != nil {
			return err
		}
		m.now.phase = "created"
		return m.settled()
	}
	if m.now.phase != "up" {
		if err := m.up(); err != nil {
			return err
		}
	}
	var err error
	switch phase {
	case "stopped":
		err = m.do("stop")
	case "paused":
		err = m.do(strings.Fields("pause " + residents())...)
	}
	m.now.phase = phase
	return errors.Join(err, m.settled())
}
