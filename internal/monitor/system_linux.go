package monitor

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

var statusSignals = []os.Signal{syscall.SIGUSR1}

// markCloseOnExec needs Linux 5.11.
func markCloseOnExec(first uint) bool {
	return unix.CloseRange(first, ^uint(0), unix.CLOSE_RANGE_CLOEXEC) == nil
}

func controlPair() ([2]int, error) {
	return unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
}
