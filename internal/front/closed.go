package front

import (
	"golang.org/x/sys/unix"
)

// isClosed tells whether the other end of a Unix socket has been closed
// (poll(2): POLLHUP, and POLLERR after data that nobody has read).
func isClosed(fd uintptr) bool {
	p := []unix.PollFd{{Fd: int32(fd)}}
	for {
		n, err := unix.Poll(p, 0)
		if err != unix.EINTR {
			return n > 0 && p[0].Revents&(unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0
		}
	}
}
