//go:build !freebsd && !linux && !netbsd && !openbsd

package sock

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const refusalPatience = time.Second

// There is no SOCK_CLOEXEC here: the lock keeps a fork from coming between.
func socket(family int) (int, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fd, err := unix.Socket(family, unix.SOCK_STREAM, 0)
	if err == nil {
		unix.CloseOnExec(fd)
	}
	return fd, err
}

func newFileGID(dir stat) int { return dir.gid }
