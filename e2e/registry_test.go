package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stack-run/stack/e2e/peer"
)

// startRegistry starts a real registry that wants TLS and a password.
func startRegistry(t *testing.T, b *box) *peer.Registry {
	t.Helper()
	r, err := peer.StartRegistry(t.Context(), shared.Registry, filepath.Join(b.root, "registry"),
		peer.RegistryOptions{TLS: true, User: "me", Password: "secret"})
	must(t, err)
	t.Cleanup(func() { must(t, r.Close()) })
	return r
}

// trust makes the registry's authority known to the box.
func (b *box) trust(t *testing.T, r *peer.Registry) {
	t.Helper()
	dir := filepath.Join(b.root, "etc/certs.d", r.Host)
	must(t, os.MkdirAll(dir, 0o755))
	ca, err := os.ReadFile(r.CA)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "ca.crt"), ca, 0o644))
}

// withSettings returns the installation with settings of its own.
func (b *box) withSettings() *box {
	return b.with("STACK_CONFIG="+filepath.Join(b.root, "etc"), "DOCKER_CONFIG="+filepath.Join(b.root, "docker"))
}

var digestLine = regexp.MustCompile(`digest: (sha256:[0-9a-f]{64}) size: [0-9]+`)

func TestRegistry(t *testing.T) {
	b := newBox(t, "busybox:latest").withSettings()
	r := startRegistry(t, b)
	name := r.Host + "/team/box:1"
	b.ok(t, "image", "tag", "busybox:latest", name)

	t.Run("a certificate of an unknown authority is refused", func(t *testing.T) {
		res := b.fails(t, "image", "push", name)
		if want := filepath.Join("etc/certs.d", r.Host, "ca.crt"); !strings.Contains(res.stderr, "unknown authority") || !strings.Contains(res.stderr, want) {
			t.Errorf("no word of %s: %v", want, res)
		}
	})
	b.trust(t, r)
	t.Run("without a login nothing is pushed", func(t *testing.T) {
		if res := b.fails(t, "image", "push", name); !strings.Contains(res.stderr, `log in with "stack login `+r.Host+`"`) {
			t.Errorf("%v", res)
		}
	})
	t.Run("a wrong password is not kept", func(t *testing.T) {
		if res := b.input(t, "wrong\n", "login", "-u", "me", "--password-stdin", r.Host); res.code != 1 || !strings.Contains(res.stderr, "does not take this user name and password") {
			t.Errorf("%v", res)
		}
		if _, err := os.Stat(filepath.Join(b.root, "docker/config.json")); !os.IsNotExist(err) {
			t.Errorf("there is a configuration: %v", err)
		}
	})
	t.Run("a login is kept as Docker keeps it", func(t *testing.T) {
		path := filepath.Join(b.root, "docker/config.json")
		must(t, os.MkdirAll(filepath.Dir(path), 0o700))
		must(t, os.WriteFile(path, []byte(`{"HttpHeaders": {"X-Mine": "1"}}`), 0o600))
		if res := b.input(t, "secret\n", "login", "-u", "me", "--password-stdin", "https://"+r.Host+"/v2/"); res.code != 0 || res.stdout != "Login Succeeded\n" || !strings.Contains(res.stderr, path) {
			t.Errorf("%v", res)
		}
		info, err := os.Stat(path)
		must(t, err)
		data, err := os.ReadFile(path)
		must(t, err)
		if info.Mode().Perm() != 0o600 || !strings.Contains(string(data), "X-Mine") {
			t.Errorf("%v:\n%s", info.Mode(), data)
		}
	})
	var digest string
	t.Run("an image is pushed", func(t *testing.T) {
		out := b.ok(t, "image", "push", name)
		m := digestLine.FindStringSubmatch(out)
		if m == nil || !strings.Contains(out, "The push refers to repository ["+r.Host+"/team/box]") {
			t.Fatalf("%q", out)
		}
		digest = m[1]
	})
	t.Run("what the registry has is not sent again", func(t *testing.T) {
		if res := b.stack(t, "image", "push", name); res.code != 0 || !strings.Contains(res.stderr, "Layer already exists") || strings.Contains(res.stderr, "Pushed") {
			t.Errorf("%v", res)
		}
		b.ok(t, "image", "tag", name, r.Host+"/other/box:1")
		if res := b.stack(t, "image", "push", r.Host+"/other/box:1"); res.code != 0 || !strings.Contains(res.stderr, "Mounted from team/box") {
			t.Errorf("%v", res)
		}
	})
	clean := func(t *testing.T) {
		t.Helper()
		for _, id := range strings.Fields(b.ok(t, "image", "ls", "-q")) {
			b.stack(t, "image", "rm", "--force", id)
		}
		if out := b.ok(t, "image", "ls", "-q"); out != "" {
			t.Fatalf("images are left: %s", out)
		}
		b.ok(t, "system", "prune", "--force", "--all")
	}
	for _, from := range []string{name, r.Host + "/team/box@DIGEST"} {
		t.Run("it comes back, and runs: "+strings.TrimPrefix(from, r.Host), func(t *testing.T) {
			clean(t)
			from := strings.Replace(from, "DIGEST", digest, 1)
			if out := b.ok(t, "image", "pull", from); !strings.Contains(out, "Digest: "+digest) {
				t.Errorf("%q", out)
			}
			if out := b.ok(t, "container", "run", "--rm", "--pull", "never", from, "echo", "it runs"); out != "it runs\n" {
				t.Errorf("%q", out)
			}
		})
	}
	t.Run("all tags go and come at once", func(t *testing.T) {
		b.ok(t, "image", "pull", name)
		for _, tag := range []string{"2", "3"} {
			b.ok(t, "image", "tag", name, r.Host+"/team/box:"+tag)
		}
		if out := b.ok(t, "image", "push", "--all-tags", r.Host+"/team/box"); len(digestLine.FindAllString(out, -1)) != 3 {
			t.Errorf("%q", out)
		}
		clean(t)
		b.ok(t, "image", "pull", "--all-tags", "--quiet", r.Host+"/team/box")
		if out := b.ok(t, "image", "ls", "--format", "{{.Tag}}"); strings.Join(strings.Fields(out), " ") != "1 2 3" {
			t.Errorf("%q", out)
		}
	})
	t.Run("what is not there is told in the registry's words", func(t *testing.T) {
		for _, missing := range []string{r.Host + "/team/box:none", r.Host + "/none/box:1"} {
			if res := b.fails(t, "image", "pull", missing); !strings.Contains(res.stderr, "unknown") || !strings.Contains(res.stderr, missing) {
				t.Errorf("%v", res)
			}
		}
		if res := b.fails(t, "image", "push", r.Host+"/team/box:none"); !strings.Contains(res.stderr, "team/box:none") {
			t.Errorf("%v", res)
		}
	})
	t.Run("a credential helper keeps the password", func(t *testing.T) {
		h := b.helper(t, "test")
		if res := h.input(t, "secret\n", "login", "-u", "me", "--password-stdin", r.Host); res.code != 0 || strings.Contains(res.stderr, "unencrypted") {
			t.Errorf("%v", res)
		}
		data, err := os.ReadFile(filepath.Join(h.root, "helper/config.json"))
		must(t, err)
		if strings.Contains(string(data), "auth\":") {
			t.Errorf("the password is in the configuration:\n%s", data)
		}
		h.ok(t, "image", "pull", name)
		h.ok(t, "logout", r.Host)
		h.fails(t, "image", "pull", name)
	})
	t.Run("after a logout it is refused again", func(t *testing.T) {
		if out := b.ok(t, "logout", r.Host); out != "Removing login credentials for "+r.Host+"\n" {
			t.Errorf("%q", out)
		}
		if out := b.ok(t, "logout", r.Host); out != "Not logged in to "+r.Host+"\n" {
			t.Errorf("%q", out)
		}
		b.fails(t, "image", "pull", name)
	})
	b.ok(t, "system", "check")
}

// helper returns the installation with a credential helper of that name, which
// keeps one password in a file.
func (b *box) helper(t *testing.T, name string) *box {
	t.Helper()
	bin, dir := filepath.Join(b.root, "helper-bin"), filepath.Join(b.root, "helper")
	must(t, os.MkdirAll(bin, 0o755))
	must(t, os.MkdirAll(dir, 0o755))
	must(t, os.WriteFile(filepath.Join(bin, "docker-credential-"+name), []byte(`#!/bin/sh
kept=`+dir+`/kept
case $1 in
store) cat >$kept ;;
get) [ -e $kept ] && cat $kept || { echo "credentials not found in native keychain"; exit 1; } ;;
erase) rm $kept ;;
esac
`), 0o755))
	config, err := json.Marshal(map[string]string{"credsStore": name})
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "config.json"), config, 0o600))
	return b.with("DOCKER_CONFIG="+dir, "PATH="+bin+":"+os.Getenv("PATH"))
}

func TestPushOfAProject(t *testing.T) {
	b := newBox(t, "busybox:latest").withSettings()
	r := startRegistry(t, b)
	b.trust(t, r)
	b.input(t, "secret\n", "login", "-u", "me", "--password-stdin", r.Host)
	b.compose(t, `
	services:
		web:
			image: `+r.Host+`/shop/web:1
			build:
				dockerfile_inline: |
					FROM busybox
					RUN echo built >/made
				tags:
					- `+r.Host+`/shop/web:latest
		nameless:
			build:
				dockerfile_inline: FROM busybox
		bought:
			image: busybox
	`)
	if res := b.stack(t, "build", "--push", "web"); res.code != 0 {
		t.Fatalf("%v", res)
	}
	b.ok(t, "build", "nameless")
	res := b.stack(t, "push")
	if res.code != 0 || !strings.Contains(res.stderr, "nameless") || strings.Contains(res.stderr, "busybox") {
		t.Errorf("%v", res)
	}
	for _, tag := range []string{"1", "latest"} {
		image := r.Host + "/shop/web:" + tag
		b.ok(t, "image", "rm", image)
		b.ok(t, "image", "pull", image)
		if out := b.ok(t, "container", "run", "--rm", image, "cat", "/made"); out != "built\n" {
			t.Errorf("%s: %q", image, out)
		}
	}
}

func TestBuildFromARegistry(t *testing.T) {
	b := newBox(t, "busybox:latest").withSettings().with("STACK_BUILDER_IDLE=100ms")
	r := startRegistry(t, b)
	b.trust(t, r)
	b.input(t, "secret\n", "login", "-u", "me", "--password-stdin", r.Host)
	base := r.Host + "/team/base:1"
	b.ok(t, "image", "tag", "busybox:latest", base)
	b.ok(t, "image", "push", base)
	b.ok(t, "image", "rm", base)
	b.ok(t, "image", "rm", "busybox:latest")
	b.write(t, "Dockerfile", "FROM "+base+"\nRUN echo built >/made\n")

	t.Run("with a private authority and a password", func(t *testing.T) {
		b.ok(t, "image", "build", "-t", "built", ".")
		if out := b.ok(t, "container", "run", "--rm", "built", "cat", "/made"); out != "built\n" {
			t.Errorf("%q", out)
		}
	})
	t.Run("and not without the password", func(t *testing.T) {
		b.ok(t, "logout", r.Host)
		b.ok(t, "builder", "prune", "--all", "--force")
		if res := b.fails(t, "image", "build", "--no-cache", "--pull", "-t", "again", "."); !strings.Contains(res.stderr, base) {
			t.Errorf("%v", res)
		}
	})
	t.Run("through a mirror", func(t *testing.T) {
		mirror := newShelf(t)
		mirror.put(t, "team/box", "1", "mirrored")
		config, err := json.Marshal(map[string]any{"registry-mirrors": map[string][]string{"127.0.0.1:1": {mirror.URL}}})
		must(t, err)
		must(t, os.WriteFile(filepath.Join(b.root, "etc/registries.json"), config, 0o644))
		b.write(t, "Dockerfile", "FROM 127.0.0.1:1/team/box:1\nRUN echo $WHICH >/made\n")
		b.ok(t, "image", "build", "-t", "mirrored", ".")
		if out := b.ok(t, "container", "run", "--rm", "mirrored", "cat", "/made"); out != "mirrored\n" {
			t.Errorf("%q", out)
		}
	})
	b.awaitBuilder(t)
}

func TestMirrorIsAskedFirst(t *testing.T) {
	b := newBox(t).withSettings()
	mirror := newShelf(t)
	mirror.put(t, "team/box", "1", "mirrored")
	config, err := json.Marshal(map[string]any{"registry-mirrors": map[string][]string{"127.0.0.1:1": {mirror.URL}}})
	must(t, err)
	must(t, os.MkdirAll(filepath.Join(b.root, "etc"), 0o755))
	must(t, os.WriteFile(filepath.Join(b.root, "etc/registries.json"), config, 0o644))
	if out := b.ok(t, "container", "run", "--rm", "127.0.0.1:1/team/box:1", "sh", "-c", "echo $WHICH"); out != "mirrored\n" {
		t.Errorf("%q", out)
	}
	if res := b.fails(t, "image", "pull", "127.0.0.1:1/team/box:2"); !strings.Contains(res.stderr, "registry 127.0.0.1:1:") {
		t.Errorf("%v", res)
	}
}

func TestPullsAtOnceFetchOnce(t *testing.T) {
	b := newBox(t)
	r := newShelf(t)
	var layers [][]byte
	for i := range 3 {
		layers = append(layers, tarOf(t, fmt.Sprintf("file%d", i), strings.Repeat("x", 100<<10)))
	}
	r.put(t, "box", "1", "once", layers...)
	r.slow(100 * time.Microsecond)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { b.ok(t, "image", "pull", r.host()+"/box:1") })
	}
	wg.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	for item, times := range r.asked {
		if layer := len(r.items[item]) > 10<<10; layer && times != 1 {
			t.Errorf("%s was fetched %d times", item, times)
		}
	}
	b.ok(t, "system", "check")
}

// A project that was published comes up again from the registry, with its env files and
// what it extends, and one that is changed and published again is another one.
func TestPublish(t *testing.T) {
	b := newBox(t, "busybox:latest").withSettings()
	r, err := peer.StartRegistry(t.Context(), shared.Registry, filepath.Join(b.root, "registry"), peer.RegistryOptions{})
	must(t, err)
	t.Cleanup(func() { must(t, r.Close()) })
	b.compose(t, `
		name: mine
		services:
			app:
				extends: {file: base.yaml, service: base}
				env_file: app.env
	`)
	must(t, os.WriteFile(filepath.Join(b.dir, "base.yaml"), []byte("services: {base: {image: busybox, command: [sleep, infinity]}}\n"), 0o644))
	name := r.Host + "/team/app:1"
	for _, flavour := range []string{"one", "two"} {
		must(t, os.WriteFile(filepath.Join(b.dir, "app.env"), []byte("FLAVOUR="+flavour+"\n"), 0o644))
		b.ok(t, "publish", "--with-env", "--yes", name)
		must(t, os.Rename(filepath.Join(b.dir, "app.env"), filepath.Join(b.dir, "gone.env")))
		b.ok(t, "-f", "oci://"+name, "-p", "theirs", "up", "--detach", "--yes")
		if got := b.ok(t, "-p", "theirs", "exec", "-T", "app", "sh", "-c", "echo $FLAVOUR"); got != flavour+"\n" {
			t.Errorf("the variable is %q, not %q", got, flavour)
		}
	}
	b.ok(t, "-p", "theirs", "down")
	b.ok(t, "image", "tag", "busybox", r.Host+"/team/image:1")
	b.ok(t, "image", "push", r.Host+"/team/image:1")
	if res := b.fails(t, "-f", "oci://"+r.Host+"/team/image:1", "config"); !strings.Contains(res.stderr, "it is no application/vnd.docker.compose.project") {
		t.Errorf("%v", res)
	}
}
