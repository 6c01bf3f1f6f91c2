//go:build freebsd || linux

package nbio

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

func read(fd int, p []byte) (int, error) {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
	return result(n, errno)
}

func write(fd int, p []byte) (int, error) {
	n, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
	return result(n, errno)
}

func closefd(fd int) { unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

func recv(fd int, p, oob []byte, flags int) (n, oobn, got int, err error) {
	m, iov := message(p, oob)
	m.Iov = &iov
	r, _, errno := unix.RawSyscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&m)), uintptr(flags))
	n, err = result(r, errno)
	return n, int(m.Controllen), int(m.Flags), err
}

func send(fd int, p, oob []byte, flags int) (int, error) {
	m, iov := message(p, oob)
	m.Iov = &iov
	n, _, errno := unix.RawSyscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&m)), uintptr(flags))
	return result(n, errno)
}

func message(p, oob []byte) (m unix.Msghdr, iov unix.Iovec) {
	iov.Base = unsafe.SliceData(p)
	iov.SetLen(len(p))
	m.SetIovlen(1)
	if len(oob) > 0 {
		m.Control = unsafe.SliceData(oob)
		m.SetControllen(len(oob))
	}
	return m, iov
}

func result(n uintptr, errno unix.Errno) (int, error) {
	if errno != 0 {
		return -1, errno
	}
	return int(n), nil
}
