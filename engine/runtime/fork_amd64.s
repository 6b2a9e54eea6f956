#include "textflag.h"

// func cloneChild(args, size, img uintptr) uintptr
TEXT ·cloneChild(SB), NOSPLIT, $0-32
	MOVQ	args+0(FP), DI
	MOVQ	size+8(FP), SI
	MOVQ	img+16(FP), R12
	MOVL	$435, AX // SYS_clone3
	SYSCALL
	CMPQ	AX, $0
	JEQ	child
	MOVQ	AX, ret+24(FP)
	RET

child:
	// A new stack, its top in SP, and thread-local storage of zeros.
	XORL	BP, BP
	SUBQ	$16, SP
	MOVQ	R12, 0(SP)
	CALL	·runChild(SB)
	INT	$3
