package main

import (
	"context"
	"slices"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/compose/load"
)

// completeServices offers the project's services, or the containers where
// there is no project.
func (a *app) completeServices(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return slices.DeleteFunc(a.names(), func(n string) bool { return slices.Contains(args, n) }), cobra.ShellCompDirectiveNoFileComp
}

// completeFirstService offers services for the first argument only.
func (a *app) completeFirstService(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return a.completeServices(cmd, args, word)
}

func (a *app) names() []string {
	ctx := context.Background()
	if !a.insideProject() {
		return a.containerNames(ctx)
	}
	if o, err := a.loadOptions(); err == nil {
		o.NoServices = true
		if l, err := load.Load(ctx, o); err == nil {
			return l.Project.ServiceNames()
		}
	}
	v, err := a.api(ctx)
	if err != nil {
		return nil
	}
	s, err := a.scope(ctx, v)
	if err != nil {
		return nil
	}
	return s.services
}

func (a *app) containerNames(ctx context.Context) []string {
	v, err := a.api(ctx)
	if err != nil {
		return nil
	}
	cs, err := v.Containers(ctx, compose.Selector{All: true, OneOff: true})
	if err != nil {
		return nil
	}
	var names []string
	for _, c := range cs {
		names = append(names, c.Spec.Name)
	}
	return names
}

func (a *app) completeContainers(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	names := slices.DeleteFunc(a.containerNames(context.Background()), func(n string) bool { return slices.Contains(args, n) })
	return names, cobra.ShellCompDirectiveNoFileComp
}

// registerGlobalCompletion completes the values of the flags before the verb.
func registerGlobalCompletion(a *app, root *cobra.Command) {
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
			return a.projectNames(), cobra.ShellCompDirectiveNoFileComp
		},
	} {
		// It fails only for flags that do not exist.
		root.RegisterFlagCompletionFunc(flag, f)
	}
}

func (a *app) projectNames() []string {
	ctx := context.Background()
	v, err := a.api(ctx)
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
