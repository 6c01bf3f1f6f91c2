package front

import (
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"github.com/onewake/onewake/internal/cgi"
)

// checkTarget refuses requests that net/http accepts and that CGI programs must
// not see.
func checkTarget(hr *http.Request) error {
	refuse := func(reason string) error { return &cgi.Refusal{Status: 400, Reason: reason} }
	origin := strings.HasPrefix(hr.RequestURI, "/")
	_, _, validHost := splitHost(hr.Host)
	absolute := (hr.URL.Scheme == "http" || hr.URL.Scheme == "https") && hr.URL.Host != ""
	switch {
	case len(hr.Method)+len(hr.RequestURI)+len(hr.Proto)+2 > maxRequestLine:
		return &cgi.Refusal{Status: 414, Reason: longLine}
	case hr.Method == http.MethodConnect || !origin && !absolute:
		return refuse("target is neither a path nor an http or https URL")
	case hr.Host != "" && !validHost:
		return refuse("invalid Host")
	case strings.ContainsRune(hr.URL.Path, 0):
		return refuse("NUL in the path")
	}
	return nil
}

// splitHost splits a host and an optional port (RFC 3986 § 3.2.2). The host is a
// name, an IPv4 address, or an IPv6 address in brackets, which it keeps.
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
