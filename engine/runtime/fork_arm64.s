#include "textflag.h"

// func cloneChild(args, size, img uintptr) uintptr
TEXT ·cloneChild(SB), NOSPLIT, $0-32
	MOVD	args+0(FP), R0
	MOVD	size+8(FP), R1
	MOVD	img+16(FP), R19
	MOVD	$435, R8 // SYS_clone3
	SVC
	CBZ	R0, child
	MOVD	R0, ret+24(FP)
	RET

child:
	// A new stack, its top in RSP.
	MOVD	$0, R29
	SUB	$32, RSP
	MOVD	R19, 8(RSP)
	BL	·runChild(SB)
	BRK
