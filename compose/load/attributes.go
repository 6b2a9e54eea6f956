package load

import (
	_ "embed"
	"strings"
	"sync"
)

// verdict is what becomes of an attribute.
type verdict string

const (
	pass   verdict = "pass"
	warned verdict = "warn"
	failed verdict = "error"
)

type rule struct {
	path    string
	below   bool // the path ended in ".**"
	verdict verdict
	reason  string
}

//go:embed attributes.txt
var attributesTable string

// attributeRules is the table, most specific path last.
var attributeRules = sync.OnceValue(func() []rule {
	var rules []rule
	for line := range strings.Lines(attributesTable) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		path, rest, _ := strings.Cut(line, "  ")
		word, reason, _ := strings.Cut(rest, "  ")
		path, below := strings.CutSuffix(path, ".**")
		rules = append(rules, rule{path, below, verdict(word), reason})
	}
	return rules
})

// unusual are the rules that are not pass: the only ones that a load needs.
var unusualRules = sync.OnceValue(func() map[string]rule {
	m := map[string]rule{}
	for _, r := range attributeRules() {
		if r.verdict != pass {
			m[r.path] = r
		}
	}
	return m
})
