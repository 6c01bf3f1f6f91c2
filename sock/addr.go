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

// An Addr says where to listen. [Parse] makes one.
type Addr struct {
	Network, Address string
}

// String gives back the form that [Parse] reads.
func (a Addr) String() string { return a.Network + ":" + a.Address }

// maxPath is sun_path of unix(4) less a NUL: both systems could do without it, C
// programs that read the name back could not.
const maxPath = len(unix.RawSockaddrUnix{}.Path) - 1

// Parse reads an address in one of the forms
//
//	unix:/absolute/path
//	tcp4:host:port
//	tcp6:[host%zone]:port
//	fd:number
//
// A path must be in its shortest form and fit the system's limit, 103 bytes on
// FreeBSD and 107 on Linux. Linux's abstract sockets are refused, as no
// permissions guard them. A port is a number, 0 for one that the system
// chooses; a host is a name or an address of the right family, and is looked up
// only by [Listen]. Every error is an [ErrBadAddr] and says what would be right.
func Parse(s string) (Addr, error) {
	network, address, ok := strings.Cut(s, ":")
	var err error
	switch {
	case ok && network == Unix:
		err = checkPath(address)
	case ok && (network == TCP4 || network == TCP6):
		address, err = parseHostPort(network, address)
	case ok && network == FD:
		_, err = parseFD(address)
	default:
		err = noNetwork(s)
	}
	if err != nil {
		return Addr{}, fmt.Errorf("address %q: %w", s, err)
	}
	return Addr{network, address}, nil
}

var errAbstract = badAddr("no permissions guard an abstract socket, use unix:/path")

// noNetwork says what may have been meant by an address without a network.
func noNetwork(s string) error {
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
	isControl := func(r rune) bool { return r < ' ' || r == 0x7f }
	switch {
	case p == "":
		return badAddr("no path, use unix:/path")
	case p[0] == '@':
		return errAbstract
	case p[0] != '/':
		return badAddr("a relative path, use unix:/path")
	case strings.ContainsFunc(p, isControl):
		return badAddr("a control character in the path")
	case strings.HasSuffix(p, "/"), strings.HasSuffix(p, "/."), strings.HasSuffix(p, "/.."):
		return badAddr("names a directory, use unix:%s/NAME", strings.TrimSuffix(path.Clean(p), "/"))
	case strings.Contains(p, "/../"):
		// Where .. leads depends on symbolic links, so that no shorter form
		// could be offered that is sure to mean the same.
		return badAddr("a path without .. is wanted")
	case path.Clean(p) != p:
		return badAddr("not in its shortest form, use unix:%s", path.Clean(p))
	case len(p) > maxPath:
		return badAddr("a path of %d bytes, this system takes %d: use a shorter one", len(p), maxPath)
	}
	return nil
}

func parseFD(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil || strconv.FormatUint(n, 10) != s {
		return -1, badAddr("not a descriptor's number, use fd:3 or such")
	}
	if n == 1 || n == 2 {
		return -1, badAddr("descriptors 1 and 2 are for output, use fd:0, fd:3 or such")
	}
	return int(n), nil
}

// parseHostPort checks an address of network TCP4 or TCP6 and returns it in one
// form only.
func parseHostPort(network, s string) (string, error) {
	like := map[string]string{TCP4: "tcp4:127.0.0.1:8080", TCP6: "tcp6:[::1]:8080"}[network]
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
	case host == "" && network == TCP4:
		return "", badAddr("no host, use tcp4:0.0.0.0:%s for every IPv4 address", port)
	case host == "":
		return "", badAddr("no host, use tcp6:[::]:%s for every IPv6 address", port)
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
