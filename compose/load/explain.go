package load

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/template"
	"go.yaml.in/yaml/v4"
)

// Explanation says where a value of the model comes from.
type Explanation struct {
	Path string `json:"path"`
	// Value is as config prints it, nil if the model has none.
	Value *string `json:"value"`
	// Steps are the places that have had a part in it: the one that counts is last.
	Steps []Step `json:"steps"`
}

// Step is one place that says something about a value.
type Step struct {
	Where string `json:"where"` // file:line
	Text  string `json:"text"`  // as it is written there
	// Effect is what it does to the steps before it: "sets", "replaces", "adds to",
	// "removes".
	Effect string `json:"effect"`
	// Through is the anchor, or what is extended, by which it came there.
	Through   string   `json:"through,omitempty"`
	Variables []Origin `json:"variables,omitempty"`
}

// Origin says where a variable comes from.
type Origin struct {
	Name  string `json:"name"`
	Value string `json:"value"` // as it is written there
	From  string `json:"from"`  // file:line, "the environment"; "" if it is not set
}

// Explain says where the values at and below a path of the model come from. A path
// may leave out "services.".
func Explain(ctx context.Context, o Options, path string) ([]Explanation, []Warning, error) {
	l, err := Load(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	out, err := l.Project.MarshalYAML()
	if err != nil {
		return nil, nil, fmt.Errorf("cannot render the project: %w", err)
	}
	var model yaml.Node
	if err := yaml.Unmarshal(out, &model); err != nil {
		return nil, nil, fmt.Errorf("cannot render the project: %w", err)
	}
	x := &explainer{Loaded: l, model: model.Content[0]}
	path, _, _ = strings.Cut(path, "[") // an item is explained with its list
	all, err := x.explain(path)
	return all, l.Warnings, err
}

type explainer struct {
	*Loaded
	model *yaml.Node
}

func (x *explainer) explain(path string) ([]Explanation, error) {
	for _, full := range []string{path, "services." + path} {
		if value := valueAt(x.model, full); value != nil {
			return x.below(full, value), nil
		}
	}
	// What the model does not have, a file may have removed.
	for _, full := range []string{path, "services." + path} {
		if steps := x.steps(full); len(steps) > 0 && steps[len(steps)-1].Effect == "removes" {
			return []Explanation{{Path: full, Steps: steps}}, nil
		}
	}
	return nil, fmt.Errorf("the project has no %s%s", path, x.hint(path))
}

// hint names what a path may have meant, or what there is.
func (x *explainer) hint(path string) string {
	for _, full := range []string{path, "services." + path} {
		n, at := x.model, ""
		for rest := full; ; {
			i := slices.IndexFunc(entries(n), func(e entry) bool { return isPrefix(rest, e.key.Value) })
			if i < 0 {
				if at == "" {
					break
				}
				key, _, _ := strings.Cut(rest, ".")
				var names []string
				for _, e := range entries(n) {
					names = append(names, e.key.Value)
				}
				return fmt.Sprintf(": %s has no %q%s", at, key, suggestion(key, names))
			}
			e := entries(n)[i]
			at, n, rest = join(at, e.key.Value), e.value, strings.TrimPrefix(rest[len(e.key.Value):], ".")
		}
	}
	return "; write it like services.web.image"
}

// below explains each value of a tree. A list is one value.
func (x *explainer) below(path string, n *yaml.Node) []Explanation {
	if list := entries(n); len(list) > 0 {
		var all []Explanation
		for _, e := range list {
			all = append(all, x.below(join(path, e.key.Value), e.value)...)
		}
		return all
	}
	value := written(n)
	return []Explanation{{Path: path, Value: &value, Steps: x.steps(path)}}
}

// written is a value in one line, as it would stand in a file.
func written(n *yaml.Node) string {
	n = resolve(n)
	if n.Kind == yaml.ScalarNode {
		if n.ShortTag() == "!!null" {
			return "null"
		}
		return n.Value
	}
	parts := make([]string, 0, len(n.Content))
	for i, c := range n.Content {
		if n.Kind == yaml.MappingNode {
			if i%2 == 1 {
				parts = append(parts, n.Content[i-1].Value+": "+written(c))
			}
			continue
		}
		parts = append(parts, written(c))
	}
	if n.Kind == yaml.MappingNode {
		return "{" + strings.Join(parts, ", ") + "}"
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

// steps are the places that have had a part in the value at a path: env files, what
// the service extends, and the files in their order.
func (x *explainer) steps(path string) []Step {
	steps := x.fromFilesOf(path)
	name, rest, isService := cutService(path)
	if isService {
		for _, b := range x.positions.bases(name) {
			from := "services." + b.service
			for _, s := range x.inDocument(b.doc, from+rest) {
				s.Through = cmp.Or(s.Through, "extends "+from)
				steps = append(steps, s)
			}
		}
	}
	for _, doc := range x.positions.docs {
		steps = append(steps, x.inDocument(doc, path)...)
	}
	if path == "name" {
		steps = x.nameSteps(steps)
	}
	return effects(path, steps)
}

// nameSteps are those of the project's name, which flags and variables may set.
func (x *explainer) nameSteps(steps []Step) []Step {
	switch {
	case x.scope.flagName != "":
		return append(steps, Step{Where: "--project-name", Text: x.scope.flagName})
	case x.scope.env["COMPOSE_PROJECT_NAME"] != "":
		origin := x.scope.origin("COMPOSE_PROJECT_NAME", "")
		return append(steps, Step{Where: origin.From, Text: "COMPOSE_PROJECT_NAME=" + origin.Value})
	case len(steps) == 0:
		return []Step{{Where: x.Project.WorkingDir, Text: "the directory's name"}}
	}
	return steps
}

// fromFilesOf are the places in env_file and label_file of a service.
func (x *explainer) fromFilesOf(path string) []Step {
	name, rest, ok := cutService(path)
	if !ok {
		return nil
	}
	s := x.Project.Services[name]
	var files []string
	key, isVariable := strings.CutPrefix(rest, ".environment.")
	if isVariable {
		for _, f := range s.EnvFiles {
			files = append(files, f.Path)
		}
	} else if key, ok = strings.CutPrefix(rest, ".labels."); ok {
		files = s.LabelFiles
	}
	var steps []Step
	for _, f := range files {
		if a, ok := assigned(f, key); ok {
			step := Step{Where: fmt.Sprintf("%s:%d", shortName(x.base, f), a.line), Text: a.value}
			if isVariable && a.quote != '\'' {
				step.Variables = x.scope.variables(a.value, x.main())
			}
			steps = append(steps, step)
		}
	}
	return steps
}

// main is the project's first file.
func (x *explainer) main() string {
	if len(x.positions.docs) == 0 {
		return ""
	}
	return x.positions.docs[0].file
}

// inDocument are the places of a path in one file.
func (x *explainer) inDocument(doc *document, path string) []Step {
	var steps []Step
	for _, root := range doc.roots {
		t := tracer{path: path}
		if !t.walk(root, path) {
			continue
		}
		s := Step{Where: fmt.Sprintf("%s:%d", shortName(x.base, doc.file), t.line), Text: t.text, Through: t.through, Effect: t.effect}
		s.Variables = x.scope.variables(t.text, doc.file)
		if t.bare != "" {
			s.Text, s.Variables = t.bare+" without a value", []Origin{x.scope.origin(t.bare, doc.file)}
		}
		steps = append(steps, s)
	}
	return steps
}

// tracer finds a path in a tree and what was passed on the way.
type tracer struct {
	path    string
	line    int
	text    string
	through string
	effect  string // of a tag that is on the way
	bare    string // a name whose value is that of the variable
}

// walk reports whether the tree has something to say about the path.
func (t *tracer) walk(n *yaml.Node, path string) bool {
	switch n.Tag {
	case "!reset":
		t.line, t.text, t.effect = n.Line, "!reset", "removes"
		return true
	case "!override":
		t.effect = "replaces"
	}
	if n.Kind == yaml.AliasNode {
		t.through = fmt.Sprintf("*%s, line %d", n.Value, n.Line)
		n = n.Alias
	}
	path = strings.TrimPrefix(path, ".")
	if path == "" {
		t.line, t.text = n.Line, written(n)
		if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" {
			t.nameless()
		}
		return true
	}
	before := *t
	if n.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, value := n.Content[i], n.Content[i+1]
			if isPrefix(path, key.Value) {
				if t.walk(value, path[len(key.Value):]) {
					if rest := path[len(key.Value):]; rest == "" {
						t.line = key.Line // what a person looks for
					}
					return true
				}
				*t = before
			}
		}
		for i := 0; i+1 < len(n.Content); i += 2 {
			if key := n.Content[i]; key.Value == "<<" && t.merged(n.Content[i+1], path) {
				return true
			}
		}
	}
	if n.Kind == yaml.SequenceNode && t.item(n, path) {
		return true
	}
	if t.effect == "replaces" { // by something without it
		t.line, t.text, t.effect = n.Line, "!override without it", "removes"
		return true
	}
	return false
}

// merged looks into what "<<" stands before.
func (t *tracer) merged(value *yaml.Node, path string) bool {
	sources := []*yaml.Node{value}
	if from := resolve(value); from.Kind == yaml.SequenceNode {
		sources = from.Content
	}
	for _, source := range sources {
		before := *t
		if t.walk(source, path) {
			return true
		}
		*t = before
	}
	return false
}

// item looks for "KEY=VALUE" and "KEY" in a list that stands for a mapping.
func (t *tracer) item(n *yaml.Node, path string) bool {
	for _, item := range n.Content {
		key, value, ok := strings.Cut(text(item), "=")
		if key != path {
			continue
		}
		t.line, t.text = item.Line, value
		if !ok {
			t.nameless()
		}
		return true
	}
	return false
}

// nameless notes a value that is the variable's of the same name.
func (t *tracer) nameless() {
	for _, parent := range []string{".environment.", ".args."} {
		if i := strings.LastIndex(t.path, parent); i >= 0 {
			t.bare = t.path[i+len(parent):]
		}
	}
}

// effects says what each step does to those before it.
func effects(path string, steps []Step) []Step {
	for i := range steps {
		s := &steps[i]
		switch {
		case s.Effect != "":
		case i == 0 || steps[i-1].Effect == "removes":
			s.Effect = "sets"
		case strings.HasPrefix(s.Text, "[") && !replacedWhole(path):
			s.Effect = "adds to"
		default:
			s.Effect = "replaces"
		}
		if i == 0 && s.Effect == "replaces" {
			s.Effect = "sets"
		}
	}
	return steps
}

// replacedWhole says whether a list replaces that of an earlier file.
func replacedWhole(path string) bool {
	return slices.ContainsFunc([]string{".command", ".entrypoint", ".healthcheck.test"}, func(end string) bool { return strings.HasSuffix(path, end) })
}

// scope is what variables are looked up in.
type scope struct {
	base     string
	flagName string // of --project-name
	name     string // the project's
	env      map[string]string
	shell    map[string]string
	// envFiles are the files of variables by the Compose file that they are for: what
	// an earlier list has counts, and in a list the last file that has it.
	envFiles map[string][][]string
}

// variables are the origins of all variables that a text names, and of those that
// these are made of.
func (s *scope) variables(text, file string) []Origin {
	var all []Origin
	seen := map[string]bool{}
	var add func(text string)
	add = func(text string) {
		if !strings.Contains(text, "$") {
			return
		}
		found := template.ExtractVariables(map[string]any{"text": text}, template.DefaultPattern)
		names := make([]string, 0, len(found))
		for name := range found {
			names = append(names, name)
		}
		slices.SortFunc(names, func(a, b string) int {
			return cmp.Or(cmp.Compare(strings.Index(text, a), strings.Index(text, b)), strings.Compare(a, b))
		})
		for _, name := range names {
			if seen[name] {
				continue
			}
			seen[name] = true
			origin := s.origin(name, file)
			all = append(all, origin)
			if origin.From != "" && origin.From != environment && !strings.HasPrefix(origin.Value, "'") {
				add(origin.Value)
			}
		}
	}
	add(text)
	return all
}

const environment = "the environment"

// origin finds a variable as a Compose file sees it.
func (s *scope) origin(name, file string) Origin {
	if value, ok := s.shell[name]; ok {
		return Origin{name, value, environment}
	}
	lists, ok := s.envFiles[file]
	if !ok {
		lists = s.envFiles[""]
	}
	for _, list := range lists {
		for _, f := range slices.Backward(list) {
			if a, ok := assigned(f, name); ok {
				return Origin{name, a.value, fmt.Sprintf("%s:%d", shortName(s.base, f), a.line)}
			}
		}
	}
	if name == "COMPOSE_PROJECT_NAME" {
		return Origin{name, s.name, "the project"}
	}
	return Origin{Name: name}
}

// String is an explanation for people: the value, the place that it is from, and what
// that has to do with the places before it.
func (e Explanation) String() string {
	var b strings.Builder
	value := "(not in the model)"
	if e.Value != nil {
		value = strings.ReplaceAll(*e.Value, "\n", `\n`)
	}
	fmt.Fprintf(&b, "%s: %s\n", e.Path, value)
	if len(e.Steps) == 0 {
		fmt.Fprintf(&b, "  no file says so: a default of Compose\n")
	}
	for i, s := range slices.Backward(e.Steps) {
		fmt.Fprintf(&b, "  %s: %s", s.Where, strings.ReplaceAll(s.Text, "\n", `\n`))
		if s.Through != "" {
			fmt.Fprintf(&b, " (%s)", s.Through)
		}
		if i > 0 && s.Effect != "sets" {
			fmt.Fprintf(&b, ", which %s", s.Effect)
		}
		b.WriteString("\n")
		for _, v := range s.Variables {
			if v.From == "" {
				fmt.Fprintf(&b, "    %s is not set\n", v.Name)
				continue
			}
			fmt.Fprintf(&b, "    %s is %s, of %s\n", v.Name, cmp.Or(v.Value, "empty"), v.From)
		}
	}
	return b.String()
}
