package cgroup

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// allowsAll tells whether rules hold nothing back, as a privileged container's.
func allowsAll(rules []specs.LinuxDeviceCgroup) bool {
	if len(rules) == 0 {
		return true
	}
	last := rules[len(rules)-1]
	return last.Allow && wholeRule(last)
}

// wholeRule tells whether a rule matches every device and access.
func wholeRule(r specs.LinuxDeviceCgroup) bool {
	access, err := accessBits(r.Access)
	return (r.Type == "" || r.Type == "a") && err == nil && access == accessAll && wild(r.Major) && wild(r.Minor)
}

func wild(n *int64) bool { return n == nil || *n < 0 }

// filterDevices restricts the group to devices. Rules are OCI's: the last one
// that matches decides, and what none matches is denied.
func (g *Group) filterDevices(rules []specs.LinuxDeviceCgroup) error {
	if g.unified != "" {
		program, err := assemble(rules)
		if err != nil {
			return err
		}
		err = g.h.programs.attach(g.unified, program)
		// Without these rights nobody in the container makes device nodes either.
		if err == nil || errors.Is(err, unix.EPERM) {
			return nil
		}
		if g.h.V1["devices"] == "" {
			return fmt.Errorf("cannot restrict devices: %w; the kernel needs CONFIG_CGROUP_BPF", err)
		}
		dir := filepath.Join(g.h.V1["devices"], g.path)
		if err := makeDir(dir); err != nil {
			return fmt.Errorf("cannot restrict devices: %w", err)
		}
		g.v1["devices"] = dir
	}
	dir := g.v1["devices"]
	if dir == "" {
		return errors.New("cannot restrict devices: no cgroup hierarchy with devices is mounted")
	}
	writes, err := v1Devices(rules)
	if err != nil {
		return err
	}
	for _, w := range writes {
		if err := writeFile(filepath.Join(dir, w.file), w.value); err != nil {
			return fmt.Errorf("cannot restrict devices: %w", err)
		}
	}
	return nil
}

// v1Devices translates rules to writes to devices.allow and devices.deny.
func v1Devices(rules []specs.LinuxDeviceCgroup) (out []setting, err error) {
	out = append(out, setting{"devices", "devices.deny", "a", "devices"})
	for _, r := range rules {
		if _, err := accessBits(r.Access); err != nil {
			return nil, err
		}
		file := "devices.deny"
		if r.Allow {
			file = "devices.allow"
		}
		value := "a"
		if !wholeRule(r) {
			access := r.Access
			if access == "" {
				access = "rwm"
			}
			types := []string{r.Type}
			if r.Type == "" || r.Type == "a" {
				types = []string{"b", "c"} // "a" takes no numbers
			}
			for _, typ := range types {
				out = append(out, setting{"devices", file, typ + " " + number(r.Major) + ":" + number(r.Minor) + " " + access, "devices"})
			}
			continue
		}
		out = append(out, setting{"devices", file, value, "devices"})
	}
	return out, nil
}

func number(n *int64) string {
	if wild(n) {
		return "*"
	}
	return decimal(*n)
}

// Bits and types of struct bpf_cgroup_dev_ctx (linux/bpf.h).
const (
	accessMknod = 1
	accessRead  = 2
	accessWrite = 4
	accessAll   = accessMknod | accessRead | accessWrite

	deviceBlock = 1
	deviceChar  = 2
)

func accessBits(s string) (bits int32, err error) {
	if s == "" {
		return accessAll, nil
	}
	for _, c := range s {
		switch c {
		case 'r':
			bits |= accessRead
		case 'w':
			bits |= accessWrite
		case 'm':
			bits |= accessMknod
		default:
			return 0, fmt.Errorf("cannot use device access %q: %q is none of r, w, m", s, c)
		}
	}
	return bits, nil
}

// instruction is struct bpf_insn.
type instruction struct {
	code     uint8
	dst, src uint8
	off      int16
	imm      int32
}

// The instructions used (kernel: bpf/standardization/instruction-set.rst).
const (
	opLoadWord = 0x61 // dst = *(u32 *)(src + off)
	opMove     = 0xbc // dst = (u32) src
	opSet      = 0xb7 // dst = imm
	opAnd      = 0x54 // dst = (u32) dst & imm
	opShift    = 0x74 // dst = (u32) dst >> imm
	opIfNot    = 0x55 // skip off instructions if dst != imm
	opIf       = 0x15 // skip off instructions if dst == imm
	opExit     = 0x95
)

// assemble compiles rules to a program of type BPF_PROG_TYPE_CGROUP_DEVICE, which
// gives 1 for allowed. The last rule comes first, and the first match decides.
func assemble(rules []specs.LinuxDeviceCgroup) ([]instruction, error) {
	const result, ctx, typ, access, major, minor = 0, 1, 2, 3, 4, 5
	program := []instruction{
		{opLoadWord, typ, ctx, 0, 0}, // access_type: access << 16 | type
		{opMove, access, typ, 0, 0},
		{opAnd, typ, 0, 0, 0xffff},
		{opShift, access, 0, 0, 16},
		{opLoadWord, major, ctx, 4, 0},
		{opLoadWord, minor, ctx, 8, 0},
	}
	for i := len(rules) - 1; i >= 0; i-- {
		r := rules[i]
		bits, err := accessBits(r.Access)
		if err != nil {
			return nil, err
		}
		verdict := int32(0)
		if r.Allow {
			verdict = 1
		}
		decide := []instruction{{opSet, result, 0, 0, verdict}, {opExit, 0, 0, 0, 0}}
		if wholeRule(r) {
			return append(program, decide...), nil // what follows would be unreachable
		}
		var tests []instruction
		switch r.Type {
		case "", "a":
		case "b":
			tests = append(tests, instruction{opIfNot, typ, 0, 0, deviceBlock})
		case "c", "u":
			tests = append(tests, instruction{opIfNot, typ, 0, 0, deviceChar})
		default:
			return nil, fmt.Errorf("cannot use device type %q: it is none of a, b, c", r.Type)
		}
		switch {
		case bits == accessAll && r.Allow:
		case r.Allow: // all that is asked for must be in the rule
			tests = append(tests, instruction{opMove, ctx, access, 0, 0}, instruction{opAnd, ctx, 0, 0, accessAll &^ bits}, instruction{opIfNot, ctx, 0, 0, 0})
		default: // any of it suffices to deny
			tests = append(tests, instruction{opMove, ctx, access, 0, 0}, instruction{opAnd, ctx, 0, 0, bits}, instruction{opIf, ctx, 0, 0, 0})
		}
		for _, test := range []struct {
			register uint8
			number   *int64
		}{{major, r.Major}, {minor, r.Minor}} {
			if wild(test.number) {
				continue
			}
			if *test.number > math.MaxInt32 {
				return nil, fmt.Errorf("cannot use device number %d: too large", *test.number)
			}
			tests = append(tests, instruction{opIfNot, test.register, 0, 0, int32(*test.number)})
		}
		// Each failed test goes behind this rule.
		for k := range tests {
			if tests[k].code == opIfNot || tests[k].code == opIf {
				tests[k].off = int16(len(tests) - k - 1 + len(decide))
			}
		}
		program = append(append(program, tests...), decide...)
	}
	return append(program, instruction{opSet, result, 0, 0, 0}, instruction{opExit, 0, 0, 0, 0}), nil
}

// encode lays a program out as the kernel reads it.
func encode(program []instruction) []byte {
	b := make([]byte, 0, 8*len(program))
	for _, in := range program {
		// struct bpf_insn is in host byte order; so are its bit fields.
		registers := in.src<<4 | in.dst
		if bigEndian() {
			registers = in.dst<<4 | in.src
		}
		b = append(b, in.code, registers)
		b = binary.NativeEndian.AppendUint16(b, uint16(in.off))
		b = binary.NativeEndian.AppendUint32(b, uint32(in.imm))
	}
	return b
}

func bigEndian() bool {
	var b [2]byte
	binary.NativeEndian.PutUint16(b[:], 1)
	return b[0] == 0
}

// maxPrograms is how many different programs stay loaded for the next group.
const maxPrograms = 16

// programs keeps loaded programs: most containers have the same rules.
type programs struct {
	mu     sync.Mutex
	loaded map[string]int // descriptor by code
}

func (p *programs) attach(dir string, program []instruction) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	code := string(encode(program))
	prog, ok := p.loaded[code]
	if !ok {
		var err error
		if prog, err = loadProgram(code); err != nil {
			return err
		}
		if len(p.loaded) >= maxPrograms {
			for old, fd := range p.loaded {
				unix.Close(fd) // groups that it is attached to keep it
				delete(p.loaded, old)
				break
			}
		}
		if p.loaded == nil {
			p.loaded = map[string]int{}
		}
		p.loaded[code] = prog
	}
	target, err := openFD(dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	// The attach part of union bpf_attr.
	attr := struct{ target, prog, typ, flags, replace uint32 }{
		uint32(target), uint32(prog), unix.BPF_CGROUP_DEVICE, unix.BPF_F_ALLOW_MULTI, 0,
	}
	if _, err := bpf(unix.BPF_PROG_ATTACH, unsafe.Pointer(&attr), unsafe.Sizeof(attr)); err != nil {
		return fmt.Errorf("cannot attach the device program: %w", err)
	}
	return nil
}

func loadProgram(code string) (int, error) {
	insns, license := []byte(code), []byte("Apache-2.0\x00")
	// The start of the load part of union bpf_attr.
	attr := struct {
		progType, count    uint32
		insns, license     uint64
		logLevel, logSize  uint32
		logBuf             uint64
		kernVersion, flags uint32
		name               [16]byte
	}{progType: unix.BPF_PROG_TYPE_CGROUP_DEVICE, count: uint32(len(code) / 8)}
	copy(attr.name[:15], "stack_devices")
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&insns[0])
	pin.Pin(&license[0])
	attr.insns = uint64(uintptr(unsafe.Pointer(&insns[0])))
	attr.license = uint64(uintptr(unsafe.Pointer(&license[0])))
	fd, err := bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	if err == nil {
		return fd, nil
	}
	if err == unix.EINVAL || err == unix.EACCES {
		log := make([]byte, 64<<10)
		pin.Pin(&log[0])
		attr.logLevel, attr.logSize, attr.logBuf = 1, uint32(len(log)), uint64(uintptr(unsafe.Pointer(&log[0])))
		if fd, again := bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&attr), unsafe.Sizeof(attr)); again == nil {
			return fd, nil
		}
		if text := strings.TrimRight(string(log), "\x00\n"); text != "" {
			return -1, fmt.Errorf("cannot load the device program: %w: %s", err, text)
		}
	}
	return -1, fmt.Errorf("cannot load the device program: %w", err)
}

// bpf is bpf(2). EAGAIN is the verifier's, interrupted by a signal.
func bpf(cmd int, attr unsafe.Pointer, size uintptr) (int, error) {
	for {
		r, _, errno := unix.Syscall(unix.SYS_BPF, uintptr(cmd), uintptr(attr), size)
		switch errno {
		case 0:
			return int(r), nil
		case unix.EAGAIN, unix.EINTR:
		default:
			return -1, errno
		}
	}
}
