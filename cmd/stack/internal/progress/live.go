package progress

import (
	"io"
	"sync"
	"time"

	"github.com/stack-run/stack/compose/apply"
)

// frameTime is the least time between two repaints.
const frameTime = 100 * time.Millisecond

// live repaints a block of lines, one per object, below what was printed before.
type live struct {
	mu     sync.Mutex
	o      Options
	w      io.Writer
	model  model
	screen screen
	stop   chan struct{} // closed by Done
	idle   chan struct{} // closed when the painter is gone
	ended  bool
}

func newLive(w io.Writer, o Options) *live {
	return &live{o: o, w: w, screen: screen{w: w}}
}

func (l *live) Event(e apply.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		io.WriteString(l.w, plainLine(e, l.o.DryRun))
		return
	}
	l.model.apply(e, l.o.Now())
	if l.stop == nil {
		l.stop, l.idle = make(chan struct{}), make(chan struct{})
		go l.paint(l.stop, l.idle)
	}
}

// paint repaints until stop: the timers and the spinners move even when
// nothing happens.
func (l *live) paint(stop <-chan struct{}, idle chan<- struct{}) {
	defer close(idle)
	tick := time.NewTicker(frameTime)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
			l.mu.Lock()
			l.repaint()
			l.mu.Unlock()
		}
	}
}

func (l *live) repaint() {
	width, height := l.o.Size()
	l.screen.paint(l.model.frame(l.o, width, height), width)
}

func (l *live) Print(write func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended || len(l.screen.shown) == 0 {
		write()
		return
	}
	l.screen.erase()
	write()
	l.repaint()
}

func (l *live) Done() {
	l.mu.Lock()
	if l.ended {
		l.mu.Unlock()
		return
	}
	l.ended = true
	idle := l.idle
	if l.stop != nil {
		close(l.stop)
		l.repaint()
	}
	l.mu.Unlock()
	if idle != nil {
		<-idle
	}
}
