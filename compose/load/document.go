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
			return nil, &Diagnostic{File: file, Line: root.Line, Text: "the top level must be a mapping, such as \"services:\""}
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
	case strings.Contains(text, "unknown anchor"):
		hint = "; define it with &NAME above its use"
	}
	return Diagnostic{File: file, Line: line, Text: "invalid YAML: " + text + hint}
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

// entries are a mapping's own entries and, behind them, those that "<<" merges
// in and that it does not override. depth guards against an anchor that
// contains itself.
func entries(n *yaml.Node) []entry { return mergedEntries(n, 0) }

func mergedEntries(n *yaml.Node, depth int) []entry {
	n = resolve(n)
	if n == nil || n.Kind != yaml.MappingNode || depth > 32 {
		return nil
	}
	var own, merged []entry
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Value != "<<" || key.Kind != yaml.ScalarNode {
			own = append(own, entry{key, value})
			continue
		}
		switch from := resolve(value); {
		case from == nil:
		case from.Kind == yaml.SequenceNode:
			for _, item := range from.Content {
				merged = append(merged, mergedEntries(item, depth+1)...)
			}
		default:
			merged = append(merged, mergedEntries(from, depth+1)...)
		}
	}
	for _, e := range merged {
		if !slices.ContainsFunc(own, func(o entry) bool { return o.key.Value == e.key.Value }) {
			own = append(own, e)
		}
	}
	return own
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
