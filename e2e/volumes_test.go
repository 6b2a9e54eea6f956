package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stack-run/stack/e2e/conformance"
	"github.com/stack-run/stack/e2e/machine"
)

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// mountSource is the host's path of what is mounted at target.
func mountSource(t *testing.T, i info, target string) string {
	t.Helper()
	for _, m := range i.Mounts {
		if m.Destination == target {
			return m.Source
		}
	}
	t.Fatalf("%s has nothing at %s: %+v", i.Name, target, i.Mounts)
	return ""
}

func TestVolumes(t *testing.T) {
	b := newBox(t, "busybox:latest", "redis:7")
	b.write(t, "site/index.html", "hello\n")
	b.write(t, "one.conf", "first\n")
	b.compose(t, `
		name: app
		services:
			seeded:
				image: redis:7
				entrypoint: ["sleep", "infinity"]
				volumes:
					- seed:/etc/terminfo
					- type: volume
						source: bare
						target: /usr/share/zoneinfo
						volume: {nocopy: true}
			box:
				image: busybox
				command: ["sleep", "infinity"]
				volumes:
					- ./site:/site:ro
					- ./one.conf:/etc/one.conf
					- ./made:/made
					- {type: tmpfs, target: /scratch, tmpfs: {size: 1048576, mode: 0750}}
					- {type: volume, source: tree, target: /sub, volume: {subpath: a/b}}
				tmpfs: ["/quick"]
				configs: [greeting]
				secrets: [password]
			maker:
				image: busybox
				command: ["sh", "-c", "mkdir -p /tree/a/b && echo deep > /tree/a/b/file"]
				volumes: ["tree:/tree"]
		configs:
			greeting: {content: "good day"}
		secrets:
			password: {environment: PASSWORD}
		volumes:
			seed:
			bare:
			tree: {labels: {kind: tree}}
	`)
	b = b.with("PASSWORD=hidden")
	b.ok(t, "run", "--rm", "maker")
	b.ok(t, "up", "--detach", "seeded", "box")

	sh := func(t *testing.T, service, script string) string {
		t.Helper()
		return strings.TrimSpace(b.ok(t, "exec", "-T", service, "sh", "-c", script))
	}
	t.Run("a new volume starts with the image's content, owners and modes", func(t *testing.T) {
		from := sh(t, "seeded", "cat /etc/terminfo/README | wc -l")
		if from == "0" {
			t.Error("/etc/terminfo is empty")
		}
		if n := sh(t, "seeded", "ls /usr/share/zoneinfo | wc -l"); n != "0" {
			t.Errorf("nocopy: %s entries", n)
		}
	})
	t.Run("content is copied once", func(t *testing.T) {
		sh(t, "seeded", "rm /etc/terminfo/README")
		b.ok(t, "up", "--detach", "--force-recreate", "seeded")
		if out := sh(t, "seeded", "ls /etc/terminfo"); strings.Contains(out, "README") {
			t.Errorf("the deleted file came back: %s", out)
		}
	})
	t.Run("a bind mount shows the host's files and keeps them from being written", func(t *testing.T) {
		if out := sh(t, "box", "cat /site/index.html"); out != "hello" {
			t.Errorf("read %q", out)
		}
		if r := b.stack(t, "exec", "-T", "box", "touch", "/site/new"); r.code == 0 {
			t.Error("a read-only bind was written to")
		}
	})
	t.Run("a single file can be bound", func(t *testing.T) {
		sh(t, "box", "echo second > /etc/one.conf")
		if text, err := os.ReadFile(filepath.Join(b.dir, "one.conf")); err != nil || string(text) != "second\n" {
			t.Errorf("the host reads %q (%v)", text, err)
		}
	})
	t.Run("a missing source in the short form becomes a directory", func(t *testing.T) {
		sh(t, "box", "touch /made/here")
		if !exists(filepath.Join(b.dir, "made", "here")) {
			t.Error("the host does not see the file")
		}
	})
	t.Run("tmpfs has its size and mode", func(t *testing.T) {
		if out := sh(t, "box", "stat -c %a /scratch; grep ' /scratch ' /proc/mounts"); !strings.HasPrefix(out, "750") || !strings.Contains(out, "size=1024k") {
			t.Error(out)
		}
		if out := sh(t, "box", "grep ' /quick ' /proc/mounts"); !strings.HasPrefix(out, "tmpfs") {
			t.Error(out)
		}
	})
	t.Run("a subpath of a volume is mounted", func(t *testing.T) {
		if out := sh(t, "box", "cat /sub/file"); out != "deep" {
			t.Errorf("read %q", out)
		}
	})
	t.Run("configs and secrets are files, and the secret is in no record", func(t *testing.T) {
		if out := sh(t, "box", "cat /greeting; echo; cat /run/secrets/password"); out != "good day\nhidden" {
			t.Errorf("read %q", out)
		}
		for _, root := range []string{b.dataRoot(), b.runRoot()} {
			if where := find(t, root, "hidden"); where != "" {
				t.Errorf("the secret stands in %s", where)
			}
		}
	})
	t.Run("volume ls, inspect and prune know the volumes", func(t *testing.T) {
		out := b.ok(t, "volume", "ls", "--quiet")
		for _, v := range []string{"app_seed", "app_bare", "app_tree"} {
			if !strings.Contains(out, v+"\n") {
				t.Errorf("volume ls has no %s: %s", v, out)
			}
		}
		if out := b.ok(t, "volume", "inspect", "--format", "{{.Labels.kind}}", "app_tree"); strings.TrimSpace(out) != "tree" {
			t.Errorf("the label is %q", out)
		}
		b.ok(t, "volume", "create", "lonely")
		if r := b.stack(t, "volume", "rm", "app_tree"); r.code == 0 {
			t.Error("a volume in use was removed")
		}
		b.ok(t, "volume", "prune", "--all", "--force")
		if out := b.ok(t, "volume", "ls", "--quiet"); strings.Contains(out, "lonely") || !strings.Contains(out, "app_tree") {
			t.Errorf("prune must remove the unused one only: %s", out)
		}
	})
	conformance.Works(t, "volumes.*.labels", "configs.*.content", "secrets.*.environment")
}

// find returns the first small file below root that contains text.
func find(t *testing.T, root, text string) string {
	t.Helper()
	found := ""
	err := filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
		if err != nil || found != "" {
			return nil
		}
		if d.IsDir() && machine.ImageStore("data/"+d.Name()) {
			return filepath.SkipDir
		}
		if i, err := d.Info(); err != nil || !i.Mode().IsRegular() || i.Size() > 1<<20 {
			return nil
		}
		if content, err := os.ReadFile(p); err == nil && strings.Contains(string(content), text) {
			found = p
		}
		return nil
	})
	must(t, err)
	return found
}

func TestVolumesOfStoppedAndGoneContainers(t *testing.T) {
	b := newBox(t, "busybox:latest")
	file := b.write(t, "file", "precious\n")
	host := b.write(t, "host", "the host's\n")
	t.Run("cp reaches the volumes of a container that does not run", func(t *testing.T) {
		b.ok(t, "container", "create", "--name", "c", "--volume", "named:/named", "--volume", "/anonymous", "--volume", host+":/ro:ro",
			"busybox", "cat", "/named/file", "/anonymous/file")
		for _, dir := range []string{"/named", "/anonymous"} {
			b.ok(t, "container", "cp", file, "c:"+dir+"/file")
		}
		if r := b.fails(t, "container", "cp", file, "c:/ro"); !strings.Contains(r.stderr, "read-only") {
			t.Error(r)
		}
		if out, err := os.ReadFile(host); err != nil || string(out) != "the host's\n" {
			t.Errorf("%q, %v", out, err)
		}
		b.ok(t, "container", "cp", "c:/named/file", "back")
		if out, err := os.ReadFile(filepath.Join(b.dir, "back")); err != nil || string(out) != "precious\n" {
			t.Errorf("%q, %v", out, err)
		}
		if out := b.ok(t, "container", "start", "--attach", "c"); out != "precious\nprecious\n" {
			t.Errorf("%q", out)
		}
		if n := len(strings.Fields(b.ok(t, "volume", "ls", "--quiet"))); n != 2 {
			t.Errorf("there are %d volumes", n)
		}
		b.ok(t, "container", "rm", "--volumes", "c")
		b.ok(t, "volume", "rm", "named")
		b.nothingLeft(t, b.before, "file app/", "file data/")
	})
	t.Run("a file that is mounted in a container is written to, and stays mounted", func(t *testing.T) {
		b.ok(t, "container", "run", "--detach", "--init", "--name", "runs", "--volume", host+":/rw", "busybox", "sleep", "infinity")
		b.ok(t, "container", "cp", file, "runs:/rw")
		if out, err := os.ReadFile(host); err != nil || string(out) != "precious\n" {
			t.Errorf("%q, %v", out, err)
		}
		if out := b.ok(t, "container", "exec", "runs", "grep", "-c", " /rw ", "/proc/mounts"); out != "1\n" {
			t.Errorf("%q", out)
		}
		b.ok(t, "container", "rm", "--force", "runs")
	})
	t.Run("a FIFO and a device are copied as such", func(t *testing.T) {
		b.ok(t, "container", "run", "--name", "nodes", "busybox", "sh", "-c", "mkdir /d; mkfifo /d/pipe; mknod /d/null c 1 3")
		b.ok(t, "container", "cp", "nodes:/d", "d")
		for name, want := range map[string]os.FileMode{"pipe": os.ModeNamedPipe, "null": os.ModeDevice | os.ModeCharDevice} {
			if i, err := os.Lstat(filepath.Join(b.dir, "d", name)); err != nil || i.Mode().Type() != want {
				t.Errorf("%s: %v, %v", name, i, err)
			}
		}
		b.ok(t, "container", "rm", "nodes")
	})
	t.Run("volumes taken from a container outlive it", func(t *testing.T) {
		b.ok(t, "container", "run", "--name", "giver", "--volume", "/data", "busybox", "sh", "-c", "echo kept > /data/file")
		b.ok(t, "container", "run", "--detach", "--name", "taker", "--init", "--volumes-from", "giver", "busybox", "sleep", "infinity")
		b.ok(t, "container", "rm", "--volumes", "giver")
		b.ok(t, "container", "restart", "taker")
		if out := b.ok(t, "container", "exec", "taker", "cat", "/data/file"); out != "kept\n" {
			t.Errorf("%q", out)
		}
		if out := b.ok(t, "container", "inspect", "taker", "--format", "{{range .Mounts}}{{.Destination}}{{end}}"); out != "/data\n" {
			t.Errorf("%q", out)
		}
		if r := b.fails(t, "container", "run", "--rm", "--volumes-from", "nosuch", "busybox", "true"); !strings.Contains(r.stderr, "nosuch") {
			t.Error(r)
		}
		b.ok(t, "container", "rm", "--force", "--volumes", "taker")
		if out := b.ok(t, "volume", "ls", "--quiet"); out != "" {
			t.Errorf("there is %s", out)
		}
	})
	t.Run("a mount's options and labels go on a volume that it makes", func(t *testing.T) {
		const mount = "type=volume,src=made,dst=/v,volume-label=a=b,volume-opt=type=tmpfs,volume-opt=device=tmpfs,volume-opt=o=size=1m"
		if out := b.ok(t, "container", "run", "--rm", "--mount", mount, "busybox", "grep", " /v ", "/proc/mounts"); !strings.Contains(out, "size=1024k") {
			t.Error(out)
		}
		if out := b.ok(t, "volume", "inspect", "made", "--format", "{{.Labels.a}} {{.Options.o}}"); out != "b size=1m\n" {
			t.Errorf("%q", out)
		}
		b.ok(t, "volume", "create", "--label", "c=d", "made") // it is there
		b.fails(t, "volume", "create", "--opt", "type=none", "--opt", "device=/", "--opt", "o=bind", "made")
		b.ok(t, "volume", "rm", "made")
	})
}
