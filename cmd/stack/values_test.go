package main

import (
	"strings"
	"testing"
)

func TestCompletionOfValues(t *testing.T) {
	for _, c := range []struct {
		where, name, line string
		want              []string // each at the beginning of a line
		not               string
	}{
		{"shop", "stack", "up --pull |", []string{"always\t", "missing\t", "never\t"}, ""},
		{"shop", "stack", "up --scale |", []string{"db=", "web=", ":6"}, ""},
		{"shop", "stack", "container run --network |", []string{"bridge\t", "host\t", "none\t"}, ""},
		{"shop", "stack", "container run --restart |", []string{"always\t", "on-failure\t"}, ""},
		{"shop", "stack", "container run |", []string{":4"}, "shop-web-1"},
		{"shop", "stack", "container ls --filter |", []string{"status=", "label=", ":6"}, ""},
		{"shop", "stack", "container ls --filter status=|", []string{"status=running", ":4"}, "label"},
		{"shop", "stack", "container start |", []string{"shop-migrate-1\t"}, "box"},
		{"shop", "stack", "container stop |", []string{"box\tdebian, running"}, "shop-migrate-1"},
		{"shop", "stack", "container unpause |", []string{"shop-web-2\t"}, "box"},
		{"shop", "stack", "container stop box |", []string{"shop-web-1\t"}, "box\t"},
		{"shop", "stack", "stop |", []string{"db", "web"}, "box"},
		{"shop", "docker", "stop |", []string{"box\t"}, "migrate"},
		{"shop", "docker", "ps --filter |", []string{"ancestor="}, ""},
		{"shop", "docker", "run |", []string{":4"}, "shop-web-1"},
		{"shop", "docker", "compose stop |", []string{"db", "web"}, "box"},
		{"", "stack", "stop |", []string{"box\t"}, "migrate"},
		{"", "stack", "exec |", []string{"box\t"}, ""},
		{"shop", "stack", "com|", []string{"commit\t", "compose\t", "completion\t"}, ""},
		{"shop", "docker", "c|", []string{"compose\t", "container\t", "context\t"}, "config\t"},
	} {
		dir := c.where
		if dir == "" {
			dir = t.TempDir()
		}
		s := newSession(t, dir)
		line := strings.Split(strings.TrimSuffix(c.line, "|"), " ")
		out, errOut, code := s.as(t, c.name, append([]string{"__complete"}, line...)...)
		for _, want := range c.want {
			if code != 0 || !strings.Contains("\n"+out, "\n"+want) {
				t.Errorf("in %q: %s %s: no %q\n%s%s", c.where, c.name, c.line, want, out, errOut)
			}
		}
		if c.not != "" && strings.Contains(out, c.not) {
			t.Errorf("in %q: %s %s: %q among\n%s", c.where, c.name, c.line, c.not, out)
		}
	}
}
