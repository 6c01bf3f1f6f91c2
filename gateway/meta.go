package gateway

import (
	"bytes"

	"github.com/onewake/onewake/http1"
	"github.com/onewake/onewake/spawn"
)

// Meta turns requests into the meta-variables of RFC 3875 § 4.1.
type Meta struct {
	ScriptName string    // SCRIPT_NAME: empty, or a path without a slash at its end
	Software   string    // SERVER_SOFTWARE, "onewake/1.0"
	Forwarded  Forwarded // which fields are believed
}

// target is what a request asks for: the client's own target, or that of a
// local redirect.
type target struct {
	method []byte
	uri    []byte // REQUEST_URI
	path   []byte // still encoded
	query  []byte
	local  bool // of a local redirect: without a body, and of method GET
}

func ownTarget(x *http1.Exchange) target {
	return target{method: x.Method, uri: x.Target, path: x.Path, query: x.Query}
}

// Fill sets v to the variables of x's request, without CONTENT_LENGTH, which
// is known for certain only when the body has been read, and leaves a [Record]
// for the access log. What cannot be given to a command is refused with a
// status: 400, 404 or 431.
func (m *Meta) Fill(v *spawn.Vars, x *http1.Exchange) *http1.ProtocolError {
	return m.fill(v, x, ownTarget(x), record(x))
}

func (m *Meta) fill(v *spawn.Vars, x *http1.Exchange, t target, rec *Record) *http1.ProtocolError {
	f, perr := m.believed(x)
	rec.Client = f.addr
	if len(f.id) > 0 {
		rec.idLen = copy(rec.id[:], f.id)
	} else if rec.idLen == 0 { // it stays through a redirect
		rec.idLen = makeRequestID(rec.id[:])
	}
	if perr != nil {
		return perr
	}
	info, perr := m.pathInfo(t.path)
	if perr != nil {
		return perr
	}
	v.Reset()
	v.Add("GATEWAY_INTERFACE", "CGI/1.1")
	v.Add("SERVER_SOFTWARE", m.Software)
	if x.Minor == 0 {
		v.Add("SERVER_PROTOCOL", "HTTP/1.0")
	} else {
		v.Add("SERVER_PROTOCOL", "HTTP/1.1")
	}
	v.AddBytes("REQUEST_METHOD", t.method)
	v.AddBytes("REQUEST_URI", t.uri)
	v.Add("SCRIPT_NAME", m.ScriptName)
	v.AddBytes("PATH_INFO", info)
	v.AddBytes("QUERY_STRING", t.query)
	m.fields(v, x, t)
	// What a client sends as X-Request-Id is left out above.
	v.AddBytes("HTTP_X_REQUEST_ID", rec.RequestID())
	v.AddBytes("UNIQUE_ID", rec.RequestID())

	// REMOTE_ADDR, REMOTE_HOST (§§ 4.1.8, 4.1.9): an address the web server
	// vouches for, else that of our own peer. A Unix socket's has none.
	if f.addr != "" {
		v.Add("REMOTE_ADDR", f.addr)
		v.Add("REMOTE_HOST", f.addr)
	} else {
		v.Add("REMOTE_ADDR", x.Peer.Addr)
		v.Add("REMOTE_HOST", x.Peer.Addr)
		if x.Peer.Port != "" {
			v.Add("REMOTE_PORT", x.Peer.Port)
		}
	}
	// SERVER_NAME, SERVER_PORT (§§ 4.1.14, 4.1.15): what the client asked for,
	// if the web server says so, else what we are bound to.
	if f.host != "" {
		v.Add("SERVER_NAME", f.host)
		v.Add("SERVER_PORT", f.port())
	} else {
		v.Add("SERVER_NAME", x.Listener.Host)
		v.Add("SERVER_PORT", x.Listener.Port)
	}
	if f.https {
		v.Add("HTTPS", "on")
		v.Add("REQUEST_SCHEME", "https")
	} else {
		v.Add("REQUEST_SCHEME", "http")
	}
	if v.TooLarge() {
		return &http1.ProtocolError{Status: 431, Reason: "header too large for a command's environment"}
	}
	return nil
}

// pathInfo decodes a path and takes the script's name off its front.
func (m *Meta) pathInfo(path []byte) ([]byte, *http1.ProtocolError) {
	info, ok := unescape(path)
	if !ok {
		return nil, &http1.ProtocolError{Status: 400, Reason: "malformed percent-encoding or NUL in path"}
	}
	rest := bytes.TrimPrefix(info, []byte(m.ScriptName))
	if len(rest) != len(info)-len(m.ScriptName) || len(rest) > 0 && rest[0] != '/' {
		return nil, &http1.ProtocolError{Status: 404, Reason: "path is outside " + m.ScriptName}
	}
	return rest, nil
}

// unescape decodes percent-encoding (RFC 3986 § 2.1); it returns b itself if
// there is none.
func unescape(b []byte) ([]byte, bool) {
	i := bytes.IndexByte(b, '%')
	if i < 0 {
		return b, true
	}
	out := append(make([]byte, 0, len(b)), b[:i]...)
	for ; i < len(b); i++ {
		c := b[i]
		if c == '%' {
			if i+2 >= len(b) {
				return nil, false
			}
			hi, lo := unhex(b[i+1]), unhex(b[i+2])
			if hi > 15 || lo > 15 || hi|lo == 0 {
				return nil, false
			}
			c = hi<<4 | lo
			i += 2
		}
		out = append(out, c)
	}
	return out, true
}

func unhex(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10
	}
	return 0xff
}

// fields adds the header fields. Names with characters outside [A-Za-z0-9-]
// are dropped, since "X_Y" would become the variable of "X-Y"; so are fields
// of one hop, and Proxy, whose variable HTTP_PROXY configures many HTTP
// clients. Repeated ones are joined into one value (§ 4.1.18).
func (m *Meta) fields(v *spawn.Vars, x *http1.Exchange, t target) {
	var hashes [64]uint64
	h := hashes[:0]
	for i := range x.Fields {
		h = append(h, hashName(x.Fields[i].Name)) // 0: not for the command
	}
	for i := range x.Fields {
		name, value := x.Fields[i].Name, x.Fields[i].Value
		if h[i] == 0 {
			continue
		}
		sep := ", "
		switch len(name) {
		case 4:
			if http1.EqualFold(name, "host") {
				v.AddHeader(name, x.Host) // the target's authority wins over it
				continue
			}
		case 5:
			if http1.EqualFold(name, "proxy") {
				continue
			}
		case 6:
			if http1.EqualFold(name, "expect") {
				continue // answered already
			}
			if http1.EqualFold(name, "cookie") {
				sep = "; " // RFC 6265 § 4.2.1, RFC 9113 § 8.2.3
			}
		case 12:
			if http1.EqualFold(name, "x-request-id") {
				continue // it has a variable in any case
			}
			if http1.EqualFold(name, "content-type") {
				if !t.local {
					v.AddBytes("CONTENT_TYPE", value)
					m.join(v, x, h, i, sep)
				}
				continue
			}
		case 14:
			if http1.EqualFold(name, "content-length") {
				continue
			}
		}
		// A client's Connection field cannot take the web server's word away.
		if x.HopByHop(name) && m.Forwarded&forwardedBit(name) == 0 {
			continue
		}
		v.AddHeader(name, value)
		m.join(v, x, h, i, sep)
	}
}

// join appends the values of later fields of the same name.
func (m *Meta) join(v *spawn.Vars, x *http1.Exchange, h []uint64, i int, sep string) {
	for j := i + 1; j < len(h); j++ {
		if h[j] == h[i] && bytes.EqualFold(x.Fields[j].Name, x.Fields[i].Name) {
			v.Extend(sep, x.Fields[j].Value)
			h[j] = 0
		}
	}
}

// hashName hashes a name in any case, so that a thousand fields are not
// compared with each other byte by byte. It gives 0 for a name that cannot
// become a variable of its own.
func hashName(name []byte) uint64 {
	h := uint64(14695981039346656037)
	for _, c := range name {
		switch {
		case 'A' <= c && c <= 'Z':
			c |= 0x20
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-':
		default:
			return 0
		}
		h = (h ^ uint64(c)) * 1099511628211
	}
	return h | 1
}
