package front

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// isClosed reports whether the other end of a Unix socket is closed. poll(2) then
// reports POLLHUP, or POLLERR if there was unread data.
func isClosed(fd uintptr) bool {
	return poll(fd, 0)&(unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0
}

// hasInput reports whether accept(2) or read(2) would return at once. Go calls
// neither when the deadline has passed.
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
