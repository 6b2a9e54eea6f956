package runtime

import (
	"os"
	"os/exec"
	"strconv"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// ballast is heap as a supervisor has it.
func ballast(b *testing.B) [][]byte {
	mb, _ := strconv.Atoi(os.Getenv("BALLAST_MIB"))
	var hold [][]byte
	for range mb {
		m := make([]byte, 1<<20)
		for i := 0; i < len(m); i += 4096 {
			m[i] = 1
		}
		hold = append(hold, m)
	}
	return hold
}

// pinNetns returns the path of a fresh network namespace, as netns pins one.
func pinNetns(t testing.TB, r *rootfs) string {
	t.Helper()
	path := r.dir + "/netns"
	check(t, os.WriteFile(path, nil, 0o600))
	cmd := exec.Command("unshare", "--net="+path, "true")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { unix.Unmount(path, unix.MNT_DETACH) })
	return path
}

func joinNetns(s *specs.Spec, path string) {
	for i := range s.Linux.Namespaces {
		if s.Linux.Namespaces[i].Type == specs.NetworkNamespace {
			s.Linux.Namespaces[i].Path = path
		}
	}
}

func BenchmarkStart(b *testing.B) {
	r := newRootfs(b)
	hold := ballast(b)
	netns := pinNetns(b, r)
	for b.Loop() {
		b.StopTimer()
		root := r.mount(b)
		s := testSpec("/bin/busybox", "true")
		joinNetns(s, netns)
		b.StartTimer()
		p, err := Start(b.Context(), &Config{Spec: s, RootFS: root})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		p.Wait()
		p.Close()
		root.Close()
		b.StartTimer()
	}
	_ = hold
}

func BenchmarkExec(b *testing.B) {
	r := newRootfs(b)
	hold := ballast(b)
	root := r.mount(b)
	defer root.Close()
	s := testSpec("/bin/busybox", "sleep", "1000")
	c, err := Start(b.Context(), &Config{Spec: s, RootFS: root})
	check(b, err)
	defer func() { c.Signal(unix.SIGKILL); c.Wait(); c.Close() }()
	proc := *s.Process
	proc.Args = []string{"/bin/busybox", "true"}
	for b.Loop() {
		p, err := Exec(b.Context(), &ExecConfig{Target: c.PID, StartTicks: c.StartTicks, Process: &proc})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		p.Wait()
		p.Close()
		b.StartTimer()
	}
	_ = hold
}
