package e2e

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stack-run/stack/e2e/machine"
)

// built builds a Dockerfile and returns what the image prints.
func (b *box) built(t *testing.T, dockerfile string, args ...string) string {
	t.Helper()
	b.write(t, "Dockerfile", unindent(dockerfile))
	b.ok(t, append([]string{"image", "build", "-q", "-t", "built"}, append(args, ".")...)...)
	return b.ok(t, "container", "run", "--rm", "--pull", "never", "built")
}

func TestBuildSurroundings(t *testing.T) {
	b := newBuildBox(t)
	t.Run("a command has a network of its own, with the host's name servers behind it", func(t *testing.T) {
		out := b.built(t, `
		FROM busybox
		RUN (ip -o -4 addr show; cat /etc/resolv.conf; ip route) > /net
		CMD ["cat", "/net"]
		`)
		for _, want := range []string{"eth0", "nameserver 127.0.0.11", "default via"} {
			if !strings.Contains(out, want) {
				t.Errorf("no %q in %q", want, out)
			}
		}
	})
	t.Run("the host's network and none are to be had, too", func(t *testing.T) {
		out := b.built(t, `
		FROM busybox
		RUN --network=none ip -o link show | wc -l > /none
		RUN --network=host readlink /proc/self/ns/net > /host
		CMD ["cat", "/none", "/host"]
		`, "--allow", "network.host")
		host, err := os.Readlink("/proc/self/ns/net")
		must(t, err)
		lines := strings.Split(out, "\n")
		if lines[0] != "1" || !strings.Contains(out, "\n"+host) {
			t.Errorf("%q, the host's is %s", out, host)
		}
	})
	t.Run("host-gateway is the host on the command's network", func(t *testing.T) {
		out := b.built(t, `
		FROM busybox
		RUN grep -w me /etc/hosts | cut -f1 > /a && ip route | sed -n 's/default via \([0-9.]*\).*/\1/p' > /b
		CMD ["cat", "/a", "/b"]
		`, "--add-host", "me:host-gateway")
		if a, g, _ := strings.Cut(out, "\n"); a == "" || a != strings.TrimSpace(g) {
			t.Errorf("%q", out)
		}
	})
	t.Run("the frontend that a Dockerfile asks for is built in", func(t *testing.T) {
		out := b.built(t, `
		# syntax=docker/dockerfile:1.7
		FROM busybox
		COPY <<X /x
		here
		X
		CMD ["cat", "/x"]
		`)
		if out != "here\n" {
			t.Errorf("%q", out)
		}
	})
	t.Run("masked paths, devices and privileges are a container's", func(t *testing.T) {
		out := b.built(t, `
		FROM busybox
		RUN (wc -c < /proc/interrupts; ls /dev | tr '\n' ' '; head -c1 /dev/zero | wc -c; ls -d /run) > /x 2>&1
		CMD ["cat", "/x"]
		`)
		if !strings.HasPrefix(out, "0\n") || !strings.Contains(out, " null ") || !strings.Contains(out, "1\n/run") {
			t.Errorf("%q", out)
		}
	})
	b.awaitBuilder(t)
}

func TestKilledBuilder(t *testing.T) {
	for _, mode := range []string{"host", "auto"} {
		t.Run("userns "+mode, func(t *testing.T) { killBuilder(t, mode) })
	}
}

func killBuilder(t *testing.T, mode string) {
	b := newBuildBox(t)
	before := snap(t, b)
	b.write(t, "Dockerfile", "FROM busybox\nRUN echo started && sleep 4242\n")
	build := b.start(t, "image", "build", "--progress", "plain", "--userns", mode, ".")
	eventually(t, 20*time.Second, func() error {
		if !strings.Contains(build.out.String(), " started\n") {
			return fmt.Errorf("the command does not run: %s", build.out.String())
		}
		return nil
	})
	if _, daemons := builders(t); !killAll(daemons...) {
		t.Fatal("there is no builder")
	}
	if build.wait(t, 20*time.Second) == 0 {
		t.Error("the build succeeded without a builder")
	}
	t.Run("its commands end with it", func(t *testing.T) {
		eventually(t, 5*time.Second, func() error { return noProcess(t, before) })
	})
	t.Run("the next build succeeds", func(t *testing.T) {
		out := b.built(t, `
		FROM busybox
		RUN echo again > /x
		CMD ["cat", "/x"]
		`)
		if out != "again\n" {
			t.Errorf("%q", out)
		}
	})
	t.Run("what the killed one had is gone after the next has left", func(t *testing.T) {
		b.awaitBuilder(t)
		b.ok(t, "system", "check")
		b.noRanges(t)
		eventually(t, 5*time.Second, func() error {
			for _, look := range []machine.Look{machine.Processes, machine.Mounts, machine.Links, machine.Tables, machine.Cgroups} {
				for _, l := range now(t, look) {
					if !before.Has(l) {
						return errors.New("still there: " + l)
					}
				}
			}
			return nil
		})
	})
}
