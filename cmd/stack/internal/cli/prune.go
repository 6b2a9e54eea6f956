package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"

	"github.com/stack-run/stack/cmd/stack/internal/when"
)

// PruneFlags are the flags of every prune verb.
type PruneFlags struct {
	Filter []string
	Force  bool
}

// Add defines the flags; example is of a filter.
func (p *PruneFlags) Add(f *pflag.FlagSet, example string) {
	f.StringArrayVar(&p.Filter, "filter", nil, fmt.Sprintf("Provide filter values (e.g. %q)", example))
	f.BoolVarP(&p.Force, "force", "f", false, "Do not prompt for confirmation")
}

// Agreed asks whether to remove what it says, if anything is to be removed and the
// user has not said so already.
func (a *App) Agreed(p PruneFlags, what string) (bool, error) {
	if p.Force || a.Global.DryRun {
		return true, nil
	}
	return a.Confirm("WARNING! This will remove" + what + "Are you sure you want to continue? [y/N] ")
}

// PrintPruned prints what a prune verb removed, or would remove.
func (a *App) PrintPruned(what string, items []string) {
	if len(items) == 0 {
		return
	}
	title := "Deleted " + what
	if a.Global.DryRun {
		title = "Would delete " + what
	}
	fmt.Fprintln(a.Out, title+":")
	for _, item := range items {
		fmt.Fprintln(a.Out, item)
	}
	fmt.Fprintln(a.Out)
}

// PrintReclaimed prints how much it freed, or would free.
func (a *App) PrintReclaimed(bytes int64) {
	title := "Total reclaimed space:"
	if a.Global.DryRun {
		title = "Total space that would be reclaimed:"
	}
	fmt.Fprintln(a.Out, title, units.HumanSize(float64(bytes)))
}

// pruneFilters are the filters of things with a date and labels.
type pruneFilters struct {
	Filters
	until time.Time // zero: not limited
}

func (a *App) PruneFilters(options []string) (pruneFilters, error) {
	f, err := ParseFilters(options, "until", "label", "label!")
	p := pruneFilters{Filters: f}
	for _, u := range f["until"] {
		if err == nil {
			p.until, err = when.Parse(u, a.Now())
		}
	}
	return p, err
}

// Match tells whether the filters take something.
func (p pruneFilters) Match(created time.Time, labels map[string]string) bool {
	for _, not := range p.Filters["label!"] {
		if (Filters{"label": {not}}).Labels("label", labels) {
			return false
		}
	}
	return (p.until.IsZero() || created.Before(p.until)) && p.Labels("label", labels)
}

// readLine reads a line and nothing behind it, which may answer the next question.
func readLine(r io.Reader) (string, error) {
	var line []byte
	for one := make([]byte, 1); ; {
		n, err := r.Read(one)
		if n > 0 && one[0] == '\n' {
			return string(line), nil
		}
		line = append(line, one[:n]...)
		if err != nil {
			return string(line), err
		}
	}
}

// Refused asks on stderr whether to go on, and tells whether the answer is no.
func (a *App) Refused(question string) bool {
	fmt.Fprint(a.Err, question)
	line, err := readLine(a.In)
	if err != nil && line == "" {
		fmt.Fprintln(a.Err)
	}
	line = strings.ToLower(strings.TrimSpace(line))
	return line == "n" || line == "no"
}

// Confirm asks on stderr and reads the answer from stdin; no answer is a no.
func (a *App) Confirm(question string) (bool, error) {
	fmt.Fprint(a.Err, question)
	line, err := readLine(a.In)
	if err != nil && line == "" {
		fmt.Fprintln(a.Err)
		return false, nil
	}
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return true, nil
	}
	return false, nil
}
