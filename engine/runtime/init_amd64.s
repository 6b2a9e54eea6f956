#include "textflag.h"

// func initText() unsafe.Pointer
TEXT ·initText(SB), NOSPLIT, $0-8
	LEAQ	initCode<>(SB), AX
	MOVQ	AX, ret+0(FP)
	RET

// The init process. All signals are blocked; the first environment variable
// is INIT_CHILD=PID.
TEXT initCode<>(SB), NOSPLIT|NOFRAME, $0
	MOVQ	0(SP), AX       // argc
	LEAQ	16(SP), SI
	MOVQ	(SI)(AX*8), SI  // envp[0]
	ADDQ	$11, SI         // past INIT_CHILD=
	XORL	R12, R12
digit:
	MOVBLZX	(SI), AX
	SUBL	$48, AX
	JLT	parsed
	IMULL	$10, R12
	ADDL	AX, R12
	INCQ	SI
	JMP	digit
parsed:
	ANDQ	$~15, SP
	SUBQ	$256, SP
	MOVQ	$-1, 0(SP)      // the set of all signals
next:
	MOVL	$128, AX        // rt_sigtimedwait(set, info, NULL, 8)
	LEAQ	0(SP), DI
	LEAQ	16(SP), SI
	XORL	DX, DX
	MOVL	$8, R10
	SYSCALL
	TESTL	AX, AX
	JLT	next            // EINTR
	CMPL	AX, $17         // SIGCHLD
	JEQ	reap
	MOVL	AX, SI          // kill(child, signal)
	MOVL	R12, DI
	MOVL	$62, AX
	SYSCALL
	JMP	next
reap:
	MOVL	$61, AX         // wait4(-1, &status, WNOHANG, NULL)
	MOVQ	$-1, DI
	LEAQ	8(SP), SI
	MOVL	$1, DX
	XORL	R10, R10
	SYSCALL
	TESTL	AX, AX
	JLE	next
	CMPL	AX, R12
	JNE	reap
	MOVL	8(SP), DI       // exit as the child did
	MOVL	DI, AX
	ANDL	$127, DI
	JEQ	exited
	ADDL	$128, DI
	JMP	exit
exited:
	SHRL	$8, AX
	MOVBLZX	AX, DI
exit:
	MOVL	$231, AX        // exit_group
	SYSCALL
	INT	$3
	QUAD	$0x00444e4554494e49 // "INITEND\0"
