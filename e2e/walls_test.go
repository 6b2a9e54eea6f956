package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stack-run/stack/e2e/conformance"
	"github.com/stack-run/stack/e2e/machine"
)

// What leads to /proc/self/exe would be the program that starts the container,
// which is the host's.
func TestTheHostsProgramIsOutOfReach(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.compose(t, `
		name: app
		services:
			box:
				image: busybox
				command:
					- sh
					- -c
					- |
						mkdir -p /t
						printf '#!/t/script\n' >/t/twice
						ln -s /proc/self/exe /t/link
						printf '#!/proc/self/exe\n' >/t/new
						chmod +x /t/new /t/twice
						mv /t/new /t/script
						exec sleep infinity
				volumes: ["tools:/t"]
				healthcheck: {test: ["CMD", "/t/script", "version"], interval: 200ms, retries: 1, start_period: 0s}
		volumes: {tools: {}}
	`)
	b.ok(t, "up", "--detach")
	version := strings.TrimSpace(b.ok(t, "version"))
	check := func(t *testing.T, r result) {
		t.Helper()
		if r.code == 0 || strings.Contains(r.stdout, version) {
			t.Error(r)
		}
	}
	t.Run("as a health check", func(t *testing.T) {
		eventually(t, soon, func() error {
			tried := 0
			for _, l := range b.look(t, "app-box-1").State.Health.Log {
				if strings.Contains(l.Output, "no such file") {
					continue // it was not written yet
				}
				if tried++; l.ExitCode == 0 || l.Output != "" {
					t.Fatalf("%+v", l)
				}
			}
			if tried == 0 {
				return errors.New("no health check has tried it")
			}
			return nil
		})
	})
	for _, command := range []string{"/t/script", "/t/twice", "/t/link"} {
		t.Run("as the command "+command, func(t *testing.T) {
			check(t, b.stack(t, "exec", "-T", "box", command, "version"))
			check(t, b.stack(t, "exec", "-T", "--user", "1000", "box", command, "version"))
			check(t, b.stack(t, "container", "run", "--rm", "-v", "app_tools:/t", "busybox", command, "version"))
			check(t, b.stack(t, "container", "run", "--rm", "--init", "-v", "app_tools:/t", "busybox", command, "version"))
			check(t, b.stack(t, "container", "run", "--rm", "-v", "app_tools:/t", "--entrypoint", command, "busybox", "version"))
		})
	}
	t.Run("nor can it be written", func(t *testing.T) {
		before, err := os.ReadFile(shared.Stack)
		if err != nil {
			t.Fatal(err)
		}
		// Every process that shows up is asked for its program, to write it.
		b.ok(t, "exec", "-T", "--detach", "box", "sh", "-c",
			`i=0; while [ $i -lt 3000 ]; do for p in /proc/[0-9]*/exe; do (echo overwritten >>$p) 2>/dev/null; done; i=$((i+1)); done`)
		for range 20 {
			b.stack(t, "exec", "-T", "box", "/t/script", "version")
		}
		after, err := os.ReadFile(shared.Stack)
		if err != nil || string(after) != string(before) {
			t.Fatalf("the host's program was changed: %d bytes instead of %d, %v", len(after), len(before), err)
		}
	})
}

// A link in a container does not lead to the host's files.
func TestCopiesChangeNothingBehindLinks(t *testing.T) {
	b := newBox(t, "busybox:latest")
	secret := b.write(t, "secret/file", "host\n")
	dir := filepath.Dir(secret)
	for path, mode := range map[string]os.FileMode{secret: 0o600, dir: 0o700} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	b.compose(t, fmt.Sprintf(`
		name: app
		services:
			box:
				image: busybox
				command: [sh, -c, "mkdir /app; cd /app; ln -s %[1]s conf; ln -s %[2]s dir; ln -s %[1]s file; ln -s %[1]s fifo; ln -s /etc in; exec sleep infinity"]
				healthcheck: {test: ["CMD", "test", "-L", "/app/in"], interval: 100ms}
	`, secret, dir))
	b.ok(t, "up", "--detach", "--wait")
	for _, name := range []string{"conf", "dir", "in"} {
		if err := os.MkdirAll(filepath.Join(b.dir, "from", name), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(b.dir, "from", name), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	b.write(t, "from/file", "new\n")
	if err := syscall.Mkfifo(filepath.Join(b.dir, "from", "fifo"), 0o666); err != nil {
		t.Fatal(err)
	}
	untouched := func(t *testing.T) {
		t.Helper()
		for path, mode := range map[string]os.FileMode{secret: 0o600, dir: 0o700} {
			if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != mode {
				t.Errorf("%s: %v, %v", path, fi.Mode(), err)
			}
		}
		if text, err := os.ReadFile(secret); err != nil || string(text) != "host\n" {
			t.Errorf("%q, %v", text, err)
		}
	}
	for _, name := range []string{"conf", "dir"} {
		t.Run("a directory onto a link to the host's "+name, func(t *testing.T) {
			b.stack(t, "cp", "from/"+name, "box:/app/")
			untouched(t)
		})
	}
	t.Run("a file and a FIFO take the link's place, or go where it leads inside", func(t *testing.T) {
		b.stack(t, "cp", "from/file", "box:/app/")
		b.stack(t, "cp", "from/fifo", "box:/app/")
		untouched(t)
	})
	t.Run("a whole directory", func(t *testing.T) {
		b.stack(t, "cp", "from/.", "box:/app/")
		untouched(t)
	})
	t.Run("a stopped container", func(t *testing.T) {
		b.ok(t, "stop", "--timeout", "0")
		b.stack(t, "cp", "from/conf", "box:/app/")
		b.stack(t, "cp", "from/.", "box:/app/")
		untouched(t)
	})
}

// A container's own files have their space, and not the host's.
func TestFilesInEtcAreBounded(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.compose(t, `
		name: app
		services:
			box: {image: busybox, command: [sleep, infinity], hostname: me}
			fixed: {image: busybox, command: [sleep, infinity], read_only: true}
	`)
	b.ok(t, "up", "--detach")
	t.Run("they say what they should, and can be written", func(t *testing.T) {
		if out := b.ok(t, "exec", "-T", "box", "cat", "/etc/hostname", "/etc/hosts"); !strings.HasPrefix(out, "me\n") || !strings.Contains(out, "localhost") {
			t.Errorf("%q", out)
		}
		b.ok(t, "exec", "-T", "box", "sh", "-c", "echo 10.1.2.3 added >>/etc/hosts && grep -q added /etc/hosts && stat -c %a /etc/hosts | grep -qx 644")
	})
	t.Run("but not where the root is read-only", func(t *testing.T) {
		for _, f := range []string{"hosts", "hostname", "resolv.conf"} {
			b.fails(t, "exec", "-T", "fixed", "sh", "-c", "echo x >/etc/"+f)
		}
	})
	for _, f := range []string{"hosts", "resolv.conf", "hostname"} {
		t.Run("filling "+f+" ends soon and costs the host nothing", func(t *testing.T) {
			b.fails(t, "exec", "-T", "box", "sh", "-c", "head -c 8m /dev/zero >>/etc/"+f)
			if size, err := strconv.Atoi(strings.TrimSpace(b.ok(t, "exec", "-T", "box", "stat", "-c", "%s", "/etc/"+f))); err != nil || size > 4<<20 {
				t.Errorf("it has %d bytes, %v", size, err)
			}
			if n := diskUse(t, b.runRoot()); n > 8<<20 {
				t.Errorf("the run root holds %d bytes", n)
			}
		})
	}
}

// Other users get neither to what containers write nor to what is theirs to run.
func TestRootsAreClosed(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.compose(t, `
		name: app
		services:
			box:
				image: busybox
				user: "1234:1234"
				command: [sh, -c, "echo out; echo err >/dev/stderr; exec sleep infinity"]
				volumes: ["data:/data"]
		volumes: {data: {}}
	`)
	b.ok(t, "up", "--detach")
	b.ok(t, "exec", "-T", "--user", "0", "box", "sh", "-c", "cp /bin/busybox /data/id && chmod 4755 /data/id")
	var mountpoint string
	if out := b.ok(t, "volume", "inspect", "app_data"); true {
		_, rest, _ := strings.Cut(out, `"Mountpoint": "`)
		mountpoint, _, _ = strings.Cut(rest, `"`)
	}
	cmd := b.command(t.Context(), "version")
	cmd.Path, cmd.Args = filepath.Join(mountpoint, "id"), []string{"id"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 4321, Gid: 4321}}
	if out, err := cmd.CombinedOutput(); err == nil || !errors.Is(err, os.ErrPermission) {
		t.Errorf("another user ran the program of a volume: %s, %v", out, err)
	}
	t.Run("a container's user still has its streams and files", func(t *testing.T) {
		eventually(t, 10*time.Second, func() error {
			r := b.stack(t, "logs", "--no-log-prefix", "box")
			if !strings.Contains(r.stdout+r.stderr, "out\n") || !strings.Contains(r.stdout+r.stderr, "err\n") {
				return fmt.Errorf("%v", r)
			}
			return nil
		})
		b.ok(t, "exec", "-T", "box", "ls", "/data/id")
	})
}

// What a service asks for is done, or it is told that it is not.
func TestSecurityOptionsAreNotSilent(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.compose(t, `
		name: app
		services:
			labelled:
				image: busybox
				command: [sleep, infinity]
				security_opt: ["label=type:none_such_t", "apparmor=nosuch"]
			alone: {image: busybox, command: [sleep, infinity], ipc: none}
	`)
	r := b.stack(t, "up", "--detach", "labelled")
	for _, want := range []string{"label=type:none_such_t", "apparmor=nosuch"} {
		if !strings.Contains(r.stderr+r.stdout, want) {
			t.Errorf("nothing is said of %s: %v", want, r)
		}
	}
	b.ok(t, "up", "--detach", "alone")
	b.fails(t, "exec", "-T", "alone", "test", "-e", "/dev/shm")
	conformance.Warns(t, "services.*.security_opt")
	conformance.Works(t, "services.*.ipc")
}

// A subpath stays below the volume's root.
func TestSubpathsThatLeaveAreRefused(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.ok(t, "volume", "create", "v")
	b.ok(t, "container", "run", "--rm", "-v", "v:/v", "busybox", "mkdir", "-p", "/v/d1/d2")
	for _, subpath := range []string{"..", "/d1", "d1/../..", "/"} {
		r := b.stack(t, "container", "run", "--rm", "--mount", "type=volume,source=v,target=/x,volume-subpath="+subpath, "busybox", "ls", "/x")
		if r.code == 0 || !strings.Contains(r.stderr, strconv.Quote(subpath)) {
			t.Errorf("%s: %v", subpath, r)
		}
	}
	if out := b.ok(t, "container", "run", "--rm", "--mount", "type=volume,source=v,target=/x,volume-subpath=d1", "busybox", "ls", "/x"); out != "d2\n" {
		t.Errorf("%q", out)
	}
}

// An exec that meets a pause says so at once, and nothing of it runs later.
func TestExecMeetsAPause(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.compose(t, `
		name: app
		services:
			box: {image: busybox, command: [sleep, infinity]}
	`)
	b.ok(t, "up", "--detach")
	pid := b.look(t, "app-box-1").State.Pid
	// Paused behind the back of the records, as by a pause that comes just then.
	group := freezer(t, pid)
	write := func(v string) {
		t.Helper()
		if err := os.WriteFile(group, []byte(v), 0); err != nil {
			t.Fatal(err)
		}
	}
	on, off := "1", "0"
	if strings.HasSuffix(group, "freezer.state") {
		on, off = "FROZEN", "THAWED"
	}
	write(on)
	r := b.stack(t, "exec", "-T", "box", "touch", "/late")
	write(off)
	if r.code == 0 || !strings.Contains(r.stderr, "it is paused") {
		t.Error(r)
	}
	b.fails(t, "exec", "-T", "box", "test", "-e", "/late")
	t.Run("one that runs already is ended by its client's signal", func(t *testing.T) {
		j := b.start(t, "exec", "-T", "box", "sh", "-c", "echo ready; exec sleep 87654")
		j.out.until(t, 10*time.Second, "ready")
		b.ok(t, "pause", "box")
		interrupt(t, j)
		j.wait(t, 20*time.Second)
		b.ok(t, "unpause", "box")
		for _, l := range now(t, machine.Processes) {
			if strings.Contains(l, "sleep 87654") {
				t.Errorf("it is left: %s", l)
			}
		}
	})
}

// freezer is the file that freezes the cgroup of a process.
func freezer(t *testing.T, pid int) string {
	t.Helper()
	own, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range strings.Split(string(mounts), "\n") {
		f := strings.Fields(m)
		if len(f) < 4 || f[2] != "cgroup2" {
			continue
		}
		for _, l := range strings.Split(string(own), "\n") {
			if path, ok := strings.CutPrefix(l, "0::"); ok {
				return filepath.Join(f[1], path, "cgroup.freeze")
			}
		}
	}
	t.Skip("no cgroup v2 here")
	return ""
}
