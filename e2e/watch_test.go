package e2e

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stack-run/stack/e2e/conformance"
)

// soon is how long a test waits for what a watch does, which takes milliseconds.
const soon = 20 * time.Second

// startWatch starts a watch and waits until it misses nothing.
func (b *box) startWatch(t *testing.T, args ...string) *job {
	t.Helper()
	j := b.start(t, append([]string{"watch"}, args...)...)
	j.out.until(t, limit, "Watch enabled")
	return j
}

// end interrupts a watch, which must not fail.
func (j *job) end(t *testing.T) {
	t.Helper()
	j.signal(t, syscall.SIGINT)
	if code := j.wait(t, soon); code != 130 {
		t.Errorf("a watch that is interrupted ends with %d: %s", code, tail(j.out.String()))
	}
}

// rootOf is a running container's root as this process sees it.
func (b *box) rootOf(t *testing.T, name string) string {
	t.Helper()
	pid := b.look(t, name).State.Pid
	if pid == 0 {
		t.Fatalf("%s does not run", name)
	}
	return fmt.Sprintf("/proc/%d/root", pid)
}

// comes waits until a file has a content.
func comes(t *testing.T, name, content string) {
	t.Helper()
	eventually(t, soon, func() error {
		got, err := os.ReadFile(name)
		if err == nil && string(got) != content {
			err = fmt.Errorf("%s is %q, not %q", name, tail(string(got)), tail(content))
		}
		return err
	})
}

// goes waits until nothing has a name.
func goes(t *testing.T, name string) {
	t.Helper()
	eventually(t, soon, func() error {
		if _, err := os.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s is there: %v", name, err)
		}
		return nil
	})
}

func replaced(t *testing.T, name, content string) {
	t.Helper()
	must(t, os.WriteFile(name+".new", []byte(content), 0o644))
	must(t, os.Rename(name+".new", name))
}

// The image has one static program and nothing else: no shell, no tar, no rm.
func TestWatchSyncs(t *testing.T) {
	b := newBox(t, "probe")
	b.compose(t, `
		services:
			web:
				image: probe
				command: serve 8080
				user: "1234:5678"
				deploy: {replicas: 2}
				develop:
					watch:
						- {path: src, action: sync, target: /app, ignore: [node_modules, "**/*.log"]}
						- {path: only.conf, action: sync, target: /etc/only.conf}
	`)
	b.write(t, "src/old", "old")
	b.write(t, "src/d/e/deep", "deep")
	b.write(t, "only.conf", "1")
	b.write(t, ".dockerignore", "")
	watch := b.startWatch(t)
	one, two := b.rootOf(t, "app-web-1"), b.rootOf(t, "app-web-2")
	src := filepath.Join(b.dir, "src")
	both := func(f func(t *testing.T, root string)) {
		t.Helper()
		for _, root := range []string{one, two} {
			f(t, root)
		}
	}
	t.Run("what was there before is not copied unasked", func(t *testing.T) {
		b.write(t, "src/new", "new")
		both(func(t *testing.T, root string) {
			comes(t, root+"/app/new", "new")
			if _, err := os.Lstat(root + "/app/old"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("it is there: %v", err)
			}
		})
	})
	t.Run("the owner is the container's user, the mode the file's", func(t *testing.T) {
		must(t, os.WriteFile(filepath.Join(src, "run"), []byte("x"), 0o750))
		must(t, os.Chmod(filepath.Join(src, "run"), 0o750))
		both(func(t *testing.T, root string) {
			comes(t, root+"/app/run", "x")
			st, err := os.Stat(root + "/app/run")
			must(t, err)
			sys := st.Sys().(*syscall.Stat_t)
			if st.Mode().Perm() != 0o750 || sys.Uid != 1234 || sys.Gid != 5678 {
				t.Errorf("%v %d:%d", st.Mode(), sys.Uid, sys.Gid)
			}
		})
		must(t, os.Chmod(filepath.Join(src, "run"), 0o700))
		both(func(t *testing.T, root string) {
			eventually(t, soon, func() error {
				if st, err := os.Stat(root + "/app/run"); err != nil || st.Mode().Perm() != 0o700 {
					return fmt.Errorf("%v %v", st.Mode(), err)
				}
				return nil
			})
		})
	})
	t.Run("an editor that replaces the file", func(t *testing.T) {
		for i := range 5 {
			replaced(t, filepath.Join(src, "new"), fmt.Sprint("edit ", i))
			both(func(t *testing.T, root string) { comes(t, root+"/app/new", fmt.Sprint("edit ", i)) })
		}
		both(func(t *testing.T, root string) { goes(t, root+"/app/new.new") })
	})
	t.Run("an editor that renames the old file away first", func(t *testing.T) {
		must(t, os.Rename(filepath.Join(src, "new"), filepath.Join(src, "new~")))
		b.write(t, "src/new", "written anew")
		must(t, os.Remove(filepath.Join(src, "new~")))
		both(func(t *testing.T, root string) { comes(t, root+"/app/new", "written anew"); goes(t, root+"/app/new~") })
	})
	t.Run("directories come, move and go", func(t *testing.T) {
		b.write(t, "src/a/b/c/file", "here")
		both(func(t *testing.T, root string) { comes(t, root+"/app/a/b/c/file", "here") })
		must(t, os.Rename(filepath.Join(src, "a"), filepath.Join(src, "z")))
		both(func(t *testing.T, root string) { comes(t, root+"/app/z/b/c/file", "here"); goes(t, root+"/app/a") })
		b.write(t, "src/z/b/c/file", "still watched")
		both(func(t *testing.T, root string) { comes(t, root+"/app/z/b/c/file", "still watched") })
		// Out of the tree and back.
		must(t, os.Rename(filepath.Join(src, "z"), filepath.Join(b.dir, "out")))
		both(func(t *testing.T, root string) { goes(t, root+"/app/z") })
		must(t, os.Rename(filepath.Join(b.dir, "out"), filepath.Join(src, "back")))
		both(func(t *testing.T, root string) { comes(t, root+"/app/back/b/c/file", "still watched") })
		b.write(t, "src/back/b/c/more", "more")
		both(func(t *testing.T, root string) { comes(t, root+"/app/back/b/c/more", "more") })
		must(t, os.RemoveAll(filepath.Join(src, "back")))
		both(func(t *testing.T, root string) { goes(t, root+"/app/back") })
	})
	t.Run("a file becomes a directory, and the other way round", func(t *testing.T) {
		b.write(t, "src/x", "file")
		both(func(t *testing.T, root string) { comes(t, root+"/app/x", "file") })
		must(t, os.Remove(filepath.Join(src, "x")))
		b.write(t, "src/x/in", "in")
		both(func(t *testing.T, root string) { comes(t, root+"/app/x/in", "in") })
		must(t, os.RemoveAll(filepath.Join(src, "x")))
		b.write(t, "src/x", "file again")
		both(func(t *testing.T, root string) { comes(t, root+"/app/x", "file again") })
	})
	t.Run("links stay links", func(t *testing.T) {
		must(t, os.Symlink("nowhere", filepath.Join(src, "link")))
		both(func(t *testing.T, root string) {
			eventually(t, soon, func() error {
				if to, err := os.Readlink(root + "/app/link"); err != nil || to != "nowhere" {
					return fmt.Errorf("%q %v", to, err)
				}
				return nil
			})
		})
		must(t, os.Remove(filepath.Join(src, "link")))
		both(func(t *testing.T, root string) {
			eventually(t, soon, func() error {
				if _, err := os.Readlink(root + "/app/link"); !errors.Is(err, fs.ErrNotExist) {
					return fmt.Errorf("%v", err)
				}
				return nil
			})
		})
	})
	t.Run("one file", func(t *testing.T) {
		replaced(t, filepath.Join(b.dir, "only.conf"), "2")
		both(func(t *testing.T, root string) { comes(t, root+"/etc/only.conf", "2") })
		must(t, os.Remove(filepath.Join(b.dir, "only.conf")))
		both(func(t *testing.T, root string) { goes(t, root+"/etc/only.conf") })
	})
	t.Run("the whole path goes and comes again", func(t *testing.T) {
		b.write(t, "src/keep", "1")
		both(func(t *testing.T, root string) { comes(t, root+"/app/keep", "1") })
		must(t, os.RemoveAll(src))
		both(func(t *testing.T, root string) { goes(t, root+"/app/keep") })
		b.write(t, "src/keep", "2")
		both(func(t *testing.T, root string) { comes(t, root+"/app/keep", "2") })
	})
	t.Run("ignored files stay here", func(t *testing.T) {
		b.write(t, "src/node_modules/x", "x")
		b.write(t, "src/d/a.log", "x")
		b.write(t, "src/.git/x", "x")
		b.write(t, "src/last", "last")
		both(func(t *testing.T, root string) {
			comes(t, root+"/app/last", "last")
			goes(t, root+"/app/node_modules")
			goes(t, root+"/app/d/a.log")
			goes(t, root+"/app/.git")
		})
	})
	t.Run("many files are one batch", func(t *testing.T) {
		before := strings.Count(watch.out.String(), "Syncing")
		for i := range 2000 {
			b.write(t, fmt.Sprintf("src/many/%d/%d", i%40, i), fmt.Sprint(i))
		}
		both(func(t *testing.T, root string) { comes(t, root+"/app/many/39/1999", "1999") })
		watch.out.until(t, soon, "after 2041 changes")
		if n := strings.Count(watch.out.String(), "Syncing") - before; n != 1 {
			t.Errorf("%d batches: %s", n, tail(watch.out.String()))
		}
	})
	t.Run("nothing is left under another name", func(t *testing.T) {
		must(t, filepath.WalkDir(one+"/app", func(name string, d fs.DirEntry, err error) error {
			if strings.HasPrefix(d.Name(), ".stack") {
				t.Error(name)
			}
			return err
		}))
	})
	watch.end(t)
	if out := watch.out.String(); strings.Contains(out, "Warning") || !strings.Contains(out, "Watch disabled") {
		t.Error(tail(out))
	}
	b.ok(t, "down")
	conformance.Works(t, "services.*.develop.watch.[].path", "services.*.develop.watch.[].action", "services.*.develop.watch.[].target", "services.*.develop.watch.[].ignore")
}

func TestWatchContentDecides(t *testing.T) {
	b := newBox(t, "probe")
	b.compose(t, `
		services:
			web:
				image: probe
				command: serve 8080
				develop:
					watch:
						- {path: src, action: sync+restart, target: /app}
						- {path: conf, action: restart, include: ["*.conf"]}
	`)
	b.write(t, "src/a", "1")
	b.write(t, "conf/a.conf", "1")
	b.write(t, "conf/a.txt", "1")
	watch := b.startWatch(t)
	began := func() time.Time { return b.look(t, "app-web-1").State.StartedAt }
	restarted := func(since time.Time) {
		t.Helper()
		eventually(t, soon, func() error {
			if i := b.look(t, "app-web-1"); !i.State.StartedAt.After(since) || i.State.Pid == 0 {
				return fmt.Errorf("not started since %v: %+v", since, i.State)
			}
			return nil
		})
	}
	at := began()
	b.write(t, "src/a", "2")
	restarted(at)
	comes(t, b.rootOf(t, "app-web-1")+"/app/a", "2")
	watch.out.until(t, soon, `service(s) ["web"] restarted`)

	at = began()
	b.write(t, "conf/a.conf", "2")
	restarted(at)

	// What follows is no change: a touch, the same content again, another file. The
	// last one is, so that there is an end to wait for.
	at = began()
	now := time.Now()
	must(t, os.Chtimes(filepath.Join(b.dir, "src/a"), now, now))
	must(t, os.Chtimes(filepath.Join(b.dir, "conf/a.conf"), now, now))
	replaced(t, filepath.Join(b.dir, "conf/a.conf"), "2")
	b.write(t, "src/a", "2")
	b.write(t, "conf/a.txt", "2")
	before := strings.Count(watch.out.String(), "restarted")
	restartsUntil := func(n int) {
		t.Helper()
		eventually(t, soon, func() error {
			if got := strings.Count(watch.out.String(), "restarted"); got != n {
				return fmt.Errorf("%d restarts, not %d: %s", got, n, tail(watch.out.String()))
			}
			return nil
		})
	}
	b.write(t, "src/end", "x")
	restarted(at)
	restartsUntil(before + 1)
	watch.end(t)
	b.ok(t, "down")
	conformance.Works(t, "services.*.develop.watch.[].include", "services.*.develop.watch.[].action")
}

// A container may have made a link of what is written to, and must not lead its
// host's root out with it.
func TestWatchStaysInside(t *testing.T) {
	b := newBox(t, "busybox:latest")
	victim, secret := filepath.Join(b.root, "victim"), filepath.Join(b.root, "secret")
	must(t, os.Mkdir(victim, 0o755))
	b.compose(t, `
		services:
			web:
				image: busybox
				command: ["sh", "-c", "mkdir -p /trap `+victim+` `+secret+` && ln -s `+victim+` /app && ln -s /proc/1/root`+victim+` /trap/d && ln -s `+victim+`/f /trap/f && ln -s /nowhere /trap/lost && touch /ready && sleep 1000"]
				init: true
				stop_signal: SIGKILL
				volumes: [data:/data]
				develop:
					watch:
						- {path: src, action: sync, target: /app}
						- {path: src, action: sync, target: /trap}
						- {path: data, action: sync, target: /}
						- {path: src, action: sync, target: /trap/lost}
		volumes: {data: {}}
	`)
	b.write(t, "src/.keep", "")
	watch := b.startWatch(t)
	root := b.rootOf(t, "app-web-1")
	comes(t, root+"/ready", "")
	b.write(t, "src/f", "inside")
	b.write(t, "src/d/g", "inside")
	comes(t, root+victim+"/f", "inside")
	comes(t, root+"/trap/f", "inside")
	comes(t, root+"/trap/d/g", "inside")
	watch.out.until(t, soon, "open /trap/lost: no such file or directory")
	b.write(t, "data/data/in-volume", "x")
	comes(t, root+"/data/in-volume", "x")
	// Whoever can write the sources, as a container can into which they are mounted,
	// gets nothing of the host by a link among them.
	must(t, errors.Join(os.Mkdir(secret, 0o755), os.WriteFile(secret+"/g", []byte("secret"), 0o644)))
	must(t, errors.Join(os.RemoveAll(filepath.Join(b.dir, "src/d")), os.Symlink(secret, filepath.Join(b.dir, "src/d"))))
	eventually(t, soon, func() error {
		if to, err := os.Readlink(root + "/trap/d"); to != secret {
			return fmt.Errorf("it leads to %q, %v", to, err)
		}
		return nil
	})
	b.write(t, "src/f", "last")
	comes(t, root+"/trap/f", "last")
	if text, err := os.ReadFile(root + secret + "/g"); err == nil {
		t.Errorf("a file of the host came into the container: %q", text)
	}
	must(t, os.Remove(filepath.Join(b.dir, "src/d")))
	eventually(t, soon, func() error {
		if to, err := os.Readlink(root + "/trap/d"); err == nil {
			return fmt.Errorf("it still leads to %s", to)
		}
		return nil
	})
	// A directory that goes takes no volume along.
	must(t, os.RemoveAll(filepath.Join(b.dir, "data/data")))
	watch.out.until(t, soon, "something is mounted there")
	comes(t, root+"/data/in-volume", "x")
	must(t, os.RemoveAll(filepath.Join(b.dir, "src")))
	goes(t, root+"/trap/f")
	left, err := os.ReadDir(victim)
	must(t, err)
	if len(left) > 0 {
		t.Errorf("the container led out of its root: %v", left)
	}
	watch.end(t)
	b.ok(t, "down", "-v")
}

func TestWatchInitialSyncAndStopped(t *testing.T) {
	b := newBox(t, "probe")
	b.compose(t, `
		services:
			web:
				image: probe
				command: serve 8080
				volumes: [data:/app/data]
				develop:
					watch:
						- {path: ., action: sync, target: /app, initial_sync: true, ignore: [skip]}
		volumes: {data: {}}
	`)
	b.write(t, "a", "1")
	b.write(t, "d/b", "1")
	b.write(t, "skip/c", "1")
	b.write(t, "data/v", "1")
	b.write(t, "Dockerfile", "x")
	watch := b.startWatch(t)
	root := b.rootOf(t, "app-web-1")
	comes(t, root+"/app/a", "1")
	comes(t, root+"/app/d/b", "1")
	comes(t, root+"/app/data/v", "1")
	goes(t, root+"/app/skip")
	goes(t, root+"/app/Dockerfile")
	goes(t, root+"/app/compose.yaml")

	b.ok(t, "stop")
	in := func(name, want string) {
		t.Helper()
		eventually(t, soon, func() error {
			r := b.stack(t, "cp", "web:"+name, "-")
			tr := tar.NewReader(strings.NewReader(r.stdout))
			if _, err := tr.Next(); err != nil {
				return fmt.Errorf("%w: %v", err, r)
			}
			if got, err := io.ReadAll(tr); err != nil || string(got) != want {
				return fmt.Errorf("%s is %q, not %q (%v)", name, got, want, err)
			}
			return nil
		})
	}
	b.write(t, "a", "while it is stopped")
	in("/app/a", "while it is stopped")
	b.write(t, "data/v", "into its volume")
	in("/app/data/v", "into its volume")
	must(t, os.RemoveAll(filepath.Join(b.dir, "d")))
	eventually(t, soon, func() error {
		if r := b.stack(t, "cp", "web:/app/d", "-"); r.code == 0 {
			return errors.New("it is there")
		}
		return nil
	})
	b.ok(t, "start")
	root = b.rootOf(t, "app-web-1")
	comes(t, root+"/app/a", "while it is stopped")

	// What has changed while nobody watched comes with the next watch.
	watch.end(t)
	b.write(t, "a", "while nobody watched")
	watch = b.startWatch(t, "--no-up")
	comes(t, root+"/app/a", "while nobody watched")

	// A container that is made anew gets all of it again.
	b.ok(t, "up", "-d", "--force-recreate")
	b.write(t, "e", "1")
	root = b.rootOf(t, "app-web-1")
	comes(t, root+"/app/e", "1")
	comes(t, root+"/app/a", "while nobody watched")
	watch.end(t)
	b.ok(t, "down", "-v")
	conformance.Works(t, "services.*.develop.watch.[].initial_sync")
}

func TestWatchSurvivesTheSupervisor(t *testing.T) {
	b := newBox(t, "probe")
	b.compose(t, `
		services:
			web:
				image: probe
				command: serve 8080
				develop:
					watch:
						- {path: src, action: sync, target: /app}
						- {path: conf, action: restart}
	`)
	b.write(t, "src/a", "1")
	b.write(t, "conf/a", "1")
	watch := b.startWatch(t)
	b.killKeepers(t, "app", "supervisor")
	b.write(t, "src/a", "2")
	comes(t, b.rootOf(t, "app-web-1")+"/app/a", "2")
	b.eventuallyKept(t, "app")
	b.killKeepers(t, "app", "supervisor")
	b.write(t, "conf/a", "2")
	watch.out.until(t, soon, `service(s) ["web"] restarted`)
	b.write(t, "src/a", "3")
	comes(t, b.rootOf(t, "app-web-1")+"/app/a", "3")
	watch.end(t)
	b.ok(t, "down")
}

func TestWatchExec(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.compose(t, `
		services:
			web:
				image: busybox
				command: ["sleep", "1000"]
				init: true
				stop_signal: SIGKILL
				deploy: {replicas: 2}
				develop:
					watch:
						- path: src
							action: sync+exec
							target: /app
							exec:
								command: ["sh", "-c", "sleep 1000 & echo ran as $$(id -u) in $$(pwd) with $$A: $$(cat /app/a) $$(grep -c a80425fb /proc/self/status); test $$(cat /app/a) != bad"]
								user: "77"
								privileged: true
								working_dir: /tmp
								environment: [A=b]
	`)
	b.write(t, "src/x", "1")
	watch := b.startWatch(t)
	b.write(t, "src/a", "good")
	for _, name := range []string{"web-1", "web-2"} {
		watch.out.until(t, soon, name+"  | ran as 77 in /tmp with b: good 0\n")
	}
	b.write(t, "src/a", "bad")
	watch.out.until(t, soon, "exit status 1")
	// It goes on after a command that fails.
	b.write(t, "src/a", "fine")
	watch.out.until(t, soon, "web-2  | ran as 77 in /tmp with b: fine 0\n")
	b.ok(t, "stop")
	b.write(t, "src/a", "stopped")
	watch.out.until(t, soon, "none of its containers runs")
	watch.end(t)
	b.ok(t, "down")
	conformance.Works(t, "services.*.develop.watch.[].exec", "services.*.develop.watch.[].exec.command", "services.*.develop.watch.[].exec.user", "services.*.develop.watch.[].exec.privileged",
		"services.*.develop.watch.[].exec.working_dir", "services.*.develop.watch.[].exec.environment.**")
}

func TestWatchRebuilds(t *testing.T) {
	b := newBuildBox(t)
	b.compose(t, `
		services:
			base:
				image: busybox
				command: ["sleep", "1000"]
				init: true
				stop_signal: SIGKILL
				depends_on:
					web: {condition: service_started, restart: true}
			web:
				build: .
				command: ["sleep", "1000"]
				init: true
				stop_signal: SIGKILL
				develop:
					watch:
						- {path: ., action: rebuild, ignore: [notes, synced]}
						- {path: synced, action: sync, target: /synced}
	`)
	dockerfile := "FROM busybox\nCOPY file /file\nRUN test \"$(cat /file)\" != bad\n"
	b.write(t, "Dockerfile", dockerfile)
	b.write(t, "file", "1")
	watch := b.startWatch(t)
	comes(t, b.rootOf(t, "app-web-1")+"/file", "1")
	b.write(t, "synced/s", "kept")
	comes(t, b.rootOf(t, "app-web-1")+"/synced/s", "kept")
	first, base := b.look(t, "app-web-1"), b.look(t, "app-base-1")

	b.write(t, "file", "2")
	watch.out.until(t, limit, `service(s) ["web"] successfully built`)
	eventually(t, soon, func() error {
		i, err := b.tryLook(t, "app-web-1")
		if err != nil || i.ID == first.ID || i.State.Pid == 0 {
			return fmt.Errorf("%v %v", i.State, err)
		}
		return nil
	})
	root := b.rootOf(t, "app-web-1")
	comes(t, root+"/file", "2")
	comes(t, root+"/synced/s", "kept")
	eventually(t, soon, func() error {
		if i := b.look(t, "app-base-1"); i.ID != base.ID || !i.State.StartedAt.After(base.State.StartedAt) {
			return fmt.Errorf("what depends on it with restart: %+v", i.State)
		}
		return nil
	})

	second := b.look(t, "app-web-1")
	b.write(t, "file", "bad")
	watch.out.until(t, limit, `Build failed, service "web" stays as it is`)
	if out := watch.out.String(); !strings.Contains(out, "did not complete successfully") {
		t.Errorf("the build's error is not told: %s", tail(out))
	}
	if i := b.look(t, "app-web-1"); i.ID != second.ID || i.State.StartedAt != second.State.StartedAt {
		t.Errorf("a build that failed changed the container: %+v", i.State)
	}
	b.write(t, "file", "3")
	eventually(t, limit, func() error {
		i, err := b.tryLook(t, "app-web-1")
		if err != nil || i.ID == second.ID || i.State.Pid == 0 {
			return fmt.Errorf("%v %v", i.State, err)
		}
		return nil
	})
	comes(t, b.rootOf(t, "app-web-1")+"/file", "3")
	watch.end(t)
	if out := b.ok(t, "image", "ls", "--filter", "dangling=true", "-q"); out != "" {
		t.Errorf("images of earlier builds are left: %s", out)
	}
	b.ok(t, "down", "--rmi", "local")
	conformance.Works(t, "services.*.develop.watch.[].action")
}

func TestWatchErrors(t *testing.T) {
	b := newBox(t, "probe")
	for name, tt := range map[string]struct{ watch, want string }{
		"a rebuild without a build": {"- {path: ., action: rebuild}", `compose.yaml:7: services.web.develop.watch[0].action: can't watch service "web" with action rebuild without a build section`},
		"no command":                {"- {path: ., action: sync+exec, target: /a}", `compose.yaml:7: services.web.develop.watch[0].exec: action sync+exec needs a command`},
		"no target":                 {"- {path: ., action: sync}", `compose.yaml:7`},
		"no such action":            {"- {path: ., action: copy, target: /a}", `services.web.develop.watch[0].action`},
		"no such attribute":         {"- {path: ., action: sync, target: /a, targets: /b}", `compose.yaml:7`},
		"a broken pattern":          {`- {path: ., action: sync, target: /a, ignore: ["a["]}`, `compose.yaml:7: services.web.develop.watch[0]: ignore: pattern "a[" cannot be read`},
		"nothing at all":            {"[]", `none of the selected services is configured for watch`},
	} {
		t.Run(name, func(t *testing.T) {
			b.write(t, "compose.yaml", "services:\n  web:\n    image: probe\n    command: serve 8080\n    develop:\n      watch:\n        "+tt.watch+"\n")
			r := b.fails(t, "watch", "--no-up")
			if !strings.Contains(r.stderr, tt.want) {
				t.Errorf("no %q: %v", tt.want, r)
			}
		})
	}
	t.Run("what has no effect is told", func(t *testing.T) {
		b.compose(t, `
			services:
				web:
					image: probe
					command: serve 8080
					volumes: ["./src:/app"]
					develop:
						watch:
							- {path: conf, action: restart, target: /a, initial_sync: true, exec: {command: x}}
							- {path: src, action: sync, target: /app}
							- {path: later, action: sync, target: b}
		`)
		b.write(t, "src/x", "1")
		watch := b.startWatch(t)
		for _, want := range []string{
			"watch[0].exec: the command is never run", "watch[0].target: it has no effect", "watch[1].path: path",
			`watch[2].target: "b" is taken as /b`, "later is not there yet",
		} {
			if out := watch.out.String(); !strings.Contains(out, want) {
				t.Errorf("no %q in %s", want, tail(out))
			}
		}
		b.write(t, "later/x", "1")
		comes(t, b.rootOf(t, "app-web-1")+"/b/x", "1")
		if r := b.fails(t, "watch", "--no-up"); !strings.Contains(r.stderr, "another stack watch") {
			t.Error(r)
		}
		watch.end(t)
		b.ok(t, "down")
	})
}

// A watch that is part of an up ends with it.
func TestUpWatches(t *testing.T) {
	b := newBox(t, "probe")
	b.compose(t, `
		services:
			web:
				image: probe
				command: serve 8080
				develop:
					watch:
						- {path: src, action: sync+restart, target: /app}
	`)
	b.write(t, "src/a", "1")
	up := b.start(t, "up", "--watch")
	up.out.until(t, limit, "Watch enabled")
	at := b.look(t, "app-web-1").State.StartedAt
	b.write(t, "src/a", "2")
	up.out.until(t, soon, `service(s) ["web"] restarted`)
	i := b.look(t, "app-web-1")
	if !i.State.StartedAt.After(at) {
		t.Errorf("not restarted: %+v", i.State)
	}
	comes(t, b.rootOf(t, "app-web-1")+"/app/a", "2")
	// The restart did not end it.
	b.write(t, "src/b", "3")
	eventually(t, soon, func() error {
		if n := strings.Count(up.out.String(), "restarted"); n != 2 {
			return fmt.Errorf("%d restarts", n)
		}
		return nil
	})
	up.signal(t, syscall.SIGINT)
	if code := up.wait(t, soon); code != 130 {
		t.Errorf("exit code %d: %s", code, tail(up.out.String()))
	}
	if i := b.look(t, "app-web-1"); i.State.Running {
		t.Errorf("it runs on: %+v", i.State)
	}
	if out := up.out.String(); !strings.Contains(out, "Watch disabled") || strings.Contains(out, "Warning") {
		t.Error(tail(out))
	}
	b.ok(t, "down")
}
