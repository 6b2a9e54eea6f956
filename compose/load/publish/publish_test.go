package publish

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/google/go-cmp/cmp"
)

// project lays files and returns what a loader makes of them, as far as it is needed.
func project(t *testing.T, files map[string]string) *types.Project {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return &types.Project{WorkingDir: dir, ComposeFiles: []string{filepath.Join(dir, "compose.yaml")}, Environment: types.Mapping{"WHERE": "base"}}
}

// What is published and unpacked again has its files, under names that say nothing of
// where they were.
func TestDocumentsAndUnpack(t *testing.T) {
	p := project(t, map[string]string{
		"compose.yaml": `services:
  a:
    image: a # kept
    env_file: &files [mine.env, {path: gone.env, required: false}]
  b: {extends: {file: "${WHERE}/theirs.yaml", service: b}, env_file: *files}
  c: {extends: {service: a}}
`,
		"mine.env":         "A=1\n",
		"base/theirs.yaml": "services: {b: {image: b, env_file: their.env, extends: {file: ../more.yaml, service: m}}}\n",
		"base/their.env":   "B=1\n",
		"more.yaml":        "services: {m: {image: m}}\n",
	})
	docs, err := Documents(p, true)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := Unpack(dir, docs); err != nil {
		t.Fatal(err)
	}
	var all []string
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	text := map[string]string{}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		text[e.Name()] = string(data)
		all = append(all, string(data))
	}
	if len(all) != 5 {
		t.Errorf("there are %d files: %q", len(all), text)
	}
	if whole := strings.Join(all, ""); strings.Contains(whole, p.WorkingDir) || strings.Contains(whole, "theirs.yaml") || strings.Contains(whole, "mine.env") {
		t.Errorf("names of this machine: %s", whole)
	}
	main := text["compose.yaml"]
	for path, content := range map[string]string{"mine.env": "A=1\n", "base/their.env": "B=1\n"} {
		if name := opaque(filepath.Join(p.WorkingDir, path), ".env"); text[name] != content {
			t.Errorf("%s is %q", path, text[name])
		}
	}
	for _, want := range []string{"# kept", opaque(filepath.Join(p.WorkingDir, "mine.env"), ".env"), opaque(filepath.Join(p.WorkingDir, "gone.env"), ".env"), opaque(filepath.Join(p.WorkingDir, "base/theirs.yaml"), ".yaml")} {
		if strings.Count(main, want) != 1 {
			t.Errorf("%q is not once in\n%s", want, main)
		}
	}
	bare, err := Documents(p, false)
	if err != nil || len(bare) != 3 {
		t.Errorf("without env files there are %d documents, %v", len(bare), err)
	}
}

// What needs no other name is published as it was written.
func TestDocumentsLeaveFilesAlone(t *testing.T) {
	const text = "services:\n    a:   {image:   a} # odd\n"
	docs, err := Documents(project(t, map[string]string{"compose.yaml": text}), true)
	if err != nil || len(docs) != 1 || string(docs[0].Data) != text {
		t.Errorf("%q, %v", docs, err)
	}
}

func TestUnpackRefuses(t *testing.T) {
	compose := ComposeFile("compose.yaml", []byte("services: {}\n"))
	extended := func(name string) Document {
		return Document{MediaType: composeFile, Annotations: map[string]string{fileName: name, isExtended: "true"}}
	}
	for name, docs := range map[string][]Document{
		"nothing":            nil,
		"an unknown type":    {compose, {MediaType: "text/plain"}},
		"a path":             {compose, extended("../x")},
		"an absolute path":   {compose, extended("/etc/passwd")},
		"no name":            {compose, extended("")},
		"the directory":      {compose, extended(".")},
		"the one above":      {compose, extended("..")},
		"the project's name": {compose, extended("compose.yaml")},
		"only an env file":   {{MediaType: envFile, Annotations: map[string]string{envFileName: "a.env"}}},
	} {
		if err := Unpack(t.TempDir(), docs); err == nil {
			t.Errorf("%s is unpacked", name)
		}
	}
}

func TestLocalInclude(t *testing.T) {
	remote := func(ref string) bool { return strings.HasPrefix(ref, "oci://") }
	for text, want := range map[string]string{
		"services: {}\n":                                         "",
		"include: [oci://h/a]\nservices: {}\n":                   "",
		"include: [oci://h/a, b.yaml]\nservices: {}\n":           "b.yaml",
		"include: [{path: c.yaml}]\nservices: {}\n":              "c.yaml",
		"include: [{path: [oci://h/a, d.yaml]}]\nservices: {}\n": "d.yaml",
	} {
		got, err := LocalInclude(project(t, map[string]string{"compose.yaml": text}), remote)
		if err != nil || got != want {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
}

func TestLook(t *testing.T) {
	const key = "-----BEGIN RSA PRIVATE KEY-----\nx=\n-----END RSA PRIVATE KEY-----"
	const github = "ghp_1234567890abcdefghijklmnopqrstuvwxyz"
	p := project(t, map[string]string{
		"compose.yaml": `services:
  a:
    image: a
    environment: [DB_PASSWORD=bar, API_KEY=$KEY, "SECRET=$$x", LEVEL=debug, "ID=AKIA1234567890ABCDEF", TOKEN]
  b:
    build: .
    env_file: b.env
    environment: {APP_TOKEN: "${T}", PLAIN: x}
  c: {image: c}
configs:
  literal: {content: "a: b"}
  variable: {content: "${C}"}
`,
		"b.env":   "LEVEL=x\nTOKEN=" + github + "\n",
		"key.pem": key + "\n",
	})
	p.Services = types.Services{
		"a": {Name: "a", ContainerSpec: types.ContainerSpec{Image: "a", Volumes: []types.ServiceVolumeConfig{{Type: "bind", Source: "/srv", Target: "/data"}, {Type: "volume", Source: "v", Target: "/v"}}}},
		"b": {Name: "b"}, "c": {Name: "c", ContainerSpec: types.ContainerSpec{Image: "c"}},
	}
	b := p.Services["b"]
	b.Build = &types.BuildConfig{Context: "."}
	p.Services["b"] = b
	p.Secrets = types.Secrets{"k": {File: filepath.Join(p.WorkingDir, "key.pem")}}
	got, err := Look(p)
	if err != nil {
		t.Fatal(err)
	}
	want := Findings{
		BuildOnly: []string{"b"}, Binds: []string{"a: /srv:/data"}, Configs: []string{"literal"},
		Env: []EnvFinding{{Service: "a", Keys: []string{"DB_PASSWORD", "SECRET"}}, {Service: "b", HasFile: true}},
		Secrets: []Secret{
			{"AWS Client ID", "services.a.environment.ID", "AKIA1234567890ABCDEF"},
			{"Github authentication", "TOKEN", github}, {"Private Key", "", key},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
