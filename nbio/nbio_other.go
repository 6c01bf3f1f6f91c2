//go:build !freebsd && !linux

package nbio

import "golang.org/x/sys/unix"

func read(fd int, p []byte) (int, error) { return unix.Read(fd, p) }

func write(fd int, p []byte) (int, error) { return unix.Write(fd, p) }

func closefd(fd int) { unix.Close(fd) }

func recv(fd int, p, oob []byte, flags int) (n, oobn, got int, err error) {
	n, oobn, got, _, err = unix.Recvmsg(fd, p, oob, flags)
	return n, oobn, got, err
}

func send(fd int, p, oob []byte, flags int) (int, error) {
	return unix.SendmsgN(fd, p, oob, nil, flags)
}
