package e2e

import (
	"errors"
	"flag"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/e2e/machine"
)

var (
	kills    = flag.Int("kills", 3, "how often each fault test kills")
	killSeed = flag.Uint64("seed", 0, "what the fault tests' random moments come from, 0 for the clock")
)

// killing is a loop in which a command is killed at random moments of its life,
// again and again. After each kill the store must be sound, and the next try
// must succeed.
type killing struct {
	// ready prepares a round and returns the command. What it changes must make
	// the command do its work once more.
	ready func(t *testing.T, round int) []string
	// kill kills something, with SIGKILL, and says whether it was there to be
	// killed; nil means the command's process.
	kill func(t *testing.T, j *job) bool
	// linger is how long something is at work when the command has ended.
	linger time.Duration
	// killed looks at what is there after a kill, before the next try.
	killed func(t *testing.T, round int)
	// done looks at what is there after a try that succeeded.
	done func(t *testing.T, round int)
	// twice has a second process do the same at the same time. It is not killed,
	// and must succeed.
	twice bool

	box   *box
	clean *machine.Snapshot // before the first round
	rand  *rand.Rand
}

// newKilling returns a loop with a source of random moments.
func newKilling(t *testing.T, b *box) *killing {
	t.Helper()
	seed := *killSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("the moments come from -seed %d", seed)
	temp := filepath.Join(b.root, "temp")
	must(t, os.MkdirAll(temp, 0o755))
	b = b.with("TMPDIR=" + temp)
	return &killing{kill: killCommand, box: b, clean: snap(t, b), rand: rand.New(rand.NewPCG(seed, 0))}
}

// run runs the loop until there were as many kills as -kills says.
func (k *killing) run(t *testing.T) {
	t.Helper()
	b := k.box
	count, round := 0, 0
	var took time.Duration
	// The first try finds nothing that it could use; the second is as all later ones.
	for ; round < 2; round++ {
		took = k.again(t, round, k.ready(t, round))
	}
	for ; count < *kills; round++ {
		if round > 5**kills+10 {
			t.Fatalf("only %d of %d kills came in time", count, round)
		}
		args := k.ready(t, round)
		moment := time.Duration(k.rand.Float64() * float64(took+k.linger))
		j, other := b.start(t, args...), (*job)(nil)
		if k.twice {
			other = b.start(t, args...)
		}
		<-time.After(moment)
		if k.kill(t, j) {
			count++
		}
		j.wait(t, limit)
		if other != nil && other.wait(t, limit) != 0 {
			t.Fatalf("round %d, one killed after %v: the other fails: %s", round, moment, other.out)
		}
		if r := b.stack(t, "system", "check"); r.code != 0 {
			t.Fatalf("round %d, killed after %v: the store is not sound: %v", round, moment, r)
		}
		k.killed(t, round)
		k.again(t, round, args)
	}
	t.Logf("%d kills in %d rounds, within %v", count, round, (took + k.linger).Round(time.Millisecond))
}

// again runs the command to its end and returns how long it took.
func (k *killing) again(t *testing.T, round int, args []string) time.Duration {
	t.Helper()
	r := k.box.stack(t, args...)
	if r.code != 0 {
		t.Fatalf("round %d: the next try fails: %v", round, r)
	}
	k.done(t, round)
	return r.took
}

// killCommand kills a command's own process.
func killCommand(_ *testing.T, j *job) bool { return killAll(j.cmd.Process.Pid) }

// killAll kills processes and tells whether there were any.
func killAll(pids ...int) (killed bool) {
	for _, pid := range pids {
		killed = unix.Kill(pid, unix.SIGKILL) == nil || killed
	}
	return killed
}

// builders finds the processes of stack-builder: daemons, also those about to
// leave, and those that speak to one. There is no other installation in the pid namespace.
func builders(t *testing.T) (clients, daemons []int) {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	must(t, err)
	for _, dir := range dirs {
		cmdline, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		pid, _ := strconv.Atoi(filepath.Base(dir))
		args := strings.Split(string(cmdline), "\x00")
		switch {
		case filepath.Base(args[0]) != "stack-builder":
		case args[1] == "daemon", args[1] == "share":
			daemons = append(daemons, pid)
		default:
			clients = append(clients, pid)
		}
	}
	return clients, daemons
}

// nothingLeft removes all images and the build cache, and fails if anything is
// left of them or of commands that were killed.
func (k *killing) nothingLeft(t *testing.T) {
	t.Helper()
	b := k.box
	if exists(filepath.Join(b.dataRoot(), "build")) {
		b.ok(t, "builder", "prune", "--all", "--force")
		b.awaitBuilder(t)
	}
	b.ok(t, "image", "prune", "--all", "--force")
	b.ok(t, "system", "check")
	b.nothingLeft(t, k.clean, "file data/build/", "file run/builder/")
	for _, dir := range []string{
		"../temp", "content/blobs/sha256", "content/ingest", "content/leases", "images/records",
		"layers/tmp", "layers/locks", "layers/stacks", "containers-rw",
		"build/content/ingest", "build/snapshots/snapshots", "build/tmp",
	} {
		entries, err := os.ReadDir(filepath.Join(b.dataRoot(), dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
		for _, e := range entries {
			t.Errorf("left behind: data/%s/%s", dir, e.Name())
		}
	}
	must(t, filepath.WalkDir(b.dataRoot(), func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		// The builder remembers past builds, in a few KiB each; a layer is longer.
		i, err := d.Info()
		if err == nil && filepath.Base(filepath.Dir(p)) == "sha256" && i.Size() > 64<<10 {
			t.Errorf("left behind: %s (%d bytes)", p, i.Size())
		}
		if strings.HasPrefix(d.Name(), ".tmp-") {
			t.Errorf("left behind: %s", p)
		}
		return err
	}))
}

// isOneOf fails unless a name leads to one of these images, whole.
func isOneOf(t *testing.T, got string, want ...string) {
	t.Helper()
	if !slices.Contains(want, got) {
		t.Fatalf("the name leads to an image that says %q, must be one of %q", got, want)
	}
}
