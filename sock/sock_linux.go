package sock

import (
	"time"

	"golang.org/x/sys/unix"
)

// A refusal proves that nobody listens: a full queue is EAGAIN.
const refusalWait time.Duration = 0

func socket() (int, error) {
	return unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
}

// newFileGID is the group that a new file gets.
func newFileGID(dir stat) int {
	if dir.mode&unix.S_ISGID != 0 {
		return dir.gid
	}
	return unix.Getegid()
}
