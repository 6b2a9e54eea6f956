// Package receiver plays the programs that logs are sent to: it takes lines in a
// protocol, can be killed, and comes back.
package receiver

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fluent/fluent-logger-golang/fluent"
	"github.com/tinylib/msgp/msgp"
)

// Lines are what has come. They outlive the server that took them.
type Lines struct {
	mu   sync.Mutex
	list []string
	more chan struct{} // closed and replaced with each line
}

// New returns none.
func New() *Lines { return &Lines{more: make(chan struct{})} }

// Take adds a line.
func (x *Lines) Take(line string) {
	x.mu.Lock()
	x.list = append(x.list, line)
	close(x.more)
	x.more = make(chan struct{})
	x.mu.Unlock()
}

// All are the lines that have come.
func (x *Lines) All() []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Clone(x.list)
}

// Count tells how many lines have a part.
func (x *Lines) Count(part string) (n int) {
	for _, l := range x.All() {
		if strings.Contains(l, part) {
			n++
		}
	}
	return n
}

// patience is how long lines are waited for.
const patience = 40 * time.Second

// Until waits until something is true of what has come.
func (x *Lines) Until(is func([]string) bool) ([]string, error) {
	over := time.After(patience)
	for {
		x.mu.Lock()
		lines, more := slices.Clone(x.list), x.more
		x.mu.Unlock()
		if is(lines) {
			return lines, nil
		}
		select {
		case <-more:
		case <-over:
			last := ""
			if len(lines) > 0 {
				last = lines[len(lines)-1]
			}
			return lines, fmt.Errorf("it is not so after %v and %d lines, the last is %.100q", patience, len(lines), last)
		}
	}
}

// UntilHas waits for a line that has a part.
func (x *Lines) UntilHas(part string) ([]string, error) {
	lines, err := x.Until(func(lines []string) bool {
		return slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, part) })
	})
	if err != nil {
		err = fmt.Errorf("waiting for %q: %w", part, err)
	}
	return lines, err
}

// A Protocol reads lines from a connection until its end.
type Protocol func(c net.Conn, take func(line string)) error

// Server listens for streams, and gives what comes to Lines.
type Server struct {
	listener net.Listener
	mu       sync.Mutex
	conns    []net.Conn
	done     sync.WaitGroup
}

// Listen begins to serve.
func Listen(network, address string, to *Lines, read Protocol) (*Server, error) {
	l, err := net.Listen(network, address)
	if err != nil {
		return nil, err
	}
	s := &Server{listener: l}
	s.done.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns = append(s.conns, c)
			s.mu.Unlock()
			s.done.Go(func() { read(c, to.Take) })
		}
	})
	return s, nil
}

// Address is where it listens.
func (s *Server) Address() string { return s.listener.Addr().String() }

// Kill ends all connections at once, as the end of a process does: what was not read is
// lost.
func (s *Server) Kill() {
	s.listener.Close()
	s.mu.Lock()
	for _, c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.done.Wait()
}

// Syslog reads lines.
func Syslog(c net.Conn, take func(string)) error { return until(c, '\n', take) }

// GELF reads the messages of a stream, and takes their JSON.
func GELF(c net.Conn, take func(string)) error { return until(c, 0, take) }

func until(c net.Conn, end byte, take func(string)) error {
	b := bufio.NewReader(c)
	for {
		line, err := b.ReadString(end)
		if err != nil {
			return err
		}
		take(line[:len(line)-1])
	}
}

// Forward reads messages of Fluentd's protocol, takes "TAG SOURCE LINE" of each, and
// acknowledges those that ask for it.
func Forward(c net.Conn, take func(string)) error {
	r, w := msgp.NewReader(c), msgp.NewWriter(c)
	for {
		var m fluent.Message
		if err := m.DecodeMsg(r); err != nil {
			return err
		}
		record, ok := m.Record.(map[string]any)
		if !ok {
			return fmt.Errorf("a record is a map, not %T", m.Record)
		}
		take(fmt.Sprintf("%s %s %s", m.Tag, record["source"], record["log"]))
		if id := m.Option["chunk"]; id != "" {
			if err := errors.Join((&fluent.AckResp{Ack: id}).EncodeMsg(w), w.Flush()); err != nil {
				return err
			}
		}
	}
}

// Numbers is "number N." for each number from one on and below another.
func Numbers(from, below int) string {
	var b strings.Builder
	for i := from; i < below; i++ {
		fmt.Fprintf(&b, "number %d.\n", i)
	}
	return b.String()
}

// Numbered finds the lines of [Numbers] in others, and tells how often one of them came
// again, and how many are not there.
func Numbered(lines []string, below int) (again, lost int, err error) {
	seen := make([]int, below)
	for _, l := range lines {
		at := strings.Index(l, "number ")
		if at < 0 {
			continue
		}
		var i int
		if _, err := fmt.Sscanf(l[at:], "number %d.", &i); err != nil || i < 0 || i >= below {
			return 0, 0, fmt.Errorf("not a line that was written: %q", l)
		}
		seen[i]++
	}
	for _, n := range seen {
		again += max(0, n-1)
		if n == 0 {
			lost++
		}
	}
	return again, lost, nil
}
