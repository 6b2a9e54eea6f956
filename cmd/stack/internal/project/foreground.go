package project

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/logview"
	"github.com/stack-run/stack/cmd/stack/internal/progress"
	"github.com/stack-run/stack/cmd/stack/internal/terminal"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/compose/apply"
	"github.com/stack-run/stack/compose/provider"
	"github.com/stack-run/stack/compose/spec"
	"github.com/stack-run/stack/engine"
)

// interruptible ends work's context at the first SIGINT or SIGTERM.
func interruptible(ctx context.Context, a *cli.App, work func(context.Context) error) error {
	inner, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	err := work(inner)
	if inner.Err() != nil && ctx.Err() == nil {
		return cli.ExitError{Code: cli.ExitInterrupted}
	}
	return err
}

// foreground is an up that stays: it shows the logs, and stops the project
// when it is told to or when a container ends that decides.
//
//	starting ── up done ──► following ── all ended, detach ──► (return)
//	    └────────── Ctrl-C, an exit that decides ──► stopping ──► (return)
//	                                     Ctrl-C again: kill ──┘
type foreground struct {
	a       *cli.App
	v       compose.API
	d       *spec.Desired
	o       *UpOptions
	attach  []string // services whose lines are shown
	watched []string // services whose ends matter
	printer *logview.Printer
	Signals chan os.Signal
	keys    chan byte
	began   time.Time

	// Only logs touches these, which runs once at a time: announced itself, last
	// for each line, told for each end.
	announced bool
	last      time.Time            // of the last line of all
	lastOf    map[string]time.Time // of the last line, by container ID
	told      map[string]time.Time // when the ends that were told happened, by ID

	mu       sync.Mutex // guards what follows
	display  progress.Display
	menu     string // the line that stays last, "" for none
	keysRead bool   // there is a menu
	unwatch  func() // ends the watch, nil where there is none
}

// ending is the end of one followed container.
type ending struct {
	c    engine.Container
	code int
}

func NewForeground(a *cli.App, v compose.API, d *spec.Desired, o *UpOptions, attach []string) *foreground {
	var services []string
	for name := range d.Services {
		services = append(services, name)
	}
	slices.Sort(services)
	watched := o.Services
	if len(watched) == 0 {
		watched = services
	}
	f := &foreground{
		a: a, v: v, d: d, o: o, attach: attach, watched: watched,
		Signals: make(chan os.Signal, 2),
		keys:    make(chan byte),
		display: a.Display("Running"),
		began:   a.Now(),
		told:    map[string]time.Time{},
		lastOf:  map[string]time.Time{},
	}
	f.printer = logview.New(a.Out, a.Err, logview.Options{
		Colour: a.Paints(a.Out) && !o.NoColor, NoPrefix: o.NoLogPrefix, Timestamps: o.Timestamps, Services: services,
	})
	f.printer.Widen(shortNames(d, attach)...)
	return f
}

func (f *foreground) Run(ctx context.Context) error {
	signal.Notify(f.Signals, syscall.SIGINT, syscall.SIGTERM)
	defer signal.Stop(f.Signals)
	upCtx, cancelUp := context.WithCancel(ctx)
	logsCtx, cancelLogs := context.WithCancel(ctx)
	endCtx, cancelEnd := context.WithCancel(ctx) // of stop and kill

	var (
		ended    = make(chan ending)
		logsDone = make(chan error, 1)
		upDone   = make(chan error, 1)
		stopped  = make(chan error, 2)
		started  = make(chan struct{}, 1) // some container was
		idle     sync.WaitGroup           // the goroutines that print
	)
	following := false
	follow := func() {
		if !following {
			following = true
			idle.Go(func() { logsDone <- f.logs(logsCtx, ended) })
		}
	}
	// Nothing may be printed after the return.
	defer func() {
		cancelUp()
		cancelLogs()
		cancelEnd() // a stop that a kill has made needless
		f.endWatch()
		idle.Wait()
		f.setMenu("")
		f.show().Done()
	}()

	begun := func(e apply.Event) {
		if e.Kind == "Container" && (e.Status == "Started" || e.Status == "Running" || e.Status == "Restarted") {
			select {
			case started <- struct{}{}:
			default:
			}
		}
	}
	upReturned := make(chan struct{})
	idle.Go(func() {
		defer close(upReturned)
		upDone <- f.v.Up(upCtx, f.d, f.o.options(f.a), func(e apply.Event) {
			f.show().Event(e)
			begun(e)
		})
	})

	seen := map[string]bool{} // containers whose end was told
	starting, stopping := true, false
	var exit error // what the whole ends with
	stop := func(message string, result error) {
		stopping, exit = true, result
		cancelUp()
		f.endWatch()
		f.setMenu("")
		f.show().Done()
		f.print(func() { fmt.Fprintln(f.a.Out, message) })
		f.setDisplay(f.a.Display("Running"))
		idle.Go(func() {
			<-upReturned
			stopped <- f.stop(endCtx)
		})
	}
	end := func(result error) error {
		f.endWatch()
		cancelUp()
		cancelLogs()
		cancelEnd()
		idle.Wait()
		if err := f.drain(ctx); err != nil {
			f.a.Warn("cannot read the last lines of the logs: %v", err)
		}
		return result
	}
	for {
		select {
		case <-started:
			if !stopping {
				follow()
			}
		case err := <-upDone:
			upDone = nil
			if stopping {
				continue
			}
			f.show().Done()
			if err != nil {
				return err
			}
			starting = false
			follow()
			if f.o.Watch {
				f.startWatch(endCtx, &idle, begun)
			}
			defer f.openMenu()()
			if !f.watching() && f.over(ctx, seen) {
				return end(nil)
			}
		case e := <-ended:
			seen[e.c.ID] = true
			switch {
			case stopping || e.c.State.Phase == engine.Restarting || !slices.Contains(f.watched, e.c.Service):
			case f.o.AbortOnContainerExit, f.o.AbortOnContainerFailure && e.code != 0:
				stop("Aborting on container exit...", cli.ExitError{Code: e.code})
			case !starting && !f.watching() && f.over(ctx, seen):
				return end(nil)
			}
		case err := <-logsDone:
			following = false
			if err != nil {
				f.a.Warn("cannot follow the logs: %v", err)
				continue
			}
			switch {
			case stopping:
			case f.live(ctx):
				follow() // the last had ended, and meanwhile another began
			case !starting && !f.watching():
				return end(nil)
			}
		case <-f.Signals:
			if !stopping {
				stop("Gracefully Stopping... press Ctrl+C again to force", cli.ExitError{Code: cli.ExitInterrupted})
				continue
			}
			idle.Go(func() { stopped <- f.kill(endCtx) })
		case key := <-f.keys:
			switch {
			case key == 'd' && !stopping:
				return nil
			case key == 'w' && !stopping:
				f.toggleWatch(endCtx, &idle, begun)
				if !f.watching() && f.over(ctx, seen) {
					return end(nil)
				}
			}
		case err := <-stopped:
			if err != nil {
				return err
			}
			return end(f.result(ctx, exit))
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// logs follows the watched services' containers until ctx ends, or until none
// runs any more. Called again it goes on after the last line it has printed.
func (f *foreground) logs(ctx context.Context, ended chan<- ending) error {
	if names := shortNames(f.d, f.attach); len(names) > 0 && !f.announced {
		f.announced = true
		f.print(func() { fmt.Fprintln(f.a.Out, "Attaching to", strings.Join(names, ", ")) })
	}
	services := slices.Clone(f.watched)
	for _, s := range f.attach {
		if !slices.Contains(services, s) {
			services = append(services, s)
		}
	}
	since := f.began
	if !f.last.IsZero() {
		since = f.last.Add(1)
	}
	o := compose.LogOptions{
		Follow: true, NewContainers: true, Tail: -1, Since: since,
		Ended: func(c engine.Container, code int) {
			if !f.untold(c) {
				return
			}
			if slices.Contains(f.attach, c.Service) {
				f.print(func() { f.printer.Exited(c, code, c.State.Phase == engine.Restarting) })
			}
			select {
			case ended <- ending{c, code}:
			case <-ctx.Done():
			}
		},
	}
	err := f.v.Logs(ctx, compose.Selector{Project: f.d.Project, Services: services, All: true}, o, func(l compose.LogLine) error {
		f.last, f.lastOf[l.Container.ID] = l.Time, l.Time
		if slices.Contains(f.attach, l.Container.Service) {
			f.print(func() { f.printer.Line(l) })
		}
		return nil
	})
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// drain prints what ended containers have written, and that they ended, where logs,
// which was called off, has not come to it. It must not run beside logs.
func (f *foreground) drain(ctx context.Context) error {
	if !f.announced || len(f.attach) == 0 {
		return nil
	}
	since := f.last
	if since.IsZero() {
		since = f.began
	}
	o := compose.LogOptions{Tail: -1, Since: since}
	attached := compose.Selector{Project: f.d.Project, Services: f.attach, All: true}
	err := f.v.Logs(ctx, attached, o, func(l compose.LogLine) error {
		if l.Time.After(f.lastOf[l.Container.ID]) {
			f.print(func() { f.printer.Line(l) })
		}
		return nil
	})
	if err != nil {
		return err
	}
	cs, err := f.v.Containers(ctx, attached)
	if err != nil {
		return err
	}
	for _, c := range cs {
		if c.State.Phase == engine.Exited && f.untold(c) {
			f.print(func() { f.printer.Exited(c, c.State.ExitCode, false) })
		}
	}
	return nil
}

// untold reports whether a container's end is news, once for each end.
func (f *foreground) untold(c engine.Container) bool {
	if c.State.FinishedAt.Before(f.began) || f.told[c.ID].Equal(c.State.FinishedAt) {
		return false // it was over before
	}
	f.told[c.ID] = c.State.FinishedAt
	return true
}

// live reports whether a watched container runs or will run again.
func (f *foreground) live(ctx context.Context) bool {
	cs, err := f.v.Containers(ctx, compose.Selector{Project: f.d.Project, Services: f.watched, All: true})
	return err == nil && slices.ContainsFunc(cs, func(c engine.Container) bool { return isLive(c) })
}

func isLive(c engine.Container) bool {
	switch c.State.Phase {
	case engine.Running, engine.Paused, engine.Restarting:
		return true
	}
	return false
}

// over reports whether all watched containers have ended for good and the last
// line of each that ended meanwhile is printed. seen has the IDs of those.
func (f *foreground) over(ctx context.Context, seen map[string]bool) bool {
	cs, err := f.v.Containers(ctx, compose.Selector{Project: f.d.Project, Services: f.watched, All: true})
	return err == nil && !slices.ContainsFunc(cs, func(c engine.Container) bool {
		return isLive(c) || !seen[c.ID] && !c.State.FinishedAt.Before(f.began)
	})
}

func (f *foreground) stop(ctx context.Context) error {
	sel := compose.Selector{Project: f.d.Project, Services: f.o.Services}
	tell := func(e apply.Event) { f.show().Event(e) }
	err := f.v.Stop(ctx, sel, compose.StopOptions{Timeout: f.o.Timeout}, tell)
	return errors.Join(err, endProviders(ctx, f.a, f.d, f.o.Services, provider.Stop, tell))
}

func (f *foreground) kill(ctx context.Context) error {
	sel := compose.Selector{Project: f.d.Project, Services: f.o.Services}
	return f.v.Kill(ctx, sel, compose.StopOptions{Signal: "SIGKILL"}, func(e apply.Event) { f.show().Event(e) })
}

// result is what a stopped foreground up ends with: the exit code that was
// asked for, or the one that made it stop.
func (f *foreground) result(ctx context.Context, exit error) error {
	var e cli.ExitError
	if !errors.As(exit, &e) || e.Code == cli.ExitInterrupted {
		return exit
	}
	if f.o.ExitCodeFrom != "" {
		cs, err := f.v.Containers(ctx, compose.Selector{Project: f.d.Project, Services: []string{f.o.ExitCodeFrom}, All: true})
		if err != nil {
			return err
		}
		for _, c := range cs {
			return cli.Status(c.State.ExitCode, nil)
		}
		return fmt.Errorf("cannot take the exit code from service %q: it has no container", f.o.ExitCodeFrom)
	}
	return cli.Status(e.Code, nil)
}

func (f *foreground) show() progress.Display {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.display
}

func (f *foreground) setDisplay(d progress.Display) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.display = d
}

// print writes to the terminal with the progress display and the menu out of
// the way.
func (f *foreground) print(write func()) {
	f.show().Print(func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.menu != "" {
			io.WriteString(f.a.Out, "\r\x1b[2K")
		}
		write()
		if f.menu != "" {
			io.WriteString(f.a.Out, f.menu+"\r")
		}
	})
}

func (f *foreground) setMenu(text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.menu != "" {
		io.WriteString(f.a.Out, "\r\x1b[2K")
	}
	f.menu = text
	if text != "" {
		io.WriteString(f.a.Out, text+"\r")
	}
}

// openMenu shows the menu and reads keys, where there is a terminal for both.
// The returned function gives the terminal back.
func (f *foreground) openMenu() (restore func()) {
	in := terminal.File(f.a.In)
	if in == nil || !terminal.Is(f.a.Out) || !f.o.Menu || f.a.Global.ANSI == "never" {
		return func() {}
	}
	back, err := terminal.Keys(in)
	if err != nil {
		return func() {}
	}
	f.mu.Lock()
	f.keysRead = true
	f.mu.Unlock()
	f.showMenu()
	// The reader cannot be called back from its read; it ends with the process
	// or at its next key.
	done := make(chan struct{})
	go func() {
		var b [1]byte
		for {
			if n, err := in.Read(b[:]); n == 0 || err != nil {
				return
			}
			select {
			case f.keys <- b[0]:
			case <-done:
				return
			}
		}
	}()
	return func() {
		close(done)
		back()
	}
}
