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

func listenTCP(ctx context.Context, a Addr) (*Listener, error) {
	to, err := resolve(ctx, a)
	if err != nil {
		return nil, err
	}
	var lc net.ListenConfig
	lc.SetMultipathTCP(false) // the web server is on the same host or network
	ln, err := lc.Listen(ctx, a.Network, to.String())
	if op := (*net.OpError)(nil); errors.As(err, &op) {
		err = op.Err // the caller adds the address
	}
	switch {
	case err == nil:
	case errors.Is(err, unix.EADDRINUSE):
		return nil, taken("has it")
	case errors.Is(err, unix.EACCES) && to.Port < 1024:
		return nil, fmt.Errorf("%w: only root can bind a port below 1024, use a higher one", err)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return nil, failf(NoLocal, "", ErrBadAddr, "%w: no interface of this machine has the address", err)
	default:
		return nil, err
	}
	// Keep only a duplicate that is not in the poller: see netListener.
	fd := -1
	err = onFD(ln.(*net.TCPListener), func(n int) (err error) {
		fd, err = unix.FcntlInt(uintptr(n), unix.F_DUPFD_CLOEXEC, 0)
		return os.NewSyscallError("fcntl", err)
	})
	ln.Close()
	if err != nil {
		return nil, err
	}
	return fromFD(a, fd, ln.Addr())
}

// resolve looks up a host name. Its first address is used.
func resolve(ctx context.Context, a Addr) (*net.TCPAddr, error) {
	host, port, _ := net.SplitHostPort(a.Address) // both were checked by Parse
	n, _ := strconv.Atoi(port)
	ip, err := netip.ParseAddr(host)
	if err != nil {
		ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip"+a.Network[len("tcp"):], host)
		var dns *net.DNSError
		switch {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case errors.As(err, &dns) && dns.IsNotFound:
			return nil, badAddr("%w", err)
		case err != nil:
			return nil, err
		}
		ip = ips[0].Unmap()
	}
	if zone := ip.Zone(); zone != "" {
		// Package net ignores a zone that is not an interface.
		_, err := net.InterfaceByName(zone)
		if index, nerr := strconv.Atoi(zone); err != nil && nerr == nil {
			_, err = net.InterfaceByIndex(index)
		}
		if err != nil {
			return nil, failf(NoInterface, "", ErrBadAddr, "no interface is called %q", zone)
		}
	}
	return &net.TCPAddr{IP: ip.AsSlice(), Port: n, Zone: ip.Zone()}, nil
}
