package main

import (
	"archive/tar"
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/engine/build/request"
)

// must runs a command line that must succeed and returns what it printed.
func (s *session) must(t *testing.T, args ...string) string {
	t.Helper()
	out, errOut, code := s.do(t, args...)
	if code != 0 {
		t.Fatalf("stack %s: exit code %d: %s", strings.Join(args, " "), code, errOut)
	}
	return out
}

// matches compares an output with a pattern whose white space is free.
func matches(t *testing.T, out, pattern string) {
	t.Helper()
	pattern = regexp.MustCompile(`\s+`).ReplaceAllString(strings.TrimSpace(pattern), `\s+`)
	if !regexp.MustCompile("^" + pattern + `\s*$`).MatchString(out) {
		t.Errorf("got\n%s\nwant\n%s", out, pattern)
	}
}

func rootfs(t *testing.T) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []*tar.Header{
		{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "etc/motd", Typeflag: tar.TypeReg, Mode: 0o644, Size: 5},
	} {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			w.Write([]byte("hello"))
		}
	}
	w.Close()
	file := filepath.Join(t.TempDir(), "rootfs.tar")
	if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestImages(t *testing.T) {
	s := newSession(t, t.TempDir())
	matches(t, s.must(t, "image", "ls"), `IMAGE ID DISK USAGE CONTENT SIZE EXTRA`)
	matches(t, s.must(t, "image", "ls", "--format", "table"), `REPOSITORY TAG IMAGE ID CREATED SIZE`)
	id := strings.TrimSpace(s.must(t, "image", "import", "-c", `CMD ["cat", "/etc/motd"]`, "-m", "made by hand", rootfs(t), "hand/made:1"))
	matches(t, id, `sha256:[0-9a-f]{64}`)
	s.must(t, "image", "tag", "hand/made:1", "registry:5000/copy")
	matches(t, s.must(t, "image", "ls", "--filter", "reference=hand/*"), `IMAGE ID DISK USAGE CONTENT SIZE EXTRA hand/made:1 [0-9a-f]{12} [0-9.]+k?B [0-9.]+k?B`)
	matches(t, s.must(t, "image", "ls", "--digests", "hand/made"), `REPOSITORY TAG DIGEST IMAGE ID CREATED SIZE hand/made 1 <none> [0-9a-f]{12} .* [0-9.]+k?B`)
	matches(t, s.must(t, "image", "ls", "-q", "--no-trunc"), id)
	matches(t, s.must(t, "image", "ls", "--format", "{{.Repository}}|{{.Tag}}", "registry:5000/copy"), `registry:5000/copy\|latest`)
	matches(t, s.must(t, "image", "inspect", "-f", "{{.Id}} {{json .Config.Cmd}} {{len .RootFS.Layers}}", "hand/made:1"), id+` \["cat","/etc/motd"\] 1`)
	matches(t, s.must(t, "inspect", "--type", "image", "-f", "{{.Architecture}}", "registry:5000/copy"), `\w+`)
	if out := s.must(t, "image", "history", "--no-trunc", "hand/made:1"); !strings.Contains(out, "made by hand") {
		t.Errorf("history %s", out)
	}
	matches(t, s.must(t, "image", "ls", "--tree"), `IMAGE ID DISK USAGE CONTENT SIZE EXTRA hand/made:1 registry:5000/copy:latest [0-9a-f]{12} [0-9.]+k?B [0-9.]+k?B └─ linux/\w+ [0-9a-f]{12} [0-9.]+k?B [0-9.]+k?B`)
	archive := filepath.Join(t.TempDir(), "a.tar")
	s.must(t, "image", "save", "-o", archive, "hand/made:1")
	for _, args := range []string{"image save -o " + archive, "image rm"} {
		if _, errOut, code := s.do(t, append(strings.Fields(args), "--platform", "linux/s390x", "hand/made:1")...); code != 1 || !strings.Contains(errOut, "not for linux/s390x") {
			t.Errorf("%s for another platform: exit code %d, %s", args, code, errOut)
		}
	}
	matches(t, s.must(t, "image", "rm", "hand/made:1"), `Untagged: hand/made:1`)
	matches(t, s.must(t, "image", "rm", "registry:5000/copy"), `Untagged: registry:5000/copy:latest Deleted: `+id)
	matches(t, s.must(t, "image", "load", "-i", archive), `Loaded image: hand/made:1`)
	matches(t, s.must(t, "system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Active}}"), `Images 1 0 Containers 5 4 Local Volumes 0 0 Build Cache 0 0`)
	matches(t, s.must(t, "--dry-run", "image", "prune", "-a"), `Would delete Images: untagged: hand/made:1 deleted: `+id+` Total space that would be reclaimed: [0-9.]+k?B`)
	matches(t, s.must(t, "image", "prune", "-af"), `Deleted Images: untagged: hand/made:1 deleted: `+id+` Total reclaimed space: [0-9.]+k?B`)
	if _, errOut, code := s.do(t, "image", "rm", "hand/made:1"); code != 1 || !strings.Contains(errOut, "hand/made:1") {
		t.Errorf("exit code %d, %s", code, errOut)
	}
	if _, errOut, code := s.do(t, "inspect", "hand/made:1"); code != 1 || !strings.Contains(errOut, "no such object: hand/made:1") {
		t.Errorf("exit code %d, %s", code, errOut)
	}
}

func TestVolumes(t *testing.T) {
	s := newSession(t, t.TempDir())
	matches(t, s.must(t, "volume", "create", "--label", "tier=back", "shop_data"), `shop_data`)
	anonymous := strings.TrimSpace(s.must(t, "volume", "create"))
	matches(t, anonymous, `[0-9a-f]{64}`)
	matches(t, s.must(t, "volume", "ls"), `DRIVER VOLUME NAME local `+anonymous+` local shop_data|DRIVER VOLUME NAME local shop_data local `+anonymous)
	matches(t, s.must(t, "volume", "ls", "-q", "--filter", "dangling=true"), anonymous)
	matches(t, s.must(t, "volume", "ls", "--filter", "label=tier", "--format", `{{.Name}} {{.Label "tier"}} {{.Links}}`), `shop_data back 1`)
	matches(t, s.must(t, "volume", "inspect", "-f", "{{.Name}} {{.Driver}} {{.Labels.tier}} {{.Scope}}", "shop_data"), `shop_data local back local`)
	matches(t, s.must(t, "-p", "shop", "volumes"), `DRIVER VOLUME NAME local shop_data`)
	matches(t, s.must(t, "--dry-run", "volume", "prune"), `Would delete Volumes: `+anonymous+` Total space that would be reclaimed: [0-9.]+k?B`)
	matches(t, s.must(t, "volume", "prune", "-f"), `Deleted Volumes: `+anonymous+` Total reclaimed space: [0-9.]+k?B`)
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(strings.TrimSpace(s.must(t, "volume", "inspect", "-f", "{{.Mountpoint}}", name)), "f"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("shop_data", "kept")
	backup := filepath.Join(t.TempDir(), "backup.tar")
	s.must(t, "volume", "export", "-o", backup, "shop_data")
	matches(t, s.must(t, "volume", "import", "restored", backup), `restored`)
	if _, errOut, code := s.do(t, "volume", "import", "restored", backup); code != 1 || !strings.Contains(errOut, "--force replaces") {
		t.Errorf("exit code %d, %s", code, errOut)
	}
	matches(t, s.must(t, "--dry-run", "volume", "import", "-f", "restored", backup), `Would import into restored`)
	matches(t, s.must(t, "volume", "cp", "restored", "copied"), `copied`)
	matches(t, s.must(t, "--dry-run", "volume", "rename", "copied", "moved"), `Would rename copied`)
	matches(t, s.must(t, "volume", "rename", "copied", "moved"), `moved`)
	if _, errOut, code := s.do(t, "volume", "rename", "moved", "restored"); code != 1 || !strings.Contains(errOut, "exists already") {
		t.Errorf("exit code %d, %s", code, errOut)
	}
	matches(t, s.must(t, "volume", "ls", "-q"), `moved restored shop_data`)
	s.must(t, "volume", "rm", "moved", "restored")
	matches(t, s.must(t, "volume", "rm", "shop_data"), `shop_data`)
	if _, errOut, code := s.do(t, "volume", "rm", "shop_data"); code != 1 || !strings.Contains(errOut, "shop_data") {
		t.Errorf("exit code %d, %s", code, errOut)
	}
	s.must(t, "volume", "rm", "-f", "shop_data")
}

func TestSecretsAndConfigs(t *testing.T) {
	s := newSession(t, t.TempDir())
	file := filepath.Join(t.TempDir(), "pw")
	if err := os.WriteFile(file, []byte("hunter2"), 0o600); err != nil {
		t.Fatal(err)
	}
	db := strings.TrimSpace(s.must(t, "secret", "create", "--label", "tier=back", "db", file))
	matches(t, db, `[0-9a-z]{25}`)
	s.App.In = strings.NewReader("token")
	api := strings.TrimSpace(s.must(t, "secret", "create", "api", "-"))
	conf := strings.TrimSpace(s.must(t, "configs", "create", "-l", "tier=front", "db", file))
	matches(t, s.must(t, "secret", "ls", "--filter", "name=^db"), `ID NAME DRIVER CREATED UPDATED `+db+` db .* ago .* ago`)
	matches(t, s.must(t, "configs", "ls"), `ID NAME CREATED UPDATED `+conf+` db .* ago .* ago`)
	matches(t, s.must(t, "secret", "ls", "-q"), api+` `+db)
	matches(t, s.must(t, "secret", "ls", "--filter", "label=tier=back", "--format", `{{.Name}} {{.Label "tier"}} {{.Labels}}`), `db back tier=back`)
	matches(t, s.must(t, "secret", "inspect", "-f", "{{.ID}} {{.Spec.Name}} {{.Spec.Labels.tier}}", "db", api), db+` db back `+api+` api <no value>`)
	for _, args := range [][]string{{"secret", "inspect", "db"}, {"secret", "inspect", "--pretty", "db"}, {"secret", "inspect", "--format", "json", "db"}} {
		if out := s.must(t, args...); !strings.Contains(out, db) || strings.Contains(out, "hunter2") || strings.Contains(out, "aHVudGVyMg") {
			t.Errorf("%v: %s", args, out)
		}
	}
	matches(t, s.must(t, "configs", "inspect", "--pretty", "db"), `ID: `+conf+` Name: db Labels: - tier=front Created at: .* Updated at: .* Data: hunter2`)
	matches(t, s.must(t, "configs", "inspect", "-f", "{{json .Spec.Data}}", "db"), `"aHVudGVyMg=="`)
	for line, want := range map[string]string{
		"secret create db " + file:                    "--replace",
		"secret create a/b " + file:                   "letters, digits",
		"secret create x " + file + "-none":           "no such file",
		"secret create x":                             "requires exactly 2 arguments",
		"secret inspect none":                         "stack secret create none FILE",
		"configs rm none":                             "stack configs create none FILE",
		"secret inspect --pretty --format {{.ID}} db": "none of the others can be",
	} {
		if _, errOut, code := s.do(t, strings.Fields(line)...); code == 0 || !strings.Contains(errOut, want) {
			t.Errorf("%s: exit code %d, %s", line, code, errOut)
		}
	}
	if out := s.must(t, "secret", "create", "--replace", "db", file); strings.TrimSpace(out) != db {
		t.Errorf("the one that is replaced keeps its ID: %s", out)
	}
	if out := s.must(t, "__complete", "secret", "rm", ""); !strings.HasPrefix(out, "api\ndb\n") {
		t.Errorf("completion: %q", out)
	}
	matches(t, s.must(t, "--dry-run", "secret", "create", "new", file), `Would create secret new`)
	matches(t, s.must(t, "--dry-run", "secret", "rm", "db"), `Would remove secret db`)
	matches(t, s.must(t, "secret", "ls", "--format", "{{.Name}}"), `api db`)
	matches(t, s.must(t, "secret", "rm", "db", api[:10]), `db api`)
	matches(t, s.must(t, "configs", "ls", "-q"), conf)
}

func TestContainerPrune(t *testing.T) {
	s := newSession(t, t.TempDir())
	stopped := id('e')
	matches(t, s.must(t, "--dry-run", "container", "prune"), `Would delete Containers: `+stopped+` Total space that would be reclaimed: 0B`)
	matches(t, s.must(t, "container", "prune", "-f", "--filter", "until=2s"), `Deleted Containers: `+stopped+` Total reclaimed space: 0B`)
	matches(t, s.must(t, "container", "prune", "-f", "--filter", "until=10m"), `Total reclaimed space: 0B`)
	if got := s.fake.noted(); !slices.Equal(got, []string{"remove e00 all"}) {
		t.Errorf("the engine was asked to %q", got)
	}
}

// The build cache is the builder's: what it is asked depends on the flags.
func TestSystemPruneAsksTheBuilder(t *testing.T) {
	s := newSession(t, t.TempDir())
	var asked []request.Cache
	s.fake.builder = func(_ context.Context, verb string, ask, result any, _ compose.Streams) error {
		if verb != "prune" {
			t.Errorf("the builder is asked to %s", verb)
		}
		asked = append(asked, *ask.(*request.Cache))
		result.(*request.Records).Records = []request.Record{{ID: "x", Size: 1000}, {ID: "y", Size: 1, Shared: true}}
		return nil
	}
	s.must(t, "system", "prune", "-f")
	if len(asked) > 0 {
		t.Error("the builder was asked though there is no build cache")
	}
	if err := os.Mkdir(request.StateDir(s.App.Roots().Data), 0o700); err != nil {
		t.Fatal(err)
	}
	matches(t, s.must(t, "system", "prune", "-af", "--filter", "until=10m"), `Deleted build cache objects: x y Total reclaimed space: 1kB`)
	s.must(t, "--dry-run", "system", "prune", "--filter", "label!=keep")
	s.must(t, "system", "prune", "-f", "--filter", "label=mine")
	if len(asked) != 2 || !asked[0].All || asked[0].Keep != 10*time.Minute || asked[0].DryRun || asked[1].All || !asked[1].DryRun {
		t.Errorf("the builder was asked %+v", asked)
	}
}

func TestPruneAsks(t *testing.T) {
	s := newSession(t, t.TempDir())
	s.App.In = strings.NewReader("n\n")
	out, errOut, code := s.do(t, "system", "prune", "--volumes", "--filter", "label=x")
	want := `WARNING! This will remove:
  - all stopped containers
  - all networks not used by at least one container
  - all anonymous volumes not used by at least one container
  - all dangling images
  - unused build cache

  Items to be pruned will be filtered with:
  - label=x

Are you sure you want to continue? [y/N] `
	if errOut != want || out != "" || code != 0 || len(s.fake.noted()) > 0 {
		t.Errorf("exit code %d, %q, %q", code, out, errOut)
	}
}
