package load

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// project writes files and returns the options that load them.
func project(t testing.TB, files map[string]string) Options {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "shop")
	for name, content := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return Options{WorkingDir: dir, Environ: []string{"HOME=/root"}}
}

// A hash of a password loses what looks like a variable, which is said where it stands.
func TestDollarsInEnvFilesAreWarnedOf(t *testing.T) {
	for line, want := range map[string]string{
		`HASH=$2y$10$abc`:                "HASH: $abc is not set and becomes an empty string; to keep each $ put the value between single quotes, or write $$ for a $",
		`export HASH = "$2y$10$abc$def"`: "HASH: $abc and $def is not set",
		`HASH='$2y$10$abc'`:              "",
		`HASH=$$2y$$10$$abc`:             "",
		`HASH=a # costs $nothing`:        "",
		`HASH=${abc:-d}`:                 "",
		`HASH=$SHELL_VAR $FIRST`:         "",
		"HASH=\"one\nTWO=$abc\"":         "HASH: $abc",
		"HASH='one\nTWO=$abc'":           "",
		"# HASH=$abc":                    "",
	} {
		text := "FIRST=1\n" + line + "\n"
		for name, files := range map[string]map[string]string{
			".env":  {"compose.yaml": minimal, ".env": text},
			"a.env": {"compose.yaml": minimal + "    env_file: [a.env, {path: raw.env, format: raw}]\n", "a.env": text, "raw.env": "RAW=$abc\n"},
			"sub/b.env": {"compose.yaml": "include: [{path: sub/compose.yaml, env_file: sub/b.env}]\n" + minimal,
				"sub/compose.yaml": "services: {sub: {image: a}}\n", "sub/b.env": text},
		} {
			o := project(t, files)
			o.Environ = []string{"SHELL_VAR=x"}
			_, warnings, err := loaded(t.Context(), o)
			if err != nil {
				t.Errorf("%s: %v", line, err)
				continue
			}
			var got string
			if len(warnings) > 0 {
				got = warnings[0].String()
			}
			if want != "" && !strings.HasPrefix(got, name+":2: "+want) || (want == "") != (got == "") || len(warnings) > 1 {
				t.Errorf("%s in %s: got %v, want %q", line, name, warnings, want)
			}
		}
	}
}

// Ports that a file adds to those of another are often meant to replace them.
func TestDoubledPortsAreWarnedOf(t *testing.T) {
	const base = "services:\n  web:\n    image: nginx\n    ports: [\"8080:80\", \"443:443\"]\n"
	for name, tt := range map[string]struct {
		override string
		want     []string
	}{
		"another host port": {"services:\n  web:\n    ports: [\"9090:80\"]\n", []string{
			`compose.override.yaml:3: services.web.ports[0]: container port 80/tcp is published by compose.yaml:4 (8080), too, as ports of several files are joined; if these are to replace those, write "ports: !override"`}},
		"long syntax":       {"services:\n  web:\n    ports: [{target: 443, published: 8443}]\n", []string{`compose.override.yaml:3: services.web.ports[0]: container port 443/tcp is published by compose.yaml:4 (443), too`}},
		"a range":           {"services:\n  web:\n    ports: [\"7078-7081:78-81\"]\n", []string{`container port 80/tcp is published by compose.yaml:4 (8080), too`}},
		"an address":        {"services:\n  web:\n    ports: [\"127.0.0.1:9090:80\"]\n", []string{`container port 80/tcp is published by`}},
		"the same":          {"services:\n  web:\n    ports: [\"8080:80\"]\n", nil},
		"another protocol":  {"services:\n  web:\n    ports: [\"9090:80/udp\"]\n", nil},
		"another container": {"services:\n  web:\n    ports: [\"9090:90\"]\n", nil},
		"replaced":          {"services:\n  web:\n    ports: !override [\"9090:80\"]\n", nil},
		"extended": {"services:\n  other:\n    extends: {file: base.yaml, service: b}\n    ports: [\"6060:60\"]\n", []string{
			`compose.override.yaml:4: services.other.ports[0]: container port 60/tcp is published by base.yaml:4 (any port), too`}},
	} {
		t.Run(name, func(t *testing.T) {
			o := project(t, map[string]string{"compose.yaml": base, "compose.override.yaml": tt.override,
				"base.yaml": "services:\n  b:\n    image: b\n    ports: [\"60\"]\n"})
			_, warnings, err := loaded(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			if len(warnings) != len(tt.want) {
				t.Fatalf("got %v, want %v", warnings, tt.want)
			}
			for i, w := range warnings {
				if !strings.Contains(w.String(), tt.want[i]) {
					t.Errorf("got\n%s\nwant\n%s", w, tt.want[i])
				}
			}
		})
	}
}

func TestBadInputNamesPlaceAndFix(t *testing.T) {
	const web = "services:\n  web:\n    image: nginx\n"
	tests := []struct {
		name  string
		yaml  string
		files map[string]string
		want  string
	}{
		{name: "empty", yaml: "", want: `compose.yaml: the file is empty; a Compose file needs at least "services:" with one service`},
		{name: "only a comment", yaml: "# nothing\n", want: `compose.yaml: the file has no content but comments; a Compose file needs at least "services:" with one service`},
		{name: "no services", yaml: "name: x\n", want: `compose.yaml: the project has no services; add one below "services:"`},
		{name: "a list", yaml: "- a\n", want: `compose.yaml:1: the top level must be a mapping, such as "services:"`},
		{name: "bad yaml", yaml: "services:\n  web:\n    image: [a\n", want: `compose.yaml:3: invalid YAML: did not find expected ',' or ']'; check the indentation`},
		{name: "bad first line", yaml: "$services: {a: [b]} c\n", want: `compose.yaml:1: invalid YAML: did not find expected key; check`},
		{name: "tab", yaml: "services:\n\tweb:\n", want: `compose.yaml:2: invalid YAML: `},
		{name: "unknown attribute", yaml: web + "    enviroment:\n      A: b\n", want: `compose.yaml:4: services.web.enviroment: unknown attribute "enviroment"; did you mean "environment"?`},
		{name: "unknown top level", yaml: web + "volume:\n  a:\n", want: `compose.yaml:4: volume: unknown attribute "volume"; did you mean "volumes"?`},
		{name: "service at top level", yaml: "web:\n  image: nginx\n", want: `compose.yaml:1: web: unknown attribute "web" at the top level; a service goes below "services:", an extension begins with "x-"`},
		{name: "wrong type", yaml: web + "    ports: 8080\n", want: `compose.yaml:4: services.web.ports: must be a list, not 8080`},
		{name: "number for string", yaml: web + "    user: 1000\n", want: `compose.yaml:4: services.web.user: must be a string, not 1000; quote it: "1000"`},
		{name: "mapping in list", yaml: web + "    command:\n      - echo: hi\n", want: `compose.yaml:5: services.web.command[0]: must be a string, not a mapping; check the indentation, and quote a value that contains ": "`},
		{name: "empty service", yaml: "services:\n  web:\n", want: `compose.yaml:2: services.web: must be a mapping`},
		{name: "no image", yaml: "services:\n  web:\n    command: a\n", want: `compose.yaml:2: services.web: neither image nor build is set; add one of them`},
		{name: "duplicate key", yaml: web + "  web:\n    image: b\n", want: `compose.yaml:4: services.web: duplicate key; it is already set at line 2`},
		{name: "required variable", yaml: "services:\n  web:\n    image: nginx:${TAG:?which tag}\n", want: `compose.yaml:3: services.web.image: required variable TAG is not set: which tag; set it in the environment or in .env`},
		{name: "bad interpolation", yaml: "services:\n  web:\n    image: nginx:${TAG\n", want: `compose.yaml:3: services.web.image: invalid interpolation in "nginx:${TAG"; write ${NAME}, or $$ for a $`},
		{name: "undefined network", yaml: web + "    networks: [frnt]\nnetworks:\n  front:\n", want: `compose.yaml:4: services.web.networks.frnt: no such network "frnt"; did you mean "front"?`},
		{name: "undefined volume", yaml: web + "    volumes:\n      - data:/data\n", want: `compose.yaml:5: services.web.volumes[0]: no such volume "data"; define it below "volumes:" at the top level, or write ./data for a directory`},
		{name: "undefined secret", yaml: web + "    secrets: [pw]\n", want: `compose.yaml:4: services.web.secrets[0]: no such secret "pw"; define it below "secrets:" at the top level`},
		{name: "undefined config", yaml: web + "    configs:\n      - source: pw\n", want: `compose.yaml:5: services.web.configs[0]: no such config "pw"; define it below "configs:" at the top level`},
		{name: "undefined dependency", yaml: web + "    depends_on:\n      db1:\n        condition: service_started\n  db:\n    image: pg\n", want: `compose.yaml:5: services.web.depends_on.db1: no such service "db1"; did you mean "db"?`},
		{name: "undefined dependency in a list", yaml: web + "    depends_on:\n      - db1\n  db:\n    image: pg\n", want: `compose.yaml:5: services.web.depends_on.db1: no such service "db1"; did you mean "db"?`},
		{name: "disabled dependency", yaml: web + "    depends_on: [db]\n  db:\n    image: pg\n    profiles: [full]\n", want: `compose.yaml:4: services.web.depends_on.db: no such service "db"; it is disabled: enable it with --profile full`},
		{name: "cycle", yaml: web + "    depends_on: [api]\n  api:\n    image: a\n    depends_on: [db]\n  db:\n    image: b\n    depends_on: [web]\n", want: `compose.yaml:4: services.web.depends_on.api: dependency cycle: api -> db -> web -> api; remove one of these dependencies`},
		{name: "duplicate container name", yaml: web + "    container_name: x\n  b:\n    image: b\n    container_name: x\n", want: `compose.yaml:4: services.web.container_name: container name "x" is already in use by service "b"; give each its own`},
		{name: "duplicate port", yaml: web + "    ports:\n      - \"80:80\"\n      - \"127.0.0.1:80:8080\"\n", want: `compose.yaml:6: services.web.ports[1]: host port 80/tcp is already published by another entry of the service; choose another host port`},
		{name: "missing env file", yaml: web + "    env_file:\n      - a.env\n", want: `compose.yaml:5: services.web.env_file[0]: env file a.env not found; create it, or write {path: …, required: false}`},
		{name: "bad enum", yaml: web + "    depends_on:\n      db: {condition: service_helthy}\n  db:\n    image: b\n", want: `compose.yaml:5: services.web.depends_on.db.condition: "service_helthy" is not one of service_started, service_healthy, service_completed_successfully; did you mean "service_healthy"?`},
		{name: "remote include", yaml: "include:\n  - https://github.com/a/b.git\n" + web, want: `compose.yaml:2: include[0]: remote Compose files (git, OCI) are not supported; fetch it and include the local file`},
		{name: "missing include", yaml: "include:\n  - b.yaml\n" + web, want: `b.yaml: cannot read Compose file: no such file; create it, or correct the path (included by compose.yaml:2)`},
		{name: "missing extends", yaml: "services:\n  web:\n    extends: {file: b.yaml, service: x}\n", want: `b.yaml: cannot read Compose file: no such file; create it, or correct the path (extended by compose.yaml:3: services.web.extends)`},
		{name: "fault in an included file", yaml: "include: [db/compose.yaml]\n" + web, files: map[string]string{"db/compose.yaml": "services:\n  db:\n    imag: x\n"}, want: `db/compose.yaml:3: services.db.imag: unknown attribute "imag"; did you mean "image"?`},
		{name: "fault in an extended service", yaml: "services:\n  web:\n    extends: {file: b.yaml, service: x}\n", files: map[string]string{"b.yaml": "services:\n  x:\n    imag: x\n"}, want: `b.yaml:3: services.x.imag: unknown attribute "imag"; did you mean "image"?`},
		{name: "extends a missing service", yaml: web + "    extends: basee\n  base:\n    image: x\n", want: `compose.yaml:4: services.web.extends: no such service "basee" in this file; did you mean "base"?`},
		{name: "include cycle", yaml: "include: [b.yaml]\n" + web, files: map[string]string{"b.yaml": "include: [compose.yaml]\n"}, want: `b.yaml:1: include[0]: include cycle: compose.yaml -> b.yaml -> compose.yaml; remove one include`},
		{name: "bad port", yaml: web + "    ports:\n      - \"80:nginx\"\n", want: `compose.yaml:5: services.web.ports[0]: invalid port "80:nginx": invalid containerPort: nginx; write [[IP:]HOST:]CONTAINER[/PROTOCOL]`},
		{name: "bad duration", yaml: web + "    stop_grace_period: soon\n", want: `compose.yaml:4: services.web.stop_grace_period`},
		{name: "bad size", yaml: web + "    mem_limit: much\n", want: `compose.yaml:4: services.web.mem_limit`},
		{name: "secret with a driver", yaml: web + "secrets:\n  a:\n    driver: x\n", want: `compose.yaml:6: secrets.a.driver: is not supported; use file, environment or external`},
		{name: "two replicas of one name", yaml: web + "    container_name: a\n    scale: 2\n", want: `compose.yaml:4: services.web.container_name: container_name "a" cannot be shared by 2 replicas; remove it, or scale the service to 1`},
		{name: "two targets", yaml: web + "    volumes:\n      - ./a:/x\n    tmpfs: /x\n", want: `compose.yaml:5: services.web.volumes[0]: target /x is already mounted by tmpfs[0]; keep one`},
		{name: "healthy without a check", yaml: web + "    depends_on:\n      db: {condition: service_healthy}\n  db:\n    image: b\n    healthcheck: {disable: true}\n", want: `compose.yaml:5: services.web.depends_on.db: condition service_healthy can never be met`},
		{name: "interpolated type", yaml: web + "    scale: ${N}\n", want: `compose.yaml:4: services.web.scale: has a value of the wrong type: ""; give a whole number`},
		{name: "bad name", yaml: "services:\n  my web:\n    image: a\n", want: `compose.yaml:2: services.my web: invalid name "my web"; use letters, digits, ".", "_" and "-"`},
		{name: "port as a number pair", yaml: web + "    ports:\n      - 22:22\n", want: ``},
		{name: "undefined anchor", yaml: web + "    environment: *nope\n", want: `compose.yaml:4: invalid YAML`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			files := map[string]string{"compose.yaml": tt.yaml}
			for f, content := range tt.files {
				files[f] = content
			}
			_, err := Load(context.Background(), project(t, files))
			if err == nil {
				if tt.want != "" {
					t.Fatal("no error")
				}
				return
			}
			if tt.want == "" || !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("got:\n%v\nwant:\n%s", err, tt.want)
			}
			t.Log(err)
		})
	}
}
