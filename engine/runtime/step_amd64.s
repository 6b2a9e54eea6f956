#include "textflag.h"

// func stepText() unsafe.Pointer
TEXT ·stepText(SB), NOSPLIT, $0-8
	LEAQ	stepCode<>(SB), AX
	MOVQ	AX, ret+0(FP)
	RET

// The last step; step.go says what it is given and what it reports.
TEXT stepCode<>(SB), NOSPLIT|NOFRAME, $0
	MOVL	$157, AX        // prctl(PR_SET_DUMPABLE, 0)
	MOVL	$4, DI
	XORL	SI, SI
	XORL	DX, DX
	XORL	R10, R10
	XORL	R8, R8
	SYSCALL
	MOVQ	0(SP), AX       // argc
	LEAQ	8(SP), R14      // argv
	LEAQ	8(R14)(AX*8), R13 // envp
	SUBQ	$64, SP
	MOVQ	(R14), SI
	TESTQ	SI, SI
	JEQ	bad
	MOVQ	$0x3d50455453202d2d, AX // "-- STEP="
	CMPQ	AX, (SI)
	JNE	bad
	ADDQ	$8, SI
	XORL	R12, R12        // the descriptor to report to
digit:
	MOVBLZX	(SI), AX
	SUBL	$48, AX
	JLT	parsed
	IMULL	$10, R12
	ADDL	AX, R12
	INCQ	SI
	JMP	digit
parsed:
	MOVL	$72, AX         // fcntl(report, F_SETFD, FD_CLOEXEC)
	MOVL	R12, DI
	MOVL	$2, SI
	MOVL	$1, DX
	SYSCALL
	LEAQ	8(R14), BX      // the first candidate
	MOVQ	BX, R15
separator:
	MOVQ	(R15), SI
	ADDQ	$8, R15
	TESTQ	SI, SI
	JEQ	bad
	CMPB	(SI), $0
	JNE	separator       // R15 is the command's argv then
candidate:
	MOVQ	(BX), DI
	CMPB	(DI), $0
	JEQ	none
	MOVL	$59, AX         // execve(candidate, argv, envp)
	MOVQ	R15, SI
	MOVQ	R13, DX
	SYSCALL
	NEGL	AX
	MOVL	AX, R9          // errno
	MOVQ	R14, DX         // -16 - 2 × index
	SUBQ	BX, DX
	SARQ	$2, DX
	SUBL	$14, DX
	MOVL	DX, R10
	MOVL	DX, 0(SP)
	MOVL	R9, 4(SP)
	MOVL	$1, AX          // write(report, record, 8)
	MOVL	R12, DI
	MOVQ	SP, SI
	MOVL	$8, DX
	SYSCALL
	CMPL	R9, $2          // ENOENT
	JEQ	present
	CMPL	R9, $13         // EACCES
	JEQ	present
	CMPL	R9, $20         // ENOTDIR
	JNE	exit
present:
	MOVL	R10, R9
	MOVL	$269, AX        // faccessat(AT_FDCWD, candidate, F_OK)
	MOVQ	$-100, DI
	MOVQ	(BX), SI
	XORL	DX, DX
	XORL	R10, R10
	SYSCALL
	ADDQ	$8, BX
	TESTL	AX, AX
	JNE	candidate
	DECL	R9
	MOVL	R9, 0(SP)
	MOVL	$0, 4(SP)
	MOVL	$1, AX
	MOVL	R12, DI
	MOVQ	SP, SI
	MOVL	$8, DX
	SYSCALL
	JMP	candidate
none:
	MOVL	$-2, 0(SP)
	MOVL	$0, 4(SP)
	MOVL	$1, AX
	MOVL	R12, DI
	MOVQ	SP, SI
	MOVL	$8, DX
	SYSCALL
exit:
	MOVL	$255, DI
	MOVL	$231, AX        // exit_group
	SYSCALL
	INT	$3
bad:
	MOVL	$126, DI
	MOVL	$231, AX
	SYSCALL
	INT	$3
	QUAD	$0x00444e4554494e49 // "INITEND\0"
