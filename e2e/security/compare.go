package security

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Verdict says how the second of two reports does in one item.
type Verdict string

const (
	Equal    Verdict = "equal"
	Stricter Verdict = "stricter"
	Weaker   Verdict = "weaker"
)

// Difference is one item in which two reports differ. Items without difference
// are not reported.
type Difference struct {
	Item    string  `json:"item"` // "syscalls.mount", "mounts./proc.nosuid"
	Docker  string  `json:"docker"`
	Stack   string  `json:"stack"`
	Verdict Verdict `json:"verdict"` // Equal: another way to the same protection
}

func (d Difference) String() string {
	return fmt.Sprintf("%s: %s: Docker %s, stack %s", d.Verdict, d.Item, d.Docker, d.Stack)
}

// Compare tells how the second report differs from the first, sorted by item.
func Compare(docker, stack Report) []Difference {
	var c comparison
	c.capabilities(docker.Capabilities, stack.Capabilities)
	c.status(docker.Status, stack.Status)
	c.attempts("syscalls", docker.Syscalls, stack.Syscalls)
	c.attempts("devices", docker.Devices, stack.Devices)
	c.paths(docker.Paths, stack.Paths)
	c.mounts(docker.Mounts, stack.Mounts)
	c.dev(docker.Dev, stack.Dev)
	c.namespaces(docker.Namespaces, stack.Namespaces)
	c.rlimits(docker.Rlimits, stack.Rlimits)
	c.label(docker.Label, stack.Label)
	slices.SortFunc(c.found, func(a, b Difference) int { return strings.Compare(a.Item, b.Item) })
	return c.found
}

type comparison struct{ found []Difference }

func (c *comparison) add(verdict Verdict, docker, stack, format string, args ...any) {
	c.found = append(c.found, Difference{fmt.Sprintf(format, args...), docker, stack, verdict})
}

// less is the verdict where having less is stricter.
func less[T cmp.Ordered](docker, stack T) Verdict {
	switch cmp.Compare(stack, docker) {
	case -1:
		return Stricter
	case 1:
		return Weaker
	}
	return Equal
}

// keys are those of both maps, sorted.
func keys[V any](a, b map[string]V) []string {
	all := maps.Clone(a)
	if all == nil {
		all = map[string]V{}
	}
	maps.Copy(all, b)
	return slices.Sorted(maps.Keys(all))
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func (c *comparison) capabilities(docker, stack map[string][]string) {
	for _, set := range keys(docker, stack) {
		for _, name := range docker[set] {
			if !slices.Contains(stack[set], name) {
				c.add(Stricter, "yes", "no", "capabilities.%s.%s", set, name)
			}
		}
		for _, name := range stack[set] {
			if !slices.Contains(docker[set], name) {
				c.add(Weaker, "no", "yes", "capabilities.%s.%s", set, name)
			}
		}
	}
}

// status compares lines of /proc/self/status, each by its own meaning.
func (c *comparison) status(docker, stack map[string]string) {
	for _, key := range keys(docker, stack) {
		d, s := docker[key], stack[key]
		if d == s {
			continue
		}
		var v Verdict
		switch key {
		case "Seccomp", "NoNewPrivs":
			v = less(s, d) // more is stricter; single digits
		case "Speculation_Store_Bypass", "SpeculationIndirectBranch":
			v = less(vulnerable(d), vulnerable(s))
		case "Groups":
			v = subset(strings.Fields(d), strings.Fields(s))
		case "Uid", "Gid":
			v = Weaker // asked for by the same option
		default: // Seccomp_filters and the like: another way, no other result
			v = Equal
		}
		c.add(v, d, s, "status.%s", key)
	}
}

func vulnerable(mitigation string) int {
	if strings.Contains(mitigation, "vulnerable") || strings.Contains(mitigation, "enabled") {
		return 1
	}
	return 0
}

// subset is the verdict on two sets of privileges.
func subset(docker, stack []string) Verdict {
	for _, s := range stack {
		if !slices.Contains(docker, s) {
			return Weaker
		}
	}
	if len(stack) < len(docker) {
		return Stricter
	}
	return Equal
}

// denied says that an attempt was stopped as such. Other errors come from the
// arguments, which were looked at, or from the kernel's lacking the thing.
func denied(result string) bool {
	switch result {
	case "EPERM", "EACCES", "ENOSYS", "EROFS":
		return true
	}
	return false
}

func (c *comparison) attempts(what string, docker, stack map[string]string) {
	for _, name := range keys(docker, stack) {
		d, s := docker[name], stack[name]
		if d == s {
			continue
		}
		v := Equal
		switch {
		case denied(d) && !denied(s):
			v = Weaker
		case !denied(d) && denied(s):
			v = Stricter
		}
		c.add(v, d, s, "%s.%s", what, name)
	}
}

func (c *comparison) paths(docker, stack map[string]Path) {
	readable := func(p Path) int {
		if p.State == "readable" {
			return 1
		}
		return 0
	}
	for _, path := range keys(docker, stack) {
		d, s := docker[path], stack[path]
		if d.State != s.State {
			c.add(less(readable(d), readable(s)), d.State, s.State, "paths.%s", path)
		}
		// A file that is masked on one side only is /dev/null there: what is
		// written to it goes nowhere.
		masked := s.State == "empty" && d.State != "empty"
		if d.Writable != s.Writable && !masked {
			c.add(less(yesNo(d.Writable), yesNo(s.Writable)), yesNo(d.Writable), yesNo(s.Writable), "paths.%s.writable", path)
		}
	}
}

// protective are the mount options that take something away.
var protective = [...]string{"ro", "nosuid", "nodev", "noexec"}

func (c *comparison) mounts(docker, stack map[string]Mount) {
	for _, target := range keys(docker, stack) {
		d, inDocker := docker[target]
		s, inStack := stack[target]
		switch {
		case !inStack:
			// What the mount hid or guarded is asked for as a path.
			c.add(Equal, d.Type, "none", "mounts.%s", target)
			continue
		case !inDocker:
			v := Weaker
			if slices.Contains(s.Options, "ro") || slices.Contains(s.Options, "nosuid") && slices.Contains(s.Options, "nodev") {
				v = Equal
			}
			c.add(v, "none", s.Type+" "+strings.Join(s.Options, ","), "mounts.%s", target)
		case d.Type != s.Type:
			c.add(Equal, d.Type, s.Type, "mounts.%s.type", target)
		}
		if s.Shared && !d.Shared {
			c.add(Weaker, "private", "shared", "mounts.%s.propagation", target)
		} else if d.Shared && !s.Shared {
			c.add(Stricter, "shared", "private", "mounts.%s.propagation", target)
		}
		if !inDocker {
			continue
		}
		for _, option := range protective {
			had, has := slices.Contains(d.Options, option), slices.Contains(s.Options, option)
			if had != has {
				c.add(less(yesNo(has), yesNo(had)), yesNo(had), yesNo(has), "mounts.%s.%s", target, option)
			}
		}
	}
}

func (c *comparison) dev(docker, stack map[string]Node) {
	for _, path := range keys(docker, stack) {
		d, inDocker := docker[path]
		s, inStack := stack[path]
		switch {
		case !inStack:
			c.add(Stricter, d.Kind, "none", "dev.%s", path)
			continue
		case !inDocker:
			v := Equal
			if strings.HasPrefix(s.Kind, "c ") || strings.HasPrefix(s.Kind, "b ") {
				v = Weaker
			}
			c.add(v, "none", s.Kind, "dev.%s", path)
			continue
		case d.Kind != s.Kind:
			v := Weaker
			if strings.HasPrefix(d.Kind, "link ") && strings.HasPrefix(s.Kind, "link ") {
				v = Equal
			}
			c.add(v, d.Kind, s.Kind, "dev.%s", path)
		}
		if d.Mode != s.Mode {
			v := Stricter
			// The sticky bit takes away, the others give.
			if (s.Mode&^d.Mode)&^0o1000 != 0 || d.Mode&^s.Mode&0o1000 != 0 {
				v = Weaker
			}
			c.add(v, fmt.Sprintf("%04o", d.Mode), fmt.Sprintf("%04o", s.Mode), "dev.%s.mode", path)
		}
		if d.UID != s.UID || d.GID != s.GID {
			c.add(Weaker, fmt.Sprintf("%d:%d", d.UID, d.GID), fmt.Sprintf("%d:%d", s.UID, s.GID), "dev.%s.owner", path)
		}
	}
}

func (c *comparison) namespaces(docker, stack map[string]string) {
	for _, name := range keys(docker, stack) {
		d, s := docker[name], stack[name]
		switch {
		case d == s:
		case s == "own":
			c.add(Stricter, d, s, "namespaces.%s", name)
		default:
			c.add(Weaker, d, s, "namespaces.%s", name)
		}
	}
}

func (c *comparison) rlimits(docker, stack map[string][2]uint64) {
	for _, name := range keys(docker, stack) {
		for i, kind := range []string{"soft", "hard"} {
			d, s := docker[name][i], stack[name][i]
			if d != s {
				c.add(less(d, s), limit(d), limit(s), "rlimits.%s.%s", name, kind)
			}
		}
	}
}

func limit(n uint64) string {
	if n == ^uint64(0) {
		return "unlimited"
	}
	return fmt.Sprint(n)
}

func (c *comparison) label(docker, stack string) {
	if docker == stack {
		return
	}
	free := func(label string) int {
		if label == "" || label == "unconfined" || strings.Contains(label, "unconfined_t") {
			return 1
		}
		return 0
	}
	c.add(less(free(docker), free(stack)), docker, stack, "label")
}
