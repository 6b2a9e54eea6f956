// Package provider runs the programs behind services with the attribute "provider":
// what stands for such a service is no container but something that a program of the
// user's makes, stops and takes down. Its words are docker compose's: the program is
// called as "PROGRAM compose --project-name=P up|stop|down [--OPTION=VALUE…] SERVICE"
// and speaks in JSON, one message a line.
package provider

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/stack-run/stack/compose/apply"
	"github.com/stack-run/stack/compose/desired"
)

// Verb is what a program is asked to do.
type Verb string

const (
	Up   Verb = "up"
	Stop Verb = "stop"
	Down Verb = "down"
)

// words are what is told while a verb runs, and once it has.
var words = map[Verb][2]string{Up: {"Creating", "Created"}, Stop: {"Stopping", "Stopped"}, Down: {"Removing", "Removed"}}

// Variables are what a program sets in the services that depend on its own.
type Variables struct {
	Prefixed map[string]string // behind the service's name: DB_URL
	Raw      map[string]string // as they are
}

// Runner runs the programs of a project's providers.
type Runner struct {
	Project string
	Environ []string
	Plugins []string // directories with programs of Docker's command line
	Tell    func(apply.Event)
}

// The messages that are understood. A program reads them from this variable, so that
// it can do without the others.
const (
	acceptedVariable = "COMPOSE_PROVIDER_MESSAGES"
	accepted         = "error,info,setenv,rawsetenv,debug,get-service-config"
)

type message struct {
	Type    string `json:"type"`
	Message string `json:"message"`
}

// Run has a program do something for a service.
func (r Runner) Run(ctx context.Context, service string, p desired.Provider, verb Verb) (Variables, error) {
	program, err := r.find(p.Type)
	if err != nil {
		return Variables{}, fmt.Errorf("cannot run the provider of service %s: %w", service, err)
	}
	known := r.metadata(ctx, program)
	if verb == Stop && known.Stop == nil {
		return Variables{}, nil // it has nothing that could be stopped
	}
	args, err := known.arguments(p, verb)
	if err != nil {
		return Variables{}, fmt.Errorf("cannot run the provider of service %s: %w", service, err)
	}
	args = append([]string{"compose", "--project-name=" + r.Project, string(verb)}, append(args, service)...)
	r.Tell(apply.Event{Name: service, Status: words[verb][0]})
	v, err := r.talk(ctx, exec.CommandContext(ctx, program, args...), service, p)
	if err != nil {
		r.Tell(apply.Event{Name: service, Status: "Error", Done: true})
		return Variables{}, fmt.Errorf("the provider of service %s failed: %w", service, err)
	}
	r.Tell(apply.Event{Name: service, Status: words[verb][1], Done: true})
	return v, nil
}

// find looks for docker-TYPE among Docker's plugins, then for TYPE in the PATH.
func (r Runner) find(kind string) (string, error) {
	if kind == "compose" || strings.ContainsRune(kind, filepath.Separator) {
		return "", fmt.Errorf("%q is no type of a provider", kind)
	}
	dirs := slices.Clone(r.Plugins)
	names := slices.Repeat([]string{"docker-" + kind}, len(dirs))
	for _, variable := range r.Environ {
		if path, ok := strings.CutPrefix(variable, "PATH="); ok {
			for _, dir := range filepath.SplitList(path) {
				dirs, names = append(dirs, dir), append(names, kind)
			}
		}
	}
	for i, dir := range dirs {
		path := filepath.Join(dir, names[i])
		if info, err := os.Stat(path); err == nil && !info.IsDir() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("there is no program %s in the PATH; install the provider, or set profiles: [never] on the service", kind)
}

// talk runs a program and answers what it asks.
func (r Runner) talk(ctx context.Context, cmd *exec.Cmd, service string, p desired.Provider) (Variables, error) {
	cmd.Env = append(slices.Clone(r.Environ), acceptedVariable+"="+accepted)
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		return Variables{}, err
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return Variables{}, err
	}
	if err := cmd.Start(); err != nil {
		return Variables{}, err
	}
	v := Variables{Prefixed: map[string]string{}, Raw: map[string]string{}}
	err = r.listen(out, in, service, p, v)
	if err != nil {
		cmd.Process.Kill()
	}
	in.Close()
	if waitErr := cmd.Wait(); err == nil && waitErr != nil {
		err = waitErr
		if text := strings.TrimSpace(said.String()); text != "" {
			err = fmt.Errorf("%w: %s", err, text)
		}
	}
	return v, err
}

func (r Runner) listen(out io.Reader, in io.Writer, service string, p desired.Provider, v Variables) error {
	decoder := json.NewDecoder(out)
	for {
		var m message
		switch err := decoder.Decode(&m); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("it does not speak in JSON: %w", err)
		}
		switch m.Type {
		case "error":
			return errors.New(m.Message)
		case "info":
			first, _, _ := strings.Cut(strings.TrimRight(m.Message, "\n"), "\n")
			r.Tell(apply.Event{Name: service, Status: first})
		case "debug":
		case "setenv", "rawsetenv":
			key, value, ok := strings.Cut(m.Message, "=")
			if !ok {
				return fmt.Errorf("it sets a variable without a value: %q", m.Message)
			}
			to := v.Prefixed
			if m.Type == "rawsetenv" {
				to = v.Raw
			}
			to[key] = value
		case "get-service-config":
			// In a goroutine of its own: a program may go on to speak before it reads
			// the answer, which may be longer than a pipe holds. One that ends without
			// reading it has the pipe closed.
			go in.Write(append(slices.Clone([]byte(p.Service)), '\n'))
		default:
			return fmt.Errorf("its message %q is not understood; there are %s", m.Type, accepted)
		}
	}
}

// metadata is what a program says of itself. Old ones say nothing.
type metadata struct {
	Description string      `json:"description"`
	Up          parameters  `json:"up"`
	Down        parameters  `json:"down"`
	Stop        *parameters `json:"stop"`
}

type parameters struct {
	Parameters []struct {
		Name     string `json:"name"`
		Required bool   `json:"required"`
	} `json:"parameters"`
}

func (r Runner) metadata(ctx context.Context, program string) metadata {
	cmd := exec.CommandContext(ctx, program, "compose", "metadata")
	cmd.Env = r.Environ
	var m metadata
	if out, err := cmd.Output(); err != nil || json.Unmarshal(out, &m) != nil {
		return metadata{}
	}
	return m
}

// arguments are the options that a program takes for a verb. One that says nothing
// of itself gets all.
func (m metadata) arguments(p desired.Provider, verb Verb) ([]string, error) {
	takes := m.Up
	switch verb {
	case Down:
		takes = m.Down
	case Stop:
		takes = *m.Stop
	}
	silent := m.Description == "" && m.Up.Parameters == nil && m.Down.Parameters == nil
	var names []string
	for _, one := range takes.Parameters {
		names = append(names, one.Name)
		if _, given := p.Options[one.Name]; one.Required && !given && !silent {
			return nil, fmt.Errorf("its provider %q needs the option %q; add it to provider.options", p.Type, one.Name)
		}
	}
	var args []string
	for _, name := range slices.Sorted(maps.Keys(p.Options)) {
		if !silent && !slices.Contains(names, name) {
			continue
		}
		for _, value := range p.Options[name] {
			args = append(args, "--"+name+"="+value)
		}
	}
	return args, nil
}
