package main

import (
	"fmt"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"

	"github.com/stack-run/stack/cmd/stack/internal/when"
)

// pruneFlags are the flags of every prune verb.
type pruneFlags struct {
	Filter []string
	Force  bool
}

// add defines the flags; example is of a filter.
func (p *pruneFlags) add(f *pflag.FlagSet, example string) {
	f.StringArrayVar(&p.Filter, "filter", nil, fmt.Sprintf("Provide filter values (e.g. %q)", example))
	f.BoolVarP(&p.Force, "force", "f", false, "Do not prompt for confirmation")
}

// agreed asks whether to remove what it says, if anything is to be removed and the
// user has not said so already.
func (a *app) agreed(p pruneFlags, what string) (bool, error) {
	if p.Force || a.global.DryRun {
		return true, nil
	}
	return a.confirm("WARNING! This will remove" + what + "Are you sure you want to continue? [y/N] ")
}

// printPruned prints what a prune verb removed, or would remove.
func (a *app) printPruned(what string, items []string) {
	if len(items) == 0 {
		return
	}
	title := "Deleted " + what
	if a.global.DryRun {
		title = "Would delete " + what
	}
	fmt.Fprintln(a.out, title+":")
	for _, item := range items {
		fmt.Fprintln(a.out, item)
	}
	fmt.Fprintln(a.out)
}

// printReclaimed prints how much it freed, or would free.
func (a *app) printReclaimed(bytes int64) {
	title := "Total reclaimed space:"
	if a.global.DryRun {
		title = "Total space that would be reclaimed:"
	}
	fmt.Fprintln(a.out, title, units.HumanSize(float64(bytes)))
}

// pruneFilters are the filters of things with a date and labels.
type pruneFilters struct {
	filters
	until time.Time // zero: not limited
}

func (a *app) pruneFilters(options []string) (pruneFilters, error) {
	f, err := parseFilters(options, "until", "label", "label!")
	p := pruneFilters{filters: f}
	for _, u := range f["until"] {
		if err == nil {
			p.until, err = when.Parse(u, a.now())
		}
	}
	return p, err
}

// match tells whether the filters take something.
func (p pruneFilters) match(created time.Time, labels map[string]string) bool {
	for _, not := range p.filters["label!"] {
		if (filters{"label": {not}}).labels("label", labels) {
			return false
		}
	}
	return (p.until.IsZero() || created.Before(p.until)) && p.labels("label", labels)
}
