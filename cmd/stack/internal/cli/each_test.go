package cli

import (
	"errors"
	"strings"
	"testing"
)

// What is worked on at once is told in order, and a dry run works on one at a time.
func TestEachAtOnce(t *testing.T) {
	for _, dryRun := range []bool{false, true} {
		var out, errs strings.Builder
		a := &App{Out: &out, Err: &errs}
		a.Global.DryRun = dryRun
		second := make(chan struct{})
		err := a.EachAtOnce([]string{"first", "second", "third", "fourth"}, func(name string) (string, error) {
			switch name {
			case "first":
				if !dryRun {
					<-second
				}
			case "second":
				close(second)
				return "", errors.New("it failed")
			case "third":
				return "", Remark{errors.New("it was not there")}
			}
			return name, nil
		})
		var exit ExitError
		if !errors.As(err, &exit) || exit.Code != ExitGeneral {
			t.Errorf("dry run %v: %v", dryRun, err)
		}
		if out.String() != "first\nfourth\n" || errs.String() != "it failed\nit was not there\n" {
			t.Errorf("dry run %v: it says %q, and %q", dryRun, &out, &errs)
		}
	}
	a := &App{Err: &strings.Builder{}}
	if err := a.Each([]string{"x"}, func(string) (string, error) { return "", Remark{errors.New("fine")} }); err != nil {
		t.Errorf("a remark is a failure: %v", err)
	}
}

// With Each, what is told of one comes before the work on the next, which may print, too.
func TestEachTellsBeforeTheNext(t *testing.T) {
	var out strings.Builder
	a := &App{Out: &out}
	if err := a.Each([]string{"first", "second"}, func(name string) (string, error) {
		out.WriteString("(" + name + ") ")
		return name, nil
	}); err != nil {
		t.Fatal(err)
	}
	if out.String() != "(first) first\n(second) second\n" {
		t.Errorf("it says %q", &out)
	}
}
