package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stack-run/stack/compose/desired"
	"github.com/stack-run/stack/engine/container"
	"github.com/stack-run/stack/engine/sealed"

	"github.com/stack-run/stack/e2e/conformance"
)

// nowhere makes sure that a secret is in no file of the installation's, and in its
// run root, which is memory, in none but those of running containers' secrets.
func nowhere(t *testing.T, b *box, secrets ...string) {
	t.Helper()
	for _, secret := range secrets {
		for _, form := range []string{secret, base64.StdEncoding.EncodeToString([]byte(secret))[:len(secret)*8/6]} {
			if where := find(t, b.dataRoot(), form); where != "" {
				t.Errorf("%s stands in %s", form, where)
			}
			if where := find(t, b.runRoot(), form); where != "" && filepath.Base(where) != "secrets.json" {
				t.Errorf("%s stands in %s", form, where)
			}
		}
	}
}

// storeKey is the file that secrets and configs are sealed with.
func storeKey(b *box) string { return filepath.Join(b.dataRoot(), "sealed", "key") }

func TestSecretStore(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.write(t, "pw", "hunter2hunter2")
	id := strings.TrimSpace(b.ok(t, "secret", "create", "--label", "tier=back", "db_password", "pw"))
	if r := b.input(t, "tokentokentoken", "secret", "create", "api.token", "-"); r.code != 0 {
		t.Fatal(r)
	}
	b.write(t, "conf", "listen 80\n")
	b.ok(t, "configs", "create", "proxy", "conf")
	nowhere(t, b, "hunter2hunter2", "tokentokentoken")
	t.Run("ls and inspect tell all but the content", func(t *testing.T) {
		if out := b.ok(t, "secret", "ls", "--format", "{{.Name}}"); out != "api.token\ndb_password\n" {
			t.Errorf("%q", out)
		}
		if out := b.ok(t, "secret", "ls", "--quiet", "--filter", "label=tier=back"); out != id+"\n" {
			t.Errorf("%q", out)
		}
		for _, args := range [][]string{{}, {"--pretty"}, {"--format", "{{json .}}"}} {
			out := b.ok(t, append([]string{"secret", "inspect", "db_password"}, args...)...)
			if !strings.Contains(out, id) || strings.Contains(out, "hunter2") || strings.Contains(out, "aHVudGVy") {
				t.Error(out)
			}
		}
		if out := b.ok(t, "configs", "inspect", "--pretty", "proxy"); !strings.Contains(out, "listen 80") {
			t.Error(out)
		}
	})
	t.Run("names and sizes are checked", func(t *testing.T) {
		b.write(t, "empty", "")
		b.write(t, "large", strings.Repeat("x", 500<<10+1))
		for _, args := range [][]string{
			{"..", "pw"}, {"a/b", "pw"}, {"../key", "pw"}, {"", "pw"}, {"ü", "pw"}, {".tmp-1", "pw"}, {strings.Repeat("a", 65), "pw"},
			{"x", "empty"}, {"x", "large"}, {"x", "none"}, {"x", "."}, {"db_password", "conf"},
		} {
			b.fails(t, append([]string{"secret", "create"}, args...)...)
			b.fails(t, "secret", "inspect", args[0]+"x")
			b.fails(t, "secret", "rm", args[0]+"x")
		}
		if out := b.ok(t, "secret", "ls", "--quiet"); strings.Count(out, "\n") != 2 {
			t.Error(out)
		}
		long := strings.Repeat("a", 64)
		b.ok(t, "secret", "create", long, "pw")
		b.ok(t, "secret", "rm", long)
	})
	t.Run("of two creates at once one wins", func(t *testing.T) {
		var wg sync.WaitGroup
		results := make([]result, 6)
		for i := range results {
			wg.Go(func() { results[i] = b.input(t, "content", "secret", "create", "contested", "-") })
		}
		wg.Wait()
		won := 0
		for _, r := range results {
			if r.code == 0 {
				won++
			} else if !strings.Contains(r.stderr, "one of that name already") {
				t.Error(r)
			}
		}
		if won != 1 {
			t.Errorf("%d creates won", won)
		}
		b.ok(t, "secret", "rm", "contested")
	})

	b.compose(t, `
		name: app
		services:
			web:
				image: busybox
				command: ["sleep", "infinity"]
				stop_grace_period: 0s
				secrets:
					- db_password
					- {source: token, target: deep/token, uid: "7", gid: "8", mode: 0400}
					- {source: by_file, uid: "9", mode: 0440}
					- {source: by_variable, gid: "10"}
				configs:
					- {source: proxy, target: /etc/proxy.conf, uid: "11", gid: "12", mode: 0640}
					- {source: inline, uid: "13", mode: 0404}
		secrets:
			db_password: {external: true}
			token: {external: true, name: "api.${WHICH:-token}"}
			by_file: {file: ./pw}
			by_variable: {environment: VARIABLE}
		configs:
			proxy: {external: true}
			inline: {content: hello}
	`)
	b = b.with("VARIABLE=variablevariable")
	up := func(t *testing.T, args ...string) string {
		t.Helper()
		r := b.stack(t, append([]string{"up", "--detach"}, args...)...)
		if r.code != 0 {
			t.Fatal(r)
		}
		return r.stderr
	}
	sh := func(t *testing.T, script string) string {
		t.Helper()
		return strings.TrimSpace(b.ok(t, "exec", "-T", "web", "sh", "-c", script))
	}
	up(t)
	t.Run("a container has them, with owner, group and mode", func(t *testing.T) {
		for file, want := range map[string]string{
			"/run/secrets/db_password": "hunter2hunter2 444:0:0",
			"/run/secrets/deep/token":  "tokentokentoken 400:7:8",
			"/run/secrets/by_file":     "hunter2hunter2 440:9:0",
			"/run/secrets/by_variable": "variablevariable 444:0:10",
			"/etc/proxy.conf":          "listen 80 440:11:12",
			"/inline":                  "hello 404:13:0",
		} {
			if out := sh(t, `echo "$(cat `+file+`) $(stat -c %a:%u:%g `+file+`)"`); out != want {
				t.Errorf("%s: %q, want %q", file, out, want)
			}
		}
		if out := sh(t, "echo x > /run/secrets/db_password || touch /run/secrets/db_password || echo read-only"); !strings.Contains(out, "read-only") {
			t.Error(out)
		}
	})
	t.Run("the content is in no file, output or log", func(t *testing.T) {
		secrets := []string{"hunter2hunter2", "tokentokentoken", "variablevariable"}
		nowhere(t, b, secrets...)
		var said bytes.Buffer
		for _, args := range [][]string{
			{"config"}, {"config", "--no-interpolate"}, {"config", "--format", "json"}, {"config", "--hash", "*"}, {"plan"}, {"plan", "--force-recreate", "--format", "json"},
			{"container", "inspect", "app-web-1"}, {"inspect", "app-web-1"}, {"--dry-run", "up", "--force-recreate"}, {"events", "--since", "1h", "--until", "0s"}, {"ps", "--all", "--format", "json"},
			{"secret", "inspect", "db_password"}, {"system", "check"},
		} {
			r := b.stack(t, args...)
			said.WriteString(r.stdout + r.stderr)
		}
		for _, secret := range secrets {
			if strings.Contains(said.String(), secret) || strings.Contains(said.String(), base64.StdEncoding.EncodeToString([]byte(secret))) {
				t.Errorf("%s is printed", secret)
			}
		}
	})
	t.Run("what is used is not removed", func(t *testing.T) {
		for _, args := range [][]string{{"secret", "rm", "db_password"}, {"secret", "rm", id}, {"configs", "rm", "proxy"}} {
			b.fails(t, append([]string{"--dry-run"}, args...)...)
			if r := b.fails(t, args...); !strings.Contains(r.stderr, "used by container app-web-1") {
				t.Error(r)
			}
		}
	})
	t.Run("nothing is done again, restart and a killed supervisor keep them", func(t *testing.T) {
		before := b.look(t, "app-web-1").ID
		up(t)
		b.ok(t, "restart", "web")
		b.ok(t, "kill", "web")
		b.ok(t, "start", "web")
		if b.look(t, "app-web-1").ID != before || sh(t, "cat /run/secrets/db_password") != "hunter2hunter2" {
			t.Error("another container, or none of it")
		}
	})
	t.Run("new content recreates, and is not there before", func(t *testing.T) {
		b.write(t, "new", "newnewnewnew")
		b.ok(t, "secret", "create", "--replace", "db_password", "new")
		b.ok(t, "restart", "web")
		if out := sh(t, "cat /run/secrets/db_password"); out != "hunter2hunter2" {
			t.Errorf("%q", out)
		}
		r := b.stack(t, "plan")
		if r.code != 2 || !strings.Contains(r.stdout, "secrets./run/secrets/db_password") {
			t.Error(r)
		}
		before := b.look(t, "app-web-1").ID
		up(t)
		if b.look(t, "app-web-1").ID == before || sh(t, "cat /run/secrets/db_password") != "newnewnewnew" {
			t.Error("not recreated")
		}
		if r := b.stack(t, "plan"); r.code != 0 {
			t.Error(r)
		}
		nowhere(t, b, "newnewnewnew", "hunter2hunter2")
	})
	t.Run("a stored secret is there after a boot", func(t *testing.T) {
		b := b.in(t, "booted")
		b.compose(t, `
			name: booted
			services:
				web: {image: busybox, command: ["sleep", "infinity"], stop_grace_period: 0s, secrets: [db_password], configs: [proxy]}
			secrets: {db_password: {external: true}}
			configs: {proxy: {external: true}}
		`)
		b.ok(t, "up", "--detach")
		b.ok(t, "stop")
		secrets, err := filepath.Glob(filepath.Join(b.runRoot(), "containers", b.look(t, "booted-web-1").ID, "secrets.json"))
		must(t, err)
		if len(secrets) != 1 {
			t.Fatalf("the content is kept in %v", secrets)
		}
		must(t, os.Remove(secrets[0])) // memory is empty after a boot
		b.ok(t, "start")
		if out := b.ok(t, "exec", "-T", "web", "cat", "/run/secrets/db_password", "/proxy"); out != "newnewnewnewlisten 80\n" {
			t.Errorf("%q", out)
		}
		b.ok(t, "down")
	})
	t.Run("a replaced one is not there before the container is made anew, also after a boot", func(t *testing.T) {
		b := b.in(t, "replaced")
		b.write(t, "old", "firstfirst")
		b.write(t, "new", "secondsecond")
		b.ok(t, "secret", "create", "later", "old")
		b.compose(t, `
			name: replaced
			services:
				web: {image: busybox, command: ["sleep", "infinity"], stop_grace_period: 0s, secrets: [later]}
				taker: {image: busybox, command: ["sleep", "infinity"], stop_grace_period: 0s, volumes_from: [web]}
			secrets: {later: {external: true}}
		`)
		b.ok(t, "up", "--detach")
		b.ok(t, "secret", "create", "--replace", "later", "new")
		seen := func(want string) {
			t.Helper()
			for _, service := range []string{"web", "taker"} {
				if out := b.ok(t, "exec", "-T", service, "cat", "/run/secrets/later"); out != want {
					t.Errorf("%s has %q, want %q", service, out, want)
				}
			}
		}
		b.ok(t, "restart")
		seen("firstfirst")
		b.ok(t, "stop")
		must(t, os.Remove(filepath.Join(b.runRoot(), "containers", b.look(t, "replaced-web-1").ID, "secrets.json"))) // memory is empty after a boot
		b.ok(t, "start")
		seen("firstfirst")
		nowhere(t, b, "firstfirst", "secondsecond")
		if r := b.stack(t, "plan"); r.code != 2 || !strings.Contains(r.stdout, "secrets./run/secrets/later") {
			t.Error(r)
		}
		b.ok(t, "up", "--detach")
		seen("secondsecond")
		b.ok(t, "restart")
		seen("secondsecond")
		b.ok(t, "down")
		b.ok(t, "secret", "rm", "later")
	})
	t.Run("a missing one is an error with its place and what to do, and nothing changes", func(t *testing.T) {
		before := b.look(t, "app-web-1").ID
		r := b.with("WHICH=none").fails(t, "up", "--detach")
		for _, want := range []string{"compose.yaml:", "secrets.token.external", "no such secret: api.none", "stack secret create api.none FILE"} {
			if !strings.Contains(r.stderr, want) {
				t.Errorf("%q is not in %v", want, r)
			}
		}
		if b.look(t, "app-web-1").ID != before {
			t.Error("the container is another one")
		}
		b.with("WHICH=none").ok(t, "config", "--quiet")
	})
	t.Run("down lets go of them, and up has them again", func(t *testing.T) {
		b.ok(t, "down")
		nowhere(t, b, "newnewnewnew", "tokentokentoken")
		up(t)
		if out := sh(t, "cat /run/secrets/db_password"); out != "newnewnewnew" {
			t.Errorf("%q", out)
		}
		b.ok(t, "down")
		b.ok(t, "secret", "rm", "db_password", "api.token")
		b.ok(t, "configs", "rm", "proxy")
		b.fails(t, "secret", "inspect", "db_password")
	})
	conformance.Works(t, "secrets.*.external", "configs.*.external")
}

func TestSecretsOfOthers(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.write(t, "pw", "hunter2hunter2")
	b.ok(t, "secret", "create", "db", "pw")
	b.compose(t, `
		name: app
		services:
			donor: {image: busybox, command: ["sleep", "infinity"], stop_grace_period: 0s, secrets: [db]}
			taker: {image: busybox, command: ["sleep", "infinity"], stop_grace_period: 0s, volumes_from: [donor]}
			own: {image: busybox, command: ["sleep", "infinity"], stop_grace_period: 0s, userns_mode: auto, secrets: [{source: db, uid: "5", mode: 0400}]}
		secrets: {db: {external: true}}
	`)
	b.ok(t, "up", "--detach")
	if out := b.ok(t, "exec", "-T", "taker", "cat", "/run/secrets/db"); out != "hunter2hunter2" {
		t.Errorf("%q", out)
	}
	if out := b.ok(t, "exec", "-T", "own", "stat", "-c", "%u%a", "/run/secrets/db"); out != "5400\n" {
		t.Errorf("%q", out)
	}
	if out := b.ok(t, "run", "--rm", "-T", "donor", "cat", "/run/secrets/db"); out != "hunter2hunter2" {
		t.Errorf("%q", out)
	}
	nowhere(t, b, "hunter2hunter2")
}

func TestBuildWithStoredSecret(t *testing.T) {
	b := newBuildBox(t)
	b.write(t, "pw", "hunter2hunter2")
	b.write(t, "Dockerfile", "FROM busybox\nRUN --mount=type=secret,id=token sha256sum /run/secrets/token | grep ^76880d60191a\n")
	b.compose(t, `
		name: app
		services:
			web: {build: {context: ., secrets: [{source: db, target: token}]}}
		secrets: {db: {external: true}}
	`)
	if r := b.fails(t, "build"); !strings.Contains(r.stderr, "compose.yaml:4: secrets.db.external: no such secret: db") {
		t.Error(r)
	}
	b.ok(t, "secret", "create", "db", "pw")
	b.ok(t, "build")
	b.awaitBuilder(t)
	nowhere(t, b, "hunter2hunter2")
}

// TestSecretRemovedDuringUp has the removal of a secret meet the making of a container
// that uses it: one of them wins, and no container is without its secret.
func TestSecretRemovedDuringUp(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.write(t, "pw", "hunter2hunter2")
	b.compose(t, `
		name: app
		services:
			web: {image: busybox, command: ["sleep", "infinity"], stop_grace_period: 0s, secrets: [db]}
		secrets: {db: {external: true}}
	`)
	for i := range 8 {
		b.ok(t, "secret", "create", "--replace", "db", "pw")
		var up, rm result
		var wg sync.WaitGroup
		wg.Go(func() { up = b.stack(t, "up", "--detach") })
		wg.Go(func() {
			<-time.After(time.Duration(i) * 15 * time.Millisecond)
			rm = b.stack(t, "secret", "rm", "db")
		})
		wg.Wait()
		there := b.stack(t, "secret", "inspect", "db").code == 0
		_, err := b.tryLook(t, "app-web-1")
		if (up.code == 0) == (rm.code == 0) || there != (up.code == 0) || (err == nil) != (up.code == 0) {
			t.Errorf("the secret is there: %v, the container: %v\n%v\n%v", there, err, up, rm)
		}
		if up.code != 0 && !strings.Contains(up.stderr, "no such secret: db") {
			t.Error(up)
		}
		b.ok(t, "down")
	}
}

func TestDamagedSecretStore(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.write(t, "pw", "hunter2hunter2")
	b.ok(t, "secret", "create", "one", "pw")
	b.ok(t, "secret", "create", "two", "pw")
	b.compose(t, `
		name: app
		services:
			web: {image: busybox, command: ["sleep", "infinity"], stop_grace_period: 0s, secrets: [one]}
		secrets: {one: {external: true}}
	`)
	b.ok(t, "up", "--detach")
	file := filepath.Join(b.dataRoot(), "sealed", "secrets", "one")
	for what, path := range map[string]string{"key": storeKey(b), "file": file} {
		whole, err := os.ReadFile(path)
		must(t, err)
		for _, d := range damages {
			t.Run(what+" "+d.name, func(t *testing.T) {
				must(t, d.harm(path))
				r := b.fails(t, "up", "--detach")
				want := []string{"compose.yaml:", "secrets.one.external", path, "backup"}
				if what == "file" && d.name == "missing" {
					want = []string{"compose.yaml:", "no such secret: one", "stack secret create one FILE"}
				}
				for _, w := range want {
					if !strings.Contains(r.stderr, w) {
						t.Errorf("%q is not in %v", w, r)
					}
				}
				if what == "key" {
					if r := b.input(t, "x", "secret", "create", "three", "-"); r.code == 0 || !strings.Contains(r.stderr, path) {
						t.Error(r)
					}
				}
				if out := b.stack(t, "secret", "ls", "--format", "{{.Name}}").stdout; !strings.Contains(out, "two\n") {
					t.Errorf("ls: %q", out)
				}
				if r := b.stack(t, "system", "check", "--repair"); what != "file" || d.name != "missing" {
					if r.code == 0 || !strings.Contains(r.stdout+r.stderr, path) {
						t.Error(r)
					}
				}
				// What runs goes on, and may be started again.
				b.ok(t, "restart", "web")
				if out := b.ok(t, "exec", "-T", "web", "cat", "/run/secrets/one"); out != "hunter2hunter2" {
					t.Errorf("%q", out)
				}
				must(t, os.RemoveAll(path))
				must(t, os.WriteFile(path, whole, 0o600))
				b.ok(t, "up", "--detach")
				if r := b.stack(t, "system", "check"); r.code != 0 {
					t.Error(r)
				}
			})
		}
	}
	b.ok(t, "down")
	must(t, os.Remove(storeKey(b)))
	b.ok(t, "secret", "rm", "one", "two")
	b.ok(t, "secret", "create", "one", "pw")
	b.ok(t, "up", "--detach")
}

// TestKilledSecretCreate kills creates at any moment: a secret is there whole, or not.
func TestKilledSecretCreate(t *testing.T) {
	b := newBox(t)
	b.write(t, "pw", strings.Repeat("hunter2", 50_000))
	for i := range 20 {
		j := b.start(t, "secret", "create", "--replace", "db", "pw")
		select {
		case <-j.done:
		case <-time.After(time.Duration(i) * time.Millisecond):
		}
		_ = j.cmd.Process.Kill()
		<-j.done
		if r := b.stack(t, "system", "check"); r.code != 0 {
			t.Fatal(r)
		}
	}
	b.ok(t, "secret", "create", "--replace", "db", "pw")
	var left []string
	must(t, filepath.WalkDir(filepath.Join(b.dataRoot(), "sealed"), func(p string, d os.DirEntry, err error) error {
		if !d.IsDir() {
			left = append(left, filepath.Base(p))
		}
		return err
	}))
	if got := strings.Join(left, " "); got != "key db" && got != "db key" {
		t.Errorf("files: %s", got)
	}
}

// Records tell contents of secrets apart and do not say what they are, also those that an
// earlier version has written; and nothing is made anew for that.
func TestDigestsOfSecrets(t *testing.T) {
	b := newBox(t, "busybox:latest").with("PIN=4321")
	b.write(t, "pin", "1234")
	b.compose(t, `
		name: app
		services:
			web: {image: busybox, command: ["sleep", "infinity"], stop_grace_period: 0s, secrets: [pin, env]}
			other: {image: busybox, command: ["sleep", "infinity"], stop_grace_period: 0s, secrets: [pin], container_name: other}
		secrets: {pin: {file: ./pin}, env: {environment: PIN}}
	`)
	b.ok(t, "up", "--detach")
	plain := func(content string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(content))) }
	clean := func(t *testing.T) {
		t.Helper()
		for _, content := range []string{"1234", "4321"} {
			if where := find(t, b.dataRoot(), plain(content)); where != "" {
				t.Errorf("the digest of %s stands in %s", content, where)
			}
		}
	}
	clean(t)
	before := b.ok(t, "ps", "-q")
	t.Run("of an earlier version", func(t *testing.T) {
		ids := strings.Fields(b.ok(t, "ps", "-q", "--no-trunc"))
		b.killKeepers(t, "app", "warden", "guardian", "supervisor") // none reads what is written now
		store := sealed.Open(b.dataRoot())
		hashes := map[string]string{}
		files := []string{filepath.Join(b.dataRoot(), "projects/app/definition.json")}
		for _, id := range ids {
			files = append([]string{filepath.Join(b.dataRoot(), "containers", id, "config.json")}, files...)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			must(t, err)
			text := string(data)
			for _, content := range []string{"1234", "4321"} {
				keyed, err := store.KeyDigest(t.Context(), "sha256:"+plain(content))
				must(t, err)
				text = strings.ReplaceAll(text, keyed, "sha256:"+plain(content))
			}
			var c struct {
				Hash string
				Spec container.Spec
			}
			if filepath.Base(file) == "config.json" {
				must(t, json.Unmarshal([]byte(text), &c))
				hashes[c.Hash] = desired.Hash(&c.Spec)
			}
			for now, then := range hashes {
				text = strings.ReplaceAll(text, now, then)
			}
			if text == string(data) {
				t.Errorf("%s has no digests", file)
			}
			must(t, os.WriteFile(file, []byte(text), 0o600))
		}
		if r := b.stack(t, "plan"); r.code != 0 {
			t.Error(r)
		}
		b.ok(t, "up", "--detach", "web") // and other is what it was
		if r := b.stack(t, "plan"); r.code != 0 {
			t.Error(r)
		}
		if now := b.ok(t, "ps", "-q"); now != before {
			t.Errorf("%q, before %q", now, before)
		}
		clean(t)
	})
	t.Run("new content recreates", func(t *testing.T) {
		b.write(t, "pin", "9999")
		if r := b.stack(t, "plan"); r.code != 2 || !strings.Contains(r.stdout, "secrets./run/secrets/pin") {
			t.Error(r)
		}
	})
	t.Run("after a boot there is what there is, with a word", func(t *testing.T) {
		b.ok(t, "stop")
		must(t, os.Remove(filepath.Join(b.runRoot(), "containers", b.look(t, "other").ID, "secrets.json"))) // memory is empty after a boot
		r := b.stack(t, "start", "other")
		if r.code != 0 || !strings.Contains(r.stderr, "the content of secret /run/secrets/pin is another one") {
			t.Error(r)
		}
		if out := b.ok(t, "exec", "-T", "other", "cat", "/run/secrets/pin"); out != "9999" {
			t.Errorf("%q", out)
		}
	})
	b.ok(t, "down")
}
