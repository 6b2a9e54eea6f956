package load

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/dotenv"
	"github.com/compose-spec/compose-go/v2/format"
	"github.com/compose-spec/compose-go/v2/template"
	"github.com/compose-spec/compose-go/v2/types"
	"go.yaml.in/yaml/v4"

	"github.com/stack-run/stack/compose/spec"
)

// inspector checks files one by one, on their nodes, and follows include and
// extends.
type inspector struct {
	opts      Options
	report    *diagnostics
	positions positions
	root      *shape
	files     []string          // in the order of inclusion
	contents  map[string][]byte // given contents: standard input, files already read
	names     []string          // values of "name:"
	partial   bool              // several files make up the project
	unset     map[string]bool   // variables that were warned about
	warned    map[string]bool   // attributes that were warned about, by schema path
	extended  map[string]bool   // FILE#SERVICE
	parsed    map[string]*document
	// envFiles are the files that the variables of a Compose file may come from, in
	// lists of which the first counts; "" is any that is not included.
	envFiles map[string][][]string
}

func newInspector(o Options, d *diagnostics, contents map[string][]byte) (*inspector, error) {
	root, err := composeSchema()
	if err != nil {
		return nil, fmt.Errorf("internal error: cannot read the Compose schema: %w", err)
	}
	return &inspector{
		opts: o, report: d, root: root, contents: contents,
		positions: positions{extends: map[string]base{}},
		unset:     map[string]bool{}, warned: map[string]bool{}, extended: map[string]bool{}, parsed: map[string]*document{},
		envFiles: map[string][][]string{},
	}, nil
}

func (in *inspector) parse(file string) *document {
	if doc, ok := in.parsed[file]; ok {
		return doc
	}
	in.parsed[file] = nil
	content, ok := in.contents[file]
	if !ok {
		var err error
		if content, err = readFile(file); err != nil {
			in.report.fail(Diagnostic{File: file, Text: err.Error()})
			return nil
		}
	}
	doc, fault := parse(file, content, in.partial)
	if fault != nil {
		in.report.fail(*fault)
		return nil
	}
	in.parsed[file] = doc
	return doc
}

// file checks one file of a project, or an included one. dir is what its
// relative paths start from, chain the files that include it.
func (in *inspector) file(file, dir string, env types.Mapping, chain []string) {
	chain = append(slices.Clone(chain), file)
	doc := in.parse(file)
	if doc == nil {
		return
	}
	in.positions.docs = append(in.positions.docs, doc)
	in.files = append(in.files, file)
	for _, root := range doc.roots {
		in.duplicates(file, root, "", map[*yaml.Node]bool{})
		in.interpolate(file, root, "", env, 0)
		in.schema(file, root, in.root, "", "")
		if len(chain) == 1 {
			if name := text(child(root, "name")); name != "" {
				in.names = append(in.names, in.expand(name, env))
			}
		}
		in.services(doc, root, dir, env)
		in.includes(file, root, dir, env, chain)
	}
}

func shortNames(base string, files []string) []string {
	out := make([]string, len(files))
	for i, f := range files {
		out[i] = shortName(base, f)
	}
	return out
}

func (in *inspector) schema(file string, n *yaml.Node, s *shape, schemaPath, path string) {
	unusual := unusualRules()
	c := &checker{
		root:    in.root,
		partial: in.partial,
		objects: map[*shape]*object{},
		report: func(n *yaml.Node, path, text string) {
			in.report.fail(Diagnostic{File: file, Line: n.Line, Column: n.Column, Path: path, Text: text})
		},
	}
	c.visit = func(key, value *yaml.Node, schemaPath, path string) {
		r, ok := unusual[schemaPath]
		if !ok {
			return
		}
		d := Diagnostic{File: file, Line: key.Line, Column: key.Column, Path: path, Text: r.reason}
		switch {
		case r.verdict == failed:
			in.report.fail(d)
		case !in.warned[schemaPath]:
			in.warned[schemaPath] = true
			in.report.warn(d)
		}
	}
	c.check(n, s, schemaPath, path)
}

// duplicates finds keys that a mapping has twice.
func (in *inspector) duplicates(file string, n *yaml.Node, path string, seen map[*yaml.Node]bool) {
	n = resolve(n)
	if n == nil || seen[n] {
		return
	}
	seen[n] = true
	in.tag(file, n, path)
	switch n.Kind {
	case yaml.MappingNode:
		lines := map[string]int{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := n.Content[i]
			at := join(path, key.Value)
			place := Diagnostic{File: file, Line: key.Line, Column: key.Column, Path: at}
			switch {
			case key.Kind != yaml.ScalarNode:
				place.Path, place.Text = path, "a key must be a string, not a list or mapping; remove the \"? \""
				in.report.fail(place)
			case key.ShortTag() == "!!merge":
				if !mergeable(n.Content[i+1]) {
					place.Text = "only mappings can be merged in; write <<: *NAME, with &NAME at a mapping above"
					in.report.fail(place)
				}
			case !hasType(key, "string"):
				place.Text = fmt.Sprintf("the key %s is no string; quote it: %q", key.Value, key.Value)
				in.report.fail(place)
			}
			if line, twice := lines[key.Value]; twice {
				in.report.fail(Diagnostic{File: file, Line: key.Line, Column: key.Column, Path: at, Text: fmt.Sprintf("duplicate key; it is already set at line %d", line)})
			}
			lines[key.Value] = key.Line
			in.duplicates(file, n.Content[i+1], at, seen)
		}
	case yaml.SequenceNode:
		for i, item := range n.Content {
			in.duplicates(file, item, index(path, i), seen)
		}
	}
}

// mergeable says whether "<<" can take a value.
func mergeable(n *yaml.Node) bool {
	n = resolve(n)
	if n != nil && n.Kind == yaml.SequenceNode {
		return !slices.ContainsFunc(n.Content, func(item *yaml.Node) bool { item = resolve(item); return item == nil || item.Kind != yaml.MappingNode })
	}
	return n != nil && n.Kind == yaml.MappingNode
}

// tag tells of a tag that means nothing to Compose.
func (in *inspector) tag(file string, n *yaml.Node, path string) {
	known := []string{"!reset", "!override"}
	if !strings.HasPrefix(n.Tag, "!") || strings.HasPrefix(n.Tag, "!!") || n.Tag == "!" || slices.Contains(known, n.Tag) {
		return
	}
	in.report.warn(Diagnostic{File: file, Line: n.Line, Column: n.Column, Path: path, Text: fmt.Sprintf("the tag %s means nothing; Compose knows !reset and !override%s", n.Tag, nearTag(n.Tag, known))})
}

func nearTag(tag string, known []string) string {
	if near := spec.Nearest(tag, known); near != "" {
		return fmt.Sprintf("; did you mean %s?", near)
	}
	return ""
}

// interpolate tries every value that has a "$" and reports what cannot be
// substituted, and, once per variable, what is not set.
func (in *inspector) interpolate(file string, n *yaml.Node, path string, env types.Mapping, depth int) {
	if in.opts.NoInterpolate || depth > maxDepth {
		return
	}
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			in.interpolate(file, n.Content[i+1], join(path, n.Content[i].Value), env, depth+1)
		}
	case yaml.SequenceNode:
		for i, item := range n.Content {
			in.interpolate(file, item, index(path, i), env, depth+1)
		}
	case yaml.ScalarNode:
		if !strings.Contains(n.Value, "$") {
			return
		}
		place := Diagnostic{File: file, Line: n.Line, Column: n.Column, Path: path}
		if _, err := template.Substitute(n.Value, env.Resolve); err != nil {
			place.Text = interpolationFault(err)
			in.report.fail(place)
			return
		}
		for name := range unsetVariables(n.Value, env) {
			if !in.unset[name] {
				in.unset[name] = true
				place.Text = fmt.Sprintf("variable %s is not set and becomes an empty string; set it in the environment or in .env, give a default with ${%s:-…}, or write $$ for a $", name, name)
				in.report.warn(place)
			}
		}
	}
}

func interpolationFault(err error) string {
	var required *template.MissingRequiredError
	if errors.As(err, &required) {
		reason := ""
		if required.Reason != "" {
			reason = ": " + required.Reason
		}
		return fmt.Sprintf("required variable %s is not set%s; set it in the environment or in .env", required.Variable, reason)
	}
	var invalid *template.InvalidTemplateError
	if errors.As(err, &invalid) {
		return fmt.Sprintf("invalid interpolation in %q; write ${NAME}, or $$ for a $", shorten(invalid.Template))
	}
	return "cannot interpolate: " + err.Error()
}

// unsetVariables are those that have neither value nor default.
func unsetVariables(value string, env types.Mapping) map[string]bool {
	out := map[string]bool{}
	for name, v := range template.ExtractVariables(map[string]any{"value": value}, template.DefaultPattern) {
		_, set := env[name]
		if !set && v.DefaultValue == "" && v.PresenceValue == "" && !v.Required && !hasOperator(value, name) {
			out[name] = true
		}
	}
	return out
}

// hasOperator says whether a variable is used as ${NAME-…}, ${NAME:+…} and the
// like, where being unset is provided for.
func hasOperator(value, name string) bool {
	for _, op := range []string{"-", ":-", "+", ":+", "?", ":?"} {
		if strings.Contains(value, "${"+name+op) {
			return true
		}
	}
	return false
}

func (in *inspector) expand(value string, env types.Mapping) string {
	if in.opts.NoInterpolate || !strings.Contains(value, "$") {
		return value
	}
	out, err := template.Substitute(value, env.Resolve)
	if err != nil {
		return value // reported by interpolate
	}
	return out
}

// services follows extends.
func (in *inspector) services(doc *document, root *yaml.Node, dir string, env types.Mapping) {
	for _, e := range entries(child(root, "services")) {
		name := e.key.Value
		in.shortSyntax(doc.file, "services."+name, e.value, env)
		in.mountOptions(doc.file, "services."+name+".volumes", child(e.value, "volumes"), env)
		if b, ok := in.extends(doc, e.value, name, dir, env); ok {
			in.positions.extends[name] = b
		}
	}
}

// extends checks what a service extends: the one in its own file is checked
// anyway, one in another file is checked here.
func (in *inspector) extends(doc *document, service *yaml.Node, name, dir string, env types.Mapping) (base, bool) {
	n := resolve(child(service, "extends"))
	if n == nil {
		return base{}, false
	}
	path := "services." + name + ".extends"
	if n.Kind == yaml.ScalarNode {
		return in.sameFile(doc, n, path, in.expand(n.Value, env))
	}
	target := in.expand(text(child(n, "service")), env)
	file := in.expand(text(child(n, "file")), env)
	if target == "" {
		in.report.fail(Diagnostic{File: doc.file, Line: n.Line, Column: n.Column, Path: path, Text: "\"service\" is missing; name the service to extend"})
		return base{}, false
	}
	if file == "" {
		return in.sameFile(doc, n, path, target)
	}
	if isRemote(file) {
		in.report.fail(Diagnostic{File: doc.file, Line: n.Line, Column: n.Column, Path: path + ".file", Text: "remote files (git, OCI) are not supported; fetch it and name the local file"})
		return base{}, false
	}
	if !filepath.IsAbs(file) {
		file = filepath.Join(dir, file)
	}
	before := len(in.report.errors)
	other := in.parse(file)
	if other == nil {
		if len(in.report.errors) > before {
			e := &in.report.errors[len(in.report.errors)-1]
			e.Text += fmt.Sprintf(" (extended by %s:%d: %s)", shortName(in.report.base, doc.file), n.Line, path)
		}
		return base{}, false
	}
	found := base{other, target}
	if !other.hasService(target) {
		in.report.fail(Diagnostic{File: doc.file, Line: n.Line, Column: n.Column, Path: path, Text: fmt.Sprintf("no such service %q in %s%s", target, shortName(in.report.base, file), suggestion(target, other.services()))})
		return base{}, false
	}
	if key := file + "#" + target; !in.extended[key] {
		in.extended[key] = true
		for _, r := range other.roots {
			for _, e := range entries(child(r, "services")) {
				if e.key.Value != target {
					continue
				}
				in.duplicates(file, e.value, "services."+target, map[*yaml.Node]bool{})
				in.interpolate(file, e.value, "services."+target, env, 0)
				in.shortSyntax(file, "services."+target, e.value, env)
				partial := in.partial
				in.partial = true
				in.schema(file, e.value, in.root.Defs["service"], "services.*", "services."+target)
				in.partial = partial
				if b, ok := in.extends(other, e.value, target, filepath.Dir(file), env); ok {
					in.positions.extends[target] = b
				}
			}
		}
	}
	return found, true
}

// sameFile is extends without a file. A service that comes from an included
// file is compose-go's to find.
func (in *inspector) sameFile(doc *document, n *yaml.Node, path, target string) (base, bool) {
	if !doc.hasService(target) && !slices.ContainsFunc(doc.roots, func(r *yaml.Node) bool { return child(r, "include") != nil }) {
		in.report.fail(Diagnostic{File: doc.file, Line: n.Line, Column: n.Column, Path: path, Text: fmt.Sprintf("no such service %q in this file%s", target, suggestion(target, doc.services()))})
		return base{}, false
	}
	return base{doc, target}, true
}

// services are the names of the services that a file has.
func (d *document) services() []string {
	var names []string
	for _, r := range d.roots {
		for _, e := range entries(child(r, "services")) {
			names = append(names, e.key.Value)
		}
	}
	return names
}

func (d *document) hasService(name string) bool { return slices.Contains(d.services(), name) }

// maxPorts is how many ports a service may have, with those in ranges: all of TCP
// and UDP.
const maxPorts = 2 * 65535

// shortSyntax tries ports and volumes that are written as one string:
// compose-go's errors about them name no place.
func (in *inspector) shortSyntax(file, path string, service *yaml.Node, env types.Mapping) {
	ports := 0
	for attribute, try := range map[string]func(string) error{
		"ports": func(s string) error {
			if ports > maxPorts {
				return nil // told already
			}
			all, err := types.ParsePortConfig(s)
			if err != nil {
				return fmt.Errorf("invalid port %q: %w; write [[IP:]HOST:]CONTAINER[/PROTOCOL]", s, err)
			}
			if ports += len(all); ports > maxPorts {
				return fmt.Errorf("the service has more than %d ports with those of %q", maxPorts, s)
			}
			return nil
		},
		"volumes": func(s string) error {
			if _, err := format.ParseVolume(s); err != nil {
				return fmt.Errorf("invalid volume %q: %w; write [SOURCE:]TARGET[:ro]", s, err)
			}
			return nil
		},
	} {
		list := resolve(child(service, attribute))
		if list == nil || list.Kind != yaml.SequenceNode {
			continue
		}
		for i, item := range list.Content {
			if item = resolve(item); item.Kind == yaml.MappingNode {
				in.longSyntax(file, index(path+"."+attribute, i), attribute, item, env)
				continue
			}
			value := in.expand(text(item), env)
			if value == "" || in.opts.NoInterpolate && strings.Contains(value, "$") {
				continue
			}
			if err := try(value); err != nil {
				in.report.fail(Diagnostic{File: file, Line: item.Line, Column: item.Column, Path: index(path+"."+attribute, i), Text: err.Error()})
			}
		}
	}
}

// mountOptions tells of what compose-go drops in silence: an option of the short
// syntax that it does not know, and a mount whose target another one of the list has.
func (in *inspector) mountOptions(file, path string, list *yaml.Node, env types.Mapping) {
	if list = resolve(list); list == nil || list.Kind != yaml.SequenceNode {
		return
	}
	at := map[string]int{}
	for i, item := range list.Content {
		item = resolve(item)
		place := Diagnostic{File: file, Line: item.Line, Column: item.Column, Path: index(path, i)}
		target := in.expand(text(child(item, "target")), env)
		if short := in.expand(text(item), env); short != "" {
			volume, err := format.ParseVolume(short)
			if err != nil {
				continue // told already
			}
			target = volume.Target
			_, options, _ := strings.Cut(short, ":"+target+":")
			for option := range strings.SplitSeq(options, ",") {
				if option != "" && !slices.Contains(mountWords(), option) {
					place.Text = fmt.Sprintf("the option %q is not known and has no effect; use ro, rw, nocopy, z, Z or a propagation", option)
					in.report.warn(place)
				}
			}
		}
		if first, taken := at[target]; taken && target != "" {
			place.Text = fmt.Sprintf("takes the place of volumes[%d], which has the same target %s; keep one", first, target)
			in.report.warn(place)
		}
		at[target] = i
	}
}

// mountWords are the options of the short syntax.
func mountWords() []string {
	return []string{"ro", "rw", "z", "Z", "nocopy", "cached", "delegated", "consistent", "private", "rprivate", "shared", "rshared", "slave", "rslave", "volume-nocopy"}
}

// longSyntax checks a port or a mount that is a mapping, where compose-go's errors
// name no item.
func (in *inspector) longSyntax(file, path, attribute string, item *yaml.Node, env types.Mapping) {
	fail := func(n *yaml.Node, path, text string) {
		in.report.fail(Diagnostic{File: file, Line: n.Line, Column: n.Column, Path: path, Text: text})
	}
	if child(item, "target") == nil {
		what := map[string]string{"ports": "the port of the container", "volumes": "the path in the container"}[attribute]
		fail(item, path, "\"target\" is missing; add it: "+what)
	}
	// Where files are merged, another one may have the rest.
	if kind := in.expand(text(child(item, "type")), env); attribute == "volumes" && kind == types.VolumeTypeBind && child(item, "source") == nil && !in.partial {
		fail(item, path, "\"source\" is missing; add it: the path on this machine")
	}
	if ip := child(item, "host_ip"); ip != nil {
		value := in.expand(text(ip), env)
		if _, err := netip.ParseAddr(strings.Trim(value, "[]")); err != nil && value != "" && !strings.Contains(value, "$") {
			fail(ip, path+".host_ip", fmt.Sprintf("%q is no IP address; write it like 127.0.0.1 or ::1", value))
		}
	}
}

func (in *inspector) includes(file string, root *yaml.Node, dir string, env types.Mapping, chain []string) {
	list := resolve(child(root, "include"))
	if list == nil || list.Kind != yaml.SequenceNode {
		return
	}
	for i, item := range list.Content {
		item = resolve(item)
		path := index("include", i)
		paths := texts(item)
		includeDir, envFiles := "", []string(nil)
		place := Diagnostic{File: file, Line: item.Line, Column: item.Column, Path: path}
		if item.Kind == yaml.MappingNode {
			paths = texts(child(item, "path"))
			if len(paths) == 0 {
				place.Text = "\"path\" is missing; name the file to include"
				in.report.fail(place)
			}
			includeDir = in.expand(text(child(item, "project_directory")), env)
			envFiles = texts(child(item, "env_file"))
		}
		for k, p := range paths {
			p = in.expand(p, env)
			if isRemote(p) {
				place.Text = "remote Compose files (git, OCI) are not supported; fetch it and include the local file"
				in.report.fail(place)
				continue
			}
			if !filepath.IsAbs(p) {
				p = filepath.Join(dir, p)
			}
			if i := slices.Index(chain, p); i >= 0 {
				circle := append(shortNames(in.report.base, chain[i:]), shortName(in.report.base, p))
				place.Text = "include cycle: " + strings.Join(circle, " -> ") + "; remove one include"
				in.report.fail(place)
				continue
			}
			if k == 0 {
				switch {
				case includeDir == "":
					includeDir = filepath.Dir(p)
				case !filepath.IsAbs(includeDir):
					includeDir = filepath.Join(dir, includeDir)
				}
			}
			if k == 0 {
				in.includedFiles(place, dir, envFiles, env)
			}
			before := len(in.report.errors)
			own := includedEnvFiles(includeDir, dir, envFiles)
			in.envFiles[p] = append(slices.Clone(in.envFilesOf(file)), own)
			warnOfDollars(in.report, env, own)
			in.file(p, includeDir, includedEnv(env, own), chain)
			if doc, seen := in.parsed[p]; seen && doc == nil && len(in.report.errors) > before {
				e := &in.report.errors[len(in.report.errors)-1]
				e.Text += fmt.Sprintf(" (included by %s:%d)", shortName(in.report.base, file), item.Line)
			}
		}
	}
}

// includedFiles looks for the env files of an included project.
func (in *inspector) includedFiles(place Diagnostic, dir string, envFiles []string, env types.Mapping) {
	for _, f := range envFiles {
		f = in.expand(f, env)
		if !filepath.IsAbs(f) {
			f = filepath.Join(dir, f)
		}
		if _, err := os.Stat(f); errors.Is(err, fs.ErrNotExist) {
			place.Path += ".env_file"
			place.Text = fmt.Sprintf("env file %s not found; create it, or correct the path", shortName(in.report.base, f))
			in.report.fail(place)
		}
	}
}

func (in *inspector) envFilesOf(file string) [][]string {
	if lists, ok := in.envFiles[file]; ok {
		return lists
	}
	return in.envFiles[""]
}

// includedEnvFiles are the files with the defaults of an included project: of its
// env_file, or its .env.
func includedEnvFiles(includeDir, dir string, envFiles []string) []string {
	var files []string
	for _, f := range envFiles {
		if f == "/dev/null" {
			continue
		}
		if !filepath.IsAbs(f) {
			f = filepath.Join(dir, f)
		}
		files = append(files, f)
	}
	if len(envFiles) == 0 {
		files = existing(includeDir, []string{".env"})
	}
	return files
}

// includedEnv adds the defaults of an included project. What cannot be read is
// compose-go's to report.
func includedEnv(env types.Mapping, files []string) types.Mapping {
	values, err := dotenv.GetEnvFromFile(env, files)
	if err != nil {
		return env
	}
	return env.Clone().Merge(values)
}
