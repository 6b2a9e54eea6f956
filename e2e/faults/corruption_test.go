package faults

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/e2e/machine"
)

var (
	damagesFlag = flag.Int("damages", 3, "records that are damaged; 0: each kind in each way")
	onlyKind    = flag.String("kind", "", "the only kinds of records to damage, a regular expression")
)

// damages are what may become of a file.
var damages = []struct {
	name string
	do   func(r *rand.Rand, path string) error
}{
	{"empty", func(_ *rand.Rand, path string) error { return os.Truncate(path, 0) }},
	{"cut", func(_ *rand.Rand, path string) error {
		i, err := os.Stat(path)
		if err != nil {
			return err
		}
		return os.Truncate(path, i.Size()/2)
	}},
	{"garbled", func(r *rand.Rand, path string) error {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for i := range text {
			text[i] = byte(r.Uint32())
		}
		return os.WriteFile(path, text, 0o644)
	}},
	{"missing", func(_ *rand.Rand, path string) error { return os.Remove(path) }},
}

// damagedProject has one of each thing that leaves records.
func damagedProject(in *installation, name string, port int) project {
	p := walkProject(in, name, port)
	p.text = strings.Replace(p.text, "  worker: {", "  worker: {networks: [default, back], ", 1)
	p.text += "  keeper: {<<: *all, command: [payload, -name, " + name + ".keeper, -code, \"25\"], volumes: [\"" + in.facts + ":/facts\", \"data:/data\", \"/anonymous\"]," +
		" healthcheck: {test: [CMD, /probe, get, \"http://web/\"], interval: 1s}}\n" +
		"networks: {back: {internal: true}}\nvolumes: {data: {}}\n"
	p.services["keeper"] = service{code: 25}
	return p
}

var (
	hexID  = regexp.MustCompile(`[0-9a-f]{12,64}`)
	number = regexp.MustCompile(`\b[0-9]+\b`)
)

// kindOf is a file's path without what is particular to one of its kind.
func kindOf(path string) string {
	path = strings.ReplaceAll(path, "one", "PROJECT")
	return number.ReplaceAllString(hexID.ReplaceAllString(path, "ID"), "N")
}

// records lists the files that stack keeps for itself: not what is in images,
// containers and volumes.
func (in *installation) records() (map[string]bool, error) {
	out := map[string]bool{}
	mounted, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	for _, root := range []string{in.DataRoot(), in.RunRoot()} {
		err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			rel := strings.TrimPrefix(p, in.Root+"/")
			switch {
			case d.IsDir() && slices.Contains([]string{"upper", "work", "merged", "rootfs", "_data", "fs", "diff", "blobs", "ingest"}, d.Name()):
				return fs.SkipDir
			case d.IsDir() && strings.HasPrefix(rel, "data/layers/"):
				return fs.SkipDir
			case d.Type().IsRegular() && !strings.Contains(string(mounted), " "+p+" "):
				out[rel] = true // a mount is not a file that could be damaged
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// A corruption is an installation with a project that is well and one whose
// records are damaged.
type corruption struct {
	in       *installation
	one, two project
	ids      []string // of the containers of two
	told     []string
}

func newCorruption() (*corruption, error) {
	in, err := newInstallation()
	if err != nil {
		return nil, err
	}
	c := &corruption{in: in, one: damagedProject(in, "one", 18200), two: damagedProject(in, "two", 18201)}
	if err := c.two.write(in); err != nil { // where files are given, this one is not meant
		return nil, err
	}
	for _, p := range []project{c.one, c.two} {
		if err := os.WriteFile(filepath.Join(in.Root, "app", p.name+".yaml"), []byte(p.text), 0o644); err != nil {
			return nil, err
		}
	}
	if err := c.run(c.two, "up", "--detach").mustSucceed(); err != nil {
		return nil, err
	}
	rows, err := in.ps("two")
	for _, r := range rows {
		c.ids = append(c.ids, r.ID)
	}
	return c, err
}

func (c *corruption) run(p project, args ...string) result {
	r := c.in.run(append([]string{"-f", p.name + ".yaml"}, args...)...)
	if r.code != 0 || p.name == "one" {
		c.told = append(c.told, r.String())
	}
	return r
}

func TestCorruption(t *testing.T) {
	begin(t)
	s := seed(t)
	c, err := newCorruption()
	if err != nil {
		t.Fatal(err)
	}
	kinds, err := c.kinds()
	if err != nil {
		t.Fatal(err)
	}
	type try struct {
		kind   string
		damage int
	}
	var tries []try
	for _, k := range kinds {
		if ok, err := regexp.MatchString(*onlyKind, k); err != nil || !ok {
			continue
		}
		for d := range damages {
			tries = append(tries, try{k, d})
		}
	}
	if *damagesFlag > 0 && len(tries) > *damagesFlag {
		source(s, 0).Shuffle(len(tries), func(i, j int) { tries[i], tries[j] = tries[j], tries[i] })
		tries = tries[:*damagesFlag]
	}
	t.Logf("%d kinds of records:\n  %s", len(kinds), strings.Join(kinds, "\n  "))
	failed := 0
	for n, one := range tries {
		if c == nil {
			if c, err = newCorruption(); err != nil {
				t.Fatal(err)
			}
		}
		c.told = nil
		if err := c.try(source(s, uint64(n)+1), one.kind, one.damage); err != nil {
			failed++
			t.Errorf("%s, %s (seed %d):\n  %s\n  %v\n%s", one.kind, damages[one.damage].name, s, strings.Join(c.told, "\n  "), err, c.in.state())
			if err := c.in.destroy(); err != nil {
				t.Log(err)
			}
			c = nil
		}
	}
	if c != nil {
		if err := c.run(c.two, "down", "--volumes").mustSucceed(); err != nil {
			t.Error(err)
		}
		if err := c.in.nothingLeft(); err != nil {
			t.Error(err)
		}
		if err := c.in.destroy(); err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d records were damaged, %d times it did not go well", len(tries), failed)
}

// kinds are those of the records that a project has.
func (c *corruption) kinds() ([]string, error) {
	own, err := c.own()
	if err != nil {
		return nil, err
	}
	var out []string
	for path := range own {
		if k := kindOf(path); !slices.Contains(out, k) {
			out = append(out, k)
		}
	}
	slices.Sort(out)
	return out, c.run(c.one, "down", "--volumes").mustSucceed()
}

// own starts project one and returns the records that it has.
func (c *corruption) own() (map[string]bool, error) {
	before, err := c.in.records()
	if err != nil {
		return nil, err
	}
	if err := c.run(c.one, "up", "--detach").mustSucceed(); err != nil {
		return nil, err
	}
	if err := c.one.reaches(c.in, target{phase: "up"}); err != nil {
		return nil, err
	}
	own, err := c.in.records()
	for path := range before {
		delete(own, path)
	}
	return own, err
}

// try damages one record of a kind, and sees to it that project two works, and
// that project one heals or can be removed.
func (c *corruption) try(r *rand.Rand, kind string, damage int) error {
	before, err := c.in.Take()
	if err != nil {
		return err
	}
	own, err := c.own()
	if err != nil {
		return fmt.Errorf("before the damage: %w", err)
	}
	var some []string
	for path := range own {
		if kindOf(path) == kind {
			some = append(some, path)
		}
	}
	if len(some) == 0 {
		return nil // it is there at times only
	}
	slices.Sort(some)
	victim := some[r.IntN(len(some))]
	path := filepath.Join(c.in.Root, victim)
	killed := r.IntN(2) == 0
	if killed { // whoever comes must read it
		c.killKeepers()
	}
	if err := damages[damage].do(r, path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	c.told = append(c.told, fmt.Sprintf("%s is %s; keepers killed: %t", victim, damages[damage].name, killed))
	if err := c.othersWork(); err != nil {
		return fmt.Errorf("what it does not belong to is affected: %w", err)
	}
	if err := c.heal(r.IntN(3)); err != nil {
		return err
	}
	if err := c.othersWork(); err != nil {
		return fmt.Errorf("what it does not belong to is affected after the mending: %w", err)
	}
	if err := c.leaves(before); err != nil {
		return err
	}
	if err := c.run(c.one, "up", "--detach").mustSucceed(); err != nil {
		return fmt.Errorf("it cannot be made again: %w", err)
	}
	if err := c.one.reaches(c.in, target{phase: "up"}); err != nil {
		return fmt.Errorf("made again: %w", err)
	}
	if err := c.run(c.one, "down", "--volumes").mustSucceed(); err != nil {
		return fmt.Errorf("made again: %w", err)
	}
	return c.leaves(before)
}

// killKeepers kills all keepers of project one.
func (c *corruption) killKeepers() {
	for _, pids := range keepers("one") {
		for _, pid := range pids {
			unix.Kill(pid, unix.SIGSTOP)
		}
	}
	for _, pids := range keepers("one") {
		for _, pid := range pids {
			unix.Kill(pid, unix.SIGKILL)
		}
	}
}

// othersWork tries what belongs to project two, and what belongs to nobody.
func (c *corruption) othersWork() error {
	rows, err := c.in.ps("two")
	if err != nil {
		return err
	}
	for _, r := range rows {
		if r.State != "running" {
			return fmt.Errorf("%v", r)
		}
	}
	for _, args := range [][]string{
		{"exec", "-T", "web", "/probe", "payload", "-name", "exec-two", "-for", "10ms"},
		{"logs", "--tail", "3"}, {"restart", "worker"}, {"up", "--detach"}, {"run", "--rm", "-T", "--no-deps", "worker", "payload", "-name", "oneoff-two", "-for", "10ms"},
	} {
		if err := c.run(c.two, args...).mustSucceed(); err != nil {
			return err
		}
	}
	for _, args := range [][]string{{"ls", "--all"}, {"image", "ls"}, {"volume", "ls"}, {"network", "ls"}} {
		r := c.in.run(args...)
		if args[0] == "ls" && strings.Contains(r.stdout, "two") && strings.Contains(r.stderr, "one") {
			continue // it lists the others, and names the one that it cannot read
		}
		if err := r.mustSucceed(); err != nil {
			return err
		}
	}
	return c.two.reaches(c.in, target{phase: "up"})
}

// heal has a user do what users do: up again, or away with it.
func (c *corruption) heal(way int) error {
	switch way {
	case 0:
		r := c.run(c.one, "up", "--detach")
		if r.code == 0 {
			if err := c.one.reaches(c.in, target{phase: "up"}); err != nil {
				return fmt.Errorf("up says that it is well: %w", err)
			}
		}
		if err := r.mustEnd(); err != nil {
			return err
		}
	case 1:
		if err := c.run(c.one, "rm", "--force", "--stop", "--volumes").mustEnd(); err != nil {
			return err
		}
	}
	r := c.run(c.one, "down", "--volumes")
	if r.code == 0 {
		return nil
	}
	if err := r.mustEnd(); err != nil {
		return err
	}
	if r := c.in.run("system", "check", "--repair"); r.stuck {
		return r.mustEnd()
	} else {
		c.told = append(c.told, r.String())
	}
	if err := c.run(c.one, "down", "--volumes").mustSucceed(); err != nil {
		return fmt.Errorf("neither down nor system check --repair removes it: %w", err)
	}
	return nil
}

// leaves is an error if there is something of project one. What was set aside may
// stay until the check is told to repair.
func (c *corruption) leaves(before *machine.Snapshot) error {
	look := func() error {
		now, err := c.in.Take()
		if err != nil {
			return err
		}
		var left []string
		for _, l := range now.Since(before) {
			two := strings.Contains(l, "two") || slices.ContainsFunc(c.ids, func(id string) bool { return strings.Contains(l, id) })
			if !two && !strings.HasPrefix(l, "listener") {
				left = append(left, l)
			}
		}
		if len(left) > 0 {
			return fmt.Errorf("left behind:\n    %s", strings.Join(left, "\n    "))
		}
		return nil
	}
	if eventually(3*time.Second, look) == nil {
		return nil
	}
	c.told = append(c.told, c.in.run("system", "check", "--repair").String())
	// Data is not deleted with a record that nobody can read, but by name.
	c.in.run("volume", "rm", "one_data")
	return eventually(5*time.Second, look)
}
