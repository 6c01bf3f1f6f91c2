#include "textflag.h"

// The return address is in R12 during the call: the child of rfork(2) shares our
// stack and overwrites it there. syscall.rawVforkSyscall on Linux does the same.

// func rawSyscall(trap, a1, a2, a3, a4 uintptr) (r1, errno uintptr)
TEXT ·rawSyscall(SB),NOSPLIT|NOFRAME,$0-56
	MOVQ	trap+0(FP), AX
	MOVQ	a1+8(FP), DI
	MOVQ	a2+16(FP), SI
	MOVQ	a3+24(FP), DX
	MOVQ	a4+32(FP), R10
	POPQ	R12
	SYSCALL
	PUSHQ	R12
	JCS	fail
	MOVQ	AX, r1+40(FP)
	MOVQ	$0, errno+48(FP)
	RET
fail:
	MOVQ	$0, r1+40(FP)
	MOVQ	AX, errno+48(FP)
	RET
