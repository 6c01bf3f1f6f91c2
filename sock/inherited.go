package sock

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// listenFD takes over an inherited descriptor. It is checked before an os.File,
// which would close it, is made of it.
func listenFD(a Addr) (*Listener, error) {
	fd, bound, err := checkFD(a)
	if err != nil {
		return nil, err
	}
	return fromFD(a, fd, bound)
}

// fromFD returns a Listener that owns a listening descriptor.
func fromFD(a Addr, fd int, bound net.Addr) (*Listener, error) {
	unix.CloseOnExec(fd)
	err := unix.SetNonblock(fd, false) // for os.NewFile: see netListener
	f := os.NewFile(uintptr(fd), a.String())
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		f.Close()
		return nil, os.NewSyscallError("fcntl", err)
	}
	return &Listener{addr: a, bound: bound, socket: f}, nil
}

// checkFD makes sure that the descriptor is a listening socket, and returns the
// address that it is bound to.
func checkFD(a Addr) (fd int, bound net.Addr, err error) {
	fd, _ = strconv.Atoi(a.Address) // checked by Parse
	typ, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	listening := 0
	if err == nil {
		listening, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	}
	switch {
	case errors.Is(err, unix.ENOTSOCK):
		return 0, nil, fmt.Errorf("descriptor %d: %w, the parent process must pass a listening socket there", fd, ErrNotSocket)
	case errors.Is(err, unix.EBADF):
		return 0, nil, badAddr("descriptor %d: not open, the parent process must pass a listening socket there", fd)
	case err != nil:
		return 0, nil, os.NewSyscallError("getsockopt", err)
	case typ != unix.SOCK_STREAM:
		return 0, nil, badAddr("descriptor %d: not a stream socket", fd)
	case listening == 0:
		return 0, nil, badAddr("descriptor %d: not a listening socket, whoever passes it must call listen(2) first", fd)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return 0, nil, os.NewSyscallError("getsockname", err)
	}
	switch sa := sa.(type) {
	case *unix.SockaddrUnix:
		if strings.HasPrefix(sa.Name, "@") {
			return 0, nil, errAbstract
		}
		return fd, &net.UnixAddr{Name: sa.Name, Net: "unix"}, nil
	case *unix.SockaddrInet4:
		return fd, &net.TCPAddr{IP: sa.Addr[:], Port: sa.Port}, nil
	case *unix.SockaddrInet6:
		zone := strings.TrimPrefix(fmt.Sprint(sa.ZoneId), "0") // a number, or none
		return fd, &net.TCPAddr{IP: sa.Addr[:], Port: sa.Port, Zone: zone}, nil
	}
	return 0, nil, badAddr("descriptor %d: neither a unix nor an internet socket", fd)
}
