package spec_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stack-run/stack/compose/load"
	"github.com/stack-run/stack/compose/spec"
	"github.com/stack-run/stack/engine/build/request"
)

// targets loads a project called shop in a directory that is written DIR in
// what comes back.
func targets(t *testing.T, yaml string, o spec.TargetOptions) ([]request.Target, []spec.Warning, error) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "shop")
	if err := os.MkdirAll(filepath.Join(dir, "app"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "compose.yaml"), []byte(yaml), 0o644); err != nil {
		t.Fatal(err)
	}
	l, err := load.Load(context.Background(), load.Options{WorkingDir: dir, Environ: []string{"TOKEN=s3cret", "FROM_ENV=e"}})
	if err != nil {
		t.Fatal(err)
	}
	stored := func(kind, name string) ([]byte, string, error) {
		if name == "none" {
			return nil, "", errors.New("no such " + kind)
		}
		return []byte("stored " + kind), "digest", nil
	}
	ts, warnings, err := spec.Targets(l.Project, spec.HostFacts{Locate: l.Locate, StackVersion: "1.2.3", Stored: stored}, o)
	short := func(s string) string { return strings.ReplaceAll(s, dir, "DIR") }
	for i := range ts {
		x := &ts[i]
		x.Context, x.Dockerfile = short(x.Context), short(x.Dockerfile)
		for k, v := range x.Contexts {
			x.Contexts[k] = short(v)
		}
		for j := range x.Secrets {
			x.Secrets[j].File = short(x.Secrets[j].File)
		}
		for _, list := range [][]request.Entry{x.CacheFrom, x.CacheTo} {
			for j := range list {
				for k, v := range list[j].Attrs {
					list[j].Attrs[k] = short(v)
				}
			}
		}
	}
	return ts, warnings, err
}

func imageLabels(service string) map[string]string {
	return map[string]string{
		"com.docker.compose.project": "shop", "com.docker.compose.service": service, "com.docker.compose.version": "1.2.3",
	}
}

func TestTargets(t *testing.T) {
	const yaml = `
services:
  short:
    build: ./app
  long:
    image: reg.example/long:v1
    platform: linux/arm64
    build:
      context: app
      dockerfile: sub/Dockerfile.dev
      args: {A: "1", FROM_ENV: null, UNSET: null}
      target: prod
      labels: {x: "y"}
      tags: [reg.example/long:v2]
      cache_from: [reg.example/cache, "type=local,src=c"]
      cache_to: ["type=local,dest=c,mode=max"]
      additional_contexts: {res: ../res, base: "service:short", img: "docker-image://alpine"}
      secrets: [file, {source: env, target: token}]
      ssh: [default, "k=/key"]
      network: host
      shm_size: 64m
      extra_hosts: ["a=10.0.0.1", "b=host-gateway"]
      ulimits: {nofile: {soft: 10, hard: 20}, nproc: 5}
      no_cache: true
      pull: true
      privileged: true
      entitlements: [network.host]
      platforms: [linux/amd64, linux/arm64]
      provenance: max
  inline:
    build:
      context: https://example.com/repo.git#main:dir
      dockerfile_inline: |
        FROM scratch
  none:
    image: busybox
secrets:
  file: {file: ./f.txt}
  env: {environment: TOKEN}
`
	token := "s3cret"
	want := []request.Target{
		{Name: "long", Context: "DIR/app", Dockerfile: "DIR/app/sub/Dockerfile.dev",
			Args:  map[string]string{"A": "2", "FROM_ENV": "e", "NEW": "n"},
			Stage: "prod", Labels: map[string]string{"x": "y"},
			Names:     []string{"reg.example/long:v1", "reg.example/long:v2"},
			CacheFrom: []request.Entry{{Type: "registry", Attrs: map[string]string{"ref": "reg.example/cache"}}, {Type: "local", Attrs: map[string]string{"src": "DIR/c"}}},
			CacheTo:   []request.Entry{{Type: "local", Attrs: map[string]string{"dest": "DIR/c", "mode": "max"}}},
			Contexts:  map[string]string{"res": "", "base": "target:short", "img": "docker-image://alpine"},
			Secrets:   []request.Secret{{ID: "file", File: "DIR/f.txt"}, {ID: "token", Value: &token}},
			SSH:       []request.SSH{{ID: "default"}, {ID: "k", Paths: []string{"/key"}}},
			Network:   "host", ShmSize: 64 << 20,
			ExtraHosts: []request.Host{{Name: "a", Address: "10.0.0.1"}, {Name: "b", Address: "host-gateway"}},
			Ulimits:    []request.Ulimit{{Name: "nofile", Soft: 10, Hard: 20}, {Name: "nproc", Soft: 5, Hard: 5}},
			NoCache:    true, Pull: true, Platforms: []string{"linux/amd64", "linux/arm64"},
			Entitlements: []string{"network.host", "security.insecure"},
			Attestations: map[string]string{"provenance": "mode=max"},
		},
		{Name: "short", Context: "DIR/app", Dockerfile: "DIR/app/Dockerfile", Args: map[string]string{"A": "2", "NEW": "n"}, Names: []string{"shop-short"}},
	}
	for i := range want {
		labels := imageLabels(want[i].Name)
		for k, v := range want[i].Labels {
			labels[k] = v
		}
		want[i].Labels = labels
	}
	got, _, err := targets(t, yaml, spec.TargetOptions{Services: []string{"long"}, Args: []string{"A=2", "NEW=n", "UNSET"}})
	if err != nil {
		t.Fatal(err)
	}
	got[0].Contexts["res"] = "" // outside of DIR
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}

	got, _, err = targets(t, yaml, spec.TargetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, x := range got {
		names = append(names, x.Name)
		if x.Name == "inline" && (x.Inline != "FROM scratch\n" || x.Dockerfile != "" || x.Context != "https://example.com/repo.git#main:dir") {
			t.Errorf("%+v", x)
		}
	}
	if d := cmp.Diff([]string{"inline", "long", "short"}, names); d != "" {
		t.Error(d)
	}
}

func TestTargetFaults(t *testing.T) {
	_, _, err := targets(t, `
services:
  web:
    build:
      context: .
      network: back
      cache_to: ["type=gha"]
      extra_hosts: ["a=nowhere"]
      entitlements: [root]
      secrets: [env, out]
      ulimits: {nofiles: 3}
secrets:
  env: {environment: NOT_SET}
  out: {external: true, name: none}
`, spec.TargetOptions{})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		`compose.yaml:6: services.web.build.network: a build cannot join the network "back"`,
		"services.web.build.cache_to", "no cache of type gha",
		`services.web.build.extra_hosts: "nowhere" for host "a"`,
		`no entitlement "root"`, "NOT_SET, which is not set", "compose.yaml:14: secrets.out.external: no such secret",
		"compose.yaml:11: services.web.build.ulimits.nofiles",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in:\n%v", want, err)
		}
	}
}

func TestTargetsWithExternalSecrets(t *testing.T) {
	ts, _, err := targets(t, `
services:
  web: {build: {context: app, secrets: [{source: db, target: token}]}}
secrets:
  db: {external: true}
`, spec.TargetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	value := "stored secret"
	if d := cmp.Diff([]request.Secret{{ID: "token", Value: &value}}, ts[0].Secrets); d != "" {
		t.Error(d)
	}
}

// The base of another image is built, though the profile of its service is not
// active; nothing else of that profile is.
func TestTargetsOfInactiveProfiles(t *testing.T) {
	ts, _, err := targets(t, `
services:
  a: {build: {context: app, additional_contexts: {b: "service:base"}}}
  base: {build: app, profiles: [never]}
  other: {build: app, profiles: [never]}
`, spec.TargetOptions{Services: []string{"a", "other"}})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, x := range ts {
		names = append(names, x.Name)
	}
	if diff := cmp.Diff([]string{"a", "base"}, names); diff != "" {
		t.Error(diff)
	}
	if ts[1].Context != "DIR/app" {
		t.Errorf("context %s", ts[1].Context)
	}
}

func TestOnce(t *testing.T) {
	for yaml, want := range map[string]string{
		"services: {a: {image: a, x-once: true}}":  "",
		"services: {a: {image: a, x-once: maybe}}": "x-once is true or false, not maybe",
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "compose.yaml"), []byte(yaml), 0o644); err != nil {
			t.Fatal(err)
		}
		l, err := load.Load(context.Background(), load.Options{WorkingDir: dir, Environ: []string{}})
		if err != nil {
			t.Fatal(err)
		}
		d, _, err := spec.Build(l.Project, spec.HostFacts{})
		switch {
		case want != "":
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v", yaml, err)
			}
		case err != nil || !d.Services["a"].Once:
			t.Errorf("%s: %v", yaml, err)
		}
	}
}

func TestTargetsInUserNamespaces(t *testing.T) {
	for mode, want := range map[string]string{"": "", "host": "", "auto": "auto", "nomap": "auto", "keep-id": "auto", "200000:1000": "200000:1000"} {
		got, _, err := targets(t, fmt.Sprintf("name: shop\nservices: {a: {build: ., userns_mode: %q}}\n", mode), spec.TargetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		project := ""
		if want != "" {
			project = "shop"
		}
		if got[0].UserNS != want || got[0].Project != project {
			t.Errorf("%q: %q in project %q, want %q", mode, got[0].UserNS, got[0].Project, want)
		}
	}
	if _, _, err := targets(t, "name: shop\nservices: {a: {build: ., userns_mode: some}}\n", spec.TargetOptions{}); err == nil || !strings.Contains(err.Error(), "services.a.userns_mode") {
		t.Error(err)
	}
}
