package main

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A fact file is what a run of payload knows of itself, whatever becomes of it:
// one line of fixed width, so that each change is one write.
const factFormat = "%012d %4d\n"

// payload is a service whose life leaves facts that a test can compare with what
// stack tells. It writes lines "RUN NUMBER" and keeps in a file below -facts,
// called RUN, how many of them the pipe has taken, and its exit code as soon as it
// is about to exit; -1 until then. RUN is NAME.HOSTNAME.START, and counts the
// starts of one container.
func payload(args []string) error {
	f := flag.NewFlagSet("payload", flag.ContinueOnError)
	name := f.String("name", "payload", "its name")
	dir := f.String("facts", "/facts", "directory of the facts")
	code := f.Int("code", 0, "what it exits with")
	life := f.Duration("for", 0, "how long it runs; 0: until SIGTERM")
	port := f.String("port", "", "port on which it says its name")
	batch := f.Int("batch", 1, "lines that are written at once")
	pause := f.Duration("pause", 100*time.Millisecond, "time between two writes")
	if err := f.Parse(args); err != nil {
		return err
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM, syscall.SIGINT)
	run, facts, err := newFacts(*dir, *name)
	if err != nil {
		return err
	}
	var written atomic.Int64
	var last sync.Mutex // the end is the last fact, however late the loop is
	leave := func() {
		last.Lock()
		facts.WriteAt(fmt.Appendf(nil, factFormat, written.Load(), *code), 0)
		os.Exit(*code)
	}
	var end <-chan time.Time
	if *life > 0 {
		end = time.After(*life)
	}
	if *port != "" {
		h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, run) })
		go http.ListenAndServe(":"+*port, h)
	}
	over := make(chan struct{})
	go func() {
		select {
		case <-term:
		case <-end:
		}
		close(over)
		// A pipe that nobody reads must not keep it from leaving.
		<-time.After(time.Second)
		leave()
	}()
	tick := time.NewTicker(*pause)
	for {
		var text []byte
		n := written.Load()
		for i := range *batch {
			text = fmt.Appendf(text, "%s %d\n", run, n+int64(i)+1)
		}
		// At most PIPE_BUF bytes, so all or none of them are taken (pipe(7)).
		if _, err := os.Stdout.Write(text); err != nil {
			return err
		}
		last.Lock()
		written.Add(int64(*batch))
		_, err := facts.WriteAt(fmt.Appendf(nil, factFormat, written.Load(), -1), 0)
		last.Unlock()
		if err != nil {
			return err
		}
		select {
		case <-over:
			leave()
		case <-tick.C:
		}
	}
}

// newFacts makes the file of this run, the first name that is free.
func newFacts(dir, name string) (run string, f *os.File, err error) {
	host, err := os.Hostname()
	if err != nil {
		return "", nil, err
	}
	for n := 1; ; n++ {
		run = fmt.Sprintf("%s.%s.%d", name, host, n)
		f, err = os.OpenFile(filepath.Join(dir, run), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if !os.IsExist(err) {
			break
		}
	}
	if err != nil {
		return "", nil, err
	}
	_, err = f.WriteAt(fmt.Appendf(nil, factFormat, 0, -1), 0)
	return run, f, err
}
