#include "textflag.h"

// func initText() unsafe.Pointer
TEXT ·initText(SB), NOSPLIT, $0-8
	MOVD	$initCode<>(SB), R0
	MOVD	R0, ret+0(FP)
	RET

// The init process. All signals are blocked; the first environment variable
// is INIT_CHILD=PID.
TEXT initCode<>(SB), NOSPLIT|NOFRAME, $0
	MOVD	RSP, R1
	MOVD	(R1), R0        // argc
	ADD	R0<<3, R1, R1
	MOVD	16(R1), R1      // envp[0]
	ADD	$11, R1         // past INIT_CHILD=
	MOVD	$0, R19
	MOVD	$10, R2
digit:
	MOVBU	(R1), R0
	SUBSW	$48, R0, R0
	BLT	parsed
	MULW	R2, R19, R19
	ADDW	R0, R19, R19
	ADD	$1, R1
	B	digit
parsed:
	SUB	$256, RSP
	MOVD	RSP, R20
	MOVD	$-1, R0
	MOVD	R0, (R20)       // the set of all signals
next:
	MOVD	R20, R0         // rt_sigtimedwait(set, info, NULL, 8)
	ADD	$16, R20, R1
	MOVD	$0, R2
	MOVD	$8, R3
	MOVD	$137, R8
	SVC
	CMPW	$0, R0
	BLT	next            // EINTR
	CMPW	$17, R0         // SIGCHLD
	BEQ	reap
	MOVW	R0, R1          // kill(child, signal)
	MOVW	R19, R0
	MOVD	$129, R8
	SVC
	B	next
reap:
	MOVD	$-1, R0         // wait4(-1, &status, WNOHANG, NULL)
	ADD	$8, R20, R1
	MOVD	$1, R2
	MOVD	$0, R3
	MOVD	$260, R8
	SVC
	CMPW	$0, R0
	BLE	next
	CMPW	R19, R0
	BNE	reap
	MOVWU	8(R20), R1      // exit as the child did
	ANDSW	$127, R1, R0
	BEQ	exited
	ADDW	$128, R0, R0
	B	exit
exited:
	LSRW	$8, R1, R0
	ANDW	$255, R0, R0
exit:
	MOVD	$94, R8         // exit_group
	SVC
	BRK
	WORD	$0x54494e49     // "INITEND\0"
	WORD	$0x00444e45
