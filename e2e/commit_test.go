package e2e

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestCommitAndExport(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.compose(t, `
	services:
		app:
			image: busybox
			command: ["sleep", "1000"]
			environment: {KEPT: "yes"}
			labels: {own: label}
			volumes: ["data:/data"]
			tmpfs: [/scratch]
			scale: 2
	volumes: {data: {}}
	`)
	b.ok(t, "up", "-d")
	b.ok(t, "exec", "--index", "2", "app", "sh", "-c", `
		echo changed > /made && chown 12:34 /made && chmod 4750 /made && ln /made /again
		rm -r /var && mkdir /var && touch /var/new && rm /bin/wget
		echo secret > /data/secret && echo gone > /scratch/gone`)

	id := strings.TrimSpace(b.ok(t, "commit", "--index", "2", "-a", "me", "-m", "by hand", "-c", "ENV ADDED=too", "-c", `CMD ["cat", "/made"]`, "app", "made:1"))
	t.Run("the image has what the container changed, and nothing of its mounts", func(t *testing.T) {
		if out := b.says(t, "made:1"); out != "changed" {
			t.Errorf("%q", out)
		}
		out := b.says(t, "made:1", "sh", "-c", `stat -c '%a %u:%g %h' /made; ls /var /data /scratch; test -e /bin/wget || echo no wget; echo $KEPT $ADDED`)
		if want := "4750 12:34 2\n/data:\n\n/scratch:\n\n/var:\nnew\nno wget\nyes too"; out != want {
			t.Errorf("%q, want %q", out, want)
		}
	})
	t.Run("the image says where it comes from", func(t *testing.T) {
		out := b.ok(t, "image", "inspect", "-f", "{{.Id}} {{.Author}} {{json .Config.Labels}} {{json .Config.Cmd}}", "made:1")
		if want := id + ` me {"own":"label"} ["cat","/made"]` + "\n"; out != want {
			t.Errorf("%q, want %q", out, want)
		}
		if out := b.ok(t, "image", "history", "made:1"); !strings.Contains(out, "by hand") || !strings.Contains(out, "sleep 1000") {
			t.Error(out)
		}
		b.ok(t, "system", "check")
	})
	t.Run("the container runs on", func(t *testing.T) {
		b.ok(t, "exec", "--index", "2", "app", "sh", "-c", "echo more >> /made && rm /bin/awk && test -f /data/secret")
		b.ok(t, "container", "commit", "--no-pause", "app-app-2", "made:2")
		if out := b.says(t, "made:2", "cat", "/made"); out != "changed\nmore" {
			t.Errorf("%q", out)
		}
	})
	t.Run("it rests meanwhile", func(t *testing.T) {
		// While the large file is read, a container that runs would get on.
		b.ok(t, "container", "run", "-d", "--name", "busy", "busybox", "sh", "-c", `head -c 100000000 /dev/zero > /middle
			i=0; while i=$((i+1)); do echo $i > /a.new; mv /a.new /a; echo $i > /z.new; mv /z.new /z; done`)
		eventually(t, 10*time.Second, func() error {
			if r := b.stack(t, "container", "exec", "busy", "test", "-e", "/z"); r.code != 0 {
				return errors.New("it has not begun")
			}
			return nil
		})
		b.ok(t, "container", "commit", "busy", "rested")
		if out := b.says(t, "rested", "sh", "-c", `test $(($(cat /a) - $(cat /z))) -le 1 && test $(cat /a) -ge $(cat /z) || cat /a /z`); out != "" {
			t.Errorf("first and last are %q", out)
		}
		before := b.ok(t, "container", "exec", "busy", "cat", "/z")
		eventually(t, 10*time.Second, func() error {
			if b.ok(t, "container", "exec", "busy", "cat", "/z") == before {
				return errors.New("it does not go on")
			}
			return nil
		})
		b.ok(t, "container", "rm", "-f", "busy")
	})
	t.Run("a wrong change, or name, makes nothing", func(t *testing.T) {
		before := b.ok(t, "image", "ls", "-aq")
		b.fails(t, "commit", "-c", "RUN true", "app", "made:3")
		b.fails(t, "commit", "app", "MADE:3")
		b.fails(t, "commit", "nobody")
		if after := b.ok(t, "image", "ls", "-aq"); after != before {
			t.Errorf("images\n%s\nbefore\n%s", after, before)
		}
		b.ok(t, "exec", "app", "true")
	})
	t.Run("an export has all files, of a stopped container too, and nothing of its mounts", func(t *testing.T) {
		archive := filepath.Join(b.dir, "out.tar")
		for range 2 {
			b.ok(t, "export", "--index", "2", "-o", archive, "app")
			names := tarNames(t, archive)
			for name, want := range map[string]bool{"bin/busybox": true, "made": true, "again": true, "data/": true, "var/new": true, "data/secret": false, "scratch/gone": false, "bin/wget": false, "proc/1/": false} {
				if slices.Contains(names, name) != want {
					t.Errorf("%s: is there %t", name, !want)
				}
			}
			b.ok(t, "stop", "-t", "0")
		}
		b.ok(t, "image", "import", archive, "imported")
		if out := b.says(t, "imported", "sh", "-c", "cat /made && stat -c '%a %u:%g %h' /made"); out != "changed\nmore\n4750 12:34 2" {
			t.Errorf("%q", out)
		}
		if out := b.ok(t, "container", "diff", "app-app-2"); !strings.Contains(out, "D /bin/wget\n") || !strings.Contains(out, "A /made\n") || strings.Contains(out, "/proc") {
			t.Error(out)
		}
	})
}

// tarNames lists the names in an archive.
func tarNames(t *testing.T, path string) []string {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	var names []string
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err == io.EOF {
			return names
		}
		must(t, err)
		names = append(names, strings.TrimPrefix(h.Name, "./"))
	}
}
