#include "textflag.h"

// func cloneChild(args, size, img, entry uintptr) uintptr
TEXT ·cloneChild(SB), NOSPLIT, $0-40
	MOVQ	args+0(FP), DI
	MOVQ	size+8(FP), SI
	MOVQ	img+16(FP), R12
	MOVQ	entry+24(FP), R13
	MOVL	$435, AX // SYS_clone3
	SYSCALL
	CMPQ	AX, $0
	JEQ	child
	MOVQ	AX, ret+32(FP)
	RET

child:
	// A new stack, its top in SP. Go expects zero in X15, its goroutine in R14, and
	// room above the return address where it may spill arguments.
	SUBQ	$32, SP
	XORL	BP, BP
	XORL	R14, R14
	XORPS	X15, X15
	MOVQ	R12, AX
	CALL	R13
	INT	$3
