package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
)

// registerGlobalCompletion completes the values of the flags before the verb.
func registerGlobalCompletion(a *cli.App, root *cobra.Command) {
	fixed := func(values ...string) cobra.CompletionFunc {
		return cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)
	}
	for flag, f := range map[string]cobra.CompletionFunc{
		"ansi":     fixed("never", "always", "auto"),
		"progress": fixed("auto", "tty", "plain", "json", "quiet"),
		"file": func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return []string{"yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt
		},
		"project-directory": func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
		"project-name": func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			return projectNames(a), cobra.ShellCompDirectiveNoFileComp
		},
	} {
		// It fails only for flags that do not exist.
		root.RegisterFlagCompletionFunc(flag, f)
	}
}

func projectNames(a *cli.App) []string {
	ctx := context.Background()
	v, err := a.API(ctx)
	if err != nil {
		return nil
	}
	all, err := v.Projects(ctx)
	if err != nil {
		return nil
	}
	var names []string
	for _, p := range all {
		names = append(names, p.Name)
	}
	return names
}
