package cli

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// ignoredAnnotation marks flags that are accepted for the sake of scripts
// written for Docker and have no effect here.
const ignoredAnnotation = "stack_ignored"

// Ignore marks flags as accepted without effect.
func Ignore(f *pflag.FlagSet, names ...string) {
	for _, name := range names {
		f.SetAnnotation(name, ignoredAnnotation, nil)
	}
}

// warnIgnored prints one warning for all ignored flags that were given.
func (a *App) warnIgnored(cmd *cobra.Command) {
	var names []string
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if _, ok := f.Annotations[ignoredAnnotation]; ok {
			names = append(names, "--"+f.Name)
		}
	})
	switch len(names) {
	case 0:
	case 1:
		a.Warn("%s has no effect here", names[0])
	default:
		slices.Sort(names)
		a.Warn("%s have no effect here", strings.Join(names, ", "))
	}
}
