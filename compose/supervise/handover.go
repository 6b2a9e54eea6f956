package supervise

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/compose/supervise/guard"
)

// A supervisor runs for as long as its containers, and so do programs that have
// been upgraded since. Whoever has something to ask of a supervisor that is not
// the program he is has it replaced first: the guardian gets the new program, and
// the supervisor ends as if it were killed. What has been made for that case does
// the rest: no container ends, no connection or line of output is lost.

// exitHandOver is the exit code that has the guardian start the next supervisor.
const exitHandOver = 75

// errBusy says that a supervisor works for somebody, who would lose his answer.
var errBusy = errors.New("the supervisor is busy")

// handOver prepares for the end of this supervisor, unless others wait for it.
func (s *Supervisor) handOver(_ context.Context, req HandOverRequest, _ *reply) (any, error) {
	program, err := os.OpenFile(req.Program, unix.O_PATH, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open the program: %w", err)
	}
	defer program.Close()
	if same, err := sameProgram(req.Program, "/proc/self/exe"); same || err != nil {
		return nil, err
	}
	// From here on new requests are turned away, and come again.
	s.handing.Store(true)
	s.mu.Lock()
	busy := s.busy > 1 // this request is one
	s.mu.Unlock()
	if busy {
		s.handing.Store(false)
		return nil, errBusy
	}
	if err := s.keeper.Hold(guard.HeldProgram, program); err != nil {
		s.handing.Store(false)
		return nil, err
	}
	s.handedOver.Store(true)
	return nil, nil
}

// sameProgram tells whether two paths are of one file.
func sameProgram(a, b string) (bool, error) {
	x, err := os.Stat(a)
	if err != nil {
		return false, err
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y), err
}

// replaceOld has a supervisor that is another program replaced by this one. Where
// that cannot be, because it is busy or older than hand-overs, the old one answers.
func (c *Client) replaceOld(ctx context.Context) {
	pid, err := os.ReadFile(filepath.Join(c.Dir, "supervisor.pid"))
	if err != nil {
		return // there is none
	}
	same, err := sameProgram("/proc/"+strings.TrimSpace(string(pid))+"/exe", "/proc/self/exe")
	if same || err != nil {
		return
	}
	payload := func() ([]byte, error) { return fmt.Appendf(nil, `{"program": "/proc/%d/exe"}`, os.Getpid()), nil }
	_ = c.call(ctx, "handover", payload, nil, nil)
}
