package watch

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stack-run/stack/compose/desired"
)

func rule(t *testing.T, tr desired.Trigger, dockerignore ...string) *Rule {
	t.Helper()
	r, err := NewRule("web", tr, "/p/.dockerignore", dockerignore)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestWhatARuleMatches(t *testing.T) {
	sync := func(ignore, include []string) desired.Trigger {
		return desired.Trigger{Path: "/p/web", Action: "sync", Target: "/app", Ignore: ignore, Include: include, BuildContext: "/p"}
	}
	list := func(s ...string) []string { return s }
	for _, tt := range []struct {
		name    string
		rule    desired.Trigger
		docker  []string
		yes, no []string
	}{
		{"a directory", sync(nil, nil), nil, list("/p/web", "/p/web/a", "/p/web/d/a"), list("/p/webx", "/p", "/p/other/a")},
		{"git and editors", sync(nil, nil), nil, list("/p/web/a.swift", "/p/web/.github/x", "/p/web/.env", "/p/web/a#"),
			list("/p/web/.git/index", "/p/web/d/.git", "/p/web/a~", "/p/web/.a.swp", "/p/web/4913", "/p/web/.#a", "/p/web/#a#", "/p/web/.idea/x", "/p/web/a___jb_tmp___", "/p/web/x-go-tmp-umask")},
		{"ignore is relative to the path", sync(list("node_modules/", "**/*.log"), nil), nil,
			list("/p/web/d/node_modules/a", "/p/web/log"), list("/p/web/node_modules", "/p/web/node_modules/d/a", "/p/web/a.log", "/p/web/d/a.log")},
		{"an exception", sync(list("gen", "!gen/keep"), nil), nil, list("/p/web/gen/keep/a"), list("/p/web/gen/a", "/p/web/gen")},
		{"an absolute pattern", sync(list("/tmp", "/p/web/here"), nil), nil, list("/p/web/d/tmp"), list("/p/web/tmp/a", "/p/web/here/a")},
		{"include", sync(nil, list("**/*.py")), nil, list("/p/web/a.py", "/p/web/d/e/a.py"), list("/p/web/a.js", "/p/web/d")},
		{"include and ignore", sync(list("d"), list("**/*.py")), nil, list("/p/web/a.py"), list("/p/web/d/a.py")},
		{".dockerignore is relative to the context", sync(nil, nil), list("web/dist", "*.md", "**/*.tmp"),
			list("/p/web/a.md", "/p/web/distant"), list("/p/web/dist/a", "/p/web/d/a.tmp")},
		{".dockerignore with exceptions", sync(nil, nil), list("web/**", "!web/src"), list("/p/web/src/a"), list("/p/web/a")},
		{"a star in .dockerignore is of the build alone", sync(nil, nil), list("*", "!web/src"), list("/p/web/src/a", "/p/web/a"), nil},
		{"a star in ignore", sync(list("*", "!src"), nil), nil, list("/p/web/src/a"), list("/p/web/a", "/p/web/d/a")},
		{"a file", desired.Trigger{Path: "/p/web/package.json", Action: "sync", Target: "/app/package.json", Include: list("*.js")}, nil,
			list("/p/web/package.json"), list("/p/web/package.json5", "/p/web")},
		{"git itself", desired.Trigger{Path: "/p/.git/refs", Action: "restart"}, nil, list("/p/.git/refs/heads/main"), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := rule(t, tt.rule, tt.docker...)
			for _, name := range tt.yes {
				if !r.Matches(name) {
					t.Errorf("%s does not match", name)
				}
				for dir := name; dir != r.Path && Below(r.Path, dir); dir = dir[:strings.LastIndex(dir, "/")] {
					if dir != name && r.Prunes(dir) {
						t.Errorf("%s is pruned, with %s in it", dir, name)
					}
				}
			}
			for _, name := range tt.no {
				if r.Matches(name) {
					t.Errorf("%s matches", name)
				}
			}
		})
	}
}

func TestWhatARulePrunes(t *testing.T) {
	tr := desired.Trigger{Path: "/p/web", Action: "sync", Target: "/app", BuildContext: "/p", Ignore: []string{"node_modules", "**/cache", "gen", "!gen/keep", "!**/README.md", "vendor"}}
	tr2 := tr
	tr2.Ignore, tr2.Include = nil, []string{"src/*.js", "lib"}
	for _, tt := range []struct {
		rule  *Rule
		dir   string
		prune bool
	}{
		{rule(t, tr), "/p", false},
		{rule(t, tr), "/q", true},
		{rule(t, tr), "/p/web", false},
		{rule(t, tr), "/p/web/.git", true},
		{rule(t, tr), "/p/web/src", false},
		// A README.md may be anywhere in it.
		{rule(t, tr), "/p/web/node_modules", false},
		{rule(t, desired.Trigger{Path: "/p/web", Ignore: []string{"node_modules", "gen", "!gen/keep"}}), "/p/web/node_modules", true},
		{rule(t, desired.Trigger{Path: "/p/web", Ignore: []string{"node_modules", "gen", "!gen/keep"}}), "/p/web/gen", false},
		{rule(t, desired.Trigger{Path: "/p/web", Ignore: []string{"node_modules", "gen", "!gen/keep"}}), "/p/web/gen/x", true},
		{rule(t, desired.Trigger{Path: "/p/web", BuildContext: "/p"}, "web/dist"), "/p/web/dist", true},
		{rule(t, tr2), "/p/web/src", false},
		{rule(t, tr2), "/p/web/lib/deep", false},
		{rule(t, tr2), "/p/web/docs", true},
	} {
		if got := tt.rule.Prunes(tt.dir); got != tt.prune {
			t.Errorf("ignore %v, include %v: Prunes(%s) = %t", tt.rule.Ignore, tt.rule.Include, tt.dir, got)
		}
	}
}

func TestBrokenPatterns(t *testing.T) {
	for text, tr := range map[string]desired.Trigger{
		`ignore: pattern "[" cannot be read`:   {Path: "/p", Ignore: []string{"["}},
		`include: pattern "a[b" cannot be`:     {Path: "/p", Include: []string{"a[b"}},
		`ignore: pattern "!" excepts nothing`:  {Path: "/p", Ignore: []string{"!"}},
		`/p/.dockerignore: pattern "[x" canno`: {Path: "/p", BuildContext: "/p"},
	} {
		_, err := NewRule("web", tr, "/p/.dockerignore", []string{"[x"})
		if err == nil || !strings.HasPrefix(err.Error(), text) {
			t.Errorf("%v, want %s", err, text)
		}
	}
}

// text writes tasks down, a line for each thing to do.
func text(tasks []Task) []string {
	var out []string
	for _, t := range tasks {
		for _, c := range t.Copies {
			what := "copy"
			switch {
			case c.Empty:
				what = "remove if empty"
			case c.Gone:
				what = "remove"
			}
			out = append(out, fmt.Sprintf("%s: %s %s to %s (%s)", t.Service, what, c.Source, c.Target, c.Rule.Action))
		}
		for what, yes := range map[string]bool{"rebuild": t.Rebuild, "restart": t.Restart} {
			if yes {
				out = append(out, t.Service+": "+what)
			}
		}
		for _, r := range t.Exec {
			out = append(out, t.Service+": exec "+strings.Join(r.Exec.Command, " "))
		}
	}
	return out
}

func TestDecide(t *testing.T) {
	sync := desired.Trigger{Path: "/p/src", Action: "sync", Target: "/app", Ignore: []string{"**/cache"}}
	py := desired.Trigger{Path: "/p/src", Action: "sync", Target: "/app", Include: []string{"**/*.py"}}
	restart := desired.Trigger{Path: "/p/conf", Action: "restart"}
	rebuild := desired.Trigger{Path: "/p", Action: "rebuild", Include: []string{"go.mod"}}
	bound := desired.Trigger{Path: "/p/src", Action: "sync+exec", Target: "/app", Bound: true, Exec: desired.Hook{Command: []string{"make"}}}
	file := desired.Trigger{Path: "/p/a.conf", Action: "sync+restart", Target: "/etc/a.conf"}
	for _, tt := range []struct {
		name    string
		rules   []desired.Trigger
		changes []Change
		want    []string
	}{
		{"nothing", []desired.Trigger{sync}, []Change{{Path: "/p/other"}}, nil},
		{"a file", []desired.Trigger{sync}, []Change{{Path: "/p/src/d/a"}}, []string{"web: copy /p/src/d/a to /app/d/a (sync)"}},
		{"parents first", []desired.Trigger{sync}, []Change{{Path: "/p/src/d/a"}, {Path: "/p/src/d", Dir: true}},
			[]string{"web: copy /p/src/d to /app/d (sync)", "web: copy /p/src/d/a to /app/d/a (sync)"}},
		{"ignored", []desired.Trigger{sync}, []Change{{Path: "/p/src/d/cache/a"}}, nil},
		{"a directory goes with what is in it", []desired.Trigger{sync},
			[]Change{{Path: "/p/src/d", Gone: true, Dir: true}, {Path: "/p/src/d/a", Gone: true}, {Path: "/p/src/d.b"}},
			[]string{"web: remove /p/src/d to /app/d (sync)", "web: copy /p/src/d.b to /app/d.b (sync)"}},
		{"the root goes, but what is the image's own stays", []desired.Trigger{sync},
			[]Change{{Path: "/p/src", Gone: true, Dir: true}, {Path: "/p/src/d", Gone: true, Dir: true}, {Path: "/p/src/d/a", Gone: true}},
			[]string{"web: remove /p/src/d to /app/d (sync)", "web: remove if empty /p/src to /app (sync)"}},
		{"what is not included stays", []desired.Trigger{py},
			[]Change{{Path: "/p/src/d", Gone: true, Dir: true}, {Path: "/p/src/d/a.py", Gone: true}, {Path: "/p/src/d/b.js", Gone: true}, {Path: "/p/src/d/e", Gone: true, Dir: true}},
			[]string{"web: remove /p/src/d/a.py to /app/d/a.py (sync)", "web: remove if empty /p/src/d/e to /app/d/e (sync)", "web: remove if empty /p/src/d to /app/d (sync)"}},
		{"a file that is the path itself", []desired.Trigger{file}, []Change{{Path: "/p/a.conf"}}, []string{"web: copy /p/a.conf to /etc/a.conf (sync+restart)"}},
		{"restart", []desired.Trigger{restart}, []Change{{Path: "/p/conf/x"}}, []string{"web: restart"}},
		{"a mode is no reason to restart", []desired.Trigger{restart}, []Change{{Path: "/p/conf/x", Same: true}}, nil},
		{"but to rebuild", []desired.Trigger{rebuild}, []Change{{Path: "/p/go.mod", Same: true}}, []string{"web: rebuild"}},
		{"included alone", []desired.Trigger{rebuild}, []Change{{Path: "/p/go.sum"}}, nil},
		{"what is mounted is not copied", []desired.Trigger{bound}, []Change{{Path: "/p/src/a"}}, []string{"web: exec make"}},
		{"several rules", []desired.Trigger{sync, rebuild}, []Change{{Path: "/p/src/a"}, {Path: "/p/go.mod"}}, []string{"web: copy /p/src/a to /app/a (sync)", "web: rebuild"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var rules []*Rule
			for _, tr := range tt.rules {
				rules = append(rules, rule(t, tr))
			}
			if diff := cmp.Diff(tt.want, text(Decide(rules, tt.changes))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestWhatStaysOfADirectory(t *testing.T) {
	r := rule(t, desired.Trigger{Path: "/p/src", Action: "sync", Target: "/app", Ignore: []string{"web/node_modules"}})
	tasks := Decide([]*Rule{r}, []Change{{Path: "/p/src/web", Gone: true, Dir: true}})
	c := tasks[0].Copies[0]
	var kept []string
	for _, name := range []string{"a", "node_modules", "node_modules/x", "__pycache__/a.pyc"} {
		if c.Keeps(name) {
			kept = append(kept, name)
		}
	}
	if want := []string{"node_modules", "node_modules/x"}; !slices.Equal(kept, want) {
		t.Errorf("kept %v, want %v", kept, want)
	}
}

func TestBatch(t *testing.T) {
	start := time.Unix(1000, 0)
	at := func(d time.Duration) time.Time { return start.Add(d) }
	ms := time.Millisecond
	for _, tt := range []struct {
		name string
		see  func(*Batch)
		due  time.Duration
	}{
		{"a file that is renamed to its place is done", func(b *Batch) { b.See("a", Complete, at(0)) }, quiet},
		{"each one puts the end off", func(b *Batch) { b.See("a", Complete, at(0)); b.See("b", Complete, at(5*ms)) }, 5*ms + quiet},
		{"a file that is written is waited for", func(b *Batch) { b.See("a", Open, at(0)) }, quietOpen},
		{"until it is closed", func(b *Batch) { b.See("a", Open, at(0)); b.See("a", Complete, at(ms)) }, ms + quiet},
		{"a file that is gone may come back", func(b *Batch) { b.See("a", Missing, at(0)) }, quietMissing},
		{"and does", func(b *Batch) { b.See("a", Missing, at(0)); b.See("a", Open, at(ms)); b.See("a", Complete, at(2*ms)) }, 2*ms + quiet},
		{"many files are a branch switch", func(b *Batch) {
			for i := range lots + 1 {
				b.See(fmt.Sprint(i), Complete, at(0))
			}
		}, quietLots},
		{"but not for ever", func(b *Batch) {
			for i := range time.Duration(1000) {
				b.See("log", Open, at(i*100*ms))
			}
		}, longest},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var b Batch
			tt.see(&b)
			if got := b.Due().Sub(start); got != tt.due {
				t.Errorf("due after %v, want %v", got, tt.due)
			}
			b.Take()
			if b.Len() != 0 {
				t.Error("not empty")
			}
		})
	}
}
