package sock

import (
	"fmt"
	"net"
	"net/netip"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The networks of an [Addr].
const (
	Unix = "unix" // Address is an absolute path
	TCP4 = "tcp4" // Address is host:port
	TCP6 = "tcp6" // Address is host:port or [host%zone]:port
	FD   = "fd"   // Address is the number of an inherited, listening descriptor
)

// An Addr says where to listen. [Parse] returns one.
type Addr struct {
	Network, Address string
}

// String returns the form that [Parse] reads.
func (a Addr) String() string { return a.Network + ":" + a.Address }

// maxPath is the size of sun_path in unix(4) less one for a NUL: the systems do
// not need it, but C programs do that read the name back.
const maxPath = len(unix.RawSockaddrUnix{}.Path) - 1

// Parse reads an address in one of the forms
//
//	unix:/absolute/path
//	tcp4:host:port
//	tcp6:[host%zone]:port
//	fd:number
//
// A path must be in its shortest form and have at most 103 bytes on FreeBSD, 107
// on Linux. Linux's abstract sockets are refused because they have no permissions.
// A port is a number; for 0 the system chooses one. A host is a name or an address
// of the right family; [Listen] looks up names. Every error is an [ErrBadAddr] and
// says what would be right.
func Parse(s string) (Addr, error) {
	network, address, ok := strings.Cut(s, ":")
	var err error
	switch {
	case ok && network == Unix:
		err = checkPath(address)
	case ok && (network == TCP4 || network == TCP6):
		address, err = parseHostPort(network, address)
	case ok && network == FD:
		err = checkFDNumber(address)
	default:
		err = badNetwork(s)
	}
	if err != nil {
		return Addr{}, fmt.Errorf("address %q: %w", s, err)
	}
	return Addr{network, address}, nil
}

var errAbstract = badAddr("abstract sockets have no permissions, use unix:/path")

// badNetwork returns the error for an address without a known network, with the
// most likely correction.
func badNetwork(s string) error {
	if strings.HasPrefix(s, "/") || strings.HasPrefix(s, "@") {
		if err := checkPath(s); err != nil {
			return err
		}
		return badAddr("a path needs its network, use unix:%s", s)
	}
	for _, network := range []string{TCP4, TCP6} {
		if a, err := parseHostPort(network, strings.TrimPrefix(s, "tcp:")); err == nil {
			return badAddr("a host and a port need their network, use %s:%s", network, a)
		}
	}
	return badAddr("neither unix:/path, tcp4:host:port, tcp6:[host]:port nor fd:number")
}

func checkPath(p string) error {
	switch {
	case p == "":
		return badAddr("no path, use unix:/path")
	case p[0] == '@':
		return errAbstract
	case p[0] != '/':
		return badAddr("a relative path, use unix:/path")
	case strings.ContainsFunc(p, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return badAddr("a control character in the path")
	case strings.HasSuffix(p, "/"), strings.HasSuffix(p, "/."), strings.HasSuffix(p, "/.."):
		return badAddr("names a directory, use unix:%s/NAME", strings.TrimSuffix(path.Clean(p), "/"))
	case strings.Contains(p, "/../"):
		// No shorter form can be offered, because the meaning of .. depends on
		// symbolic links.
		return badAddr("a path with .., use one without")
	case path.Clean(p) != p:
		return badAddr("not in its shortest form, use unix:%s", path.Clean(p))
	case len(p) > maxPath:
		return badAddr("a path of %d bytes, this system takes %d: use a shorter one", len(p), maxPath)
	}
	return nil
}

func checkFDNumber(s string) error {
	n, err := strconv.ParseUint(s, 10, 31)
	switch {
	case err != nil || strconv.FormatUint(n, 10) != s:
		return badAddr("not a descriptor's number, use fd:3 or such")
	case n == 1 || n == 2:
		return badAddr("descriptors 1 and 2 are for output, use fd:0, fd:3 or such")
	}
	return nil
}

// parseHostPort checks an address of network TCP4 or TCP6 and returns its
// canonical form.
func parseHostPort(network, s string) (string, error) {
	like, unspecified := "tcp4:127.0.0.1:8080", "0.0.0.0"
	if network == TCP6 {
		like, unspecified = "tcp6:[::1]:8080", "::"
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		if ip, err := netip.ParseAddr(s); err == nil && ip.Is6() && network == TCP6 {
			return "", badAddr("an IPv6 address needs brackets and a port, use %s", like)
		}
		return "", badAddr("not a host and a port, use %s", like)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return "", badAddr("port %q is not a number from 0 to 65535", port)
	}
	port = strconv.FormatUint(n, 10)
	ip, err := netip.ParseAddr(host)
	switch {
	case host == "":
		return "", badAddr("no host, use %s:%s for every IPv%c address", network, net.JoinHostPort(unspecified, port), network[3])
	case err != nil && (strings.Trim(host, "0123456789.") == "" || strings.Contains(host, ":")):
		return "", badAddr("host %q is not an address, use %s", host, like)
	case err != nil && (len(host) > 253 || host[0] == '-' || host[0] == '.' || strings.ContainsFunc(host, isNotName)):
		return "", badAddr("host %q is not a name, use %s", host, like)
	case err != nil:
		return net.JoinHostPort(host, port), nil
	case strings.ContainsFunc(ip.Zone(), isNotName):
		return "", badAddr("no interface is called %q", ip.Zone())
	case network == TCP4 && !ip.Is4():
		return "", badAddr("not an IPv4 address, use tcp6:%s", net.JoinHostPort(host, port))
	case network == TCP6 && ip.Is4():
		return "", badAddr("not an IPv6 address, use tcp4:%s", net.JoinHostPort(host, port))
	case network == TCP6 && ip.Is4In6():
		return "", badAddr("an IPv4 address in IPv6 form, use tcp4:%s", net.JoinHostPort(ip.Unmap().String(), port))
	case ip.IsLinkLocalUnicast() && ip.Is6() && ip.Zone() == "":
		return "", badAddr("a link-local address needs its interface, use tcp6:[%s%%em0]:%s or such", host, port)
	}
	return net.JoinHostPort(ip.String(), port), nil
}

func isNotName(r rune) bool {
	return r != '-' && r != '.' && r != '_' &&
		(r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
}
