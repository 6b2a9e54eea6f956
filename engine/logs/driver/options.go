package driver

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"

	"github.com/stack-run/stack/engine/logs"
)

// Driver is what a container's logging driver and its options come to.
type Driver struct {
	Budget   logs.Budget // of the log here
	Compress bool        // its complete parts
	Target   *Target     // where lines are sent as well; nil for nowhere
	// Backlog is how much may wait to be sent, bytes; 0: as much as is in the log.
	Backlog int64
}

// OptionError says which option is wrong.
type OptionError struct {
	Option string // "" for the driver itself
	Err    error
}

func (e *OptionError) Error() string { return e.Err.Error() }
func (e *OptionError) Unwrap() error { return e.Err }

// noneBudget is the ring of a container whose log driver is "none": what an
// attached reader still needs passes through it.
func noneBudget() logs.Budget { return logs.Budget{MaxSize: 128 << 10, MaxFiles: 2} }

// targets make the drivers that send lines.
func targets() map[string]func(*options) *Target {
	return map[string]func(*options) *Target{"journald": journald, "syslog": syslog, "gelf": gelf, "fluentd": fluentd}
}

// clouds are Docker's drivers whose receivers take a client of their maker. A project
// that names one runs here all the same: that it is not seen there is no reason for it
// not to run, as on a developer's machine.
var clouds = []string{"awslogs", "etwlogs", "gcplogs", "splunk"}

// Parse reads a logging driver's options with Docker's names and rules. Warnings name
// what has no effect here. Errors are [OptionError]s, joined.
func Parse(driver string, values map[string]string) (d Driver, warnings []string, err error) {
	d.Budget = logs.DefaultBudget()
	o := &options{driver: driver, values: values}
	target, sends := targets()[driver]
	switch {
	case slices.Contains(clouds, driver):
		return d, []string{fmt.Sprintf("logging driver %q is not supported: lines are kept here, where \"stack logs\" finds them, and go nowhere else; "+
			"to have them there, use driver fluentd or syslog with an agent (Fluent Bit, Vector) that sends them on", driver)}, nil
	case sends:
		o.attributes()
		o.mode(&d)
		o.budget(&d, "cache-max-size", "cache-max-file", "cache-compress")
		if read(o, "cache-disabled", false, boolean) {
			o.noEffect("cache-disabled", "the log here is where lines wait until they are sent; make it smaller with cache-max-size")
		}
		d.Target = target(o)
	case driver == "" || driver == "local" || driver == "json-file":
		o.attributes()
		o.mode(&d)
		o.budget(&d, "max-size", "max-file", "compress")
	case driver == "none":
		d.Budget = noneBudget()
		for _, name := range slices.Sorted(maps.Keys(values)) {
			o.noEffect(name, "driver none keeps nothing")
		}
	default:
		return d, nil, &OptionError{"", fmt.Errorf("unknown logging driver %q; use \"local\", \"json-file\", \"journald\", \"syslog\", \"fluentd\", \"gelf\" or \"none\"", driver)}
	}
	o.unknown()
	return d, o.warnings, errors.Join(o.errs...)
}

// options are read one by one, so that what was not read is not known.
type options struct {
	driver   string
	values   map[string]string
	known    []string
	warnings []string
	errs     []error
}

func (o *options) fail(name, format string, args ...any) {
	o.errs = append(o.errs, &OptionError{name, fmt.Errorf("cannot use logging option %s: %w", name, fmt.Errorf(format, args...))})
}

// noEffect warns of an option that is given and changes nothing.
func (o *options) noEffect(name, why string) {
	o.known = append(o.known, name)
	if _, given := o.values[name]; given {
		o.warnings = append(o.warnings, fmt.Sprintf("logging option %s has no effect: %s", name, why))
	}
}

func (o *options) text(name string) string {
	o.known = append(o.known, name)
	return o.values[name]
}

// read is one option's value, otherwise where it is not given or empty.
func read[T any](o *options, name string, otherwise T, parse func(string) (T, error)) T {
	text := o.text(name)
	if text == "" {
		return otherwise
	}
	v, err := parse(text)
	if err != nil {
		o.fail(name, "%q %w", text, err)
		return otherwise
	}
	return v
}

func (o *options) unknown() {
	for _, name := range slices.Sorted(maps.Keys(o.values)) {
		if !slices.Contains(o.known, name) {
			slices.Sort(o.known)
			o.errs = append(o.errs, &OptionError{name, fmt.Errorf("cannot use logging option %q: unknown; known are %s", name, strings.Join(slices.Compact(o.known), ", "))})
		}
	}
}

// attributes checks what is said about each line; see [Info].
func (o *options) attributes() {
	o.text("labels")
	o.text("env")
	for _, name := range []string{"labels-regex", "env-regex"} {
		read(o, name, nil, func(s string) (*regexp.Regexp, error) {
			re, err := regexp.Compile(s)
			if err != nil {
				err = fmt.Errorf("is no pattern: %w", err)
			}
			return re, err
		})
	}
	read(o, "tag", "", func(s string) (string, error) {
		tag, err := sample().tag(s)
		if err != nil && strings.Contains(err.Error(), "error calling index") {
			return "", nil // there may be containers of which it is true
		}
		if err != nil {
			err = fmt.Errorf("is no template: %w; write one such as {{.Name}}/{{.ID}}", err)
		}
		return tag, err
	})
}

// mode reads what Docker does for containers that must not wait. Here none does.
func (o *options) mode(d *Driver) {
	mode := read(o, "mode", "", func(s string) (string, error) {
		if s != "blocking" && s != "non-blocking" {
			return "", errors.New("is neither blocking nor non-blocking")
		}
		return s, nil
	})
	d.Backlog = read(o, "max-buffer-size", 0, size)
	if o.values["max-buffer-size"] != "" && mode != "non-blocking" {
		o.fail("max-buffer-size", "it needs mode: non-blocking; set that, too")
	}
	if _, sends := targets()[o.driver]; !sends {
		const why = "nothing waits for driver %s, and no line is dropped"
		if mode == "non-blocking" {
			o.noEffect("mode", fmt.Sprintf(why, first(o.driver, "local")))
		}
		o.noEffect("max-buffer-size", fmt.Sprintf(why, first(o.driver, "local")))
	}
}

func (o *options) budget(d *Driver, maxSize, maxFile, compress string) {
	d.Budget.MaxSize = read(o, maxSize, d.Budget.MaxSize, func(s string) (int64, error) {
		if s == "-1" {
			return -1, nil
		}
		return size(s)
	})
	d.Budget.MaxFiles = read(o, maxFile, d.Budget.MaxFiles, func(s string) (int, error) {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return 0, errors.New("is not a number of at least 1; give the number of files to keep")
		}
		return n, nil
	})
	d.Compress = read(o, compress, false, boolean)
	if d.Compress && d.Budget.MaxFiles == 1 {
		o.fail(compress, "what is complete is compressed, and with %s of 1 nothing is; use 2 or more", maxFile)
	}
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

func boolean(s string) (bool, error) {
	v, err := strconv.ParseBool(s)
	if err != nil {
		err = errors.New("is neither true nor false")
	}
	return v, err
}

// size reads a number with k, m, g, t or p, powers of 1024.
func size(s string) (int64, error) {
	n, err := units.RAMInBytes(strings.TrimSpace(s))
	if err != nil || n < 1 {
		return 0, errors.New("is not a size; write one such as 10m")
	}
	return n, nil
}

func duration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, errors.New("is no duration; write one such as 500ms or 10s")
	}
	return d, nil
}

// number reads a number within bounds.
func number(low, high int) func(string) (int, error) {
	return func(s string) (int, error) {
		n, err := strconv.Atoi(s)
		if err != nil || n < low || n > high {
			return 0, fmt.Errorf("is no number from %d to %d", low, high)
		}
		return n, nil
	}
}
