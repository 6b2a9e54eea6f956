package load

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/compose-spec/compose-go/v2/schema"
	"github.com/stack-run/stack/compose/spec"
	"go.yaml.in/yaml/v4"
)

// shape is the part of JSON schema that the Compose specification uses.
type shape struct {
	Ref                   string            `json:"$ref"`
	Type                  typeList          `json:"type"`
	Enum                  []any             `json:"enum"`
	Pattern               string            `json:"pattern"`
	Minimum               *float64          `json:"minimum"`
	Maximum               *float64          `json:"maximum"`
	Required              []string          `json:"required"`
	Properties            map[string]*shape `json:"properties"`
	PatternProperties     map[string]*shape `json:"patternProperties"`
	AdditionalProperties  *boolOrShape      `json:"additionalProperties"`
	UnevaluatedProperties *boolOrShape      `json:"unevaluatedProperties"`
	Items                 *shape            `json:"items"`
	OneOf                 []*shape          `json:"oneOf"`
	AnyOf                 []*shape          `json:"anyOf"`
	AllOf                 []*shape          `json:"allOf"`
	Defs                  map[string]*shape `json:"$defs"`
}

type typeList []string

func (t *typeList) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '"' {
		*t = typeList{strings.Trim(string(data), `"`)}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(t))
}

// boolOrShape is additionalProperties: false, true or a schema.
type boolOrShape struct {
	forbidden bool
	shape     *shape
}

func (b *boolOrShape) UnmarshalJSON(data []byte) error {
	switch string(data) {
	case "false":
		b.forbidden = true
		return nil
	case "true":
		return nil
	}
	return json.Unmarshal(data, &b.shape)
}

// composeSchema is the Compose specification's schema as compose-go ships it.
var composeSchema = sync.OnceValues(func() (*shape, error) {
	var s shape
	err := json.Unmarshal([]byte(schema.Schema), &s)
	return &s, err
})

// checker validates nodes against the schema. It differs from a general
// validator in that it knows lines, says what is meant by an alternative that
// does not fit, and goes on after the first fault.
type checker struct {
	root *shape
	// report takes a fault; visit is called for each attribute with its path in
	// the schema ("services.*.ports.[].mode") and in the model.
	report func(n *yaml.Node, path, text string)
	visit  func(key, value *yaml.Node, schemaPath, path string)
	// partial leaves out what a single file need not have: required keys, which
	// another file, or an extended service, may bring.
	partial bool
	depth   int
	objects map[*shape]*object
}

func (c *checker) deref(s *shape) *shape {
	for s != nil && s.Ref != "" {
		s = c.root.Defs[strings.TrimPrefix(s.Ref, "#/$defs/")]
	}
	return s
}

func (c *checker) check(n *yaml.Node, s *shape, schemaPath, path string) {
	n, s = resolve(n), c.deref(s)
	if n == nil || s == nil || n.Tag == "!reset" || c.depth > 64 {
		return
	}
	c.depth++
	defer func() { c.depth-- }()
	if alternatives := append(slices.Clone(s.OneOf), s.AnyOf...); len(alternatives) > 0 && s.Properties == nil {
		c.checkAlternatives(n, alternatives, schemaPath, path)
		return
	}
	want := s.Type
	if len(want) == 0 && (s.Properties != nil || len(s.AllOf) > 0) {
		want = typeList{"object", "null"} // null: another file may fill it
	}
	if len(want) > 0 && !slices.ContainsFunc(want, func(t string) bool { return hasType(n, t) }) {
		c.report(n, path, typeFault(n, want))
		return
	}
	switch n.Kind {
	case yaml.MappingNode:
		c.checkMapping(n, s, schemaPath, path)
	case yaml.SequenceNode:
		c.checkSequence(n, s, schemaPath, path)
	case yaml.ScalarNode:
		c.checkScalar(n, s, path)
	}
}

func (c *checker) checkAlternatives(n *yaml.Node, alternatives []*shape, schemaPath, path string) {
	var fits []*shape
	var types []string
	for _, a := range alternatives {
		a = c.deref(a)
		fit := len(a.Type) == 0
		for _, t := range c.typesOf(a) {
			fit = fit || hasType(n, t)
			types = append(types, t)
		}
		if fit {
			fits = append(fits, a)
		}
	}
	switch len(fits) {
	case 0:
		c.report(n, path, typeFault(n, types))
		return
	case 1:
		c.check(n, fits[0], schemaPath, path)
		return
	}
	// Several alternatives of one kind: the one with the fewest faults is meant.
	var best []fault
	var chosen *shape
	for i, a := range fits {
		var faults []fault
		trial := *c
		trial.visit = nil
		trial.report = func(n *yaml.Node, path, text string) { faults = append(faults, fault{n, path, text}) }
		trial.check(n, a, schemaPath, path)
		if i == 0 || len(faults) < len(best) {
			best, chosen = faults, a
		}
	}
	c.check(n, chosen, schemaPath, path)
}

type fault struct {
	node       *yaml.Node
	path, text string
}

// typesOf lists the types that a shape admits at its top.
func (c *checker) typesOf(s *shape) []string {
	s = c.deref(s)
	if len(s.Type) > 0 {
		return s.Type
	}
	var out []string
	for _, a := range append(slices.Clone(s.OneOf), s.AnyOf...) {
		out = append(out, c.typesOf(a)...)
	}
	return out
}

// object is a mapping's shape with all allOf parts in it.
type object struct {
	properties map[string]*shape
	patterns   []*shape
	rest       *shape // for keys that are in neither
	closed     bool
	required   []string
}

func (c *checker) object(s *shape, o *object) {
	s = c.deref(s)
	for name, p := range s.Properties {
		o.properties[name] = p
	}
	for pattern, p := range s.PatternProperties {
		if pattern != "^x-" {
			o.patterns = append(o.patterns, p)
		}
	}
	for _, extra := range []*boolOrShape{s.AdditionalProperties, s.UnevaluatedProperties} {
		if extra != nil {
			o.closed = o.closed || extra.forbidden
			if extra.shape != nil {
				o.rest = extra.shape
			}
		}
	}
	o.required = append(o.required, s.Required...)
	for _, part := range s.AllOf {
		c.object(part, o)
	}
}

func (c *checker) checkMapping(n *yaml.Node, s *shape, schemaPath, path string) {
	o := c.objects[s]
	if o == nil {
		o = &object{properties: map[string]*shape{}}
		c.object(s, o)
		c.objects[s] = o
	}
	seen := map[string]bool{}
	list := entries(n)
	for _, e := range list {
		seen[e.key.Value] = true
	}
	if seen["extends"] {
		partial := c.partial
		c.partial = true
		defer func() { c.partial = partial }()
	}
	for _, e := range list {
		key := e.key.Value
		if strings.HasPrefix(key, "x-") && len(o.patterns) == 0 {
			continue
		}
		at := join(path, key)
		if p, ok := o.properties[key]; ok {
			next := join(schemaPath, key)
			if c.visit != nil {
				c.visit(e.key, e.value, next, at)
			}
			c.check(e.value, p, next, at)
			continue
		}
		if len(o.patterns) > 0 {
			if userNamed(schemaPath) && strings.Trim(key, nameLetters) != "" {
				c.report(e.key, at, fmt.Sprintf("invalid name %q; use letters, digits, \".\", \"_\" and \"-\"", key))
				continue
			}
			next := join(schemaPath, "*")
			if c.visit != nil {
				c.visit(e.key, e.value, next, at)
			}
			c.check(e.value, o.patterns[0], next, at)
			continue
		}
		if o.rest != nil {
			c.check(e.value, o.rest, join(schemaPath, "*"), at)
			continue
		}
		if o.closed {
			c.report(e.key, at, unknownKey(key, path, o.properties))
		}
	}
	// Items of a list are not merged with those of other files, but for mounts.
	if c.partial && (!strings.HasSuffix(schemaPath, ".[]") || schemaPath == "services.*.volumes.[]") {
		return
	}
	for _, key := range o.required {
		if !seen[key] {
			c.report(n, path, fmt.Sprintf("%q is missing; add it", key))
		}
	}
}

const nameLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"

// userNamed says whether the keys below a path are names that people give.
func userNamed(schemaPath string) bool {
	return slices.Contains([]string{"services", "networks", "volumes", "secrets", "configs", "models", "jobs"}, schemaPath)
}

func unknownKey(key, path string, properties map[string]*shape) string {
	var known []string
	for name := range properties {
		known = append(known, name)
	}
	slices.Sort(known)
	if near := spec.Nearest(key, known); near != "" {
		return fmt.Sprintf("unknown attribute %q; did you mean %q?", key, near)
	}
	if len(known) > 0 && len(known) <= 8 {
		return fmt.Sprintf("unknown attribute %q; use one of %s", key, strings.Join(known, ", "))
	}
	if path == "" {
		return fmt.Sprintf("unknown attribute %q at the top level; a service goes below \"services:\", an extension begins with \"x-\"", key)
	}
	return fmt.Sprintf("unknown attribute %q; an extension begins with \"x-\"", key)
}

func (c *checker) checkSequence(n *yaml.Node, s *shape, schemaPath, path string) {
	// uniqueItems is left out: compose-go removes what is listed twice.
	if s.Items == nil {
		return
	}
	for i, item := range n.Content {
		c.check(item, s.Items, join(schemaPath, "[]"), index(path, i))
	}
}

func (c *checker) checkScalar(n *yaml.Node, s *shape, path string) {
	if strings.Contains(n.Value, "$") {
		return // known after interpolation
	}
	if len(s.Enum) > 0 && !slices.ContainsFunc(s.Enum, func(v any) bool { return fmt.Sprint(v) == n.Value }) {
		var values []string
		for _, v := range s.Enum {
			values = append(values, fmt.Sprint(v))
		}
		text := fmt.Sprintf("%q is not one of %s", n.Value, strings.Join(values, ", "))
		if near := spec.Nearest(n.Value, values); near != "" {
			text += fmt.Sprintf("; did you mean %q?", near)
		}
		c.report(n, path, text)
	}
	if fault := valueFault(n, s.Type, path); fault != "" {
		c.report(n, path, fault)
		return
	}
	if s.Minimum == nil && s.Maximum == nil {
		return
	}
	var v float64
	if _, err := fmt.Sscan(n.Value, &v); err != nil {
		return
	}
	if s.Minimum != nil && v < *s.Minimum {
		c.report(n, path, fmt.Sprintf("must be at least %v", *s.Minimum))
	}
	if s.Maximum != nil && v > *s.Maximum {
		c.report(n, path, fmt.Sprintf("must be at most %v", *s.Maximum))
	}
}

// valueFault says what is wrong with a text that must stand for something else: the
// schema names that first.
func valueFault(n *yaml.Node, want typeList, path string) string {
	if n.ShortTag() != "!!str" || len(want) != 2 || want[1] != "string" {
		return ""
	}
	isSize := strings.HasSuffix(path, ".rate") || strings.HasSuffix(path, ".shm_size")
	switch {
	case want[0] == "boolean":
		// The words are those of YAML 1.1, which compose-go takes.
		switch strings.ToLower(n.Value) {
		case "true", "t", "y", "yes", "on", "1", "false", "f", "n", "no", "off", "0":
		default:
			return fmt.Sprintf("%q is neither true nor false; write one of them", shorten(n.Value))
		}
	case want[0] == "integer" && !isSize:
		if _, err := strconv.ParseInt(n.Value, 10, 64); err != nil {
			return fmt.Sprintf("%q is no whole number; write one", shorten(n.Value))
		}
	}
	return ""
}

// hasType says whether a node is of a type of JSON schema. A number that a
// float holds, such as 1.0, is an integer too.
func hasType(n *yaml.Node, t string) bool {
	switch n.Kind {
	case yaml.MappingNode:
		return t == "object"
	case yaml.SequenceNode:
		return t == "array"
	case yaml.ScalarNode:
	default:
		return false
	}
	switch n.ShortTag() {
	case "!!null":
		return t == "null"
	case "!!bool":
		return t == "boolean"
	case "!!int":
		return t == "integer" || t == "number"
	case "!!float":
		return t == "number" || t == "integer" && !strings.ContainsAny(n.Value, ".eEn")
	case "!!str", "!!timestamp", "!!binary":
		return t == "string"
	}
	return true // a tag of the user's own: compose-go decides
}

// typeFault says what a value must be and what it is.
func typeFault(n *yaml.Node, want []string) string {
	names := map[string]string{"object": "a mapping", "array": "a list", "string": "a string", "integer": "a whole number", "number": "a number", "boolean": "true or false", "null": "empty"}
	var list []string
	if len(want) == 2 && want[1] == "string" && (want[0] == "boolean" || want[0] == "integer") {
		want = want[:1] // a text is for variables
	}
	for _, w := range want {
		if name := names[w]; w != "null" && !slices.Contains(list, name) {
			list = append(list, name)
		}
	}
	expected := strings.Join(list, " or ")
	if len(list) > 2 {
		expected = strings.Join(list[:len(list)-1], ", ") + " or " + list[len(list)-1]
	}
	has := func(t string) bool { return slices.Contains(want, t) }
	got, hint := "", ""
	switch {
	case n.Kind == yaml.MappingNode:
		got = "a mapping"
		if has("string") || has("array") {
			hint = "; check the indentation, and quote a value that contains \": \""
		}
	case n.Kind == yaml.SequenceNode:
		got = "a list"
		hint = "; give a single value"
		if has("object") {
			hint = "; write KEY: VALUE without the \"- \""
		}
	case n.ShortTag() == "!!null":
		got = "empty"
		hint = "; give a value, or remove the key"
	case n.ShortTag() == "!!str":
		got = fmt.Sprintf("%q", shorten(n.Value))
		switch {
		case has("array"):
			hint = fmt.Sprintf("; write it as a list: [%q]", shorten(n.Value))
		case has("object"):
			hint = "; write KEY: VALUE pairs below it"
		}
	default:
		got = shorten(n.Value)
		switch {
		case has("boolean"):
			hint = "; write true or false"
		case has("integer"):
			hint = "; write a whole number"
		case has("array"):
			hint = fmt.Sprintf("; write it as a list: [\"%s\"]", got)
		case has("string"):
			hint = fmt.Sprintf("; quote it: %q", shorten(n.Value))
		}
	}
	return fmt.Sprintf("must be %s, not %s%s", expected, got, hint)
}

func shorten(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	if len(s) > 40 {
		s = s[:37] + "..."
	}
	return s
}
