package main

import "github.com/spf13/pflag"

// listFlags are the flags of the verbs that list docker's objects.
type listFlags struct {
	Filter []string
	Format string
	Quiet  bool
}

// add defines the flags; filter and quiet say what they do here.
func (l *listFlags) add(f *pflag.FlagSet, filter, quiet string) {
	f.StringArrayVarP(&l.Filter, "filter", "f", nil, filter)
	f.StringVar(&l.Format, "format", "", formatHelp)
	f.BoolVarP(&l.Quiet, "quiet", "q", false, quiet)
}
