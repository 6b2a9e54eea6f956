package main

import (
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
)

// table is what became of each test on each side, by side and test.
type table map[string]results

// words are how the table says an outcome.
var words = map[string]string{"pass": "passes", "fail": "fails", "skip": "skipped"}

// add notes what a run found. What it did not run stays, if it ran some tests only.
func (t table) add(side string, found results, some bool) {
	if !some {
		t[side] = results{}
	}
	maps.Copy(t[side], found)
}

// reasons say why tests do not pass on stack, or on neither side: a test's name and
// a sentence in each line.
//
//go:embed reasons.txt
var reasons string

func reasonFor(test string) string {
	for line := range strings.Lines(reasons) {
		name, why, _ := strings.Cut(strings.TrimSpace(line), " ")
		if name == test {
			return why
		}
	}
	return ""
}

func summary(side string, r results) string {
	count := map[string]int{}
	for _, one := range r {
		count[one.Outcome]++
	}
	return fmt.Sprintf("%s: %d pass, %d fail, %d are skipped\n", side, count["pass"], count["fail"], count["skip"])
}

const head = `# docker compose's own end-to-end tests, on Docker and on stack

Written by ` + "`make compose-suite`" + `. The tests are those of docker compose v5.6.0, run with its
tags "e2e standalone"; a small registry plays Docker Hub, with images made here.
`

func (t table) markdown() string {
	var b strings.Builder
	b.WriteString(head)
	names := slices.Sorted(maps.Keys(t[onDocker]))
	for name := range t[onStack] {
		if _, ok := t[onDocker][name]; !ok {
			names = append(names, name)
		}
	}
	var both, docker int
	var rows strings.Builder
	for _, name := range names {
		d, s := t[onDocker][name], t[onStack][name]
		why := ""
		if d.Outcome == "pass" {
			docker++
			if s.Outcome == "pass" {
				both++
			} else if why = reasonFor(name); why == "" {
				why = s.Said
			}
		} else if why = reasonFor(name); why == "" {
			why = "on Docker: " + d.Said
		}
		fmt.Fprintf(&rows, "| %s | %s | %s | %s |\n", name, words[d.Outcome], words[s.Outcome], cell(why))
	}
	fmt.Fprintf(&b, "\nOf %d tests that pass on Docker, %d pass on stack.\n\n", docker, both)
	b.WriteString("| Test | Docker | stack | why not |\n|---|---|---|---|\n")
	b.WriteString(rows.String())
	return b.String()
}

// cell makes text fit into a cell of a table.
func cell(text string) string {
	text = strings.NewReplacer("|", "\\|", "\n", " ", "`", "'").Replace(text)
	const most = 160
	if r := []rune(text); len(r) > most {
		text = string(r[:most]) + "…"
	}
	return text
}

// readTable reads a table that was written before, for the side that is not run.
func readTable(path string) (table, error) {
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && path != "" {
		return nil, err
	}
	return parseTable(string(text)), nil
}

func parseTable(text string) table {
	t := table{onDocker: results{}, onStack: results{}}
	outcome := map[string]string{}
	for o, word := range words {
		outcome[word] = o
	}
	for line := range strings.Lines(text) {
		cells := strings.SplitN(strings.TrimSpace(line), " | ", 4)
		if len(cells) < 4 || outcome[cells[1]] == "" {
			continue
		}
		name, why := strings.TrimPrefix(cells[0], "| "), strings.TrimSuffix(cells[3], " |")
		why = strings.ReplaceAll(why, "\\|", "|")
		t[onDocker][name] = result{Outcome: outcome[cells[1]], Said: strings.TrimPrefix(why, "on Docker: ")}
		t[onStack][name] = result{Outcome: outcome[cells[2]], Said: why}
	}
	return t
}
