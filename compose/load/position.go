package load

import (
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// positions finds the line of a path in the model. It walks the nodes of the
// files on demand; nothing is indexed for a load that goes well.
type positions struct {
	docs []*document
	// extends maps a service to where it takes its base from.
	extends map[string]base
}

type base struct {
	doc     *document
	service string
}

// find is the place of the longest part of path that some file has. Where
// several files have it, the last one counts, since it overrides; the items of
// a list are counted through all files, since lists are appended.
func (p *positions) find(path string) (file string, line, column int) {
	if p == nil {
		return "", 0, 0
	}
	best := -1
	for _, doc := range p.docs {
		if n, depth := doc.lookup(path); n != nil && depth >= best {
			best, file, line, column = depth, doc.file, n.Line, n.Column
		}
	}
	if i := strings.LastIndexByte(path, '['); i >= 0 && best >= 0 {
		if f, l, c, ok := p.findItem(path); ok {
			file, line, column = f, l, c
		}
	}
	if name, rest, ok := cutService(path); ok && best < len(path) {
		for range 16 { // extends of extends
			b, ok := p.extends[name]
			if !ok {
				break
			}
			own, from := best-len("services."+name), len("services."+b.service)
			if n, depth := b.doc.lookup("services." + b.service + rest); n != nil && depth-from > max(own, 1) {
				return b.doc.file, n.Line, n.Column
			}
			name = b.service
		}
	}
	return file, line, column
}

// bases are what a service extends, what it extends directly last.
func (p *positions) bases(name string) []base {
	var list []base
	for range 16 { // extends of extends
		b, ok := p.extends[name]
		if !ok || slices.Contains(list, b) {
			break
		}
		list = append(list, b)
		name = b.service
	}
	slices.Reverse(list)
	return list
}

// findItem finds "PATH[i]…" by counting the items of PATH through all files.
func (p *positions) findItem(path string) (string, int, int, bool) {
	open := strings.IndexByte(path, '[')
	end := strings.IndexByte(path[open:], ']') + open
	i, err := strconv.Atoi(path[open+1 : max(end, open+1)])
	if err != nil {
		return "", 0, 0, false
	}
	for _, doc := range p.docs {
		list, depth := doc.lookup(path[:open])
		if list == nil || depth < open {
			continue
		}
		list = doc.value(path[:open])
		if list == nil || list.Kind != yaml.SequenceNode {
			continue
		}
		if i >= len(list.Content) {
			i -= len(list.Content)
			continue
		}
		n, _ := descend(list.Content[i], path[end+1:], 0)
		if n == nil {
			n = list.Content[i]
		}
		return doc.file, n.Line, n.Column, true
	}
	return "", 0, 0, false
}

func cutService(path string) (name, rest string, ok bool) {
	tail, ok := strings.CutPrefix(path, "services.")
	if !ok {
		return "", "", false
	}
	name = tail
	if i := strings.IndexAny(tail, ".["); i >= 0 {
		name, rest = tail[:i], tail[i:]
	}
	return name, rest, true
}

// lookup finds the node of the longest part of path and how much of path that
// is. For a mapping's value it is the key's node, whose line is what a person
// looks for.
func (d *document) lookup(path string) (*yaml.Node, int) {
	var found *yaml.Node
	depth := 0
	for _, root := range d.roots {
		if n, n2 := descend(root, path, 0); n != nil && n2 >= depth {
			found, depth = n, n2
		}
	}
	return found, depth
}

// value is the value node of exactly path, or nil.
func (d *document) value(path string) *yaml.Node {
	for _, root := range d.roots {
		if v := valueAt(root, path); v != nil {
			return v
		}
	}
	return nil
}

func valueAt(n *yaml.Node, path string) *yaml.Node {
	if path == "" {
		return resolve(n)
	}
	for _, e := range entries(n) {
		if isPrefix(path, e.key.Value) {
			if v := valueAt(e.value, strings.TrimPrefix(path[len(e.key.Value):], ".")); v != nil {
				return v
			}
		}
	}
	return nil
}

// descend walks from n along path. Keys may themselves contain dots, so the
// longest key that fits is tried first.
func descend(n *yaml.Node, path string, done int) (*yaml.Node, int) {
	n = resolve(n)
	path = strings.TrimPrefix(path, ".")
	if n == nil || path == "" {
		return nil, done
	}
	if path[0] == '[' {
		end := strings.IndexByte(path, ']')
		if end < 0 || n.Kind != yaml.SequenceNode {
			return nil, done
		}
		i, err := strconv.Atoi(path[1:end])
		if err != nil || i >= len(n.Content) {
			return nil, done
		}
		at := done + end + 1
		if deeper, depth := descend(n.Content[i], path[end+1:], at); deeper != nil {
			return deeper, depth
		}
		return n.Content[i], at
	}
	switch n.Kind {
	case yaml.MappingNode:
		var best entry
		for _, e := range entries(n) {
			if isPrefix(path, e.key.Value) && (best.key == nil || len(e.key.Value) > len(best.key.Value)) {
				best = e
			}
		}
		if best.key == nil {
			return nil, done
		}
		rest := path[len(best.key.Value):]
		at := done + len(best.key.Value) + 1
		if deeper, depth := descend(best.value, rest, at); deeper != nil {
			return deeper, depth
		}
		return best.key, at
	case yaml.SequenceNode:
		// Short syntax: "KEY=VALUE", "KEY" or "KEY:…" for what is a mapping in the model.
		for _, item := range n.Content {
			t := text(item)
			key := t
			if i := strings.IndexAny(t, "=:"); i >= 0 {
				key = t[:i]
			}
			if key != "" && isPrefix(path, key) {
				return item, done + len(key) + 1
			}
		}
	}
	return nil, done
}

// isPrefix says whether key is the first part of path.
func isPrefix(path, key string) bool {
	rest, ok := strings.CutPrefix(path, key)
	return ok && key != "" && (rest == "" || rest[0] == '.' || rest[0] == '[')
}
