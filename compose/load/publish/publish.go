// Package publish makes a project's files into documents that a registry keeps, and
// files of such documents again; and it finds what in a project others should not see.
// The format is docker compose's.
package publish

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/template"
	"github.com/compose-spec/compose-go/v2/types"
	"go.yaml.in/yaml/v4"
)

// What an artifact of docker compose's consists of.
const (
	ArtifactType = "application/vnd.docker.compose.project"
	// ConfigType is what marks one in registries without types of artifacts (OCI 1.0).
	ConfigType = "application/vnd.docker.compose.config.empty.v1+json"

	composeFile = "application/vnd.docker.compose.file+yaml"
	envFile     = "application/vnd.docker.compose.envfile"

	fileName    = "com.docker.compose.file"
	envFileName = "com.docker.compose.envfile"
	isExtended  = "com.docker.compose.extends"
)

// Document is one file in a registry.
type Document struct {
	MediaType   string
	Annotations map[string]string
	Data        []byte
}

// ComposeFile is the document of a Compose file.
func ComposeFile(name string, data []byte) Document {
	return Document{MediaType: composeFile, Annotations: map[string]string{fileName: filepath.Base(name)}, Data: data}
}

// Documents are a project's Compose files and those that they extend; with env, also
// their env files. What they name has other names there, which tell nothing of this
// machine.
func Documents(p *types.Project, env bool) ([]Document, error) {
	files, err := read(p)
	if err != nil {
		return nil, err
	}
	var docs []Document
	envs := map[string]string{}
	for _, f := range files {
		data, err := f.renamed(p, envs)
		if err != nil {
			return nil, err
		}
		doc := ComposeFile(f.path, data)
		if f.extended {
			doc = ComposeFile(opaque(f.path, ".yaml"), data)
			doc.Annotations[isExtended] = "true"
		}
		docs = append(docs, doc)
	}
	if !env {
		return docs, nil
	}
	for _, path := range slices.Sorted(maps.Keys(envs)) {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("cannot publish env file %s: %w", path, err)
		}
		docs = append(docs, Document{MediaType: envFile, Annotations: map[string]string{envFileName: envs[path]}, Data: data})
	}
	return docs, nil
}

// opaque is the name of a file in a registry.
func opaque(path, suffix string) string {
	return fmt.Sprintf("%x%s", sha256.Sum256([]byte(path)), suffix)
}

// file is a Compose file with its YAML documents.
type file struct {
	path     string
	dir      string // where its relative paths start
	data     []byte
	docs     []*yaml.Node
	extended bool
}

// read reads a project's files, and then those that they extend.
func read(p *types.Project) ([]*file, error) {
	var files []*file
	seen := map[string]bool{}
	add := func(path, dir string, extended bool) error {
		if seen[path] {
			return nil
		}
		seen[path] = true
		data, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("cannot publish %s: %w", path, err)
		}
		f := &file{path: path, dir: dir, data: data, extended: extended}
		for d := yaml.NewDecoder(bytes.NewReader(data)); ; {
			var doc yaml.Node
			err := d.Decode(&doc)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return fmt.Errorf("cannot publish %s: %w", path, err)
			}
			f.docs = append(f.docs, &doc)
		}
		files = append(files, f)
		return nil
	}
	for _, path := range p.ComposeFiles {
		if err := add(path, p.WorkingDir, false); err != nil {
			return nil, err
		}
	}
	for i := 0; i < len(files); i++ {
		for _, s := range files[i].services() {
			if path, _ := files[i].extends(p, s.node); path != "" {
				if err := add(path, filepath.Dir(path), true); err != nil {
					return nil, err
				}
			}
		}
	}
	return files, nil
}

// service is a service or a job.
type service struct {
	name string
	node *yaml.Node
}

func (f *file) services() []service {
	var all []service
	for _, doc := range f.docs {
		for _, section := range []string{"services", "jobs"} {
			for key, value := range pairs(get(doc, section)) {
				all = append(all, service{key.Value, deref(value)})
			}
		}
	}
	return all
}

// extends is the file that a service extends a service of, if it is here, and where
// it is named.
func (f *file) extends(p *types.Project, service *yaml.Node) (path string, named *yaml.Node) {
	named = get(get(service, "extends"), "file")
	if named == nil {
		return "", nil
	}
	path = f.abs(p, named.Value)
	if info, err := os.Stat(path); err != nil || info.IsDir() {
		return "", nil
	}
	return path, named
}

// envFiles are where a service names env files.
func envFiles(service *yaml.Node) []*yaml.Node {
	n := get(service, "env_file")
	if n == nil {
		return nil
	}
	all := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		all = n.Content
	}
	var out []*yaml.Node
	for _, one := range all {
		if one = deref(one); one.Kind == yaml.MappingNode {
			one = get(one, "path")
		}
		if one != nil && one.Kind == yaml.ScalarNode {
			out = append(out, one)
		}
	}
	return out
}

func (f *file) abs(p *types.Project, path string) string {
	if text, err := template.Substitute(path, p.Environment.Resolve); err == nil {
		path = text
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(f.dir, path)
	}
	return path
}

// renamed is the file's content with what it names under its names in the registry.
// It notes the env files that are here.
func (f *file) renamed(p *types.Project, envs map[string]string) ([]byte, error) {
	done := map[*yaml.Node]bool{} // several services may share one, by an anchor
	for _, s := range f.services() {
		if path, named := f.extends(p, s.node); path != "" && !done[named] {
			named.Value, done[named] = opaque(path, ".yaml"), true
		}
		for _, named := range envFiles(s.node) {
			if done[named] {
				continue
			}
			path := f.abs(p, named.Value)
			named.Value, done[named] = opaque(path, ".env"), true
			if _, err := os.Stat(path); err == nil { // it may be one that need not be there
				envs[path] = named.Value
			}
		}
	}
	if len(done) == 0 {
		return f.data, nil
	}
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	for _, doc := range f.docs {
		if err := e.Encode(doc); err != nil {
			return nil, fmt.Errorf("cannot publish %s: %w", f.path, err)
		}
	}
	return b.Bytes(), e.Close()
}

// UnpackNew unpacks into a directory that has its name only when it is complete.
func UnpackNew(dir string, docs []Document) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".unpack-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp) // gone already when all went well
	if err := Unpack(tmp, docs); err != nil {
		return err
	}
	err = os.Rename(tmp, dir)
	if _, there := os.Stat(dir); there == nil { // another command was quicker
		return nil
	}
	return err
}

// Unpack writes documents as files into a directory that is empty: the Compose files
// as one, compose.yaml.
func Unpack(dir string, docs []Document) error {
	var whole []byte
	for _, doc := range docs {
		name := doc.Annotations[fileName]
		switch doc.MediaType {
		case composeFile:
			if doc.Annotations[isExtended] != "true" {
				if len(whole) > 0 {
					whole = append(whole, "\n---\n"...)
				}
				whole = append(whole, doc.Data...)
				continue
			}
		case envFile:
			name = doc.Annotations[envFileName]
		default:
			return fmt.Errorf("a document of the type %q is not understood", doc.MediaType)
		}
		if name != filepath.Base(name) || !filepath.IsLocal(name) || name == "compose.yaml" || name == "." {
			return fmt.Errorf("a document cannot be called %q", name)
		}
		if err := os.WriteFile(filepath.Join(dir, name), doc.Data, 0o600); err != nil {
			return err
		}
	}
	if len(whole) == 0 {
		return errors.New("there is no Compose file in it")
	}
	return os.WriteFile(filepath.Join(dir, "compose.yaml"), whole, 0o600)
}

// LocalInclude is a file that a project includes from this machine, "" for none.
func LocalInclude(p *types.Project, remote func(string) bool) (string, error) {
	files, err := read(p)
	if err != nil {
		return "", err
	}
	for _, f := range files {
		for _, doc := range f.docs {
			n := get(doc, "include")
			if n == nil {
				continue
			}
			for _, one := range n.Content {
				for _, path := range scalars(one, "path") {
					if !remote(path) {
						return path, nil
					}
				}
			}
		}
	}
	return "", nil
}

// scalars are the strings that a node is, or that it has under key.
func scalars(n *yaml.Node, key string) []string {
	n = deref(n)
	if n.Kind == yaml.MappingNode {
		if n = get(n, key); n == nil {
			return nil
		}
	}
	if n.Kind == yaml.ScalarNode {
		return []string{n.Value}
	}
	var out []string
	for _, one := range n.Content {
		out = append(out, strings.TrimSpace(deref(one).Value))
	}
	return out
}
