package health

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestMerge(t *testing.T) {
	image := &Spec{Test: []string{"CMD", "i"}, Interval: 1, Timeout: 2, StartPeriod: 3, StartInterval: 4, Retries: 5}
	for _, c := range []struct {
		image, service *Spec
		want           string
	}{
		{nil, nil, "<nil>"},
		{image, nil, "&{[CMD i] 1ns 2ns 3ns 4ns 5}"},
		{nil, &Spec{Retries: 7}, "&{[] 0s 0s 0s 0s 7}"},
		{image, &Spec{Timeout: 9}, "&{[CMD i] 1ns 9ns 3ns 4ns 5}"},
		{image, &Spec{Test: []string{"NONE"}}, "&{[NONE] 1ns 2ns 3ns 4ns 5}"},
		{image, &Spec{Test: []string{"CMD-SHELL", "s"}, Interval: 8, StartPeriod: 8, StartInterval: 8, Retries: 8}, "&{[CMD-SHELL s] 8ns 2ns 8ns 8ns 8}"},
	} {
		got := Merge(c.image, c.service)
		if fmt.Sprint(got) != c.want {
			t.Errorf("%v + %v: %v, not %s", c.image, c.service, got, c.want)
		}
		if got.Enabled() != (got != nil && len(got.Test) > 1) {
			t.Errorf("%v: enabled %v", got, got.Enabled())
		}
	}
	if fmt.Sprint((&Spec{Test: []string{"CMD-SHELL", "a b"}}).Command(nil)) != "[/bin/sh -c a b]" {
		t.Error("command")
	}
}

func TestValidate(t *testing.T) {
	for _, c := range []struct {
		spec *Spec
		bad  string
	}{
		{nil, ""},
		{&Spec{}, ""},
		{&Spec{Test: []string{"NONE"}}, ""},
		{&Spec{Test: []string{"CMD-SHELL", "true"}, Interval: time.Millisecond}, ""},
		{&Spec{Interval: time.Microsecond}, "healthcheck.interval: 1µs is too short"},
		{&Spec{StartInterval: -1}, "healthcheck.start_interval"},
		{&Spec{Retries: -1}, "healthcheck.retries"},
		{&Spec{Test: []string{"CMD"}}, "no command"},
		{&Spec{Test: []string{"CMD-SHELL", "a", "b"}}, "takes one string"},
		{&Spec{Test: []string{"curl", "x"}}, "no kind of test"},
		{&Spec{Test: []string{"NONE", "x"}}, "takes no arguments"},
	} {
		err := c.spec.Validate()
		if c.bad == "" && err != nil || c.bad != "" && (err == nil || !strings.Contains(err.Error(), c.bad)) {
			t.Errorf("%+v: %v", c.spec, err)
		}
	}
}
