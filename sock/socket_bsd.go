//go:build freebsd || netbsd || openbsd

package sock

import (
	"time"

	"golang.org/x/sys/unix"
)

// unp_connectat refuses a connection also when a live server's queue is full.
const refusalPatience = time.Second

func socket(family int) (int, error) {
	return unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
}

func newFileGID(dir stat) int { return dir.gid }
