package runtime

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// CommandError says that a command cannot be executed. ExitCode is what a
// shell and Docker return then.
type CommandError struct {
	Command  string
	ExitCode int // 127 not found, 126 found but not executable
	Reason   string
	Err      error
}

func (e *CommandError) Error() string { return fmt.Sprintf("exec: %q: %s", e.Command, e.Reason) }
func (e *CommandError) Unwrap() error { return e.Err }

var errDiedEarly = errors.New("cannot start the process: it ended while it was set up")

func decodeRecord(b [recordSize]byte) record {
	return record{int32(binary.NativeEndian.Uint32(b[:4])), int32(binary.NativeEndian.Uint32(b[4:]))}
}

func (r record) bytes() []byte {
	return binary.NativeEndian.AppendUint32(binary.NativeEndian.AppendUint32(nil, uint32(r.op)), uint32(r.errno))
}

// outcome collects what a child reported.
type outcome struct {
	program *program
	ready   bool
	failure error
	tried   unix.Errno // the most telling errno of the candidates
	present bool       // one of them exists
	none    bool
	command string
}

// add takes a record; it returns a warning or "".
func (o *outcome) add(r record) string {
	if r.op == recordReady {
		o.ready = true
		return ""
	}
	if r.op == stepNone {
		o.none, o.command = true, o.program.command
		return ""
	}
	if i, present, ok := stepOp(r.op); ok && i < len(o.program.candidates) {
		if present {
			o.present = true
		} else {
			o.refused(o.program.candidates[i], unix.Errno(r.errno))
		}
		return ""
	}
	if int(r.op) >= len(o.program.ops) || r.op < 0 {
		o.failure = fmt.Errorf("internal error: the child reported call %d", r.op)
		return ""
	}
	op, e := &o.program.ops[r.op], unix.Errno(r.errno)
	switch op.role {
	case roleWarn:
		return op.explain(e).Error()
	case roleExecve:
		o.refused(op.what, e)
	case rolePresent:
		o.present = true
	case roleNone:
		o.none, o.command = true, op.what
	default:
		o.failure = op.explain(e)
	}
	return ""
}

// refused takes what execve said of a candidate.
func (o *outcome) refused(candidate string, e unix.Errno) {
	switch {
	case e == unix.ENOENT || e == unix.ENOTDIR || e == unix.EACCES:
		if o.tried != unix.EACCES {
			o.tried = e
		}
	default:
		o.tried = e
		o.failure = execError(candidate, e)
	}
}

// err is the result after the last record.
func (o *outcome) err() error {
	switch {
	case o.failure != nil:
		return o.failure
	case !o.none && o.ready:
		return nil
	case !o.none:
		return errDiedEarly
	case o.tried == unix.EACCES:
		return execError(o.command, unix.EACCES)
	case o.present:
		return &CommandError{Command: o.command, ExitCode: 126, Err: unix.ENOENT,
			Reason: "its interpreter does not exist: no such file or directory; look at the #! line of a script (also for a carriage return at its end) or the dynamic loader of a program"}
	case strings.ContainsRune(o.command, '/'):
		return &CommandError{Command: o.command, ExitCode: 127, Err: unix.ENOENT, Reason: "stat " + o.command + ": no such file or directory"}
	}
	return &CommandError{Command: o.command, ExitCode: 127, Err: unix.ENOENT, Reason: "executable file not found in $PATH"}
}

func execError(command string, e unix.Errno) error {
	reason := e.Error()
	if e == unix.ENOEXEC {
		reason += "; is it a script without a #! line, or made for another processor?"
	}
	return &CommandError{Command: command, ExitCode: 126, Err: e, Reason: reason}
}
