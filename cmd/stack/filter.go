package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// filters are --filter options by key.
type filters map[string][]string

// parseFilters reads KEY=VALUE options whose keys must be known.
func parseFilters(options []string, known ...string) (filters, error) {
	f := filters{}
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

// none reports that nothing is asked for a key.
func (f filters) none(key string) bool { return len(f[key]) == 0 }

// any reports whether a key is not restricted or one of its values matches.
func (f filters) any(key string, match func(string) bool) bool {
	return f.none(key) || slices.ContainsFunc(f[key], match)
}

// has reports whether a key is not restricted or has that value.
func (f filters) has(key, value string) bool {
	return f.any(key, func(v string) bool { return v == value })
}

// named reports whether the filter "name", a regular expression as in docker,
// matches a name.
func (f filters) named(name string) bool {
	return f.any("name", func(pattern string) bool {
		matched, err := regexp.MatchString(strings.TrimPrefix(pattern, "/"), name)
		return err == nil && matched
	})
}

// labels reports whether all label filters match: "key" or "key=value".
func (f filters) labels(key string, labels map[string]string) bool {
	for _, want := range f[key] {
		name, value, exact := strings.Cut(want, "=")
		have, ok := labels[name]
		if !ok || exact && have != value {
			return false
		}
	}
	return true
}

// notLabels tells whether none of the filters key, "NAME" or "NAME=VALUE", fits the
// labels.
func (f filters) notLabels(key string, labels map[string]string) bool {
	for _, unwanted := range f[key] {
		if (filters{key: {unwanted}}).labels(key, labels) {
			return false
		}
	}
	return true
}

// flag reads a key as a boolean; set reports whether it is there.
func (f filters) flag(key string) (value, set bool, err error) {
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
