package cli

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/stack-run/stack/engine"
)

// Filters are --filter options by key.
type Filters map[string][]string

// ParseFilters reads KEY=VALUE options whose keys must be known.
func ParseFilters(options []string, known ...string) (Filters, error) {
	f := Filters{}
	for _, o := range options {
		key, value, ok := strings.Cut(o, "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("invalid filter %q; write KEY=VALUE", o)
		}
		key = strings.ToLower(strings.TrimSpace(key))
		if !slices.Contains(known, key) {
			return nil, fmt.Errorf("invalid filter %q; there are %s", key, strings.Join(known, ", "))
		}
		f[key] = append(f[key], strings.TrimSpace(value))
	}
	return f, nil
}

// None reports that nothing is asked for a key.
func (f Filters) None(key string) bool { return len(f[key]) == 0 }

// Any reports whether a key is not restricted or one of its values matches.
func (f Filters) Any(key string, match func(string) bool) bool {
	return f.None(key) || slices.ContainsFunc(f[key], match)
}

// Has reports whether a key is not restricted or has that value.
func (f Filters) Has(key, value string) bool {
	return f.Any(key, func(v string) bool { return v == value })
}

// Named reports whether the filter "name", a regular expression as in docker,
// matches a name.
func (f Filters) Named(name string) bool {
	return f.Any("name", func(pattern string) bool {
		matched, err := regexp.MatchString(strings.TrimPrefix(pattern, "/"), name)
		return err == nil && matched
	})
}

// Labels reports whether all label filters match: "key" or "key=value".
func (f Filters) Labels(key string, labels map[string]string) bool {
	for _, want := range f[key] {
		name, value, exact := strings.Cut(want, "=")
		have, ok := labels[name]
		if !ok || exact && have != value {
			return false
		}
	}
	return true
}

// NotLabels tells whether none of the filters key, "NAME" or "NAME=VALUE", fits the
// labels.
func (f Filters) NotLabels(key string, labels map[string]string) bool {
	for _, unwanted := range f[key] {
		if (Filters{key: {unwanted}}).Labels(key, labels) {
			return false
		}
	}
	return true
}

// Flag reads a key as a boolean; set reports whether it is there.
func (f Filters) Flag(key string) (value, set bool, err error) {
	for _, v := range f[key] {
		switch strings.ToLower(v) {
		case "true", "1":
			value = true
		case "false", "0":
			value = false
		default:
			return false, true, fmt.Errorf("invalid filter %s=%s; use true or false", key, v)
		}
		set = true
	}
	return value, set, nil
}

func Phases() []engine.Phase {
	return []engine.Phase{engine.Created, engine.Running, engine.Paused, engine.Restarting, engine.Removing, engine.Exited, engine.Dead}
}
