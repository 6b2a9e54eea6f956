package security

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stack-run/stack/e2e/peer"
)

var writeTable = flag.String("table", "", "write the results of the attacks into this Markdown file, between its marks")

// attack is one way out of a container, or into another one, that some engine has had.
type attack struct {
	name string // what somebody tries, as a row of SECURITY.md
	cve  string // where it was first told of, if it has a number
	// try returns an error if the attacker got something. It must leave nothing.
	try func(a *arena) error
}

// arena is where one attack takes place.
type arena struct {
	t    *testing.T
	side peer.Side
	args []string // of each run, such as --userns auto
	dir  string   // of the host, the attack's own
	mark string   // what is in the file that no container should see or change
	n    int
}

// program of a side that containers are started by, which no container may change.
func (a *arena) program() string {
	name := "stack"
	if a.side.Name() == "Docker" {
		name = "programs/runc"
	}
	return filepath.Join(peer.Dir(), name)
}

const patience = 30 * time.Second

// try runs a container command to its end. A time-out is an error of its own.
func (a *arena) command(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(a.t.Context(), patience)
	defer cancel()
	out, err := peer.Run(a.side.Container(ctx, args...))
	if ctx.Err() != nil {
		err = fmt.Errorf("%v hangs: %w", args, errHangs)
	}
	return string(out), err
}

var errHangs = errors.New("the command did not end")

// run runs a container to its end.
func (a *arena) run(args ...string) (string, error) {
	return a.command(slices.Concat([]string{"run", "--rm"}, a.args, args)...)
}

// sh runs a shell in a container.
func (a *arena) sh(script string, args ...string) (string, error) {
	return a.run(append(args, "probe:1", "sh", "-c", script)...)
}

// start starts a container that runs until the attack is over.
func (a *arena) start(script string, args ...string) (name string, err error) {
	a.n++
	name = fmt.Sprintf("attack-%d", a.n)
	_, err = a.command(slices.Concat([]string{"run", "-d", "--name", name}, a.args, args, []string{"probe:1", "sh", "-c", script})...)
	a.t.Cleanup(func() {
		if _, err := peer.Run(a.side.Container(context.Background(), "rm", "-f", "-v", name)); err != nil {
			a.t.Error(err)
		}
	})
	return name, err
}

// secret makes a file of the host with content that no container has.
func (a *arena) secret() string {
	path := filepath.Join(a.dir, "secret")
	if err := os.WriteFile(path, []byte(a.mark), 0o600); err != nil {
		a.t.Fatal(err)
	}
	return path
}

// unchanged fails if the secret has another content, or something is beside it.
func (a *arena) unchanged() error {
	b, err := os.ReadFile(filepath.Join(a.dir, "secret"))
	if err != nil || string(b) != a.mark {
		return fmt.Errorf("the host's file is %q now: %v", b, err)
	}
	entries, err := os.ReadDir(a.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != "secret" && !strings.HasPrefix(e.Name(), "mine") {
			return fmt.Errorf("%s appeared on the host", e.Name())
		}
	}
	return nil
}

// seen fails if text has the secret in it.
func (a *arena) seen(text string) error {
	if strings.Contains(text, a.mark) {
		return errors.New("the container has read the host's file")
	}
	return nil
}

// corePattern is a kernel parameter of the whole host that names a program to run.
const corePattern = "/proc/sys/kernel/core_pattern"

// kernelUnchanged runs try and fails if a parameter of the kernel is another one then.
func kernelUnchanged(try func()) error {
	before, err := os.ReadFile(corePattern)
	if err != nil {
		return err
	}
	try()
	after, err := os.ReadFile(corePattern)
	if err != nil || !bytes.Equal(before, after) {
		os.WriteFile(corePattern, before, 0)
		return fmt.Errorf("core_pattern was %q and is %q: %v", before, after, err)
	}
	return nil
}

// refused fails if a command succeeded that must not.
func refused(out string, err error) error {
	switch {
	case errors.Is(err, errHangs):
		return err
	case err == nil:
		return fmt.Errorf("it was taken: %s", out)
	}
	return nil
}

// asNobody runs a program of the host as a user without rights.
func asNobody(name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir = "/"
	cmd.SysProcAttr = nobody()
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// ways are how each attack is tried.
var ways = []struct {
	name string
	args []string
	peer bool
}{
	{name: "stack"},
	{name: "stack, userns auto", args: []string{"--userns", "auto"}},
	{name: "Docker", peer: true},
}

func TestAttacks(t *testing.T) {
	dir := peer.Dir()
	if dir == "" {
		t.Skip("needs root")
	}
	image := filepath.Join(dir, "image.tar")
	stack := startStack(t, "attacked")
	if err := stack.Import(t.Context(), image, "probe:1"); err != nil {
		t.Fatal(err)
	}
	sides := map[bool]peer.Side{false: stack}
	if *withPeer {
		docker := startDocker(t, "attacked-docker")
		if err := docker.Import(t.Context(), image, "probe:1"); err != nil {
			t.Fatal(err)
		}
		sides[true] = docker
	}
	results := map[string]map[string]error{} // by attack and way
	for i, at := range attacks {
		results[at.name] = map[string]error{}
		for _, w := range ways {
			side := sides[w.peer]
			if side == nil {
				continue
			}
			t.Run(at.name+"/"+w.name, func(t *testing.T) {
				own := filepath.Join(dir, fmt.Sprintf("arena-%d-%s", i, strings.ReplaceAll(w.name, " ", "")))
				if err := os.Mkdir(own, 0o755); err != nil {
					t.Fatal(err)
				}
				a := &arena{t: t, side: side, args: w.args, dir: own, mark: fmt.Sprintf("MARK-%d-%d", i, time.Now().UnixNano())}
				a.secret()
				err := at.try(a)
				results[at.name][w.name] = err
				switch {
				case err == nil:
				case w.peer:
					t.Logf("it works against %s: %v", w.name, err)
				default:
					t.Error(err)
				}
			})
		}
	}
	if *writeTable != "" {
		if err := fillTable(*writeTable, results, *withPeer); err != nil {
			t.Fatal(err)
		}
	}
}

// The table of SECURITY.md has a row for each attack and none for another.
func TestTableIsComplete(t *testing.T) {
	text, err := os.ReadFile("../../SECURITY.md")
	if err != nil {
		t.Fatal(err)
	}
	table, err := between(string(text))
	if err != nil {
		t.Fatal(err)
	}
	rows := strings.Count(table, "\n| ") // the head is what the text begins with
	if rows != len(attacks) {
		t.Errorf("the table has %d rows, there are %d attacks; run: %s", rows, len(attacks), makeTable)
	}
	for _, a := range attacks {
		if !strings.Contains(table, "| "+a.name+" |") {
			t.Errorf("no row says %q; run: %s", a.name, makeTable)
		}
	}
}

const (
	tableBegin = "<!-- attacks: begin -->\n"
	tableEnd   = "<!-- attacks: end -->"
	makeTable  = "go test ./e2e/security -peer -run TestAttacks -table $PWD/SECURITY.md"
)

func between(text string) (string, error) {
	_, rest, found := strings.Cut(text, tableBegin)
	table, _, end := strings.Cut(rest, tableEnd)
	if !found || !end {
		return "", errors.New("SECURITY.md has no marks around its table of attacks")
	}
	return table, nil
}

// fillTable writes what became of the attacks.
func fillTable(path string, results map[string]map[string]error, withDocker bool) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	old, err := between(string(text))
	if err != nil {
		return err
	}
	var table strings.Builder
	table.WriteString("| Attack | Known as | stack | with a user namespace | Docker |\n|---|---|---|---|---|\n")
	word := func(err error) string {
		if err != nil {
			return "**works**"
		}
		return "fails"
	}
	for _, a := range attacks {
		docker := "–"
		if withDocker {
			docker = word(results[a.name][ways[2].name])
		}
		known := a.cve
		if known == "" {
			known = "–"
		}
		fmt.Fprintf(&table, "| %s | %s | %s | %s | %s |\n", a.name, known, word(results[a.name][ways[0].name]), word(results[a.name][ways[1].name]), docker)
	}
	return os.WriteFile(path, []byte(strings.Replace(string(text), tableBegin+old+tableEnd, tableBegin+table.String()+tableEnd, 1)), 0o644)
}
