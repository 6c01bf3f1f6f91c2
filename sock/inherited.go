package sock

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// listenFD takes over a descriptor by its number. It is looked at before a file,
// which would close it, is made of it.
func listenFD(a Addr) (*Listener, error) {
	fd, bound, err := checkFD(a)
	if err != nil {
		return nil, err
	}
	return fromFD(a, fd, bound)
}

func checkFD(a Addr) (fd int, bound net.Addr, err error) {
	if fd, err = parseFD(a.Address); err == nil {
		bound, err = checkListening(fd)
	}
	return fd, bound, err
}

// fromFD makes a Listener of a listening descriptor, which belongs to it, and
// blocks for a moment, while nobody accepts: see netListener.
func fromFD(a Addr, fd int, bound net.Addr) (*Listener, error) {
	unix.CloseOnExec(fd)
	err := unix.SetNonblock(fd, false)
	f := os.NewFile(uintptr(fd), a.String())
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		f.Close()
		return nil, os.NewSyscallError("fcntl", err)
	}
	return &Listener{addr: a, bound: bound, file: f}, nil
}

// checkListening makes sure that a descriptor can be accepted from, and returns
// what it is bound to.
func checkListening(fd int) (net.Addr, error) {
	typ, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	on := 0
	if err == nil {
		on, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	}
	switch {
	case errors.Is(err, unix.ENOTSOCK):
		return nil, failf(Other, "", nil, "descriptor %d: %w, whoever starts this must pass a listening socket there", fd, ErrNotSocket)
	case errors.Is(err, unix.EBADF):
		return nil, badAddr("descriptor %d: not open, whoever starts this must pass a listening socket there", fd)
	case err != nil:
		return nil, os.NewSyscallError("getsockopt", err)
	case typ != unix.SOCK_STREAM:
		return nil, badAddr("descriptor %d: not a stream socket", fd)
	case on == 0:
		return nil, badAddr("descriptor %d: a socket that does not listen, whoever passes it must call listen(2) before", fd)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return nil, os.NewSyscallError("getsockname", err)
	}
	switch sa := sa.(type) {
	case *unix.SockaddrUnix:
		if strings.HasPrefix(sa.Name, "@") {
			return nil, errAbstract
		}
		return &net.UnixAddr{Name: sa.Name, Net: "unix"}, nil
	case *unix.SockaddrInet4:
		return &net.TCPAddr{IP: net.IP(sa.Addr[:]), Port: sa.Port}, nil
	case *unix.SockaddrInet6:
		zone := strings.TrimPrefix(fmt.Sprint(sa.ZoneId), "0") // by number
		return &net.TCPAddr{IP: net.IP(sa.Addr[:]), Port: sa.Port, Zone: zone}, nil
	}
	return nil, badAddr("descriptor %d: neither a unix nor an internet socket", fd)
}
