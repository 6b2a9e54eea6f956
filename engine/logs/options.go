package logs

import (
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"
)

// Budget is how much of a log is kept.
type Budget struct {
	MaxSize  int64 // bytes of a segment, its index included; ≤ 0: no limit
	MaxFiles int   // segments; ≤ 0: no limit
}

// DefaultBudget keeps at most 50 MiB of each container.
func DefaultBudget() Budget { return Budget{MaxSize: 10 << 20, MaxFiles: 5} }

// noneBudget is the ring of a container whose log driver is "none": what an
// attached reader still needs passes through it.
func noneBudget() Budget { return Budget{MaxSize: 128 << 10, MaxFiles: 2} }

// unlimitedSegment is a segment's size where the user sets no limit.
const unlimitedSegment = 64 << 20

// normal returns a budget with which segments can be cut: finite segments, at
// least two, so that deleting the oldest never deletes all.
func (b Budget) normal() Budget {
	if b.MaxSize <= 0 {
		return Budget{MaxSize: unlimitedSegment, MaxFiles: math.MaxInt}
	}
	if b.MaxFiles <= 0 {
		b.MaxFiles = math.MaxInt
	}
	if b.MaxFiles == 1 {
		b = Budget{MaxSize: b.MaxSize / 2, MaxFiles: 2}
	}
	b.MaxSize = max(b.MaxSize, 512)
	return b
}

// elsewhere are Docker's drivers that send lines to another program.
var elsewhere = []string{"awslogs", "etwlogs", "fluentd", "gcplogs", "gelf", "journald", "splunk", "syslog"}

// ParseOptions reads a logging driver's options with the names and rules of
// Docker's json-file and local drivers. Warnings name what has no effect here:
// lines that another driver would send away are kept.
func ParseOptions(driver string, options map[string]string) (b Budget, warnings []string, err error) {
	b = DefaultBudget()
	switch {
	case driver == "" || driver == "local" || driver == "json-file":
	case driver == "none":
		b = noneBudget()
	case slices.Contains(elsewhere, driver):
		return b, []string{fmt.Sprintf("logging driver %q is not supported: lines go to stack's own store, where \"stack logs\" finds them", driver)}, nil
	default:
		return b, nil, fmt.Errorf("unknown logging driver %q; use \"local\", \"json-file\" or \"none\"", driver)
	}
	for _, name := range slices.Sorted(maps.Keys(options)) {
		value := options[name]
		switch {
		case driver == "none":
			warnings = append(warnings, fmt.Sprintf("logging option %s has no effect with driver none", name))
		case name == "max-size":
			if b.MaxSize, err = parseSize(value); err != nil {
				return b, nil, err
			}
		case name == "max-file":
			b.MaxFiles, err = strconv.Atoi(value)
			if err != nil || b.MaxFiles < 1 {
				return b, nil, fmt.Errorf("cannot use logging option max-file: %q is not a number of at least 1; give the number of files to keep", value)
			}
		case name == "mode" && (value == "blocking" || value == "non-blocking"):
			if value == "non-blocking" {
				warnings = append(warnings, "logging option mode=non-blocking has no effect: a log never blocks on its readers, and no line is dropped")
			}
		case name == "labels" || name == "env": // for "logs --details", which looks at them
		case name == "labels-regex" || name == "env-regex":
			if _, err := regexp.Compile(value); err != nil {
				return b, nil, fmt.Errorf("cannot use logging option %s: %w", name, err)
			}
		case name == "tag":
			if _, err := template.New(name).Parse(value); err != nil {
				return b, nil, fmt.Errorf("cannot use logging option tag: %w", err)
			}
		case name == "compress" || name == "max-buffer-size":
			if value != "" && value != "false" {
				warnings = append(warnings, fmt.Sprintf("logging option %s has no effect", name))
			}
		default:
			return b, nil, fmt.Errorf("cannot use logging option %q: unknown; known are max-size, max-file, mode, compress, labels, labels-regex, env, env-regex, tag", name)
		}
	}
	return b, warnings, nil
}

// parseSize reads a size as docker/go-units RAMInBytes does: a number, then
// k, m, g, t or p in any case, with or without "b" or "ib"; powers of 1024.
// "-1" is unlimited.
func parseSize(s string) (int64, error) {
	if s == "-1" {
		return -1, nil
	}
	bad := fmt.Errorf("cannot use logging option max-size: %q is not a size; write one such as 10m, or -1 for no limit", s)
	text := strings.ToLower(strings.TrimSpace(s))
	digits := strings.TrimRight(text, "bikmgtp ")
	unit := strings.TrimSpace(text[len(digits):])
	shift, ok := map[string]int{
		"": 0, "b": 0, "k": 10, "kb": 10, "kib": 10, "m": 20, "mb": 20, "mib": 20,
		"g": 30, "gb": 30, "gib": 30, "t": 40, "tb": 40, "tib": 40, "p": 50, "pb": 50, "pib": 50,
	}[unit]
	n, err := strconv.ParseFloat(digits, 64)
	size := n * float64(int64(1)<<shift)
	if !ok || err != nil || !(size >= 1 && size < 1<<62) {
		return 0, bad
	}
	return int64(size), nil
}
