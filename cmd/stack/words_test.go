package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
)

// Each word leads to a command, in each program, and is told by its own name.
func TestEngineWords(t *testing.T) {
	for name := range cli.EngineWords {
		for _, is := range []program{docker, stackItself} {
			s := newSession(t, t.TempDir())
			root := newRootCmd(s.App, is, []string{name})
			c, rest, err := root.Find([]string{name})
			if err != nil || len(rest) > 0 || c.CommandPath() != string(is)+" "+name || strings.Fields(c.Use)[0] != name {
				t.Errorf("%s %s: %q, %v", is, name, c.Use, err)
			}
		}
	}
}

func TestUnderstand(t *testing.T) {
	for _, c := range []struct {
		name, line string
		is         program
		args       string
	}{
		{"stack", "up -d", stackItself, "up -d"},
		{"stack", "compose up -d", stackCompose, "up -d"},
		{"stack", "-f a.yaml compose -p x up", stackCompose, "-f a.yaml -p x up"},
		{"stack", "run compose", stackItself, "run compose"},
		{"stack", "-p compose up", stackItself, "-p compose up"},
		{"stack", "compose", stackCompose, ""},
		{"stack", "__complete compose up ", stackCompose, "__complete up "},
		{"stack", "__complete compose", stackItself, "__complete compose"},
		{"docker", "ps", docker, "ps"},
		{"docker", "--config /x compose -f a up", dockerCompose, "-f a up"},
		{"docker", "__completeNoDesc --debug compose up ", dockerCompose, "__completeNoDesc up "},
		{"docker", "run compose", docker, "run compose"},
		{"docker-compose", "up", dockerCompose, "up"},
		{"docker-compose", "compose", dockerCompose, "compose"},
		{"a copy of it", "up", stackItself, "up"},
	} {
		is, args := understand(c.name, strings.Split(c.line, " "))
		if got := strings.Join(args, " "); is != c.is || got != c.args {
			t.Errorf("%s %s: %s, %q", c.name, c.line, is, got)
		}
	}
}

// What a word means depends on where it is typed, and under which name.
func TestWordsByPlace(t *testing.T) {
	const nowhere = ""
	for _, c := range []struct {
		where, name, line string
		code              int
		want              string // of the output or what was asked of the engine
	}{
		{"shop", "stack", "ps", 0, "SERVICE"},
		{nowhere, "stack", "ps", 0, "CONTAINER ID"},
		{"shop", "docker", "ps", 0, "CONTAINER ID"},
		{"shop", "docker", "compose ps", 0, "SERVICE"},
		{"shop", "docker-compose", "ps", 0, "SERVICE"},
		{nowhere, "stack", "compose ps", 1, "no Compose file"},
		{nowhere, "docker", "compose ps", 1, "no Compose file"},
		{nowhere, "docker", "compose -p shop ps", 0, "SERVICE"},
		{nowhere, "stack", "images", 0, "IMAGE"},
		{"shop", "stack", "rmi nosuch", 1, "nosuch"},
		{"shop", "stack", "tag", 1, `"stack tag" requires exactly 2 arguments`},
		{"shop", "stack", "stop box", 1, "stack container stop box"},
		{"shop", "stack", "pull alpine", 1, `for an image use "stack image pull alpine"`},
		{"shop", "stack", "build -t app .", 1, `for an image use "stack image build"`},
		{"shop", "stack", "build .", 1, `for an image use "stack image build ."`},
		{"shop", "stack", "start -i box", 1, `for a container use "stack container start"`},
		{"shop", "stack", "events --filter event=die", 1, `for the whole engine use "stack system events"`},
		{"shop", "stack", "images alpine", 1, `"stack image ls alpine"`},
		{"shop", "stack", "up nosuch", 1, `no such service: "nosuch"; there is`},
		{"shop", "docker", "stop box", 0, "stop 500"},
		{nowhere, "stack", "stop box", 0, "stop 500"},
		{nowhere, "docker", "stop", 1, `"docker stop" requires at least 1 argument`},
		{nowhere, "docker", "ps --nosuch", 125, "unknown flag: --nosuch"},
		{nowhere, "docker", "compose ps --nosuch", 1, "unknown flag: --nosuch"},
		{nowhere, "docker", "up", 1, `unknown command: "docker up"`},
		{nowhere, "docker", "--version", 0, "Docker version " + dockerRelease + ", build "},
		{nowhere, "docker", "compose version --short", 0, "."},
		{nowhere, "docker", "version --format {{.Server.Version}}", 0, dockerRelease},
		{nowhere, "docker", "context ls -q", 0, "default"},
		{nowhere, "docker", "context ls", 0, "DOCKER ENDPOINT"},
		{nowhere, "docker", "context use elsewhere", 1, "context not found"},
		{nowhere, "docker", "-c elsewhere ps", 1, "context not found"},
		{nowhere, "docker", "-H tcp://far:2375 ps", 1, "cannot ask tcp://far:2375"},
		{nowhere, "docker", "-H unix:///var/run/docker.sock ps -q", 0, "500000000000"},
		{nowhere, "docker", "buildx create --use --name ci", 0, "default"},
		{nowhere, "docker", "buildx ls", 0, "running"},
		{nowhere, "docker", "run --rm debian echo hi", 0, `run debian  ["echo" "hi"]`},
		{"shop", "docker", "run debian", 0, "run debian"},
		{nowhere, "docker", "login --help", 0, "registry"},
	} {
		dir := c.where
		if dir == nowhere {
			dir = t.TempDir()
		}
		s := newSession(t, dir)
		out, errOut, code := s.as(t, c.name, strings.Fields(c.line)...)
		all := out + errOut + strings.Join(s.fake.noted(), "\n")
		if code != c.code || !strings.Contains(all, c.want) {
			t.Errorf("in %q: %s %s: exit code %d\n%s", c.where, c.name, c.line, code, all)
		}
	}
}

// A help that names a word names one that works.
func TestHelpOfPrograms(t *testing.T) {
	for name, want := range map[string][]string{
		"docker":         {"run", "ps", "compose", "buildx", "context", "container", "login"},
		"docker-compose": {"up", "ps", "version"},
	} {
		s := newSession(t, t.TempDir())
		out, _, code := s.as(t, name, "--help")
		for _, w := range want {
			if !slices.ContainsFunc(strings.Split(out, "\n"), func(line string) bool { return strings.HasPrefix(line, fmt.Sprintf("  %s ", w)) }) {
				t.Errorf("%s --help (exit code %d) does not name %s:\n%s", name, code, w, out)
			}
		}
		if name == "docker" && strings.Contains(out, "\n  up ") {
			t.Error("docker has an up")
		}
	}
}

// Who means another machine is not answered by this one.
func TestOtherMachines(t *testing.T) {
	for _, c := range []struct {
		name, variable, line string
		code                 int
	}{
		{"docker", "DOCKER_HOST=tcp://far:2375", "ps", 1},
		{"docker", "DOCKER_HOST=ssh://far", "compose -p shop ps", 1},
		{"docker-compose", "DOCKER_CONTEXT=far", "-p shop ps", 1},
		{"docker", "DOCKER_HOST=unix:///var/run/docker.sock", "ps", 0},
		{"docker", "DOCKER_CONTEXT=default", "ps", 0},
		{"stack", "DOCKER_HOST=tcp://far:2375", "ps", 0}, // it is nobody's client
	} {
		s := newSession(t, t.TempDir())
		s.Environ = append(s.Environ, c.variable)
		_, errOut, code := s.as(t, c.name, strings.Fields(c.line)...)
		if code != c.code || code != 0 && !strings.Contains(errOut, "far") {
			t.Errorf("%s %s %s: exit code %d: %s", c.variable, c.name, c.line, code, errOut)
		}
	}
}
