#include "textflag.h"

// func stepText() unsafe.Pointer
TEXT ·stepText(SB), NOSPLIT, $0-8
	MOVD	$stepCode<>(SB), R0
	MOVD	R0, ret+0(FP)
	RET

// The last step; step.go says what it is given and what it reports.
TEXT stepCode<>(SB), NOSPLIT|NOFRAME, $0
	MOVD	$4, R0          // prctl(PR_SET_DUMPABLE, 0)
	MOVD	$0, R1
	MOVD	$0, R2
	MOVD	$0, R3
	MOVD	$0, R4
	MOVD	$167, R8
	SVC
	MOVD	RSP, R19
	MOVD	(R19), R0       // argc
	ADD	$8, R19, R19    // argv
	ADD	R0<<3, R19, R20
	ADD	$8, R20, R20    // envp
	SUB	$64, RSP
	MOVD	RSP, R21        // the record
	MOVD	(R19), R1
	CBZ	R1, bad
	MOVD	(R1), R2
	MOVD	$0x3d50455453202d2d, R3 // "-- STEP="
	CMP	R3, R2
	BNE	bad
	ADD	$8, R1
	MOVD	$0, R22         // the descriptor to report to
	MOVD	$10, R2
digit:
	MOVBU	(R1), R0
	SUBSW	$48, R0, R0
	BLT	parsed
	MULW	R2, R22, R22
	ADDW	R0, R22, R22
	ADD	$1, R1
	B	digit
parsed:
	MOVD	R22, R0         // fcntl(report, F_SETFD, FD_CLOEXEC)
	MOVD	$2, R1
	MOVD	$1, R2
	MOVD	$25, R8
	SVC
	ADD	$8, R19, R23    // the first candidate
	MOVD	R23, R24
separator:
	MOVD	(R24), R1
	ADD	$8, R24
	CBZ	R1, bad
	MOVBU	(R1), R0
	CBNZ	R0, separator   // R24 is the command's argv then
candidate:
	MOVD	(R23), R0
	MOVBU	(R0), R1
	CBZ	R1, none
	MOVD	R24, R1         // execve(candidate, argv, envp)
	MOVD	R20, R2
	MOVD	$221, R8
	SVC
	NEGW	R0, R25         // errno
	SUB	R23, R19, R26   // -16 - 2 × index
	ASR	$2, R26, R26
	SUBW	$14, R26, R26
	MOVW	R26, (R21)
	MOVW	R25, 4(R21)
	MOVD	R22, R0         // write(report, record, 8)
	MOVD	R21, R1
	MOVD	$8, R2
	MOVD	$64, R8
	SVC
	CMPW	$2, R25         // ENOENT
	BEQ	present
	CMPW	$13, R25        // EACCES
	BEQ	present
	CMPW	$20, R25        // ENOTDIR
	BNE	exit
present:
	MOVD	$-100, R0       // faccessat(AT_FDCWD, candidate, F_OK)
	MOVD	(R23), R1
	MOVD	$0, R2
	MOVD	$0, R3
	MOVD	$48, R8
	SVC
	ADD	$8, R23
	CBNZW	R0, candidate
	SUBW	$1, R26, R26
	MOVW	R26, (R21)
	MOVW	ZR, 4(R21)
	MOVD	R22, R0
	MOVD	R21, R1
	MOVD	$8, R2
	MOVD	$64, R8
	SVC
	B	candidate
none:
	MOVD	$-2, R0
	MOVW	R0, (R21)
	MOVW	ZR, 4(R21)
	MOVD	R22, R0
	MOVD	R21, R1
	MOVD	$8, R2
	MOVD	$64, R8
	SVC
exit:
	MOVD	$255, R0
	MOVD	$94, R8         // exit_group
	SVC
	BRK
bad:
	MOVD	$126, R0
	MOVD	$94, R8
	SVC
	BRK
	WORD	$0x54494e49     // "INITEND\0"
	WORD	$0x00444e45
