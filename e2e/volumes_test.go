package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
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
}

// find returns the first small file below root that contains text.
func find(t *testing.T, root, text string) string {
	t.Helper()
	found := ""
	err := filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
		if err != nil || found != "" {
			return nil
		}
		if d.IsDir() && imageStore("data/"+d.Name()) {
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
