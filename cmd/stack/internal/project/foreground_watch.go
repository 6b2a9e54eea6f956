package project

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/stack-run/stack/cmd/stack/internal/terminal"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/compose/apply"
)

// showMenu shows what the keys do now.
func (f *foreground) showMenu() {
	f.mu.Lock()
	open, watching := f.keysRead, f.unwatch != nil
	f.mu.Unlock()
	if !open {
		return
	}
	key, text := terminal.Bold, terminal.Faint
	if !f.a.Paints(f.a.Out) {
		key, text = terminal.Plain, terminal.Plain
	}
	line := key.Paint("d") + text.Paint(" Detach")
	if f.watchable() {
		what := " Enable Watch"
		if watching {
			what = " Disable Watch"
		}
		line = key.Paint("w") + text.Paint(what) + "   " + line
	}
	f.setMenu(line)
}

// watchable tells whether any service says what is to be watched.
func (f *foreground) watchable() bool {
	return len(f.d.Watched(withDependencies(f.d, f.o.Services))) > 0
}

// watching tells whether there is a watch. What has ended may then begin again, by
// the next change of a file.
func (f *foreground) watching() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.unwatch != nil
}

// startWatch watches beside everything else, until endWatch or ctx. begun is told
// what the watch does to containers.
func (f *foreground) startWatch(ctx context.Context, idle *sync.WaitGroup, begun compose.Progress) {
	ctx, cancel := context.WithCancel(ctx)
	f.mu.Lock()
	f.unwatch = cancel
	f.mu.Unlock()
	f.showMenu()
	idle.Go(func() {
		defer cancel()
		o := watchOptions(f.a, f.d, &f.o.createOptions, f.print)
		o.Services = withDependencies(f.d, f.o.Services)
		told := o.Progress
		o.Progress = func(e apply.Event) {
			told(e)
			begun(e)
		}
		err := f.v.Watch(ctx, f.d, o)
		if err != nil && !errors.Is(err, context.Canceled) {
			f.print(func() { fmt.Fprintln(f.a.Err, watchPrefix+err.Error()) })
		}
		if ctx.Err() == nil { // it failed
			f.endWatch()
			f.showMenu()
			begun(apply.Event{Kind: "Container", Status: "Running"}) // what follows the logs looks whether any does
		}
	})
}

// endWatch ends it.
func (f *foreground) endWatch() {
	f.mu.Lock()
	cancel := f.unwatch
	f.unwatch = nil
	f.mu.Unlock()
	if cancel != nil {
		cancel()
	}
}

func (f *foreground) toggleWatch(ctx context.Context, idle *sync.WaitGroup, begun compose.Progress) {
	switch {
	case f.watching():
		f.endWatch()
		f.showMenu()
	case f.watchable():
		f.startWatch(ctx, idle, begun)
	default:
		f.print(func() { fmt.Fprintln(f.a.Err, watchPrefix+compose.ErrNothingToWatch.Error()) })
	}
}
