package driver

import (
	"encoding/json"
	"maps"
	"os"
	"regexp"
	"strings"
	"text/template"
	"time"
)

// Info is what drivers tell of a container. Its fields and methods are those that
// Docker's tags may name (Docker Docs, "Customize log driver output").
type Info struct {
	Config              map[string]string // the options
	ContainerID         string
	ContainerName       string // "/NAME"
	ContainerEntrypoint string
	ContainerArgs       []string
	ContainerImageID    string // "sha256:…"
	ContainerImageName  string
	ContainerCreated    time.Time
	ContainerEnv        []string
	ContainerLabels     map[string]string
	LogPath             string
	DaemonName          string
}

// ID is the container's short ID.
func (i *Info) ID() string { return short(i.ContainerID) }

// FullID is the container's ID.
func (i *Info) FullID() string { return i.ContainerID }

// Name is the container's name.
func (i *Info) Name() string { return strings.TrimPrefix(i.ContainerName, "/") }

// ImageID is the first twelve characters of the image's ID with its algorithm, which is
// what Docker says.
func (i *Info) ImageID() string { return short(i.ContainerImageID) }

// ImageFullID is the image's ID.
func (i *Info) ImageFullID() string { return i.ContainerImageID }

// ImageName is the image's name.
func (i *Info) ImageName() string { return i.ContainerImageName }

// Command is what the container runs.
func (i *Info) Command() string {
	return strings.Join(append([]string{i.ContainerEntrypoint}, i.ContainerArgs...), " ")
}

// Hostname is this machine's.
func (i *Info) Hostname() (string, error) { return os.Hostname() }

func short(id string) string { return id[:min(12, len(id))] }

// sample is a container to try a tag on.
func sample() *Info {
	const id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	return &Info{ContainerID: id, ContainerName: "/web", ContainerImageID: "sha256:" + id, ContainerImageName: "web", DaemonName: daemonName}
}

const daemonName = "stack"

// defaultTag is what lines are called where the user says nothing.
const defaultTag = "{{.ID}}"

// Tag is the tag of the options, or of a template where they have none.
func (i *Info) Tag(otherwise string) (string, error) { return i.tag(first(i.Config["tag"], otherwise)) }

func (i *Info) tag(text string) (string, error) {
	t, err := template.New("tag").Funcs(functions()).Parse(text)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	err = t.Execute(&b, i)
	return b.String(), err
}

// functions are those of Docker's templates.
func functions() template.FuncMap {
	return template.FuncMap{
		"json": func(v any) string {
			var b strings.Builder
			e := json.NewEncoder(&b)
			e.SetEscapeHTML(false)
			if err := e.Encode(v); err != nil {
				return ""
			}
			return strings.TrimSpace(b.String())
		},
		"split": strings.Split,
		"join":  strings.Join,
		"lower": strings.ToLower,
		"upper": strings.ToUpper,
		"title": func(s string) string {
			words := strings.SplitAfter(s, " ")
			for i, w := range words {
				if w != "" {
					words[i] = strings.ToUpper(w[:1]) + w[1:]
				}
			}
			return strings.Join(words, "")
		},
		"pad": func(s string, before, after int) string {
			if s == "" {
				return s
			}
			return strings.Repeat(" ", before) + s + strings.Repeat(" ", after)
		},
		"truncate": func(s string, n int) string { return s[:min(n, len(s))] },
	}
}

// Attributes are the labels and variables that the options name, by name. key, if not
// nil, makes a driver's names of theirs.
func (i *Info) Attributes(key func(string) string) (map[string]string, error) {
	if key == nil {
		key = func(name string) string { return name }
	}
	env := map[string]string{}
	for _, line := range i.ContainerEnv {
		if name, value, ok := strings.Cut(line, "="); ok {
			env[name] = value
		}
	}
	out := map[string]string{}
	for _, from := range []struct {
		option string
		values map[string]string
	}{{"labels", i.ContainerLabels}, {"env", env}} {
		named := map[string]string{}
		for name := range strings.SplitSeq(i.Config[from.option], ",") {
			if v, ok := from.values[name]; ok {
				named[key(name)] = v
			}
		}
		if text := i.Config[from.option+"-regex"]; text != "" {
			re, err := regexp.Compile(text)
			if err != nil {
				return nil, err
			}
			for name, v := range from.values {
				if re.MatchString(name) {
					named[key(name)] = v
				}
			}
		}
		maps.Copy(out, named)
	}
	return out, nil
}
