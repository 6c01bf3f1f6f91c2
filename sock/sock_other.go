//go:build !freebsd && !linux

package sock

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const refusalWait = time.Second

// Not every system has SOCK_CLOEXEC: the lock keeps a fork from coming between.
func socket() (int, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err == nil {
		unix.CloseOnExec(fd)
	}
	return fd, err
}

// newFileGID is the group that a new file gets.
func newFileGID(dir stat) int { return dir.gid }
