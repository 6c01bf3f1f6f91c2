package front

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// isClosed tells whether the other end of a Unix socket has been closed
// (poll(2): POLLHUP, and POLLERR after data that nobody has read).
func isClosed(fd uintptr) bool {
	return poll(fd, 0)&(unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0
}

// hasInput tells whether accept(2) or read(2) would not wait. Go does neither
// when a deadline has passed, whatever there is.
func hasInput(s syscall.RawConn) (has bool) {
	err := s.Control(func(fd uintptr) { has = poll(fd, unix.POLLIN)&unix.POLLIN != 0 })
	return has && err == nil
}

func poll(fd uintptr, events int16) int16 {
	p := []unix.PollFd{{Fd: int32(fd), Events: events}}
	for {
		if _, err := unix.Poll(p, 0); err != unix.EINTR {
			return p[0].Revents
		}
	}
}
