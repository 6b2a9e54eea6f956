package project

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/image"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/compose/apply"
	"github.com/stack-run/stack/compose/desired"
	"github.com/stack-run/stack/compose/spec"
)

type WatchOptions struct {
	Services []string // arguments
	NoUp     bool
	Prune    bool
	Quiet    bool
}

func NewWatchCmd(a *cli.App, runF func(context.Context, *cli.App, *WatchOptions) error) *cobra.Command {
	if runF == nil {
		runF = runWatch
	}
	o := &WatchOptions{}
	cmd := &cobra.Command{
		Use:   "watch [SERVICE...]",
		Short: "Watch build context for service and rebuild/refresh containers when files are updated",
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Services = args
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.CompleteServices,
	}
	f := cmd.Flags()
	f.BoolVar(&o.NoUp, "no-up", false, "Do not build & start services before watching")
	f.BoolVar(&o.Prune, "prune", true, "Prune dangling images on rebuild")
	f.BoolVar(&o.Quiet, "quiet", false, "hide build output")
	return cmd
}

// watchPrefix begins each line about a watch.
const watchPrefix = "⦿ "

func runWatch(ctx context.Context, a *cli.App, o *WatchOptions) error {
	up := &createOptions{QuietPull: o.Quiet, QuietBuild: o.Quiet}
	d, err := up.loadDesired(ctx, a, o.Services, false)
	if err != nil {
		return err
	}
	watched := withDependencies(d, o.Services) // as with docker compose
	if err := up.checkWatch(d, watched); err != nil {
		return err
	}
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	// What is watched and built is built first: the image must be of the files
	// that are here now.
	for _, s := range d.Services {
		if s.HasBuild && len(s.Watch) > 0 && !o.NoUp {
			s.PullPolicy = "build"
		}
	}
	u := &UpOptions{createOptions: *up, Services: o.Services}
	if a.Global.DryRun {
		return dryWatch(ctx, a, v, d, u, o)
	}
	if !o.NoUp {
		if err := ensureImages(ctx, a, v, d, up, o.Services, false, up.build); err != nil {
			return err
		}
		if err := u.askForVolumes(ctx, a, v, d); err != nil {
			return err
		}
		if err := a.Watch("Running", func(p compose.Progress) error { return v.Up(ctx, d, u.options(a), p) }); err != nil {
			return err
		}
	}
	var mu sync.Mutex
	w := watchOptions(a, d, up, func(write func()) {
		mu.Lock()
		defer mu.Unlock()
		write()
	})
	w.Services = watched
	if !o.Prune {
		w.Replaced = nil
	}
	return v.Watch(ctx, d, w)
}

// dryWatch says what would be done, and what would be watched.
func dryWatch(ctx context.Context, a *cli.App, v compose.API, d *spec.Desired, u *UpOptions, o *WatchOptions) error {
	if !o.NoUp {
		p, err := u.plan(ctx, a, v, d)
		if err != nil {
			return err
		}
		if err := cli.PrintPlan(a, p); err != nil {
			return err
		}
	}
	for _, name := range d.Watched(withDependencies(d, o.Services)) {
		for _, t := range d.Services[name].Watch {
			fmt.Fprintf(a.Err, " DRY-RUN MODE -  Service %s  would be watched: %s at changes of %s\n", name, t.Action, t.Path)
		}
	}
	return nil
}

// checkWatch refuses a watch that could do nothing, before anything is begun.
func (o *createOptions) checkWatch(d *spec.Desired, services []string) error {
	if _, err := spec.CheckWatch(d, services); err != nil {
		return err // its warnings come when the watch begins
	}
	watched := d.Watched(services)
	for _, name := range watched {
		if o.NoBuild && slices.ContainsFunc(d.Services[name].Watch, func(t desired.Trigger) bool { return t.Action == desired.WatchRebuild }) {
			return fmt.Errorf("--no-build is incompatible with watch action rebuild in service %s", name)
		}
	}
	if len(watched) == 0 {
		return compose.ErrNothingToWatch
	}
	return nil
}

// watchOptions has a watch tell what it does by print.
func watchOptions(a *cli.App, d *spec.Desired, o *createOptions, print func(func())) compose.WatchOptions {
	say := func(text string) {
		print(func() {
			for line := range strings.Lines(text) {
				fmt.Fprintln(a.Out, watchPrefix+strings.TrimRight(line, "\n"))
			}
		})
	}
	warn := func(text string) { print(func() { a.Warn("%s", text) }) }
	return compose.WatchOptions{
		Build: o.rebuild(say),
		Say:   say,
		Warn:  warn,
		Output: func(container, line string) {
			print(func() { fmt.Fprintln(a.Out, strings.TrimPrefix(container, d.Project+"-")+"  | "+line) })
		},
		Progress: func(e apply.Event) {
			switch e.Status {
			case "Recreated", "Error", "Warning":
				say(strings.TrimSpace(fmt.Sprintf("%s %s %s %s", e.Kind, e.Name, e.Status, e.Text)))
			}
		},
		Replaced: func(ctx context.Context) {
			if _, err := image.PruneImages(ctx, a, false, []string{"label=com.docker.compose.project=" + d.Project}, image.Pruned{}); err != nil {
				warn(fmt.Sprintf("cannot prune images: %v", err))
			}
		},
	}
}

// rebuildHook builds services and tells line by line how that goes.
func rebuildHook(a *cli.App, p *cli.Project, quiet bool, say func(string)) func(context.Context, []string) error {
	return func(ctx context.Context, services []string) error {
		lines := &lineWriter{line: say}
		defer lines.flush()
		apart := *a
		apart.In, apart.Out, apart.Err = strings.NewReader(""), lines, lines
		b, err := projectBuild(ctx, &apart, p, spec.TargetOptions{Services: services}, "plain", quiet)
		if err != nil {
			return err
		}
		v, err := a.API(ctx)
		if err != nil {
			return err
		}
		r, err := v.Build(ctx, b, apart.Streams())
		var exit cli.ExitError
		if errors.As(err, &exit) && exit.Cause == nil {
			for _, t := range r.Targets {
				if t.Error != "" {
					return errors.New(t.Error)
				}
			}
		}
		return err
	}
}

// lineWriter hands on whole lines.
type lineWriter struct {
	mu   sync.Mutex
	rest []byte
	line func(string)
}

var _ io.Writer = (*lineWriter)(nil)

func (w *lineWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rest = append(w.rest, p...)
	for {
		line, rest, ok := bytes.Cut(w.rest, []byte{'\n'})
		if !ok {
			return len(p), nil
		}
		w.line(string(line))
		w.rest = rest
	}
}

func (w *lineWriter) flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.rest) > 0 {
		w.line(string(w.rest))
		w.rest = nil
	}
}
