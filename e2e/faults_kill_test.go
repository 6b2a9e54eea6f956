package e2e

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// randomLayer is a tar of n files with content that does not compress.
func randomLayer(t *testing.T, r *rand.Rand, dir string, n, size int) []byte {
	t.Helper()
	pairs := []string{dir + "/", ""}
	for i := range n {
		data := make([]byte, size)
		for j := range data {
			data[j] = byte(r.Uint32())
		}
		pairs = append(pairs, fmt.Sprintf("%s/%d", dir, i), string(data))
	}
	return tarOf(t, pairs...)
}

// says runs an image and returns what it prints.
func (b *box) says(t *testing.T, image string, command ...string) string {
	t.Helper()
	args := []string{"container", "run", "--rm", "--pull", "never", "--network", "none", image}
	return strings.TrimSpace(b.ok(t, append(args, command...)...))
}

// named makes the loop look whether a name leads to the round's image, or after
// a kill to that of the round before. which asks the image for its round.
func (k *killing) named(which func(t *testing.T) string) {
	k.done = func(t *testing.T, round int) { t.Helper(); isOneOf(t, which(t), fmt.Sprint(round)) }
	k.killed = func(t *testing.T, round int) {
		t.Helper()
		isOneOf(t, which(t), fmt.Sprint(round-1), fmt.Sprint(round))
	}
}

func TestFaultsPull(t *testing.T) {
	for _, twice := range []bool{false, true} {
		t.Run(fmt.Sprintf("two at once: %t", twice), func(t *testing.T) {
			b, r := newBox(t), newShelf(t)
			k := newKilling(t, b)
			k.twice = twice
			name := r.host() + "/box:1"
			k.ready = func(t *testing.T, round int) []string {
				r.put(t, "box", "1", fmt.Sprint(round), randomLayer(t, k.rand, "a", 30, 8<<10), randomLayer(t, k.rand, "b", 10, 16<<10))
				r.slow(time.Millisecond) // so that it takes a third of a second
				return []string{"image", "pull", name}
			}
			k.named(func(t *testing.T) string { r.slow(0); return b.says(t, name, "sh", "-c", "echo $WHICH") })
			k.run(t)
			k.nothingLeft(t)
		})
	}
}

func TestFaultsLoad(t *testing.T) {
	for _, twice := range []bool{false, true} {
		t.Run(fmt.Sprintf("two at once: %t", twice), func(t *testing.T) {
			b := newBox(t)
			k := newKilling(t, b)
			k.twice = twice
			k.ready = func(t *testing.T, round int) []string {
				b.write(t, "archive.tar", string(dockerArchive(t, "box:1",
					tarOf(t, "round", fmt.Sprint(round)), randomLayer(t, k.rand, "a", 100, 16<<10))))
				return []string{"image", "load", "-i", "archive.tar"}
			}
			k.named(func(t *testing.T) string { return b.says(t, "box:1", "cat", "/round") })
			k.run(t)
			k.nothingLeft(t)
		})
	}
}

// buildVictim is what can be killed of a command that uses the builder.
type buildVictim struct {
	name   string
	kill   func(*testing.T, *job) bool
	linger time.Duration
}

func buildVictims() []buildVictim {
	// A daemon that nobody needs waits a while, and tidies up.
	const leaving = 200 * time.Millisecond
	return []buildVictim{
		{"the command", killCommand, 0},
		{"the client", func(t *testing.T, _ *job) bool {
			clients, _ := builders(t)
			return killAll(clients...)
		}, 0},
		{"the daemon", func(t *testing.T, _ *job) bool {
			_, daemons := builders(t)
			return killAll(daemons...)
		}, leaving},
		{"client and daemon at once", func(t *testing.T, _ *job) bool {
			clients, daemons := builders(t)
			return killAll(append(clients, daemons...)...)
		}, leaving},
	}
}

// writeBuild writes what the fault tests build, another one each time.
func (b *box) writeBuild(t *testing.T, r *rand.Rand, round int) {
	t.Helper()
	b.write(t, "files/a", string(randomLayer(t, r, "x", 1, 200<<10)))
	b.write(t, "Dockerfile", strings.ReplaceAll(unindent(`
		FROM busybox
		COPY files /files
		RUN --mount=type=cache,target=/cache echo ROUND >> /cache/rounds && cp -r /files /cache
		RUN for i in 1 2 3 4 5 6; do head -c 1000000 /dev/urandom > /random; done
		RUN cat /random /files/a > /both && rm -r /files
		RUN echo ROUND > /round
		CMD ["cat", "/round"]
	`), "ROUND", fmt.Sprint(round)))
}

func TestFaultsBuild(t *testing.T) {
	for _, victim := range buildVictims() {
		t.Run("kill "+victim.name, func(t *testing.T) {
			b := newBuildBox(t)
			k := newKilling(t, b)
			k.kill, k.linger = victim.kill, victim.linger
			k.ready = func(t *testing.T, round int) []string {
				b.writeBuild(t, k.rand, round)
				return []string{"image", "build", "-t", "built", "."}
			}
			k.named(func(t *testing.T) string { return b.says(t, "built") })
			k.run(t)
			k.nothingLeft(t)
		})
	}
}

func TestFaultsPrune(t *testing.T) {
	for _, command := range []string{"image prune --all --force", "system prune --all --volumes --force"} {
		t.Run(command, func(t *testing.T) {
			b, r := newBox(t, "busybox:latest"), newShelf(t)
			k := newKilling(t, b)
			b.ok(t, "container", "run", "--detach", "--name", "keeper", "--init", "--volume", "/data", "busybox", "sleep", "infinity")
			b.ok(t, "container", "exec", "keeper", "sh", "-c", "echo precious > /data/file")
			k.killed = func(t *testing.T, round int) {
				if out := b.ok(t, "container", "exec", "keeper", "cat", "/data/file"); out != "precious\n" {
					t.Fatalf("round %d: the container that runs has %q in its volume", round, out)
				}
			}
			k.ready = func(t *testing.T, round int) []string {
				for _, tag := range []string{"1", "2", "3"} {
					r.put(t, "box", tag, fmt.Sprint(round), randomLayer(t, k.rand, tag, 200, 2<<10))
					b.ok(t, "image", "pull", "--quiet", r.host()+"/box:"+tag)
				}
				if strings.HasPrefix(command, "system") {
					b.ok(t, "container", "run", "--volume", "/anonymous", r.host()+"/box:1", "true")
					b.ok(t, "network", "create", "unused")
				}
				return strings.Fields(command)
			}
			k.done = func(t *testing.T, round int) {
				k.killed(t, round)
				if out := strings.Fields(b.ok(t, "image", "ls", "--quiet")); len(out) != 1 {
					t.Errorf("round %d: the images are %q, must be that of the container which runs", round, out)
				}
			}
			k.run(t)
			b.ok(t, "container", "rm", "--force", "--volumes", "keeper")
			k.nothingLeft(t)
		})
	}
}

func TestFaultsBuilderPrune(t *testing.T) {
	b := newBuildBox(t)
	k := newKilling(t, b)
	victims := buildVictims()
	k.kill = func(t *testing.T, j *job) bool { return victims[k.rand.IntN(len(victims))].kill(t, j) }
	k.linger = 100 * time.Millisecond
	k.ready = func(t *testing.T, round int) []string {
		b.writeBuild(t, k.rand, round)
		b.ok(t, "image", "build", "--quiet", "-t", "built", ".")
		return []string{"builder", "prune", "--all", "--force"}
	}
	k.named(func(t *testing.T) string { return b.says(t, "built") })
	k.run(t)
	k.nothingLeft(t)
}
