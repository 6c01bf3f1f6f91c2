package sock

import (
	"time"

	"golang.org/x/sys/unix"
)

// unp_connectat refuses a connection also when a live server's queue is full.
const refusalWait = time.Second

func socket() (int, error) {
	return unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
}

// newFileGID is the group that a new file gets.
func newFileGID(dir stat) int { return dir.gid }
