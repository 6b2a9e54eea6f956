package spec

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/compose-spec/compose-go/v2/types"

	"github.com/stack-run/stack/compose/desired"
	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/volumes"
)

// HostFacts are what Build needs besides the project.
type HostFacts struct {
	// ReadFile reads the files of configs, secrets and seccomp profiles.
	// nil means os.ReadFile.
	ReadFile func(path string) ([]byte, error)
	// Stored returns the content of a "secret" or "config" of the store on this
	// machine, and what stands for it in a hash. nil: there is no store.
	Stored func(kind, name string) (content []byte, digest string, err error)
	// KeyDigest turns the digest of a secret into one that tells nothing about it. nil:
	// it stays as it is.
	KeyDigest func(digest string) (string, error)
	// Locate turns a path in the model ("services.web.ports[0]") into
	// "compose.yaml:12", or "" where it is not known. It may be nil.
	Locate func(path string) string
	// StackVersion is the value of the label com.docker.compose.version.
	StackVersion string
	// Separator joins project, service and number in names: "-", or "_" with
	// --compatibility. Empty means "-".
	Separator string
	// Touched are the services whose faults count; nil means all. Another one with
	// a fault, and all of Aside, are what they were in Earlier, or left out.
	Touched []string
	Aside   []string
	// Earlier is what the project was last asked to be, nil if it is new.
	Earlier *Desired
}

// Warning is something in the model that is not acted on as written.
type Warning struct {
	Where string // "compose.yaml:12", if known
	Path  string // "services.web.ports[0]"
	Text  string
}

func (w Warning) String() string { return located(w.Where, w.Path, w.Text) }

// Error is a fault in the model. Its text names the place, the fault and what
// to do.
type Error struct {
	Where string // "compose.yaml:12", if known
	Path  string // "services.web.ports[0]"
	Text  string
	Cause error
}

func (e *Error) Error() string { return located(e.Where, e.Path, e.Text) }
func (e *Error) Unwrap() error { return e.Cause }

func located(where, path, text string) string {
	var b strings.Builder
	for _, part := range []string{where, path} {
		if part != "" {
			b.WriteString(part)
			b.WriteString(": ")
		}
	}
	b.WriteString(text)
	return b.String()
}

// builder carries what the translation of one project shares.
type builder struct {
	project  *types.Project
	job      string // what is translated is the job of that name, and no service
	host     HostFacts
	warnings []Warning
	errs     []error
	// content remembers what was read: a config that ten services mount is read once.
	content map[string][]byte
	stored  map[string]stored // likewise, by where it came from
	// step is the path of the pre_start step whose container is being translated, as
	// if it were its service's; "" between them.
	step string
}

type stored struct {
	content []byte
	digest  string
}

// Unread stands for HostFacts.Stored where contents do not matter.
func Unread(kind, name string) (content []byte, digest string, err error) { return []byte{}, "", nil }

// placed is the path of a service's attribute, or of the same of the step that is
// being translated.
func (b *builder) placed(path string) string {
	service, _, _ := strings.Cut(b.step, ".pre_start[")
	if rest, ok := strings.CutPrefix(path, service+"."); ok && b.step != "" {
		return b.step + "." + rest
	}
	return path
}

func (b *builder) where(path string) string {
	if b.host.Locate == nil {
		return ""
	}
	return b.host.Locate(path)
}

// at is a path in the model: what makes services makes jobs, too.
func (b *builder) at(path string) string {
	if rest, ok := strings.CutPrefix(path, "services."+b.job); ok && b.job != "" {
		return "jobs." + b.job + rest
	}
	return path
}

func (b *builder) fail(path, format string, args ...any) {
	err := fmt.Errorf(format, args...)
	path = b.placed(b.at(path))
	b.errs = append(b.errs, &Error{Where: b.where(path), Path: path, Text: err.Error(), Cause: err})
}

func (b *builder) warn(path, format string, args ...any) {
	path = b.placed(b.at(path))
	b.warnings = append(b.warnings, Warning{Where: b.where(path), Path: path, Text: fmt.Sprintf(format, args...)})
}

func (b *builder) readFile(path string) ([]byte, error) {
	if data, ok := b.content[path]; ok {
		return data, nil
	}
	read := b.host.ReadFile
	if read == nil {
		read = os.ReadFile
	}
	data, err := read(path)
	if err == nil {
		b.content[path] = data
	}
	return data, err
}

func (b *builder) readStored(kind, name string) (stored, error) {
	source := volumes.StoreSource(kind, name)
	if s, ok := b.stored[source]; ok {
		return s, nil
	}
	if b.host.Stored == nil {
		return stored{}, errors.New("there is no store of external secrets and configs here")
	}
	content, digest, err := b.host.Stored(kind, name)
	if err != nil {
		return stored{}, err
	}
	b.stored[source] = stored{content, digest}
	return b.stored[source], nil
}

// Build translates a project, with its profiles and scales already applied,
// into what must be. All faults found are returned together.
func Build(p *types.Project, host HostFacts) (*Desired, []Warning, error) {
	b := newBuilder(p, host)
	d := b.build()
	if len(b.errs) > 0 {
		return nil, b.warnings, joinErrors(b.errs)
	}
	return d, b.warnings, nil
}

func newBuilder(p *types.Project, host HostFacts) *builder {
	if host.Separator == "" {
		host.Separator = "-"
	}
	return &builder{project: p, host: host, content: map[string][]byte{}, stored: map[string]stored{}}
}

func (b *builder) build() *Desired {
	p := b.project
	d := &Desired{
		Version:     Version,
		Project:     p.Name,
		WorkingDir:  p.WorkingDir,
		ConfigFiles: slices.Clone(p.ComposeFiles),
		Profiles:    activeProfiles(p.Profiles),
		Services:    map[string]*Service{},
		Networks:    map[string]*Network{},
		Volumes:     map[string]*Volume{},
		Disabled:    append(p.DisabledServiceNames(), slices.Sorted(maps.Keys(p.DisabledJobs))...),
		Environment: maps.Clone(p.Environment),
	}
	for _, key := range p.NetworkNames() {
		b.network(d, key, p.Networks[key])
	}
	for _, key := range p.VolumeNames() {
		b.volume(d, key, p.Volumes[key])
	}
	for _, name := range p.ServiceNames() {
		s := p.Services[name]
		if slices.Contains(b.host.Aside, name) {
			continue
		}
		if files := s.CustomLabels[LabelEnvironmentFile]; files != "" && d.EnvFiles == nil {
			d.EnvFiles = strings.Split(files, ",")
		}
		faults, warnings := len(b.errs), len(b.warnings)
		b.service(d, s)
		if len(b.errs) > faults && !b.touched(name) {
			b.errs, b.warnings = b.errs[:faults], b.warnings[:warnings]
			delete(d.Services, name)
		}
	}
	b.putAside(d)
	b.jobs(d)
	for _, s := range d.All() {
		for i := range s.Replicas {
			r := &s.Replicas[i]
			if r.Hash != "" {
				continue // of an earlier service
			}
			r.Hash = Hash(&r.Spec)
			r.Spec.Labels[LabelConfigHash] = r.Hash
		}
	}
	b.checkUnique(d)
	return d
}

func (b *builder) touched(service string) bool {
	return b.host.Touched == nil || slices.Contains(b.host.Touched, service)
}

// putAside takes the services that could not be built from what the project was
// before, with their networks and volumes. What never was is disabled, and so is
// what cannot be without it.
func (b *builder) putAside(d *Desired) {
	var missing []string
	for _, name := range b.project.ServiceNames() {
		if _, provided := d.Providers[name]; provided || d.Services[name] != nil {
			continue
		}
		if b.host.Earlier == nil || b.host.Earlier.Services[name] == nil {
			missing = append(missing, name)
			continue
		}
		keepService(d, b.host.Earlier, name)
	}
	for len(missing) > 0 {
		gone := missing[0]
		missing = missing[1:]
		d.Disabled = append(d.Disabled, gone)
		for name, s := range d.Services {
			if _, needed := s.DependsOn[gone]; !needed {
				continue
			}
			if b.touched(name) || !s.DependsOn[gone].Required {
				delete(s.DependsOn, gone) // it was asked for without what it depends on
				continue
			}
			delete(d.Services, name)
			missing = append(missing, name)
		}
	}
	slices.Sort(d.Disabled)
}

// keepService takes a service over from what the project was, with the networks
// and volumes that nothing else uses.
func keepService(d, earlier *Desired, name string) {
	s := earlier.Services[name]
	d.Services[name] = s
	for _, r := range s.Replicas {
		for _, at := range r.Spec.Network.Networks {
			for key, n := range earlier.Networks {
				if d.Networks[key] == nil && n.Spec.Name == at.Network {
					d.Networks[key] = n
				}
			}
		}
		for _, m := range r.Spec.Mounts {
			for key, v := range earlier.Volumes {
				if d.Volumes[key] == nil && v.Spec.Name == m.Source {
					d.Volumes[key] = v
				}
			}
		}
	}
}

func activeProfiles(profiles []string) []string {
	var active []string
	for _, p := range profiles {
		if p != "" {
			active = append(active, p)
		}
	}
	return active
}

// Scale returns the project with the number of replicas of some services set.
func Scale(p *types.Project, replicas map[string]int) (*types.Project, error) {
	for name, n := range replicas {
		if _, ok := p.Services[name]; !ok {
			return nil, fmt.Errorf("cannot scale service %q: no such service%s", name, didYouMean(name, p.ServiceNames()))
		}
		if n < 0 {
			return nil, fmt.Errorf("cannot scale service %q to %d: give a number of 0 or more", name, n)
		}
	}
	return p.WithServicesTransform(func(name string, s types.ServiceConfig) (types.ServiceConfig, error) {
		if n, ok := replicas[name]; ok {
			s.SetScale(n)
		}
		return s, nil
	})
}

// maxReplicas is more than a machine runs, and so few that they can be written down.
const maxReplicas = 10000

func (b *builder) service(d *Desired, s types.ServiceConfig) {
	path, faults := "services."+s.Name, len(b.errs)
	if s.Provider != nil {
		b.provider(d, s)
		return
	}
	if s.UseAPISocket {
		b.fail(path+".use_api_socket", "there is no API server whose socket could be given to a container; remove use_api_socket, or run a Docker daemon and mount its socket with volumes")
	}
	out := &Service{
		Name:      s.Name,
		DependsOn: b.dependencies(s),
		HasBuild:  s.Build != nil,
		OnlyBuilt: s.Build != nil && s.Image == "",
		PostStart: hooks(s.PostStart),
		PreStop:   hooks(s.PreStop),
		Watch:     b.watch(s),
		NoAttach:  s.Attach != nil && !*s.Attach,
		Profiles:  slices.Clone(s.Profiles),
		Once:      b.once(s),
	}
	out.Update, out.Rollback = b.rollouts(s)
	out.PullPolicy, out.PullEvery = b.pullPolicy(s)
	replicas := s.GetScale()
	if replicas < 0 || replicas > maxReplicas {
		where := ".scale"
		if s.Scale == nil {
			where = ".deploy.replicas"
		}
		b.fail(path+where, "a service cannot have %d replicas; give a number from 0 to %d", replicas, maxReplicas)
		return
	}
	if s.ContainerName != "" {
		if err := engine.CheckName(s.ContainerName); err != nil {
			b.fail(path+".container_name", "%v", err)
		}
		if replicas > 1 {
			b.fail(path+".container_name", "container_name %q cannot be shared by %d replicas; remove it, or scale the service to 1", s.ContainerName, replicas)
		}
	}
	out.Replicas = make([]Replica, 0, replicas)
	for i := 1; i <= replicas; i++ {
		errs := len(b.errs)
		out.Replicas = append(out.Replicas, Replica{Index: i, Spec: b.container(d, s, i)})
		if len(b.errs) > errs {
			break // the other replicas have the same faults
		}
	}
	if len(out.Replicas) > 1 {
		b.portRanges(out, path)
	}
	if len(b.errs) == faults { // else the steps, which take it over, have the same
		out.PreStart = b.preStart(d, s, out.Replicas)
	}
	d.Services[s.Name] = out
}

// once reads x-once, which Compose leaves to others: a job that runs once.
func (b *builder) once(s types.ServiceConfig) bool {
	value, ok := s.Extensions["x-once"]
	if !ok {
		return false
	}
	once, ok := value.(bool)
	if !ok {
		b.fail("services."+s.Name+".x-once", "x-once is true or false, not %v", value)
	}
	return once
}

// provider is a service that a program stands for.
func (b *builder) provider(d *Desired, s types.ServiceConfig) {
	path := "services." + s.Name
	if s.Build != nil {
		b.warn(path+".build", "has no effect: a provider gets no image")
	}
	// The program reads the name of the image, and nothing about building one.
	whole := s
	whole.Image, whole.Build = ImageName(b.project.Name, s, b.host.Separator), nil
	text, err := json.Marshal(whole)
	if err != nil {
		b.fail(path, "%v", err)
		return
	}
	p := desired.Provider{Type: s.Provider.Type, Options: s.Provider.Options, Service: text}
	for name := range s.DependsOn {
		p.DependsOn = append(p.DependsOn, name)
		if other, ok := b.project.Services[name]; ok && other.Provider == nil {
			b.warn(path+".depends_on."+name, "has no effect: providers come before all containers")
		}
	}
	slices.Sort(p.DependsOn)
	if d.Providers == nil {
		d.Providers = map[string]desired.Provider{}
	}
	d.Providers[s.Name] = p
}

// dependencies merges depends_on with what shared namespaces, volumes_from and
// links imply (compose-go has put the latter into DependsOn as well).
func (b *builder) dependencies(s types.ServiceConfig) map[string]Dependency {
	implied := map[string]string{}
	for attribute, mode := range map[string]string{"network_mode": s.NetworkMode, "ipc": s.Ipc, "pid": s.Pid} {
		if name, ok := strings.CutPrefix(mode, types.ServicePrefix); ok {
			implied[name] = attribute
		}
	}
	for _, v := range s.VolumesFrom {
		if name, _, _ := strings.Cut(v, ":"); !strings.HasPrefix(v, types.ContainerPrefix) {
			implied[name] = "volumes_from"
		}
	}
	for _, l := range s.Links {
		name, _, _ := strings.Cut(l, ":")
		implied[name] = "links"
	}
	if len(s.DependsOn) == 0 && len(implied) == 0 {
		return nil
	}
	deps := make(map[string]Dependency, len(s.DependsOn))
	for name, dep := range s.DependsOn {
		condition := dep.Condition
		if condition == "" {
			condition = types.ServiceConditionStarted
		}
		deps[name] = Dependency{Condition: condition, Restart: dep.Restart, Required: dep.Required}
	}
	for name, attribute := range implied {
		dep, ok := deps[name]
		if !ok {
			dep = Dependency{Condition: types.ServiceConditionStarted, Required: true, Restart: attribute != "volumes_from"}
		}
		dep.Implicit = dep.Condition == types.ServiceConditionStarted && dep.Required
		if attribute == "network_mode" && dep.Implicit {
			// A container's network namespace is pinned and outlives its
			// process: whoever shares it does not notice a restart.
			dep.Restart = false
		}
		deps[name] = dep
	}
	for name, dep := range deps {
		// What is disabled and not required is no dependency, and what a provider
		// stands for is there before all containers.
		_, job := b.project.Jobs[name]
		if s, ok := b.project.Services[name]; !ok && !job && !dep.Required || s.Provider != nil {
			delete(deps, name)
		}
	}
	return deps
}

func hooks(in []types.ServiceHook) []Hook {
	var out []Hook
	for _, h := range in {
		out = append(out, Hook{
			Command:    slices.Clone(h.Command),
			User:       h.User,
			Privileged: h.Privileged,
			WorkingDir: h.WorkingDir,
			Env:        environment(h.Environment),
		})
	}
	return out
}

// environment renders KEY=VALUE lines in a stable order. A name without a value
// is rendered bare: it takes the image's value away, as in Docker.
func environment(m types.MappingWithEquals) []string {
	if len(m) == 0 {
		return nil
	}
	env := make([]string, 0, len(m))
	for _, key := range slices.Sorted(maps.Keys(m)) {
		if v := m[key]; v != nil {
			env = append(env, key+"="+*v)
		} else {
			env = append(env, key)
		}
	}
	return env
}

// containerName is the name of a service's numbered container.
func (b *builder) containerName(s types.ServiceConfig, index int) string {
	if s.ContainerName != "" {
		return s.ContainerName
	}
	return fmt.Sprintf("%s%s%s%s%d", b.project.Name, b.host.Separator, s.Name, b.host.Separator, index)
}

// ImageName is the image of a service: its own, or the one its build makes.
func ImageName(project string, s types.ServiceConfig, separator string) string {
	if s.Image != "" {
		return s.Image
	}
	if separator == "" {
		separator = "-"
	}
	return project + separator + s.Name
}

// checkUnique finds container names that two services want, before the second
// one fails half-way through an up.
func (b *builder) checkUnique(d *Desired) {
	owner := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(d.Services)) {
		for _, r := range d.Services[name].Replicas {
			if other, taken := owner[r.Spec.Name]; taken && other != name && b.touched(name) && b.touched(other) {
				b.fail("services."+name+".container_name", "container name %q is already in use by service %q; give each its own", r.Spec.Name, other)
			}
			owner[r.Spec.Name] = name
		}
	}
}

func (b *builder) relative(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(b.project.WorkingDir, path)
}

func joinErrors(errs []error) error {
	// Each replica of a service has the same faults.
	seen := map[string]bool{}
	errs = slices.DeleteFunc(errs, func(err error) bool {
		text := err.Error()
		defer func() { seen[text] = true }()
		return seen[text]
	})
	if len(errs) == 1 {
		return errs[0]
	}
	return Errors(errs)
}

// Errors are several faults, one per line.
type Errors []error

func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, err := range e {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives errors.Is and errors.As all of them.
func (e Errors) Unwrap() []error { return e }

// pullPolicy is the policy as Service.PullPolicy has it: what was not said stays
// unsaid, because with a build section it means another thing than "missing".
func (b *builder) pullPolicy(s types.ServiceConfig) (policy string, every time.Duration) {
	policy, every, err := s.GetPullPolicy()
	switch {
	case err != nil:
		b.fail("services."+s.Name+".pull_policy", "invalid pull_policy %q; use always, never, missing, build, daily, weekly or every_DURATION", s.PullPolicy)
	case s.PullPolicy == "":
		return "", 0
	case policy == types.PullPolicyIfNotPresent:
		return types.PullPolicyMissing, 0
	}
	return policy, every
}
