package front

import (
	"net/netip"
	"strconv"
	"strings"
)

// splitHost takes a host with or without a port apart (RFC 3986 § 3.2.2): a
// name, an IPv4 address, or an IPv6 address in brackets, which stay.
func splitHost(s string) (host, port string, ok bool) {
	host = s
	if i := strings.LastIndexByte(s, ':'); i >= 0 && i > strings.LastIndexByte(s, ']') {
		host, port = s[:i], s[i+1:]
		if _, err := strconv.ParseUint(port, 10, 16); err != nil && port != "" {
			return "", "", false
		}
	}
	if inner, found := strings.CutPrefix(host, "["); found {
		a, err := netip.ParseAddr(strings.TrimSuffix(inner, "]"))
		return host, port, err == nil && a.Is6() && a.Zone() == "" && strings.HasSuffix(host, "]")
	}
	return host, port, host != "" && !strings.ContainsFunc(host, func(r rune) bool {
		return !('a' <= r|0x20 && r|0x20 <= 'z' || '0' <= r && r <= '9' || strings.ContainsRune("-._~%!$&'()*+,;=", r))
	})
}

func isHost(s string) bool {
	_, _, ok := splitHost(s)
	return ok
}
