package load

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// document is one parsed YAML file. A file may hold several YAML documents,
// which merge in order.
type document struct {
	file  string
	roots []*yaml.Node
}

// parse reads a file into nodes. A syntax error is one Diagnostic. A file that is
// one of several (partial) may have no content.
func parse(file string, content []byte, partial bool) (*document, *Diagnostic) {
	doc := &document{file: file}
	if len(bytes.TrimSpace(content)) == 0 && !partial {
		return nil, &Diagnostic{File: file, Text: "the file is empty; a Compose file needs at least \"services:\" with one service"}
	}
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	for {
		var node yaml.Node
		err := decoder.Decode(&node)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			d := syntaxError(file, content, err)
			return nil, &d
		}
		root := &node
		if root.Kind == yaml.DocumentNode {
			if len(root.Content) == 0 {
				continue
			}
			root = root.Content[0]
		}
		if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
			continue
		}
		if root.Kind != yaml.MappingNode {
			return nil, &Diagnostic{File: file, Line: root.Line, Column: root.Column, Text: "the top level must be a mapping, such as \"services:\""}
		}
		measure := measurer{depths: map[*yaml.Node]int{}}
		if measure.depth(root); measure.fault != nil {
			measure.fault.File = file
			return nil, measure.fault
		}
		doc.roots = append(doc.roots, root)
	}
	if len(doc.roots) == 0 && !partial {
		return nil, &Diagnostic{File: file, Text: "the file has no content but comments; a Compose file needs at least \"services:\" with one service"}
	}
	return doc, nil
}

func syntaxError(file string, content []byte, err error) Diagnostic {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	text = strings.ReplaceAll(text, "<unknown position>", "line 1") // the library's name of the file's begin
	if _, rest, ok := strings.Cut(text, "offset "); ok {            // what no scanner has come to
		var offset int
		if _, err := fmt.Sscan(rest, &offset); err == nil {
			read := content[:min(offset, len(content))]
			_, problem, _ := strings.Cut(rest, ": ")
			line := bytes.Count(read, []byte("\n")) + 1
			return Diagnostic{File: file, Line: line, Column: len(read) - bytes.LastIndexByte(read, '\n'), Text: "invalid YAML: " + problem + "; save the file as UTF-8 text, and write such a character as an escape in double quotes"}
		}
	}
	column := findColumn(text)
	begin := 0
	if context, problem, ok := strings.Cut(text, ": "); ok && strings.Contains(problem, "unexpected end of stream") {
		begin, _ = findLine(context)
	}
	line, text := findLine(text)
	hint := ""
	switch lines := strings.Split(string(content), "\n"); {
	case line > 0 && line <= len(lines) && strings.HasPrefix(lines[line-1], "\t"), strings.Contains(text, "cannot start any token") && bytes.Contains(content, []byte("\t")):
		if line == 0 || line > len(lines) || !strings.Contains(lines[line-1], "\t") {
			if i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(strings.TrimLeft(l, " "), "\t") }); i >= 0 {
				line = i + 1
			}
		}
		hint = "; YAML is indented with spaces, not tabs"
	case strings.Contains(text, "mapping values are not allowed"):
		hint = "; check the indentation, and quote values that contain \": \""
	case strings.Contains(text, "did not find expected"), strings.Contains(text, "could not find expected"):
		hint = "; check the indentation, brackets and quotes of this line and the one before"
	case strings.Contains(text, "unexpected end of stream"):
		if begin > 0 {
			line, column = begin, 0
		}
		hint = "; the quote that begins here is not closed"
	case strings.Contains(text, "unknown escape"):
		hint = "; write \\\\ for a backslash, or use single quotes"
	case strings.Contains(text, "cannot start any token"), strings.Contains(text, "unknown directive"):
		hint = "; quote a value that begins with one of @ ` % & * ! | > { } [ ] , # ? : -"
	case strings.Contains(text, "unknown anchor"):
		hint = "; define it with &NAME above its use"
	}
	return Diagnostic{File: file, Line: line, Column: column, Text: "invalid YAML: " + text + hint}
}

// findColumn is the last column that a message of the YAML library names, 0 for none.
func findColumn(text string) int {
	column := 0
	if i := strings.LastIndex(text, "column "); i >= 0 {
		fmt.Sscan(strings.TrimRight(strings.Fields(text[i:])[1], ":,"), &column)
	}
	return column
}

// findLine takes the line out of a message of the YAML or dotenv library. Such a
// message may name two: where a construct began and, last, where it went wrong.
func findLine(text string) (int, string) {
	line := 0
	for rest := text; ; {
		_, after, ok := strings.Cut(rest, "line ")
		if !ok {
			break
		}
		digits := after[:len(after)-len(strings.TrimLeft(after, "0123456789"))]
		if n, err := strconv.Atoi(digits); err == nil {
			line = n
		}
		rest = after
	}
	if line == 0 {
		return 0, text
	}
	if context, problem, ok := strings.Cut(text, ": "); ok && (strings.Contains(context, "line ") || strings.HasPrefix(context, "while ")) {
		_, text = findLine(problem)
	}
	return line, text
}

// resolve follows an alias to the node that it stands for.
func resolve(n *yaml.Node) *yaml.Node {
	for n != nil && n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

// entry is a key and value of a mapping.
type entry struct{ key, value *yaml.Node }

// maxDepth is how deep values may be in one another, and variables in the defaults of
// others. Compose files need a fifth of it; what compose-go does with one that is
// deeper takes a time that grows with the square.
const maxDepth = 64

// measurer finds what is too deep.
type measurer struct {
	depths map[*yaml.Node]int // 0: being measured
	fault  *Diagnostic
}

// depth is how many nodes are in one another in n, with what aliases stand for.
func (m *measurer) depth(n *yaml.Node) int {
	if n == nil || m.fault != nil {
		return 0
	}
	if d, ok := m.depths[n]; ok {
		return d // that of an anchor that contains itself is told by others
	}
	m.depths[n] = 0
	d := 0
	if n.Kind == yaml.AliasNode {
		d = m.depth(n.Alias)
	} else {
		for _, c := range n.Content {
			d = max(d, m.depth(c))
		}
		d++
	}
	m.depths[n] = d
	switch {
	case m.fault != nil:
	case d > maxDepth:
		m.fault = &Diagnostic{Line: n.Line, Column: n.Column, Text: fmt.Sprintf("values are more than %d deep in one another", maxDepth)}
	case n.Kind == yaml.ScalarNode && variableDepth(n.Value) > maxDepth:
		m.fault = &Diagnostic{Line: n.Line, Column: n.Column, Text: fmt.Sprintf("variables are more than %d deep in one another", maxDepth)}
	}
	return d
}

// variableDepth is how many "${" are in one another.
func variableDepth(value string) int {
	deepest, open := 0, 0
	for i := range len(value) {
		switch {
		case value[i] == '{' && i > 0 && value[i-1] == '$':
			open++
			deepest = max(deepest, open)
		case value[i] == '}' && open > 0:
			open--
		}
	}
	return deepest
}

// entries are a mapping's own entries and, behind them, those that "<<" merges
// in and that it does not override.
func entries(n *yaml.Node) []entry {
	n = resolve(n)
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	m := merger{seen: map[*yaml.Node]bool{n: true}}
	merges := m.own(n)
	if len(merges) == 0 {
		return m.all
	}
	m.names = map[string]bool{}
	for _, e := range m.all {
		m.names[e.key.Value] = true
	}
	for _, value := range merges {
		m.merge(value)
	}
	return m.all
}

// merger collects the entries of a mapping.
type merger struct {
	all   []entry
	names map[string]bool // of all; nil while all counts
	// seen are the mappings that are in it. One that comes again has nothing to add,
	// and in an anchor that contains itself it would come without an end.
	seen map[*yaml.Node]bool
}

// own adds the entries that stand in n and returns what else it merges in.
func (m *merger) own(n *yaml.Node) (merges []*yaml.Node) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		switch {
		case key.Value == "<<" && key.Kind == yaml.ScalarNode:
			merges = append(merges, value)
		case m.names == nil:
			m.all = append(m.all, entry{key, value})
		case !m.names[key.Value]:
			m.names[key.Value] = true
			m.all = append(m.all, entry{key, value})
		}
	}
	return merges
}

// merge adds what "<<" stands before: a mapping, or a list of some.
func (m *merger) merge(value *yaml.Node) {
	from := resolve(value)
	if from == nil {
		return
	}
	sources := []*yaml.Node{from}
	if from.Kind == yaml.SequenceNode {
		sources = from.Content
	}
	for _, source := range sources {
		source = resolve(source)
		if source == nil || source.Kind != yaml.MappingNode || m.seen[source] {
			continue
		}
		m.seen[source] = true
		for _, value := range m.own(source) {
			m.merge(value)
		}
	}
}

// child is the value of a key in a mapping, or nil.
func child(n *yaml.Node, key string) *yaml.Node {
	for _, e := range entries(n) {
		if e.key.Value == key {
			return e.value
		}
	}
	return nil
}

// text is a scalar's text, or "".
func text(n *yaml.Node) string {
	if n = resolve(n); n != nil && n.Kind == yaml.ScalarNode {
		return n.Value
	}
	return ""
}

// texts reads a string or a list of strings.
func texts(n *yaml.Node) []string {
	switch n = resolve(n); {
	case n == nil:
		return nil
	case n.Kind == yaml.ScalarNode && n.Tag != "!!null":
		return []string{n.Value}
	}
	var out []string
	for _, item := range n.Content {
		if t := text(item); t != "" {
			out = append(out, t)
		}
	}
	return out
}

// join appends a key to a path in the model.
func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func index(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }
