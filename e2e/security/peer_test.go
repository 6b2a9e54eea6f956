package security

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stack-run/stack/e2e/peer"
)

var (
	withPeer     = flag.Bool("peer", false, "compare with a Docker that the test starts (needs root, a static busybox)")
	reports      = flag.String("reports", "", "write the reports to this directory")
	stackProgram = flag.String("stack", "", "stack program (default: built)")
)

func TestMain(m *testing.M) {
	flag.Parse()
	if os.Geteuid() != 0 {
		os.Exit(m.Run())
	}
	peer.Main(m, prepare)
}

func prepare(ctx context.Context, dir string) error {
	stack := filepath.Join(dir, "stack")
	var err error
	if *stackProgram == "" {
		*stackProgram = os.Getenv("STACK_E2E_BINARY")
	}
	if *stackProgram != "" {
		err = os.Symlink(*stackProgram, stack)
	} else {
		// Beside each other they find each other.
		err = errors.Join(peer.Build(ctx, "../..", "./cmd/stack", stack), peer.Build(ctx, "../..", "./cmd/stack-builder", stack+"-builder"))
	}
	if err != nil {
		// The test says so; Docker's half is of use without.
		if err := os.WriteFile(stack+".broken", []byte(err.Error()), 0o644); err != nil {
			return err
		}
	}
	probe := filepath.Join(dir, "probe")
	if err := peer.Build(ctx, ".", "./probe", probe); err != nil {
		return err
	}
	if *withPeer {
		if err := peer.Link(ctx, filepath.Join(dir, "programs"), peer.DockerPrograms...); err != nil {
			return err
		}
	}
	busybox, err := peer.Busybox()
	if err != nil {
		return err
	}
	image, err := os.Create(filepath.Join(dir, "image.tar"))
	if err != nil {
		return err
	}
	return errors.Join(peer.WriteRootfs(image, busybox, peer.Program{Path: probe, Name: "bin/probe"}), image.Close())
}

// variants are ways to start a container.
var variants = []struct {
	name string
	args []string
	exec bool // the probe is a second process in a running container
}{
	{name: "default"},
	{name: "exec", exec: true},
	{name: "user", args: []string{"--user", "1000:1000"}},
	{name: "locked down", args: []string{"--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--read-only", "--tmpfs", "/tmp"}},
	{name: "one capability more", args: []string{"--cap-add", "NET_ADMIN", "--cap-drop", "MKNOD"}},
	{name: "admin", args: []string{"--cap-add", "SYS_ADMIN"}},
	{name: "no network", args: []string{"--network", "none"}},
	{name: "privileged", args: []string{"--privileged"}},
}

// startDocker starts a daemon whose data are in a directory of the sandbox's.
func startDocker(t *testing.T, name string) *peer.Docker {
	t.Helper()
	docker, err := peer.StartDocker(t.Context(), filepath.Join(peer.Dir(), name), filepath.Join(peer.Dir(), "programs"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := docker.Close(); err != nil {
			t.Error(err)
		}
	})
	return docker
}

// startStack gives stack roots in a directory of the sandbox's.
func startStack(t *testing.T, name string) *peer.Stack {
	t.Helper()
	stack := peer.NewStack(filepath.Join(peer.Dir(), "stack"), filepath.Join(peer.Dir(), name))
	t.Cleanup(func() {
		if err := stack.Close(); err != nil {
			t.Error(err)
		}
	})
	return stack
}

// A container of stack is confined at least as a container of Docker is.
func TestNothingIsWeakerThanInDocker(t *testing.T) {
	if !*withPeer {
		t.Skip("needs -peer")
	}
	dir := peer.Dir()
	docker, stack := startDocker(t, "docker"), startStack(t, "roots")
	image := filepath.Join(dir, "image.tar")
	if err := docker.Import(t.Context(), image, "probe:1"); err != nil {
		t.Fatal(err)
	}
	noStack := error(nil)
	if text, err := os.ReadFile(filepath.Join(dir, "stack.broken")); err == nil {
		noStack = errors.New(string(text))
	} else {
		noStack = stack.Import(t.Context(), image, "probe:1")
	}
	if noStack != nil {
		t.Errorf("stack cannot be probed: %v", noStack)
	}
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			want, err := probe(t, docker, v.args, v.exec)
			if err != nil {
				t.Skipf("Docker cannot do this here: %v", err)
			}
			keep(t, "docker", v.name, want)
			if noStack != nil {
				t.Skip("stack cannot be probed")
			}
			got, err := probe(t, stack, v.args, v.exec)
			if err != nil {
				t.Fatal(err)
			}
			keep(t, "stack", v.name, got)
			for _, d := range Compare(want, got) {
				reason := accepted(d.Item)
				switch {
				case d.Verdict != Weaker:
					t.Log(d)
				case reason != "":
					t.Logf("accepted: %s; %s", d, reason)
				default:
					t.Error(d)
				}
			}
		})
	}
}

// probe runs the probe in a container of a side.
func probe(t *testing.T, side peer.Side, args []string, exec bool) (Report, error) {
	t.Helper()
	env := []string{"-e", HostNamespacesVariable + "=" + hostNamespaces(t)}
	run := append(append([]string{"run", "--rm"}, args...), append(env, "probe:1", "/bin/probe")...)
	if exec {
		const name = "probe-exec"
		if _, err := peer.Run(side.Container(t.Context(), append(append([]string{"run", "-d", "--name", name}, args...), "probe:1", "sleep", "inf")...)); err != nil {
			return Report{}, err
		}
		defer func() {
			if _, err := peer.Run(side.Container(context.WithoutCancel(t.Context()), "rm", "-f", name)); err != nil {
				t.Error(err)
			}
		}()
		run = append(append([]string{"exec"}, env...), name, "/bin/probe")
	}
	out, err := peer.Run(side.Container(t.Context(), run...))
	if err != nil {
		return Report{}, err
	}
	var r Report
	if err := json.Unmarshal(out, &r); err != nil {
		return Report{}, fmt.Errorf("%s: the probe printed no report: %w: %s", side.Name(), err, out)
	}
	return r, nil
}

// keep writes a report where the flag says.
func keep(t *testing.T, side, variant string, r Report) {
	t.Helper()
	if *reports == "" {
		return
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	name := side + "-" + strings.ReplaceAll(variant, " ", "-") + ".json"
	if err := os.WriteFile(filepath.Join(*reports, name), data, 0o644); err != nil {
		t.Error(err)
	}
}

func hostNamespaces(t *testing.T) string {
	t.Helper()
	var pairs []string
	for _, name := range []string{"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"} {
		link, err := os.Readlink("/proc/self/ns/" + name)
		if err != nil {
			t.Fatal(err)
		}
		pairs = append(pairs, name+"="+strings.Trim(strings.TrimPrefix(link, name+":"), "[]"))
	}
	return strings.Join(pairs, " ")
}
