package load

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
)

// warnOfDollars says which values of env files lose a part, because it looks like a
// variable that is not set: hashes of passwords have such parts.
func warnOfDollars(d *diagnostics, env types.Mapping, files []string) {
	known := env.Clone()
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			continue // told by who reads it for its values
		}
		for _, a := range assignments(string(content)) {
			names := slices.Sorted(maps.Keys(unsetVariables(a.value, known)))
			known[a.name] = ""
			if len(names) == 0 || a.quote == '\'' {
				continue
			}
			d.warn(Diagnostic{File: file, Line: a.line, Text: fmt.Sprintf(
				"%s: $%s is not set and becomes an empty string; to keep each $ put the value between single quotes, or write $$ for a $", a.name, strings.Join(names, " and $"))})
		}
	}
}

// assignment is one "NAME=VALUE" of an env file.
type assignment struct {
	line        int
	name, value string
	quote       byte // what the value is between, 0 if it is between none
}

// assignments finds what an env file assigns, a value of several lines with the first.
func assignments(content string) []assignment {
	var all []assignment
	n := 0
	open := byte(0) // the quote of a value that goes on
	for text := range strings.Lines(content) {
		n++
		if open != 0 {
			last := &all[len(all)-1]
			last.value += text
			if strings.IndexByte(text, open) >= 0 {
				open = 0
			}
			continue
		}
		text = strings.TrimPrefix(strings.TrimSpace(strings.TrimPrefix(text, "\ufeff")), "export ")
		i := strings.IndexAny(text, "=:")
		if i <= 0 || text[0] == '#' {
			continue
		}
		a := assignment{line: n, name: strings.TrimSpace(text[:i]), value: strings.TrimSpace(text[i+1:])}
		switch {
		case a.value == "":
		case a.value[0] == '"' || a.value[0] == '\'':
			a.quote = a.value[0]
			if strings.IndexByte(a.value[1:], a.quote) < 0 {
				open = a.quote
			}
		default:
			a.value, _, _ = strings.Cut(a.value, " #")
		}
		all = append(all, a)
	}
	return all
}

// assigned is the last assignment of a variable in a file.
func assigned(file, name string) (assignment, bool) {
	content, err := os.ReadFile(file)
	if err != nil {
		return assignment{}, false
	}
	all := assignments(string(content))
	for _, a := range slices.Backward(all) {
		if a.name == name {
			return a, true
		}
	}
	return assignment{}, false
}
