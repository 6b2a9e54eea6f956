package compat

import (
	_ "embed"
	"fmt"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync"

	"go.yaml.in/yaml/v4"
)

// Project is a generated Compose project.
type Project struct {
	// Files are the contents by path below the project's parent directory.
	Files map[string]string
	// Dir is where the commands are given, as such a path.
	Dir string
	// Flags come before the verb.
	Flags []string
	// Environ are further variables of the environment.
	Environ []string
	// Services are those that the files define, in the order they were drawn.
	Services []string
}

//go:embed testdata/values.yaml
var valuesFile []byte

// values are the valid values of attributes: by what has the attribute, and by its
// name. What is not a service has no attributes but whole values, under "".
var values = sync.OnceValue(func() map[string]map[string][]*yaml.Node {
	var kinds map[string]yaml.Node
	if err := yaml.Unmarshal(valuesFile, &kinds); err != nil {
		panic(err)
	}
	out := map[string]map[string][]*yaml.Node{}
	for kind, n := range kinds {
		out[kind] = map[string][]*yaml.Node{}
		if n.Kind == yaml.SequenceNode {
			out[kind][""] = n.Content
			continue
		}
		for i := 0; i+1 < len(n.Content); i += 2 {
			out[kind][n.Content[i].Value] = n.Content[i+1].Content
		}
	}
	return out
})

// exclusive are attributes that a service cannot have together, or that depend on
// one another's values.
var exclusive = [][2]string{
	{"network_mode", "networks"}, {"network_mode", "mac_address"}, {"network_mode", "ports"}, {"network_mode", "links"},
	{"container_name", "scale"}, {"container_name", "deploy"}, {"scale", "deploy"},
	{"deploy", "cpus"}, {"deploy", "mem_limit"}, {"deploy", "mem_reservation"}, {"deploy", "pids_limit"},
	{"platform", "build"}, {"provider", "image"}, {"provider", "build"},
	{"tmpfs", "volumes"}, {"mac_address", "networks"}, {"gpus", "deploy"},
	{"cpus", "cpu_quota"}, {"cpus", "cpu_period"}, {"mem_limit", "mem_reservation"}, {"memswap_limit", "mem_limit"},
}

// pools are the names that values refer to, by kind and by where they are declared.
var pools = []struct {
	kind, section string
	names         []string
}{
	{"network", "networks", []string{"front", "back", "odd.net"}},
	{"volume", "volumes", []string{"data", "data2.x"}},
	{"secret", "secrets", []string{"token", "cert"}},
	{"config", "configs", []string{"conf", "motd"}},
	{"model", "models", []string{"llm", "small"}},
}

var serviceNames = []string{"web", "db", "worker", "my.app", "a_b-c"}

// generator draws one project.
type generator struct {
	*rand.Rand
	project *Project
	// env, dotenv and envFile are variables of the environment, of .env, and of the
	// file of --env-file, if there is one.
	env, dotenv, envFile []string
	variables, named     int
	// others are documents whose services become ones of the first file.
	others []*yaml.Node
}

// Generate draws a project. The same seed draws the same.
func Generate(seed uint64) *Project {
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 0)), project: &Project{Files: map[string]string{}, Dir: "shop"}}
	g.layout()
	return g.project
}

// some says yes in one of n cases.
func (g *generator) some(n int) bool { return g.IntN(n) == 0 }

func pick[T any](g *generator, list []T) T { return list[g.IntN(len(list))] }

// layout draws which files there are and how they are named.
func (g *generator) layout() {
	p := g.project
	p.Services = append(p.Services, serviceNames[:1+g.IntN(4)]...)
	names := []string{pick(g, []string{"compose.yaml", "compose.yml", "docker-compose.yml"})}
	dir := p.Dir
	switch g.IntN(6) {
	case 0: // found
		names = append(names, pick(g, []string{"compose.override.yml", "compose.override.yaml", "docker-compose.override.yml"}))
	case 1: // named
		names = []string{"base.yaml", "more.yml"}
		p.Flags = append(p.Flags, "-f", "base.yaml", "--file", "more.yml")
	case 2:
		names = []string{"base.yaml", "a.yaml", "b.yaml"}
		g.env = append(g.env, "COMPOSE_FILE=base.yaml:a.yaml:b.yaml")
	case 3: // elsewhere
		dir = path.Join(p.Dir, "deploy")
		names = []string{"prod.yml"}
		p.Flags = append(p.Flags, "-f", "deploy/prod.yml")
		if g.some(2) {
			p.Flags = append(p.Flags, "--project-directory", pick(g, []string{".", "deploy"}))
		}
	}
	base := g.base()
	docs := []*yaml.Node{base}
	for range names[1:] {
		docs = append(docs, g.override())
	}
	g.declare(docs)
	for i, doc := range docs {
		g.interpolate(doc, "")
		p.Files[path.Join(dir, names[i])] = g.render(doc)
	}
	g.surroundings(dir)
}

// surroundings draws what stands beside the Compose files, and the flags.
func (g *generator) surroundings(dir string) {
	p := g.project
	g.dotenv = append(g.dotenv, "FROM_DOTENV=dotenv", "TOKEN_VAR='tok en'", `CONF_VAR="line\nbreak"`, "# a comment", "EMPTY=", "export EXPORTED=yes # why", "NESTED=${FROM_DOTENV}-${SHELL_ONLY:-none}", "RAW='$NOT_$EXPANDED'")
	g.env = append(g.env, "SHELL_ONLY=from shell", "FROM_BOTH=shell")
	if len(g.envFile) > 0 {
		p.Files[path.Join(p.Dir, "other.env")] = strings.Join(append(g.envFile, "FROM_BOTH=file", "FROM_DOTENV=other"), "\n") + "\n"
		p.Flags = append(p.Flags, "--env-file", ".env", "--env-file", "other.env")
	}
	switch g.IntN(8) {
	case 0:
		p.Flags = append(p.Flags, "--profile", "debug")
	case 1:
		p.Flags = append(p.Flags, "--profile", "*")
	case 2:
		g.env = append(g.env, "COMPOSE_PROFILES=debug,nightly")
	case 3:
		g.dotenv = append(g.dotenv, "COMPOSE_PROFILES=test")
	}
	switch g.IntN(8) {
	case 0:
		p.Flags = append(p.Flags, "-p", "given")
	case 1:
		g.env = append(g.env, "COMPOSE_PROJECT_NAME=from_env")
	case 2:
		g.dotenv = append(g.dotenv, "COMPOSE_PROJECT_NAME=from-dotenv")
	}
	if g.some(10) {
		p.Flags = append(p.Flags, "--all-resources")
	}
	if g.some(20) {
		p.Flags = append(p.Flags, "--compatibility")
	}
	// The project's directory is the one of the first file, unless a flag names another.
	for _, d := range slices.Compact([]string{p.Dir, dir}) {
		p.Files[path.Join(d, ".env")] = strings.Join(g.dotenv, "\n") + "\n"
	}
	for _, d := range slices.Compact([]string{p.Dir, path.Join(p.Dir, "inc"), path.Join(p.Dir, "deploy")}) {
		g.auxiliary(d)
	}
	p.Environ = g.env
}

// auxiliary writes the files that values name.
func (g *generator) auxiliary(dir string) {
	for name, content := range map[string]string{
		"a.env":     "FILE_A=1\nSHARED=a\nEXPANDED=${FROM_DOTENV}\nQUOTED=\"a b\"\nNO_VALUE\n",
		"b.env":     "# comment\nSHARED=b\nUSES=${FILE_A:-unset}\nSINGLE='$x'\n",
		"raw.env":   "RAW_A='quoted'\nRAW_B=$x # no comment\n",
		"a.labels":  "label.a=1\nlabel.shared=a\n",
		"b.labels":  "label.shared=b\n",
		"token.txt": "secret", "conf.txt": "conf", "spec.json": "{}", "profile.json": "{}",
	} {
		g.project.Files[path.Join(dir, name)] = content
	}
}

// base draws the first file.
func (g *generator) base() *yaml.Node {
	doc := mapping()
	if g.some(4) {
		set(doc, "name", scalar(pick(g, []string{"named", "with-dash_1"})))
	}
	if g.some(6) {
		set(doc, "version", scalar("3.8"))
	}
	common := g.anchors(doc)
	services := mapping()
	last := len(g.project.Services) - 1
	for i, name := range g.project.Services {
		s := g.service(3 + g.IntN(9))
		if len(common) > 0 && g.some(2) {
			g.mergeKey(s, common)
		}
		g.relations(s, services, g.project.Services[:i])
		if i == last && g.some(2) { // no other needs it
			set(s, "profiles", pick(g, []*yaml.Node{list("debug"), list("test", "nightly"), list()}))
		}
		set(services, name, s)
	}
	g.extend(services)
	set(doc, "services", services)
	if g.some(5) {
		jobs := mapping()
		set(jobs, "backup", g.attributes(g.value("job", ""), 2+g.IntN(12), ofJobs()))
		set(doc, "jobs", jobs)
	}
	g.include(doc)
	if g.some(3) {
		set(doc, "x-top", clone(g.value("service", "x-service")))
	}
	return doc
}

// anchors draws extensions that services take attributes from.
func (g *generator) anchors(doc *yaml.Node) []*yaml.Node {
	var common []*yaml.Node
	for i := range g.IntN(3) {
		n := g.attributes(mapping(), 1+g.IntN(4), []string{"logging", "labels", "environment", "restart", "init", "cap_add", "healthcheck", "ulimits", "dns"})
		n.Anchor = fmt.Sprintf("common%d", i)
		set(doc, fmt.Sprintf("x-common-%d", i), n)
		common = append(common, n)
	}
	return common
}

// mergeKey has a service take what one or several anchors have.
func (g *generator) mergeKey(s *yaml.Node, common []*yaml.Node) {
	key := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!merge", Value: "<<"}
	alias := func(n *yaml.Node) *yaml.Node { return &yaml.Node{Kind: yaml.AliasNode, Value: n.Anchor, Alias: n} }
	value := alias(pick(g, common))
	if len(common) > 1 && g.some(2) {
		value = &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle, Content: []*yaml.Node{alias(common[0]), alias(common[1])}}
	}
	s.Content = append([]*yaml.Node{key, value}, s.Content...)
}

// relations draws what a service has to do with those before it.
func (g *generator) relations(s, services *yaml.Node, earlier []string) {
	if len(earlier) == 0 {
		return
	}
	other := pick(g, earlier)
	switch g.IntN(8) {
	case 0:
		set(s, "depends_on", list(earlier...))
	case 1:
		conditions := []string{"service_started"}
		if on := get(services, other); get(on, "healthcheck") == nil && get(on, "restart") == nil && get(on, "deploy") == nil {
			conditions = append(conditions, "service_healthy", "service_completed_successfully") // which can be met
		}
		d := mapping("condition", pick(g, conditions))
		if g.some(2) {
			set(d, "restart", plain("true"))
		}
		if g.some(2) {
			set(d, "required", plain("false"))
		}
		on := mapping()
		set(on, other, d)
		set(s, "depends_on", on)
	case 2:
		if get(s, "network_mode") == nil {
			set(s, "links", list(other, other+":alias"))
		}
	case 3:
		set(s, "volumes_from", list(pick(g, []string{other, other + ":ro", other + ":rw"})))
	case 4:
		set(s, "ipc", scalar("service:"+other))
	case 5:
		set(s, "pid", scalar("service:"+other))
	case 6:
		if get(s, "networks") == nil && get(s, "ports") == nil && get(s, "mac_address") == nil && get(s, "links") == nil {
			set(s, "network_mode", scalar("service:"+other))
		}
	}
}

// extend draws services that extend one of the same file, or of another.
func (g *generator) extend(services *yaml.Node) {
	names := g.project.Services
	switch {
	case g.some(5) && len(names) > 1:
		s := get(services, names[len(names)-1])
		if base := get(services, names[0]); get(base, "network_mode") == nil && get(base, "container_name") == nil && get(s, "network_mode") == nil {
			set(s, "extends", pick(g, []*yaml.Node{scalar(names[0]), mapping("service", names[0])}))
		}
	case g.some(5):
		other := mapping()
		common := g.attributes(mapping("image", "common"), 2+g.IntN(5), []string{"command", "environment", "env_file", "labels", "label_file", "ports", "volumes", "healthcheck", "logging", "build", "dns", "expose", "cap_add", "working_dir", "ulimits", "extra_hosts"})
		set(other, "common", common)
		doc := mapping()
		set(doc, "services", other)
		g.others = append(g.others, common)
		g.interpolate(doc, "")
		s := get(services, names[0])
		set(s, "extends", mapping("service", "common", "file", "inc/common.yaml"))
		content := g.render(doc)
		for _, dir := range []string{"", "deploy"} {
			g.project.Files[path.Join(g.project.Dir, dir, "inc/common.yaml")] = content
			g.auxiliary(path.Join(g.project.Dir, dir, "inc"))
		}
	}
}

// include draws another project that is part of this one.
func (g *generator) include(doc *yaml.Node) {
	if !g.some(5) {
		return
	}
	inner := mapping()
	services := mapping()
	set(services, "included", g.attributes(mapping("image", "${INCLUDED:-default}"), 2+g.IntN(4), []string{"environment", "env_file", "ports", "volumes", "build", "labels"}))
	set(inner, "services", services)
	g.declare([]*yaml.Node{inner})
	file := "inc/compose.yaml"
	var form *yaml.Node
	switch g.IntN(4) {
	case 0:
		form = list(file)
	case 1:
		form = sequence(mapping("path", file, "env_file", "inc/inc.env"))
	case 2:
		form = sequence(mapping("path", file, "project_directory", "."))
	case 3:
		entry := mapping("project_directory", "inc")
		set(entry, "path", list(file, "inc/second.yaml"))
		set(entry, "env_file", list("inc/inc.env", "a.env"))
		form = sequence(entry)
	}
	set(doc, "include", form)
	content := g.render(inner)
	for _, dir := range []string{"", "deploy"} {
		at := path.Join(g.project.Dir, dir)
		g.project.Files[path.Join(at, file)] = content
		g.project.Files[path.Join(at, "inc/inc.env")] = "INCLUDED=from-inc-env\n"
		g.project.Files[path.Join(at, "inc/second.yaml")] = "services:\n  included:\n    labels: {second: \"yes\"}\n"
		g.auxiliary(path.Join(at, "inc"))
	}
}

// override draws a file that is merged over the others.
func (g *generator) override() *yaml.Node {
	doc, services := mapping(), mapping()
	for _, name := range g.project.Services {
		if g.some(4) {
			continue
		}
		s := g.attributes(mapping(), 1+g.IntN(5), overridable())
		for i := 1; i < len(s.Content); i += 2 {
			if n := s.Content[i]; n.Kind != yaml.ScalarNode && g.some(6) {
				n.Tag = pick(g, []string{"!override", "!reset"})
				n.Style |= yaml.TaggedStyle
				if n.Tag == "!reset" {
					*n = yaml.Node{Kind: yaml.ScalarNode, Tag: "!reset", Value: "null", Style: yaml.TaggedStyle}
				}
			}
		}
		set(services, name, s)
	}
	if len(services.Content) == 0 || g.some(6) {
		set(services, "late", g.attributes(mapping("image", "late"), 2, nil))
	}
	set(doc, "services", services)
	return doc
}

// overridable are the attributes that any service may get from another file.
func overridable() []string {
	var bound []string
	for _, pair := range exclusive {
		bound = append(bound, pair[0], pair[1])
	}
	return append(without(bound...), "environment", "labels", "healthcheck")
}

func (g *generator) service(n int) *yaml.Node {
	s := mapping()
	switch g.IntN(8) {
	case 0, 1:
		set(s, "build", g.value("service", "build"))
	case 2:
		set(s, "provider", g.value("service", "provider"))
	default:
		set(s, "image", g.value("service", "image"))
	}
	return g.attributes(s, n, nil)
}

// attributes adds n attributes to a service, from the names if there are any.
func (g *generator) attributes(s *yaml.Node, n int, names []string) *yaml.Node {
	if names == nil {
		names = without()
	}
	for range n {
		name := pick(g, names)
		if len(values()["service"][name]) == 0 || get(s, name) != nil || slices.ContainsFunc(exclusive, func(pair [2]string) bool {
			return pair[0] == name && get(s, pair[1]) != nil || pair[1] == name && get(s, pair[0]) != nil
		}) {
			continue
		}
		set(s, name, g.value("service", name))
	}
	return s
}

// value draws a value of an attribute.
func (g *generator) value(kind, attribute string) *yaml.Node {
	v := clone(pick(g, values()[kind][attribute]))
	switch attribute {
	case "container_name":
		g.named++
		v.Value += fmt.Sprint(g.named)
	case "pre_start":
		for _, hook := range v.Content {
			g.attributes(hook, g.IntN(7), ofHooks())
		}
	}
	return v
}

// ofJobs are the attributes that services share with jobs, and ofHooks those that
// they share with what runs before them.
func ofJobs() []string {
	return without("deploy", "develop", "restart", "scale", "attach", "container_name", "provider",
		"external_links", "pre_start", "post_start", "pre_stop", "x-service")
}

func ofHooks() []string {
	return without("deploy", "develop", "restart", "scale", "attach", "container_name", "provider",
		"external_links", "pre_start", "post_start", "pre_stop", "x-service",
		"build", "healthcheck", "ports", "expose", "stdin_open", "tty", "env_file", "label_file")
}

// without are the attributes of services but some.
func without(names ...string) []string {
	all := slices.Sorted(maps.Keys(values()["service"]))
	return slices.DeleteFunc(all, func(name string) bool { return slices.Contains(names, name) })
}

// declare draws what the services of documents refer to, in one of the documents
// or in parts, and now and then something that nobody uses.
func (g *generator) declare(docs []*yaml.Node) {
	used := map[string]bool{}
	for _, doc := range slices.Concat(docs, g.others) {
		words(doc, used)
	}
	for _, pool := range pools {
		for _, name := range pool.names {
			if !used[name] && !g.some(8) {
				continue
			}
			doc := pick(g, docs)
			section := get(doc, pool.section)
			if section == nil {
				section = mapping()
				set(doc, pool.section, section)
			}
			set(section, name, g.value(pool.kind, ""))
		}
	}
}

// words collects the scalars of a tree, and what stands before a colon in them.
func words(n *yaml.Node, into map[string]bool) {
	if n.Kind == yaml.ScalarNode {
		into[n.Value] = true
		before, _, _ := strings.Cut(n.Value, ":")
		into[before] = true
	}
	for _, c := range n.Content {
		words(c, into)
	}
}

// uninterpolated are the keys below which Compose does not take variables, or the
// generator must know the value.
var uninterpolated = map[string]bool{
	"version": true, "include": true, "extends": true, "depends_on": true, "networks": true, "links": true,
	"volumes_from": true, "network_mode": true, "ipc": true, "pid": true, "profiles": true, "name": true,
	"secrets": true, "configs": true, "models": true, "env_file": true, "label_file": true,
	"weight": true, "ulimits": true, "context_size": true, "use_api_socket": true, "initial_sync": true,
}

// interpolate writes some values as variables that have them.
func (g *generator) interpolate(n *yaml.Node, key string) {
	if uninterpolated[key] {
		return
	}
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			g.interpolate(n.Content[i+1], n.Content[i].Value)
		}
	case yaml.SequenceNode:
		for _, c := range n.Content {
			g.interpolate(c, key)
		}
	case yaml.ScalarNode:
		if g.some(12) && n.Value != "" && n.ShortTag() != "!!null" && !strings.ContainsAny(n.Value, "$}{'\"\\\n#`") && n.Style&yaml.TaggedStyle == 0 {
			n.Value = g.variable(n.Value)
			n.Tag, n.Style = "!!str", yaml.DoubleQuotedStyle
		}
	}
}

// variable is an expression that has a value.
func (g *generator) variable(value string) string {
	g.variables++
	name := fmt.Sprintf("VAR_%d", g.variables)
	assignment := name + "=" + value
	switch g.IntN(3) {
	case 0:
		g.env = append(g.env, assignment)
	case 1:
		g.dotenv = append(g.dotenv, name+"='"+value+"'")
	default:
		if len(g.envFile) == 0 && !g.some(3) {
			g.dotenv = append(g.dotenv, name+`="`+value+`"`)
		} else {
			g.envFile = append(g.envFile, assignment)
		}
	}
	// Each has names of its own: --variables knows only one default of a variable.
	unset, empty := fmt.Sprintf("UNSET_%d", g.variables), fmt.Sprintf("EMPTY_%d", g.variables)
	g.dotenv = append(g.dotenv, empty+"=")
	return fmt.Sprintf(pick(g, []string{
		"$%[1]s", "${%[1]s}", "${%[1]s:-other}", "${%[1]s-other}", "${%[1]s:?is needed}", "${%[1]s?}",
		"${%[3]s:-%[2]s}", "${%[3]s-%[2]s}", "${%[4]s:-%[2]s}", "${%[1]s:+%[2]s}", "${%[4]s+%[2]s}",
		"${%[3]s:-${%[1]s}}", "${%[3]s:-${%[4]s:-${%[1]s:-deep}}}", "${%[4]s}${%[1]s}",
	}), name, value, unset, empty)
}

// render writes a document in block style, with some of it in flow style.
func (g *generator) render(doc *yaml.Node) string {
	g.restyle(doc, 0)
	var b strings.Builder
	e := yaml.NewEncoder(&b)
	e.SetIndent(2 + 2*g.IntN(2))
	if err := e.Encode(doc); err != nil {
		panic(err)
	}
	return b.String()
}

func (g *generator) restyle(n *yaml.Node, depth int) {
	if n.Kind == yaml.MappingNode || n.Kind == yaml.SequenceNode {
		n.Style &^= yaml.FlowStyle
		if depth > 2 && g.some(3) {
			n.Style |= yaml.FlowStyle
		}
	}
	for _, c := range n.Content {
		g.restyle(c, depth+1)
	}
}

func plain(value string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Value: value} }

func scalar(value string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: value}
}

func sequence(items ...*yaml.Node) *yaml.Node {
	return &yaml.Node{Kind: yaml.SequenceNode, Content: items}
}

func list(items ...string) *yaml.Node {
	n := sequence()
	for _, item := range items {
		n.Content = append(n.Content, scalar(item))
	}
	return n
}

// mapping makes a mapping of keys and values in turn.
func mapping(pairs ...string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode}
	for _, p := range pairs {
		n.Content = append(n.Content, scalar(p))
	}
	return n
}

// set adds a key to a mapping, or replaces its value.
func set(n *yaml.Node, key string, value *yaml.Node) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			n.Content[i+1] = value
			return
		}
	}
	n.Content = append(n.Content, scalar(key), value)
}

func get(n *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

func clone(n *yaml.Node) *yaml.Node {
	c := *n
	c.Content = make([]*yaml.Node, len(n.Content))
	for i := range n.Content {
		c.Content[i] = clone(n.Content[i])
	}
	c.HeadComment, c.LineComment, c.FootComment = "", "", ""
	return &c
}
