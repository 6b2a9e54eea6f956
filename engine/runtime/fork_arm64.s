#include "textflag.h"

// func cloneChild(args, size, img, entry uintptr) uintptr
TEXT ·cloneChild(SB), NOSPLIT, $0-40
	MOVD	args+0(FP), R0
	MOVD	size+8(FP), R1
	MOVD	img+16(FP), R19
	MOVD	entry+24(FP), R20
	MOVD	$435, R8 // SYS_clone3
	SVC
	CBZ	R0, child
	MOVD	R0, ret+32(FP)
	RET

child:
	// A new stack, its top in RSP. Above it Go may spill arguments.
	MOVD	$0, R29
	SUB	$32, RSP
	MOVD	R19, R0
	CALL	(R20)
	BRK
