package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/compose/load"
	"github.com/stack-run/stack/engine"
)

// CompleteFirst offers something for the first argument only.
func CompleteFirst(complete cobra.CompletionFunc) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveDefault
		}
		return complete(cmd, args, word)
	}
}

// CompleteServices offers the project's services.
func (a *App) CompleteServices(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	services, _ := a.declared(context.Background())
	return slices.DeleteFunc(services, func(n string) bool { return slices.Contains(args, n) }), cobra.ShellCompDirectiveNoFileComp
}

// CompleteFirstService offers services for the first argument only.
func (a *App) CompleteFirstService(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	return CompleteFirst(a.CompleteServices)(cmd, args, word)
}

// CompleteFirstToRun is CompleteFirstService with the project's jobs.
func (a *App) CompleteFirstToRun(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	names, directive := a.CompleteFirstService(cmd, args, word)
	if len(args) == 0 {
		_, jobs := a.declared(context.Background())
		names = append(names, jobs...)
	}
	return names, directive
}

// CompleteJobs offers the project's jobs.
func (a *App) CompleteJobs(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	_, jobs := a.declared(context.Background())
	return slices.DeleteFunc(jobs, func(n string) bool { return slices.Contains(args, n) }), cobra.ShellCompDirectiveNoFileComp
}

// declared are the services and jobs of the project, or those that it was last brought
// up with.
func (a *App) declared(ctx context.Context) (services, jobs []string) {
	if o, err := a.LoadOptions(); err == nil {
		o.NoServices = true
		if l, err := load.Load(ctx, o); err == nil {
			return l.Project.ServiceNames(), slices.Sorted(maps.Keys(l.Project.Jobs))
		}
	}
	v, err := a.API(ctx)
	if err != nil {
		return nil, nil
	}
	s, err := a.Scope(ctx, v)
	if err != nil {
		return nil, nil
	}
	return s.Services, s.Jobs
}

// containers are all that there are, but for those that are on the line already.
func (a *App) containers(args []string) []engine.Container {
	ctx := context.Background()
	v, err := a.API(ctx)
	if err != nil {
		return nil
	}
	cs, err := v.Containers(ctx, compose.Selector{All: true, OneOff: true})
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(cs, func(c engine.Container) bool { return slices.Contains(args, c.Spec.Name) })
}

// CompleteContainers offers containers.
func (a *App) CompleteContainers(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	var names []string
	for _, c := range a.containers(args) {
		names = append(names, c.Spec.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// CompleteContainersThat offers the containers that a verb fits, and says what they are.
func (a *App) CompleteContainersThat(fits func(engine.Container) bool) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		var lines []string
		for _, c := range a.containers(args) {
			if fits(c) {
				image, _, _ := strings.Cut(c.Spec.Image, "@")
				lines = append(lines, fmt.Sprintf("%s\t%s, %s", c.Spec.Name, image, c.State.Phase))
			}
		}
		slices.Sort(lines)
		return lines, cobra.ShellCompDirectiveNoFileComp
	}
}

// Live tells whether a container runs, or will again by itself.
func Live(c engine.Container) bool {
	return slices.Contains([]engine.Phase{engine.Running, engine.Paused, engine.Restarting}, c.State.Phase)
}

// CompleteImages offers images.
func (a *App) CompleteImages(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	ctx := context.Background()
	v, err := a.API(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	all, err := v.Images(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, img := range all {
		names = append(names, img.Names...)
	}
	return slices.DeleteFunc(names, func(n string) bool { return slices.Contains(args, n) }), cobra.ShellCompDirectiveNoFileComp
}
