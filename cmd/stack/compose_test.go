package main

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// What docker compose has (testdata/compose/flags.txt, which `make peer` compares with
// the program), stack has, too: verbs, their aliases and arguments, flags, shorthands,
// defaults and descriptions. What differs is in testdata/compose/differences.txt, each
// with its reason.
func TestFlagsOfDockerCompose(t *testing.T) {
	theirs := readTable(t, "testdata/compose/flags.txt")
	reasons := readTable(t, "testdata/compose/differences.txt")
	ours := flagTable(newRootCmd(newSession(t, "shop").App, stackItself, nil))
	verbs := map[string]bool{}
	for about := range theirs {
		verb, _, _ := strings.Cut(about, "\t")
		verbs[verb] = true
	}
	different := map[string]bool{}
	for _, about := range slices.Sorted(maps.Keys(maps.Collect(both(ours, theirs)))) {
		verb, item, _ := strings.Cut(about, "\t")
		if sameFlag(ours[about], theirs[about]) || !verbs[verb] {
			continue
		}
		reason := about
		if reasons[about] == "" {
			reason = verb + "\t*"
		}
		different[reason] = true
		if reasons[reason] == "" {
			t.Errorf("%s %s differs:\n stack:          %s\n docker compose: %s", verb, item, ours[about], theirs[about])
		}
	}
	for about := range reasons {
		if !different[about] {
			t.Errorf("differences.txt: %s does not differ", strings.ReplaceAll(about, "\t", " "))
		}
	}
}

// sameFlag compares two descriptions. Types that take one string each time they are
// given are the same, whatever they are called.
func sameFlag(a, b string) bool {
	same := strings.NewReplacer(`list ""`, `stringArray "[]"`, `filter ""`, `stringArray "[]"`)
	return strings.TrimSpace(same.Replace(a)) == strings.TrimSpace(same.Replace(b))
}

// both has the keys of two maps.
func both(a, b map[string]string) func(yield func(string, string) bool) {
	return func(yield func(string, string) bool) {
		for _, m := range []map[string]string{a, b} {
			for k, v := range m {
				if !yield(k, v) {
					return
				}
			}
		}
	}
}

// readTable reads lines of a verb, what of it the line is about, and a value.
func readTable(t *testing.T, file string) map[string]string {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	table := map[string]string{}
	for n, line := range strings.Split(strings.TrimSuffix(string(content), "\n"), "\n") {
		if strings.HasPrefix(line, "#") {
			continue
		}
		fields := strings.SplitN(line, "\t", 3)
		if len(fields) != 3 {
			t.Fatalf("%s:%d: want three fields with tabs between them", file, n+1)
		}
		table[fields[0]+"\t"+fields[1]] = fields[2]
	}
	return table
}

// flagTable is such a table of commands and their flags.
func flagTable(root *cobra.Command) map[string]string {
	table := map[string]string{}
	names := map[string]bool{}
	walk(root, func(c *cobra.Command) {
		ownFlags(c, func(f *pflag.Flag) { names[f.Name] = true })
	})
	walk(root, func(c *cobra.Command) {
		verb := strings.TrimSpace(strings.TrimPrefix(c.CommandPath(), root.Name()))
		set := func(about, value string) { table[verb+"\t"+about] = strings.ReplaceAll(value, "\n", `\n`) }
		if c.HasParent() {
			set("usage", strings.TrimPrefix(c.Use, c.Name()))
			set("short", c.Short)
			for _, alias := range c.Aliases {
				set("alias", alias)
			}
		}
		if c.Hidden {
			set("hidden", "yes")
		}
		ownFlags(c, func(f *pflag.Flag) {
			value := fmt.Sprintf("%s %q", f.Value.Type(), f.DefValue)
			if f.Shorthand != "" {
				value = "-" + f.Shorthand + " " + value
			}
			if f.Hidden {
				value += " hidden"
			}
			set("--"+f.Name, value+" "+f.Usage)
		})
		if !c.HasParent() {
			return
		}
		for name := range names {
			for _, other := range []string{name + "s", strings.TrimSuffix(name, "s"), name[:1], strings.ReplaceAll(name, "tty", "TTY")} {
				if is := c.Flags().GetNormalizeFunc()(c.Flags(), other); string(is) != other {
					set("--"+other, "is --"+string(is))
				}
			}
		}
	})
	return table
}

// ownFlags visits the flags of a command alone.
func ownFlags(c *cobra.Command, visit func(*pflag.Flag)) {
	c.Flags().VisitAll(visit)
	c.PersistentFlags().VisitAll(visit)
}
