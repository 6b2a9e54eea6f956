package runtime

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// program is the list of system calls that a forked child makes between clone
// and execve. It is plain data: compiling one is pure, its print is its test,
// and the child needs no Go to run it (see fork.go).
//
// There are no jumps. A call may depend on how an earlier one ended (cond), and
// an argument may be an earlier call's result (slot).
type program struct {
	ops      []op
	data     []byte         // strings and structures the arguments point to
	relocs   []reloc        // pointers inside data
	interned map[string]int // strings in data
	slots    int
	fds      []string // names of the descriptors it uses, in order of first use
	flags    uint64   // for clone3(2)
	forks    bool     // there is a callFork
	// command is what is executed in the end, and candidates the files that the
	// step tries for it.
	command    string
	candidates []string
}

// op is one system call or one of the pseudo calls below.
type op struct {
	nr     uintptr
	args   []arg
	save   slot // where the result goes, 0 for nowhere
	when   cond
	ignore []unix.Errno // expected errors: go on
	flags  opFlags

	// what completes "cannot …" in the error; hints add what to do by errno,
	// with errno 0 for any.
	what  string
	hints map[unix.Errno]string
	role  role
}

type opFlags uint8

const (
	// optional: any error is expected.
	optional opFlags = 1 << iota
	// report: tell the parent about an error and go on.
	report
	// reportOK: tell the parent about a success.
	reportOK
	// full: a result other than the third argument is an error (read, write).
	full
)

// role tells the parent what a report is about.
type role uint8

const (
	roleSetup   role = iota
	roleWarn         // an error is a warning
	roleExecve       // execve of a candidate
	rolePresent      // the candidate exists although execve said ENOENT
	roleNone         // no candidate was left
)

// Pseudo calls, numbers no kernel uses.
const (
	// callFail fails with the errno in its first argument.
	callFail uintptr = 1<<20 + iota
	// callCloseOthers closes the descriptors that the program does not use.
	callCloseOthers
	// callCloseBut closes all descriptors but 0, 1, 2 and its arguments.
	callCloseBut
	// callReady tells the parent that execve comes next.
	callReady
	// callDecimal writes the slot of its second argument in decimal and a NUL to
	// the address of the first.
	callDecimal
	// callFork goes on in a child of this process's parent, whom it tells the child's
	// pid, and ends this process.
	callFork
	// callDefaultSignals sets every signal's action to the default.
	callDefaultSignals
)

type argKind uint8

const (
	immediate     argKind = iota
	address               // of data[v]
	result                // of slot v
	resultAddress         // of slot v
	descriptor            // fds[v]
)

type arg struct {
	kind argKind
	v    uint64
	text string // how it prints
}

// slot numbers a result from 1; 0 is none.
type slot int

// cond is a condition on a slot. A call that is not made leaves its slot alone.
type cond struct {
	slot slot
	is   condition
}

type condition uint8

const (
	always condition = iota
	succeeded
	failed
	isZero
)

func (s slot) ok() cond     { return cond{s, succeeded} }
func (s slot) failed() cond { return cond{s, failed} }
func (s slot) zero() cond   { return cond{s, isZero} }

func (s slot) arg() arg     { return arg{kind: result, v: uint64(s)} }
func (s slot) address() arg { return arg{kind: resultAddress, v: uint64(s)} }

type reloc struct {
	at, to int // data[at:at+8] holds the address of data[to]
}

func imm[T ~int | ~int32 | ~int64 | ~uint | ~uint32 | ~uint64 | ~uintptr](v T) arg {
	return arg{v: uint64(v)}
}

// named is a number that prints as text.
func named(v uint64, text string) arg { return arg{v: v, text: text} }

var (
	cwdFD = arg{v: ^uint64(99), text: "AT_FDCWD"} // -100
	null  = arg{text: "NULL"}
)

// str is a NUL-terminated string.
func (p *program) str(s string) arg {
	at, ok := p.interned[s]
	if !ok {
		if p.interned == nil {
			p.interned = map[string]int{}
		}
		at = len(p.data)
		p.interned[s] = at
		p.data = append(append(p.data, s...), 0)
	}
	return arg{kind: address, v: uint64(at), text: strconv.Quote(s)}
}

// blob is a structure, 8-byte aligned.
func (p *program) blob(b []byte, text string) arg {
	p.align()
	at := len(p.data)
	p.data = append(p.data, b...)
	return arg{kind: address, v: uint64(at), text: text}
}

// words is a structure of 64-bit fields.
func (p *program) words(text string, w ...uint64) arg {
	b := make([]byte, 0, 8*len(w))
	for _, v := range w {
		b = binary.NativeEndian.AppendUint64(b, v)
	}
	return p.blob(b, text)
}

// vector is a NULL-terminated array of pointers to strings, as execve(2) wants.
func (p *program) vector(list []string) arg {
	at := make([]int, len(list))
	for i, s := range list {
		at[i] = int(p.str(s).v)
	}
	v := p.blob(make([]byte, 8*(len(list)+1)), fmt.Sprintf("%q", list))
	for i, to := range at {
		p.relocs = append(p.relocs, reloc{int(v.v) + 8*i, to})
	}
	return v
}

func (p *program) align() {
	for len(p.data)%8 != 0 {
		p.data = append(p.data, 0)
	}
}

// fd is a descriptor that the parent hands in under this name.
func (p *program) fd(name string) arg {
	i := slices.Index(p.fds, name)
	if i < 0 {
		i = len(p.fds)
		p.fds = append(p.fds, name)
	}
	return arg{kind: descriptor, v: uint64(i), text: "<" + name + ">"}
}

// slot makes a place for a result.
func (p *program) slot() slot {
	p.slots++
	return slot(p.slots)
}

// call appends a system call. The pointer is valid until the next one.
func (p *program) call(what string, nr uintptr, args ...arg) *op {
	p.ops = append(p.ops, op{nr: nr, args: args, what: what})
	return &p.ops[len(p.ops)-1]
}

func (o *op) to(s slot) *op              { o.save = s; return o }
func (o *op) if_(c cond) *op             { o.when = c; return o }
func (o *op) expect(e ...unix.Errno) *op { o.ignore = append(o.ignore, e...); return o }
func (o *op) with(f opFlags) *op         { o.flags |= f; return o }
func (o *op) as(r role) *op              { o.role = r; return o }
func (o *op) hint(e unix.Errno, s string) *op {
	if o.hints == nil {
		o.hints = map[unix.Errno]string{}
	}
	o.hints[e] = s
	return o
}

// explain is the error for the user when the call ended with e.
func (o *op) explain(e unix.Errno) error {
	hint := o.hints[e]
	if hint == "" {
		hint = o.hints[0]
	}
	if hint != "" {
		hint = "; " + hint
	}
	return fmt.Errorf("cannot %s: %w%s", o.what, e, hint)
}

// String prints the program, one call a line.
func (p *program) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "clone %s\n", cloneFlagNames(p.flags))
	for i := range p.ops {
		o := &p.ops[i]
		switch o.when.is {
		case succeeded:
			fmt.Fprintf(&b, "  if %%%d ok: ", o.when.slot)
		case failed:
			fmt.Fprintf(&b, "  if %%%d failed: ", o.when.slot)
		case isZero:
			fmt.Fprintf(&b, "  if %%%d = 0: ", o.when.slot)
		}
		if o.save != 0 {
			fmt.Fprintf(&b, "%%%d = ", o.save)
		}
		b.WriteString(callName(o.nr))
		b.WriteByte('(')
		for j, a := range o.args {
			if j > 0 {
				b.WriteString(", ")
			}
			b.WriteString(a.String())
		}
		b.WriteByte(')')
		if len(o.ignore) > 0 {
			b.WriteString(" unless")
			for _, e := range o.ignore {
				b.WriteByte(' ')
				b.WriteString(unix.ErrnoName(e))
			}
		}
		if o.flags&optional != 0 {
			b.WriteString(" optional")
		}
		if o.flags&report != 0 {
			b.WriteString(" report")
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func (a arg) String() string {
	switch {
	case a.kind == resultAddress:
		return "&%" + strconv.FormatUint(a.v, 10)
	case a.kind == result:
		return "%" + strconv.FormatUint(a.v, 10)
	case a.text != "":
		return a.text
	case int64(a.v) < 0 || a.v < 4096:
		return strconv.FormatInt(int64(a.v), 10)
	}
	return "0x" + strconv.FormatUint(a.v, 16)
}

func cloneFlagNames(flags uint64) string {
	var out []string
	for _, f := range []struct {
		bit  uint64
		name string
	}{
		{unix.CLONE_NEWUSER, "user"}, {unix.CLONE_NEWPID, "pid"}, {unix.CLONE_NEWNS, "mount"}, {unix.CLONE_NEWNET, "network"},
		{unix.CLONE_NEWIPC, "ipc"}, {unix.CLONE_NEWUTS, "uts"}, {unix.CLONE_NEWCGROUP, "cgroup"},
	} {
		if flags&f.bit != 0 {
			out = append(out, f.name)
		}
	}
	if out == nil {
		return "no namespaces"
	}
	return strings.Join(out, ",")
}

// callName names the calls that programs are made of.
func callName(nr uintptr) string {
	switch nr {
	case callFail:
		return "fail"
	case callCloseOthers:
		return "close_unused"
	case callCloseBut:
		return "close_all_but"
	case callReady:
		return "ready"
	case callDecimal:
		return "decimal"
	case callFork:
		return "fork"
	case callDefaultSignals:
		return "default_signals"
	case unix.SYS_CLONE:
		return "clone"
	case unix.SYS_READ:
		return "read"
	case unix.SYS_WRITE:
		return "write"
	case unix.SYS_CLOSE:
		return "close"
	case unix.SYS_OPENAT:
		return "openat"
	case unix.SYS_OPENAT2:
		return "openat2"
	case unix.SYS_MKDIRAT:
		return "mkdirat"
	case unix.SYS_MKNODAT:
		return "mknodat"
	case unix.SYS_SYMLINKAT:
		return "symlinkat"
	case unix.SYS_FCHOWN:
		return "fchown"
	case unix.SYS_FCHOWNAT:
		return "fchownat"
	case unix.SYS_FACCESSAT:
		return "faccessat"
	case unix.SYS_FCNTL:
		return "fcntl"
	case unix.SYS_DUP3:
		return "dup3"
	case unix.SYS_IOCTL:
		return "ioctl"
	case unix.SYS_CHDIR:
		return "chdir"
	case unix.SYS_FCHDIR:
		return "fchdir"
	case unix.SYS_UMASK:
		return "umask"
	case unix.SYS_MOUNT:
		return "mount"
	case unix.SYS_UMOUNT2:
		return "umount2"
	case unix.SYS_PIVOT_ROOT:
		return "pivot_root"
	case unix.SYS_OPEN_TREE:
		return "open_tree"
	case unix.SYS_MOVE_MOUNT:
		return "move_mount"
	case unix.SYS_MOUNT_SETATTR:
		return "mount_setattr"
	case unix.SYS_FSOPEN:
		return "fsopen"
	case unix.SYS_FSCONFIG:
		return "fsconfig"
	case unix.SYS_FSMOUNT:
		return "fsmount"
	case unix.SYS_SETNS:
		return "setns"
	case unix.SYS_UNSHARE:
		return "unshare"
	case unix.SYS_SETHOSTNAME:
		return "sethostname"
	case unix.SYS_SETDOMAINNAME:
		return "setdomainname"
	case unix.SYS_PRCTL:
		return "prctl"
	case unix.SYS_CAPSET:
		return "capset"
	case unix.SYS_SECCOMP:
		return "seccomp"
	case unix.SYS_GETPID:
		return "getpid"
	case unix.SYS_SETSID:
		return "setsid"
	case unix.SYS_SETPGID:
		return "setpgid"
	case unix.SYS_SETGROUPS:
		return "setgroups"
	case unix.SYS_SETRESGID:
		return "setresgid"
	case unix.SYS_SETRESUID:
		return "setresuid"
	case unix.SYS_PRLIMIT64:
		return "prlimit64"
	case unix.SYS_RT_SIGTIMEDWAIT:
		return "rt_sigtimedwait"
	case unix.SYS_RT_SIGPROCMASK:
		return "rt_sigprocmask"
	case unix.SYS_EXECVE:
		return "execve"
	case unix.SYS_EXECVEAT:
		return "execveat"
	}
	return "syscall_" + strconv.FormatUint(uint64(nr), 10)
}
