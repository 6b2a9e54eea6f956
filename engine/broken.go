package engine

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"github.com/stack-run/stack/internal/durable"
)

// Broken is a container whose record cannot be used, and as an error tells so. It
// stops what the container belongs to, and nothing else: [Records.List] leaves it
// out, and [Engine.RemoveBroken] removes it.
type Broken struct {
	ID string
	// Name, Project and Service are what can still be known, else empty.
	Name, Project, Service string
	Path                   string // of the file
	Newer                  bool   // the record is whole, and of a later version of this program
	Err                    error
}

// String is the container's name as far as it is known, else its short ID.
func (b *Broken) String() string {
	if b.Name == "" {
		return b.ID[:12]
	}
	return b.Name
}

// mentions tells whether what is left of the record has a name in it: then the
// container is taken to use what the name means.
func (b *Broken) mentions(name string) bool {
	text, err := os.ReadFile(b.Path)
	return err == nil && bytes.Contains(text, []byte(`"`+name+`"`))
}

func (b *Broken) Error() string {
	name, ref := b.String(), b.String()
	if b.Project != "" && b.Service != "" {
		name += " of project " + b.Project
	}
	todo := fmt.Sprintf("\"stack container rm %s\" or \"stack system check --repair\" removes it with all that is its own", ref)
	if b.Newer {
		todo = "until then nothing touches it"
	}
	return fmt.Sprintf("container %s is set aside: %v; %s", name, b.Err, todo)
}

func (b *Broken) Unwrap() error { return b.Err }

// broken gathers what can be known of a container without its record.
func (r *Records) broken(id string, err error) *Broken {
	b := &Broken{ID: id, Path: r.configPath(id), Err: err}
	if e := durable.Broken(err); e != nil {
		b.Newer = e.Newer
	}
	for _, path := range []string{r.statePath(id), r.finalPath(id)} {
		var f stateFile
		if durable.ReadJSON(path, &f) == nil && f.Name != "" {
			b.Name, b.Project, b.Service = f.Name, f.Project, f.Service
			return b
		}
	}
	text, _ := os.ReadFile(b.Path)
	b.Project = salvage(text, "com.docker.compose.project")
	b.Service = salvage(text, "com.docker.compose.service")
	links, _ := os.ReadDir(filepath.Join(r.data, "names"))
	for _, l := range links {
		if holder, err := os.Readlink(r.namePath(l.Name())); err == nil && holder == id {
			b.Name = l.Name()
		}
	}
	return b
}

// salvage finds the text that a key has in what is left of a JSON file. Both are
// names, which need no escapes.
func salvage(text []byte, key string) string {
	found := regexp.MustCompile(`"` + regexp.QuoteMeta(key) + `":"([a-zA-Z0-9][a-zA-Z0-9_.-]*)"`).FindSubmatch(text)
	if found == nil {
		return ""
	}
	return string(found[1])
}
