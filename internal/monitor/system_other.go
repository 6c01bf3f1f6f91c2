//go:build !freebsd && !linux

package monitor

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

var statusSignals = []os.Signal{syscall.SIGINFO, syscall.SIGUSR1}

func markCloseOnExec(uint) bool { return false }

func controlPair() ([2]int, error) {
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err == nil {
		unix.CloseOnExec(p[0])
		unix.CloseOnExec(p[1])
	}
	return p, err
}
