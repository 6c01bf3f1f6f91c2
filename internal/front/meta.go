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

// meta makes the meta-variables of RFC 3875 § 4.1 of an HTTP request.
type meta struct {
	*HTTP
	hr        *http.Request
	r         *cgi.Request
	listener  *Listener
	forwarded forwarded
}

// own sets the variables of the request that the client has made.
func (m *meta) own() error {
	m.r.ID = newRequestID()
	f, err := m.parseForwarded()
	m.forwarded = f
	m.r.Client = f.addr
	if f.id != "" {
		m.r.ID = f.id
	}
	if err == nil {
		err = checkTarget(m.hr)
	}
	if err != nil {
		return err
	}
	return m.set(m.hr.Method, m.hr.RequestURI, m.hr.URL.Path, m.hr.URL.RawQuery, false)
}

// redirect sets those of a local redirect: a GET without a body (RFC 3875
// § 6.2.2).
func (m *meta) redirect(location string) error {
	path, query, _ := strings.Cut(location, "?")
	path, err := url.PathUnescape(path)
	if err != nil {
		return err
	}
	m.r.Query, m.r.Type = query, "" // the client's own method stays, for its answer and the log
	return m.set(http.MethodGet, location, path, query, true)
}

func (m *meta) set(method, uri, path, query string, local bool) error {
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
	m.parties()
	m.fields(local)
	if v.TooLarge() {
		return &cgi.Refusal{Status: 431, Reason: "header too large for a command's environment"}
	}
	return nil
}

// parties sets who talks to whom: REMOTE_ADDR and REMOTE_HOST (§§ 4.1.8, 4.1.9)
// are an address that the web server vouches for, else that of our own peer;
// SERVER_NAME and SERVER_PORT (§§ 4.1.14, 4.1.15) what the client asked for, if
// the web server says so, else what we are bound to.
func (m *meta) parties() {
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

// fields sets those of the header (§ 4.1.18). Left out are names with characters
// outside [A-Za-z0-9-], since "X_Y" would become the variable of "X-Y"; fields of
// one hop; and Proxy, whose variable HTTP_PROXY configures many HTTP clients.
func (m *meta) fields(local bool) {
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
			if !local {
				v.Add("CONTENT_TYPE", strings.Join(values, sep))
			}
			continue
		case "Cookie":
			sep = "; " // RFC 6265 § 4.2.1, RFC 9113 § 8.2.3
		}
		// A client's Connection field cannot take the web server's word away.
		if !isVariable(name) || slices.Contains(hop, name) && !m.Trusts(name) {
			continue
		}
		v.AddHeader(name, strings.Join(values, sep))
	}
}

// wire is what the test page tells.
func (m *meta) wire() *cgi.Wire {
	w := &cgi.Wire{Listener: m.listener.Name, Unix: m.listener.Unix, Local: m.listener.local(), Protocol: m.hr.Proto,
		Keep: !m.hr.Close && !m.Gate.ending()}
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

// isVariable tells whether a field's name becomes a variable of its own.
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

// setAddr takes an address, with or without a port. A client on a Unix socket
// has none; nginx writes it so.
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

// setUser takes a user's name. An empty one is that of nobody: the web server
// has authenticated no one.
func (f *forwarded) setUser(s string) bool {
	f.user = s
	return !strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c == 0x7f })
}

// isVisible tells whether s is 1 to n visible ASCII characters.
func isVisible(s string, n int) bool {
	return len(s) > 0 && len(s) <= n && !strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c > '~' })
}

// maxRequestID is the length of the longest name of a request in bytes.
const maxRequestID = 128

// newRequestID makes up a name that no other request has: 128 random bits, as
// nginx's $request_id.
func newRequestID() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
