package front

import (
	"crypto/rand"
	"encoding/hex"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/onewake/onewake/internal/cgi"
)

// meta sets the meta-variables of an HTTP request (RFC 3875 § 4.1).
type meta struct {
	*HTTP
	hr        *http.Request
	r         *cgi.Request
	listener  *Listener
	forwarded forwarded
}

// init sets the variables of the client's request.
func (m *meta) init() (err error) {
	m.forwarded, err = m.parseForwarded()
	m.r.Client = m.forwarded.addr
	if m.r.ID = m.forwarded.id; m.r.ID == "" {
		m.r.ID = newRequestID()
	}
	if err == nil {
		err = checkTarget(m.hr)
	}
	if err != nil {
		return err
	}
	return m.set(m.hr.Method, m.hr.RequestURI, m.hr.URL.Path, m.hr.URL.RawQuery, false)
}

// redirect sets the variables for a local redirect, which is a GET without a body
// (RFC 3875 § 6.2.2).
func (m *meta) redirect(location string) error {
	path, query, _ := strings.Cut(location, "?")
	path, err := url.PathUnescape(path)
	if err != nil {
		return err
	}
	m.r.Query, m.r.Type = query, "" // Method stays, for the answer and the log
	return m.set(http.MethodGet, location, path, query, true)
}

// set sets the variables. redirect is true for a local redirect.
func (m *meta) set(method, uri, path, query string, redirect bool) error {
	info, ok := strings.CutPrefix(path, m.ScriptName)
	if !ok || info != "" && info[0] != '/' {
		return &cgi.Refusal{Status: 404, Reason: "path is outside " + m.ScriptName}
	}
	script, file := m.ScriptName, ""
	if m.Scripts != nil {
		name, rest, ok := m.Scripts.Find(info)
		if !ok {
			return &cgi.Refusal{Status: 404, Reason: "no such script"}
		}
		m.r.Script, info = name, rest
		script, file = script+"/"+name, m.Config.Scripts+"/"+name
	}
	v := m.r.Vars
	v.Reset()
	v.Add("GATEWAY_INTERFACE", "CGI/1.1")
	v.Add("SERVER_SOFTWARE", m.Software)
	v.Add("SERVER_PROTOCOL", m.hr.Proto)
	v.Add("REQUEST_METHOD", method)
	v.Add("REQUEST_URI", uri)
	v.Add("SCRIPT_NAME", script)
	v.Add("PATH_INFO", info)
	v.Add("QUERY_STRING", query)
	if file != "" {
		v.Add("SCRIPT_FILENAME", file)
	}
	v.Add("UNIQUE_ID", m.r.ID)
	m.addHosts()
	m.addHeader(redirect)
	return nil
}

// addHosts adds REMOTE_ADDR and REMOTE_HOST (§§ 4.1.8, 4.1.9), SERVER_NAME and
// SERVER_PORT (§§ 4.1.14, 4.1.15). They come from the trusted headers, else from
// the peer and the listener.
func (m *meta) addHosts() {
	v, f, peer := m.r.Vars, m.forwarded, m.r.Peer
	addr := peer.Addr
	if f.addr != "" {
		addr = f.addr
	} else if peer.Port != "" {
		v.Add("REMOTE_PORT", peer.Port)
	}
	v.Add("REMOTE_ADDR", addr)
	v.Add("REMOTE_HOST", addr)
	if f.user != "" {
		v.Add("REMOTE_USER", f.user)
	}
	scheme := "http"
	if f.https {
		v.Add("HTTPS", "on")
		scheme = "https"
	}
	v.Add("REQUEST_SCHEME", scheme)
	host, port := m.listener.Host, m.listener.Port
	if f.host != "" {
		host, port = f.host, f.port
		if port == "" {
			port = map[string]string{"http": "80", "https": "443"}[scheme]
		}
	}
	v.Add("SERVER_NAME", host)
	v.Add("SERVER_PORT", port)
}

// addHeader adds CONTENT_TYPE and HTTP_* (§ 4.1.18). It drops hop-by-hop fields;
// names with characters outside [A-Za-z0-9-], because "X_Y" and "X-Y" would be the
// same variable; and Proxy, because HTTP_PROXY configures many HTTP clients.
func (m *meta) addHeader(redirect bool) {
	v := m.r.Vars
	if m.hr.Host != "" {
		v.Add("HTTP_HOST", m.hr.Host)
	}
	v.Add("HTTP_X_REQUEST_ID", m.r.ID) // never the client's own
	hop := strings.Split(strings.Join(m.hr.Header["Connection"], ","), ",")
	for i := range hop {
		hop[i] = http.CanonicalHeaderKey(strings.TrimSpace(hop[i]))
	}
	for name, values := range m.hr.Header {
		sep := ", "
		switch name {
		case "Connection", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
			"Content-Length", "Expect", "Proxy", "X-Request-Id":
			continue
		case "Content-Type":
			if !redirect {
				v.Add("CONTENT_TYPE", strings.Join(values, sep))
			}
			continue
		case "Cookie":
			sep = "; " // RFC 6265 § 4.2.1, RFC 9113 § 8.2.3
		}
		// A client cannot remove a trusted header by naming it in Connection.
		if !isVariable(name) || slices.Contains(hop, name) && !m.Trusts(name) {
			continue
		}
		v.AddHeader(name, strings.Join(values, sep))
	}
}

// wire describes the request for the test page.
func (m *meta) wire() *cgi.Wire {
	w := m.listener.wire(m.hr.Proto, !m.hr.Close && !m.Gate.isClosing())
	if m.hr.Host != "" {
		w.Fields = append(w.Fields, cgi.Field{Name: "Host", Value: m.hr.Host})
	}
	for _, name := range slices.Sorted(maps.Keys(m.hr.Header)) {
		for _, value := range m.hr.Header[name] {
			w.Fields = append(w.Fields, cgi.Field{Name: name, Value: value})
		}
	}
	return w
}

// isVariable reports whether a field with this name becomes a variable.
func isVariable(name string) bool {
	return !strings.ContainsFunc(name, func(c rune) bool {
		return c != '-' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z')
	})
}

// forwarded is the information from the trusted headers.
type forwarded struct {
	addr, host, port, id, user string
	https                      bool
}

type trustedHeader struct {
	name  string
	set   func(*forwarded, string) bool // false: invalid value
	valid string                        // what the value should be
}

// trustedHeaders are the headers that -forwarded can name. X-Real-IP comes after
// X-Forwarded-For and so takes precedence.
var trustedHeaders = []trustedHeader{
	{"X-Forwarded-For", func(f *forwarded, v string) bool { return f.setAddr(lastElement(v)) }, "a list that ends in an IP address"},
	{"X-Real-IP", (*forwarded).setAddr, "an IP address"},
	{"X-Forwarded-Proto", (*forwarded).setProto, "http or https"},
	{"X-Forwarded-Host", (*forwarded).setHost, "a host, with a port or without"},
	{"X-Request-Id", (*forwarded).setID, "1 to 128 visible ASCII characters"},
	{"X-Remote-User", (*forwarded).setUser, "the name of a user"},
}

// parseForwarded reads the trusted headers. If a header is repeated or is a list,
// the last value counts: the nearest server has added it. A request with an
// invalid value is refused: the web server is not configured as its administrator
// thinks, and a wrong address in the log would hide that.
func (m *meta) parseForwarded() (f forwarded, err error) {
	for _, h := range trustedHeaders {
		values := m.hr.Header[http.CanonicalHeaderKey(h.name)]
		if len(values) > 0 && m.Trusts(h.name) && !h.set(&f, values[len(values)-1]) && err == nil {
			err = &cgi.Refusal{Status: 400, Reason: h.name + " is not " + h.valid}
		}
	}
	return f, err
}

func lastElement(list string) string {
	return strings.Trim(list[strings.LastIndexByte(list, ',')+1:], " \t")
}

// setAddr accepts an address with an optional port. nginx sends "unix:" for a
// client on a Unix socket.
func (f *forwarded) setAddr(s string) bool {
	if s == "unix:" {
		f.addr = cgi.NoAddr
		return true
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		ap, err := netip.ParseAddrPort(s)
		if err != nil {
			return false
		}
		a = ap.Addr()
	}
	f.addr = a.String()
	return a.Zone() == ""
}

func (f *forwarded) setProto(s string) bool {
	s = lastElement(s)
	f.https = strings.EqualFold(s, "https")
	return f.https || strings.EqualFold(s, "http")
}

func (f *forwarded) setHost(s string) (ok bool) {
	f.host, f.port, ok = splitHost(lastElement(s))
	return ok
}

func (f *forwarded) setID(s string) bool {
	f.id = s
	return isVisible(s, maxRequestID)
}

// setUser accepts the name of a user, or an empty value if the web server has not
// authenticated the client.
func (f *forwarded) setUser(s string) bool {
	f.user = s
	return !strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c == 0x7f })
}

// isVisible reports whether s consists of 1 to n visible ASCII characters.
func isVisible(s string, n int) bool {
	return len(s) > 0 && len(s) <= n && !strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c > '~' })
}

// maxRequestID is the largest size of a request ID in bytes.
const maxRequestID = 128

// newRequestID returns 128 random bits in hexadecimal, like nginx's $request_id.
func newRequestID() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
