// Package summary makes the rows of lists: what docker and docker compose
// show of a container, as plain data for tables, templates and JSON. The
// fields stand in the order of docker's JSON, which is alphabetical.
package summary

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"

	"github.com/stack-run/stack/cmd/stack/internal/terminal"
	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/healthcheck"
	"github.com/stack-run/stack/netns"
	"github.com/stack-run/stack/volumes"
)

// Options say how much of a container is shown.
type Options struct {
	Now     time.Time
	NoTrunc bool
	// Size is the size of the container's own files, Virtual with its image's, in bytes.
	Size func(engine.Container) (own, virtual int64)
}

// Labelled gives templates {{.Label "key"}}.
type Labelled struct{ labels map[string]string }

// Label returns the value of one label.
func (l Labelled) Label(key string) string { return l.labels[key] }

// Container is a row of "stack container ls".
type Container struct {
	Labelled     `json:"-"`
	Command      string
	CreatedAt    string
	HealthStatus string
	ID           string
	Image        string
	Labels       string
	LocalVolumes string
	Mounts       string
	Names        string
	Networks     string
	Platform     string
	Ports        string
	RunningFor   string
	Size         string
	State        string
	Status       string
}

// Service is a row of "stack ps".
type Service struct {
	Labelled     `json:"-"`
	Command      string
	CreatedAt    string
	ExitCode     int
	Health       string
	ID           string
	Image        string
	Labels       string
	LocalVolumes string
	Mounts       string
	Name         string
	Names        string
	Networks     string
	Ports        string
	Project      string
	Publishers   []Publisher
	RunningFor   string
	Service      string
	Size         string
	State        string
	Status       string
}

// OfContainer returns a container's row in docker's shape.
func OfContainer(c engine.Container, o Options) Container {
	return Container{
		Labelled:     Labelled{c.Spec.Labels},
		Command:      command(c, o),
		CreatedAt:    c.Created.Local().Format("2006-01-02 15:04:05 -0700 MST"),
		HealthStatus: string(c.State.Health),
		ID:           ID(c.ID, o.NoTrunc),
		Image:        image(c.Spec, o),
		Labels:       labels(c.Spec.Labels),
		LocalVolumes: strconv.Itoa(localVolumes(c)),
		Mounts:       mounts(c, o),
		Names:        c.Spec.Name,
		Networks:     strings.Join(networks(c), ","),
		Platform:     c.Spec.Platform,
		Ports:        FormatPorts(Publishers(c)),
		RunningFor:   Ago(c.Created, o.Now),
		Size:         size(c, o),
		State:        string(c.State.Phase),
		Status:       Status(c.State, o.Now),
	}
}

// OfService returns a container's row in docker compose's shape.
func OfService(c engine.Container, o Options) Service {
	r := OfContainer(c, o)
	publishers := Publishers(c)
	if publishers == nil {
		publishers = []Publisher{}
	}
	return Service{
		Labelled:     r.Labelled,
		Command:      r.Command,
		CreatedAt:    r.CreatedAt,
		ExitCode:     c.State.ExitCode,
		Health:       r.HealthStatus,
		ID:           r.ID,
		Image:        c.Spec.Image,
		Labels:       r.Labels,
		LocalVolumes: r.LocalVolumes,
		Mounts:       r.Mounts,
		Name:         c.Spec.Name,
		Names:        r.Names,
		Networks:     r.Networks,
		Ports:        r.Ports,
		Project:      c.Project,
		Publishers:   publishers,
		RunningFor:   r.RunningFor,
		Service:      c.Service,
		Size:         r.Size,
		State:        r.State,
		Status:       r.Status,
	}
}

// Status is docker's sentence about a state: "Up 3 minutes (healthy)",
// "Exited (137) 2 seconds ago".
func Status(s engine.State, now time.Time) string {
	code := strconv.Itoa(s.ExitCode)
	switch s.Phase {
	case engine.Created:
		return "Created"
	case engine.Removing:
		return "Removal In Progress"
	case engine.Dead:
		return "Dead"
	case engine.Restarting:
		return "Restarting (" + code + ") " + Ago(s.FinishedAt, now)
	case engine.Exited:
		if s.FinishedAt.IsZero() {
			return "Exited (" + code + ")"
		}
		return "Exited (" + code + ") " + Ago(s.FinishedAt, now)
	}
	up := "Up " + units.HumanDuration(now.Sub(s.StartedAt))
	switch {
	case s.Phase == engine.Paused:
		up += " (Paused)"
	case s.Health == healthcheck.Starting:
		up += " (health: starting)"
	case s.Health != healthcheck.None:
		up += " (" + string(s.Health) + ")"
	}
	return up
}

// Ago is docker's "3 minutes ago".
func Ago(t, now time.Time) string { return units.HumanDuration(now.Sub(t)) + " ago" }

// ID shortens an ID to docker's 12 digits, without the digest's algorithm.
func ID(id string, full bool) string {
	if full {
		return id
	}
	if _, hex, ok := strings.Cut(id, ":"); ok {
		id = hex
	}
	return id[:min(len(id), 12)]
}

// Ellipsis shortens s to n cells, the last of which says that something is missing.
func Ellipsis(s string, n int) string {
	if terminal.Cells(s) <= n {
		return s
	}
	r := []rune(s)
	return string(r[:min(n-1, len(r))]) + "…"
}

// Publisher is one published port in docker compose's JSON.
type Publisher struct {
	URL           string
	TargetPort    int
	PublishedPort int
	Protocol      string
}

// Publishers returns the ports of a running container: the published ones, one
// entry per host address, and those that are only exposed, which have no URL.
func Publishers(c engine.Container) []Publisher {
	e := c.State.Endpoint
	if e == nil || !Alive(c.State.Phase) {
		return nil
	}
	var out []Publisher
	for _, p := range e.Ports {
		for _, host := range hosts(p) {
			out = append(out, Publisher{URL: host, TargetPort: int(p.ContainerPort), PublishedPort: int(p.HostPort), Protocol: p.Protocol})
		}
	}
	for _, exposed := range c.Exposed() {
		number, protocol, _ := strings.Cut(exposed, "/")
		port, err := strconv.Atoi(number)
		if err != nil || e.Spec.Mode != "" {
			continue
		}
		if !slices.ContainsFunc(out, func(p Publisher) bool { return p.TargetPort == port && p.Protocol == protocol }) {
			out = append(out, Publisher{TargetPort: port, Protocol: protocol})
		}
	}
	slices.SortStableFunc(out, comparePublishers)
	return out
}

// Alive reports whether a container in this phase has processes.
func Alive(p engine.Phase) bool {
	return p == engine.Running || p == engine.Paused
}

func hosts(p netns.Port) []string {
	if p.HostIP.IsValid() {
		return []string{p.HostIP.String()}
	}
	return []string{"0.0.0.0", "::"}
}

func command(c engine.Container, o Options) string {
	words := slices.Clone(c.Args)
	for i, w := range words {
		if i > 0 && strings.Contains(w, " ") {
			words[i] = "'" + w + "'" // as docker does
		}
	}
	s := strings.Join(words, " ")
	if !o.NoTrunc {
		s = Ellipsis(s, 20)
	}
	return strconv.Quote(s)
}

func image(s engine.Spec, o Options) string {
	name, _, digested := strings.Cut(s.Image, "@")
	switch {
	case s.Image == "":
		return "<no image>"
	case o.NoTrunc || !digested:
		return s.Image
	}
	return name
}

func labels(all map[string]string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(all)) {
		out = append(out, k+"="+all[k])
	}
	return strings.Join(out, ",")
}

func localVolumes(c engine.Container) int {
	n := 0
	for _, m := range c.Spec.Mounts {
		if m.Type == volumes.TypeVolume {
			n++
		}
	}
	return n
}

// MountSources are the volume names and host paths a container mounts.
func MountSources(c engine.Container) []string {
	var out []string
	for _, m := range c.Spec.Mounts {
		switch {
		case m.Type == volumes.TypeVolume && m.Source == "":
			out = append(out, c.Volumes[m.Target])
		case m.Type == volumes.TypeVolume || m.Type == volumes.TypeBind:
			out = append(out, m.Source)
		}
	}
	for _, target := range slices.Sorted(maps.Keys(c.Volumes)) {
		if name := c.Volumes[target]; !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out
}

func mounts(c engine.Container, o Options) string {
	names := MountSources(c)
	if !o.NoTrunc {
		for i := range names {
			names[i] = Ellipsis(names[i], 15)
		}
	}
	return strings.Join(names, ",")
}

func networks(c engine.Container) []string {
	n := c.Spec.Network
	if n.Mode != "" {
		return []string{n.Mode}
	}
	var out []string
	for _, a := range n.Networks {
		out = append(out, a.Network)
	}
	slices.Sort(out)
	return out
}

func size(c engine.Container, o Options) string {
	if o.Size == nil {
		return "0B"
	}
	own, virtual := o.Size(c)
	s := units.HumanSizeWithPrecision(float64(own), 3)
	if virtual > 0 {
		s += " (virtual " + units.HumanSizeWithPrecision(float64(virtual), 3) + ")"
	}
	return s
}
