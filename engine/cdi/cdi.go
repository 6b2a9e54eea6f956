// Package cdi knows the devices of the Container Device Interface: specifications in
// /etc/cdi and /var/run/cdi say what a container must get to use a device that is called
// VENDOR/CLASS=NAME (Container Device Interface Specification, version 1.1.0).
package cdi

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
	specs "tags.cncf.io/container-device-interface/specs-go"
)

// Dirs are where specifications are, least important first.
func Dirs() []string { return []string{"/etc/cdi", "/var/run/cdi"} }

// IsName tells whether a device is named as CDI does: VENDOR/CLASS=NAME.
func IsName(device string) bool {
	kind, name, _ := strings.Cut(device, "=")
	return isKind(kind) && isWord(name, true)
}

func isKind(kind string) bool {
	vendor, class, _ := strings.Cut(kind, "/")
	return isLetter(vendor) && isWord(vendor, false) && isLetter(class) && isWord(class, false)
}

func isLetter(word string) bool {
	return word != "" && (word[0] >= 'a' && word[0] <= 'z' || word[0] >= 'A' && word[0] <= 'Z')
}

// isWord tells whether a word has letters and digits at both ends, and between them
// underscores, dashes, dots and, in a device's name, colons as well.
func isWord(word string, device bool) bool {
	for i, r := range []byte(word) {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
		case i == 0 || i == len(word)-1:
			return false
		case r == '_' || r == '-' || r == '.' || device && r == ':':
		default:
			return false
		}
	}
	return word != ""
}

// Request asks for some devices of a kind, as gpus and deploy.resources.reservations.devices
// do.
type Request struct {
	Driver       string   `json:"driver,omitempty"`
	Count        int      `json:"count,omitempty"` // -1: all
	IDs          []string `json:"ids,omitempty"`
	Capabilities []string `json:"capabilities,omitempty"`
}

// Driver "cdi" takes whole names.
const driverCDI = "cdi"

// gpuKinds are the kinds of devices that are GPUs, by driver, in the order in which they are
// sought when no driver is named.
var gpuKinds = [...]struct{ driver, kind, make string }{
	{"nvidia", "nvidia.com/gpu", `install the NVIDIA Container Toolkit and run "nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml"`},
	{"amd", "amd.com/gpu", `install the AMD Container Toolkit and run "amd-ctk cdi generate --output=/etc/cdi/amd.json"`},
}

// Fault tells what of a request can be had on no machine.
func (r Request) Fault() error {
	switch {
	case r.Count != 0 && len(r.IDs) > 0:
		return errors.New("a number of devices and device_ids exclude each other; keep one")
	case r.Driver == driverCDI:
		if len(r.IDs) == 0 {
			return errors.New("driver cdi needs device_ids, such as vendor.com/class=name")
		}
		for _, id := range r.IDs {
			if !IsName(id) {
				return fmt.Errorf("device %q is not named as CDI does; write vendor.com/class=name", id)
			}
		}
	case r.Driver != "" && !slices.ContainsFunc(gpuKinds[:], func(k struct{ driver, kind, make string }) bool { return k.driver == r.Driver }):
		return fmt.Errorf("unknown device driver %q; use nvidia or amd for GPUs, or cdi with device_ids like vendor.com/class=name", r.Driver)
	case !slices.Contains(r.Capabilities, "gpu"):
		return fmt.Errorf("capabilities %q name no kind of device that is known; use [gpu], or driver cdi with device_ids like vendor.com/class=name", r.Capabilities)
	case r.Count < -1:
		return fmt.Errorf("%d is no number of devices; use all, or 1 and more", r.Count)
	}
	return nil
}

// Edits are what devices change about a container.
type Edits struct {
	specs.ContainerEdits
}

// device is one that a specification describes.
type device struct {
	edits    specs.ContainerEdits
	spec     *specs.Spec
	path     string // of the specification
	priority int    // of its directory
	conflict string // another specification of the same priority that has it
}

// Registry are the devices that are known.
type Registry struct {
	devices map[string]*device // by qualified name
	dirs    []string
	faults  []error // of files that are left out
}

// Load reads the specifications in directories, of which later ones win. What is wrong
// with one is told when a device is not found.
func Load(dirs ...string) *Registry {
	r := &Registry{devices: map[string]*device{}, dirs: dirs}
	for priority, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				r.faults = append(r.faults, err)
			}
			continue
		}
		for _, e := range entries {
			if ext := filepath.Ext(e.Name()); e.IsDir() || ext != ".json" && ext != ".yaml" {
				continue
			}
			path := filepath.Join(dir, e.Name())
			if err := r.read(path, priority); err != nil {
				r.faults = append(r.faults, fmt.Errorf("%s is left out: %w", path, err))
			}
		}
	}
	return r
}

func (r *Registry) read(path string, priority int) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	spec, err := parse(text)
	if err != nil {
		return err
	}
	for _, d := range spec.Devices {
		name := spec.Kind + "=" + d.Name
		known := r.devices[name]
		if known != nil && known.priority == priority {
			known.conflict = path
			continue
		}
		r.devices[name] = &device{edits: d.ContainerEdits, spec: spec, path: path, priority: priority}
	}
	return nil
}

// parse reads a specification, as JSON or YAML, by the rules of its version.
func parse(text []byte) (*specs.Spec, error) {
	var spec specs.Spec
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&spec); err != nil {
		return nil, fmt.Errorf("it is no specification of CDI: %w", err)
	}
	if err := specs.ValidateVersion(&spec); err != nil {
		return nil, fmt.Errorf("its cdiVersion %q cannot be used: %w", spec.Version, err)
	}
	if !isKind(spec.Kind) {
		return nil, fmt.Errorf("its kind %q cannot be used: it is not like vendor.com/class", spec.Kind)
	}
	seen := map[string]bool{}
	for _, dev := range spec.Devices {
		if !isWord(dev.Name, true) {
			return nil, fmt.Errorf("%q is no name of a device", dev.Name)
		}
		if seen[dev.Name] {
			return nil, fmt.Errorf("it has device %q twice", dev.Name)
		}
		seen[dev.Name] = true
		if err := check(dev.ContainerEdits); err != nil {
			return nil, fmt.Errorf("device %q: %w", dev.Name, err)
		}
	}
	return &spec, check(spec.ContainerEdits)
}

// check tells what of edits is no edit.
func check(e specs.ContainerEdits) error {
	for _, v := range e.Env {
		if name, _, ok := strings.Cut(v, "="); !ok || name == "" {
			return fmt.Errorf("the variable %q has no value", v)
		}
	}
	for _, d := range e.DeviceNodes {
		switch {
		case d == nil || !filepath.IsAbs(d.Path):
			return errors.New("a device node has no absolute path")
		case !slices.Contains([]string{"", "b", "c", "u", "p"}, d.Type):
			return fmt.Errorf("the device node %s has the unknown type %q", d.Path, d.Type)
		case strings.Trim(d.Permissions, "rwm") != "":
			return fmt.Errorf("the device node %s has the permissions %q, which may only have r, w and m", d.Path, d.Permissions)
		}
	}
	for _, m := range e.Mounts {
		if m == nil || m.HostPath == "" || !filepath.IsAbs(m.ContainerPath) {
			return errors.New("a mount has no hostPath, or no containerPath that is absolute")
		}
	}
	for _, h := range e.Hooks {
		if h == nil || !filepath.IsAbs(h.Path) {
			return errors.New("a hook has no absolute path")
		}
	}
	return nil
}

// Select names the devices that a request means.
func (r *Registry) Select(q Request) ([]string, error) {
	if err := q.Fault(); err != nil {
		return nil, err
	}
	if q.Driver == driverCDI {
		return q.IDs, nil
	}
	var kind string
	var makers []string
	for _, k := range gpuKinds {
		if q.Driver != "" && q.Driver != k.driver {
			continue
		}
		if kind == "" && len(r.of(k.kind)) > 0 {
			kind = k.kind
		}
		makers = append(makers, k.make)
	}
	if kind == "" {
		return nil, fmt.Errorf("there is no GPU that containers can have: no specification in %s describes one; %s%s", strings.Join(r.dirs, " or "), strings.Join(makers, ", or "), r.faulty())
	}
	var names []string
	for _, id := range q.IDs {
		names = append(names, kind+"="+id)
	}
	if len(names) > 0 {
		return names, nil
	}
	if _, ok := r.devices[kind+"=all"]; ok && q.Count <= 0 {
		return []string{kind + "=all"}, nil
	}
	all := r.of(kind)
	if q.Count <= 0 {
		return all, nil
	}
	if q.Count > len(all) {
		return nil, fmt.Errorf("%d GPUs are wanted, and there are %d: %s", q.Count, len(all), strings.Join(all, ", "))
	}
	return all[:q.Count], nil
}

// of are the single devices of a kind, each once: by number where some are called so, for
// then other names are second ones of the same.
func (r *Registry) of(kind string) []string {
	var numbered []int
	var others []string
	for name := range r.devices {
		id, ok := strings.CutPrefix(name, kind+"=")
		if !ok || id == "all" {
			continue
		}
		if n, err := strconv.Atoi(id); err == nil {
			numbered = append(numbered, n)
		} else {
			others = append(others, name)
		}
	}
	if len(numbered) == 0 {
		slices.Sort(others)
		if _, ok := r.devices[kind+"=all"]; ok && len(others) == 0 {
			return []string{kind + "=all"}
		}
		return others
	}
	slices.Sort(numbered)
	var names []string
	for _, n := range numbered {
		names = append(names, kind+"="+strconv.Itoa(n))
	}
	return names
}

// Edits puts together what devices change, with what their specifications change for all
// of theirs, once each.
func (r *Registry) Edits(names []string) (*Edits, error) {
	out := &Edits{}
	specsDone := map[*specs.Spec]bool{}
	done := map[string]bool{}
	for _, name := range names {
		if done[name] {
			continue
		}
		done[name] = true
		d := r.devices[name]
		if d == nil {
			return nil, r.missing(name)
		}
		if d.conflict != "" {
			return nil, fmt.Errorf("device %s is described twice: in %s and in %s; remove one", name, d.path, d.conflict)
		}
		if !specsDone[d.spec] {
			specsDone[d.spec] = true
			out.add(d.spec.ContainerEdits)
		}
		out.add(d.edits)
	}
	switch {
	case len(out.NetDevices) > 0:
		return nil, errors.New("a device moves a network interface into the container (netDevices), which is not supported")
	case out.IntelRdt != nil:
		return nil, errors.New("a device sets Intel RDT (intelRdt), which is not supported")
	}
	return out, nil
}

func (e *Edits) add(o specs.ContainerEdits) {
	e.Env = append(e.Env, o.Env...)
	e.DeviceNodes = append(e.DeviceNodes, o.DeviceNodes...)
	e.NetDevices = append(e.NetDevices, o.NetDevices...)
	e.Hooks = append(e.Hooks, o.Hooks...)
	e.Mounts = append(e.Mounts, o.Mounts...)
	e.AdditionalGIDs = append(e.AdditionalGIDs, o.AdditionalGIDs...)
	if o.IntelRdt != nil {
		e.IntelRdt = o.IntelRdt
	}
}

func (r *Registry) missing(name string) error {
	kind, _, _ := strings.Cut(name, "=")
	for _, k := range gpuKinds {
		if k.kind == kind && len(r.of(kind)) == 0 {
			return fmt.Errorf("there is no device %s: no specification in %s describes one of %s; %s%s", name, strings.Join(r.dirs, " or "), kind, k.make, r.faulty())
		}
	}
	if there := r.of(kind); len(there) > 0 {
		return fmt.Errorf("there is no device %s; of this kind there are %s%s", name, strings.Join(there, ", "), r.faulty())
	}
	return fmt.Errorf("there is no device %s: no specification in %s describes one of %s; have its vendor's program write one there%s", name, strings.Join(r.dirs, " or "), kind, r.faulty())
}

// faulty tells of files that could not be used.
func (r *Registry) faulty() string {
	if len(r.faults) == 0 {
		return ""
	}
	return fmt.Sprintf(" (%v)", errors.Join(r.faults...))
}
