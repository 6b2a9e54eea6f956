package cli

import (
	"context"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/compose/load"
)

// CompleteServices offers the project's services, or the containers where
// there is no project.
func (a *App) CompleteServices(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return slices.DeleteFunc(a.names(), func(n string) bool { return slices.Contains(args, n) }), cobra.ShellCompDirectiveNoFileComp
}

// CompleteFirstService offers services for the first argument only.
func (a *App) CompleteFirstService(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return a.CompleteServices(cmd, args, word)
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

func (a *App) names() []string {
	ctx := context.Background()
	if !a.InsideProject() {
		return a.containerNames(ctx)
	}
	services, _ := a.declared(ctx)
	return services
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

func (a *App) containerNames(ctx context.Context) []string {
	v, err := a.API(ctx)
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

func (a *App) CompleteContainers(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	names := slices.DeleteFunc(a.containerNames(context.Background()), func(n string) bool { return slices.Contains(args, n) })
	return names, cobra.ShellCompDirectiveNoFileComp
}
