#include "textflag.h"

// The return address stays in the link register: the child of rfork(2) shares our
// stack, and nothing of ours is on it during the call.

// func rawSyscall(trap, a1, a2, a3, a4 uintptr) (r1, errno uintptr)
TEXT ·rawSyscall(SB),NOSPLIT,$0-56
	MOVD	trap+0(FP), R8
	MOVD	a1+8(FP), R0
	MOVD	a2+16(FP), R1
	MOVD	a3+24(FP), R2
	MOVD	a4+32(FP), R3
	SVC	$0
	BCS	fail
	MOVD	R0, r1+40(FP)
	MOVD	ZR, errno+48(FP)
	RET
fail:
	MOVD	ZR, r1+40(FP)
	MOVD	R0, errno+48(FP)
	RET
