package main

import "golang.org/x/sys/unix"

// archAttempts are system calls that this architecture alone has.
func archAttempts() []attempt {
	return []attempt{
		{"create_module", unix.SYS_CREATE_MODULE, [6]uintptr{bad}},
		{"get_kernel_syms", unix.SYS_GET_KERNEL_SYMS, [6]uintptr{bad}},
		{"ioperm", unix.SYS_IOPERM, [6]uintptr{1 << 20, 1, 1}},
		{"iopl", unix.SYS_IOPL, [6]uintptr{9}},
		{"kexec_file_load", unix.SYS_KEXEC_FILE_LOAD, [6]uintptr{none, none, 0, bad, 0xffff}},
		{"lookup_dcookie", unix.SYS_LOOKUP_DCOOKIE, [6]uintptr{0, bad, 0}},
		{"map_shadow_stack", unix.SYS_MAP_SHADOW_STACK, [6]uintptr{0, 0, 0xffff}},
		{"modify_ldt", unix.SYS_MODIFY_LDT, [6]uintptr{0xffff, bad, 0}},
		{"nfsservctl", unix.SYS_NFSSERVCTL, [6]uintptr{0xffff, bad, bad}},
		{"query_module", unix.SYS_QUERY_MODULE, [6]uintptr{bad}},
		{"sysfs", unix.SYS_SYSFS, [6]uintptr{0xffff}},
		{"uselib", unix.SYS_USELIB, [6]uintptr{bad}},
		{"ustat", unix.SYS_USTAT, [6]uintptr{0, bad}},
	}
}
