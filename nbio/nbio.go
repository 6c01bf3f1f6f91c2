// Package nbio makes system calls on non-blocking descriptors without telling
// Go's scheduler about them.
//
// The scheduler wants to know of calls that may block, and pays for the news
// with the wake-up of a thread whenever a process goes from idle to busy. A
// read from a non-blocking descriptor returns at once, so there is no news;
// and a server that wakes for each request would pay each time.
//
// On systems where system calls go through the C library the calls are the
// ordinary ones. All of them repeat a call that a signal has interrupted.
package nbio

import "golang.org/x/sys/unix"

// Read is read(2).
func Read(fd int, p []byte) (int, error) {
	for {
		n, err := read(fd, p)
		if err != unix.EINTR {
			return n, err
		}
	}
}

// Write is write(2). Unlike [os.File.Write] it writes once, and a broken pipe
// is no more than an error, whatever the descriptor's number.
func Write(fd int, p []byte) (int, error) {
	for {
		n, err := write(fd, p)
		if err != unix.EINTR {
			return n, err
		}
	}
}

// Close is close(2), for pipes and sockets, which close at once.
func Close(fd int) { closefd(fd) }

// Recv is recvmsg(2) without an address: it returns how many bytes came in p
// and how many in oob, and got, which has MSG_CTRUNC if some of the descriptors
// did not fit this process.
func Recv(fd int, p, oob []byte, flags int) (n, oobn, got int, err error) {
	for {
		n, oobn, got, err = recv(fd, p, oob, flags)
		if err != unix.EINTR {
			return n, oobn, got, err
		}
	}
}

// Send is sendmsg(2) without an address.
func Send(fd int, p, oob []byte, flags int) (int, error) {
	for {
		n, err := send(fd, p, oob, flags)
		if err != unix.EINTR {
			return n, err
		}
	}
}

// GrowPipe asks for a pipe that holds size bytes, on Linux (fcntl(2),
// F_SETPIPE_SZ). Elsewhere pipes grow by themselves. That it is refused, for
// the user has too many of them, is no harm.
func GrowPipe(fd, size int) { growPipe(fd, size) }

// PollIn tells without waiting what poll(2) says of reading from fd; 0 if
// there is nothing to say.
func PollIn(fd int) int16 {
	p := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	if n, err := unix.Poll(p[:], 0); err != nil || n == 0 {
		return 0
	}
	return p[0].Revents
}
