package monitor

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

var statusSignals = []os.Signal{syscall.SIGINFO, syscall.SIGUSR1}

const closeRangeCloexec = 4 // CLOSE_RANGE_CLOEXEC, unistd.h

// markCloseOnExec needs FreeBSD 13.2: older ones have close_range(2) without
// the flag, and say EINVAL.
func markCloseOnExec(first uint) bool {
	_, _, errno := unix.Syscall(unix.SYS_CLOSE_RANGE, uintptr(first), uintptr(^uint32(0)), closeRangeCloexec)
	return errno == 0
}

func controlPair() ([2]int, error) {
	return unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
}
