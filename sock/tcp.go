package sock

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

func listenTCP(a Addr) (*Listener, error) {
	ln, err := bindTCP(a)
	if err != nil {
		return nil, err
	}
	// One descriptor is to remain, and none that the poller watches: see
	// bind. A duplicate is made blocking while nobody else has it.
	fd := -1
	rc, err := ln.SyscallConn()
	if err == nil {
		cerr := rc.Control(func(n uintptr) {
			fd, err = unix.FcntlInt(n, unix.F_DUPFD_CLOEXEC, 0)
		})
		if err == nil {
			err = cerr
		}
	}
	ln.Close()
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	f := os.NewFile(uintptr(fd), a.String())
	l, err := fromFile(a, f)
	if err != nil {
		f.Close()
		return nil, err
	}
	host, port, _ := net.SplitHostPort(a.Address)
	l.name(host)
	if port == "0" {
		l.addr.Address = net.JoinHostPort(host, l.port)
	}
	return l, nil
}

func bindTCP(a Addr) (*net.TCPListener, error) {
	host, port, err := net.SplitHostPort(a.Address)
	if err != nil {
		return nil, err
	}
	// Package net takes an interface that it does not find for none.
	if ip, err := netip.ParseAddr(host); err == nil && ip.Zone() != "" {
		if _, err := interfaceNamed(ip.Zone()); err != nil {
			return nil, badAddr("no interface is called %q%s", ip.Zone(), toFind("the names", "ifconfig -l", "ip link"))
		}
	}
	var lc net.ListenConfig
	// What comes here comes from a web server nearby.
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(context.Background(), a.Network, a.Address)
	if err == nil {
		return ln.(*net.TCPListener), nil
	}
	// The address is named already, by whoever called.
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	var dns *net.DNSError
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return nil, inUse("has it")
	case errors.Is(err, unix.EACCES) && isLowPort(port):
		return nil, fmt.Errorf("%w: only root may have a port below 1024, use a higher one", err)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return nil, kindf(ErrBadAddr, "%w: no interface of this machine has the address%s", err, toFind("its addresses", "ifconfig", "ip address"))
	case errors.As(err, &dns) && dns.IsNotFound:
		return nil, kindf(ErrBadAddr, "%w", err)
	}
	return nil, err
}

func isLowPort(port string) bool {
	n, err := strconv.Atoi(port)
	return err == nil && n < 1024
}

func interfaceNamed(zone string) (*net.Interface, error) {
	if i, err := net.InterfaceByName(zone); err == nil {
		return i, nil
	}
	var index int
	if _, err := fmt.Sscanf(zone, "%d", &index); err != nil {
		return nil, err
	}
	return net.InterfaceByIndex(index)
}

// listenFD takes over a descriptor by its number. It is looked at before a file
// is made of it, since the file would close it.
func listenFD(a Addr) (*Listener, error) {
	fd, err := parseFD(a.Address)
	if err != nil {
		return nil, err
	}
	if _, err := checkListening(fd); err != nil {
		return nil, err
	}
	// Blocking until a file is made of it, to keep it from the poller: see
	// bind. Who passed it on is not accepting at this time.
	if err := unix.SetNonblock(fd, false); err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return fromFile(a, os.NewFile(uintptr(fd), a.String()))
}
