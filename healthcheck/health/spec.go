package health

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Defaults of Docker's for what a Spec leaves zero.
const (
	DefaultInterval      = 30 * time.Second
	DefaultTimeout       = 30 * time.Second
	DefaultStartInterval = 5 * time.Second
	DefaultRetries       = 3
)

// Enabled tells whether there is anything to probe.
func (s *Spec) Enabled() bool { return s != nil && len(s.Test) > 0 && s.Test[0] != "NONE" }

// WithDefaults fills in Docker's defaults.
func (s Spec) WithDefaults() Spec {
	if s.Interval == 0 {
		s.Interval = DefaultInterval
	}
	if s.Timeout == 0 {
		s.Timeout = DefaultTimeout
	}
	if s.StartInterval == 0 {
		s.StartInterval = DefaultStartInterval
	}
	if s.Retries == 0 {
		s.Retries = DefaultRetries
	}
	return s
}

// Merge returns the check of a container whose image and service each may have
// one (or nil): what the service leaves empty or zero is the image's, as in
// Docker. A service's ["NONE"] switches the image's check off. The result shares
// nothing with the arguments; nil means that there is no check.
func Merge(image, service *Spec) *Spec {
	switch {
	case image == nil && service == nil:
		return nil
	case service == nil:
		return clone(image)
	case image == nil:
		return clone(service)
	}
	out := clone(service)
	if len(out.Test) == 0 {
		out.Test = slices.Clone(image.Test)
	}
	for _, d := range []struct{ to, from *time.Duration }{
		{&out.Interval, &image.Interval}, {&out.Timeout, &image.Timeout},
		{&out.StartPeriod, &image.StartPeriod}, {&out.StartInterval, &image.StartInterval},
	} {
		if *d.to == 0 {
			*d.to = *d.from
		}
	}
	if out.Retries == 0 {
		out.Retries = image.Retries
	}
	return out
}

func clone(s *Spec) *Spec {
	c := *s
	c.Test = slices.Clone(s.Test)
	return &c
}

// Validate checks a Spec as Docker's daemon does: durations are 0 or at least
// 1 ms, retries are not negative, the test is one of the three kinds.
func (s *Spec) Validate() error {
	if s == nil {
		return nil
	}
	var errs []error
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"interval", s.Interval}, {"timeout", s.Timeout}, {"start_period", s.StartPeriod}, {"start_interval", s.StartInterval}} {
		if d.value != 0 && d.value < time.Millisecond {
			errs = append(errs, fmt.Errorf("healthcheck.%s: %v is too short; use at least 1ms, or 0 for the default", d.name, d.value))
		}
	}
	if s.Retries < 0 {
		errs = append(errs, fmt.Errorf("healthcheck.retries: %d is negative; use at least 1, or 0 for the default", s.Retries))
	}
	if len(s.Test) > 0 {
		switch kind := s.Test[0]; {
		case kind == "NONE" && len(s.Test) > 1:
			errs = append(errs, errors.New(`healthcheck.test: "NONE" takes no arguments; remove them`))
		case kind == "CMD" && len(s.Test) < 2, kind == "CMD-SHELL" && len(s.Test) < 2:
			errs = append(errs, fmt.Errorf("healthcheck.test: %q has no command; add one", kind))
		case kind == "CMD-SHELL" && len(s.Test) > 2:
			errs = append(errs, errors.New(`healthcheck.test: "CMD-SHELL" takes one string; use "CMD" for a list of arguments`))
		case kind != "NONE" && kind != "CMD" && kind != "CMD-SHELL":
			errs = append(errs, fmt.Errorf(`healthcheck.test: %q is no kind of test; begin the list with "CMD", "CMD-SHELL" or "NONE", or write one string`, kind))
		}
	}
	return errors.Join(errs...)
}

// Command returns the arguments of the process that probes. shell is the image's
// SHELL; without one it is /bin/sh -c. A direct test has none.
func (s *Spec) Command(shell []string) []string {
	switch {
	case !s.Enabled(), s.Direct():
		return nil
	case s.Test[0] == "CMD":
		return slices.Clone(s.Test[1:])
	case len(shell) == 0:
		shell = []string{"/bin/sh", "-c"}
	}
	return append(slices.Clone(shell), s.Test[1:]...)
}
