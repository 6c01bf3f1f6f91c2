// Package http1 is an HTTP/1.1 server for a process that sits behind a proxy
// and trusts nobody: it reads requests as strictly as RFC 9112 allows, so that
// the proxy and it can never disagree on where one ends, and it knows what
// [net/http] does not tell: whether a client is gone or has only stopped
// sending, and whether an answer must be cut rather than ended.
//
// It allocates nothing per request, keeps no buffer for an idle connection,
// and answers every request whose head arrived before a drain began, but for
// those that a client has pipelined behind another.
//
// It has no TLS, no HTTP/2, no routing, and speaks only as an origin server.
// For anything but such a daemon, use net/http.
package http1

import (
	"bytes"
	"strconv"
)

// Limits of a request's head, in bytes.
const (
	MaxRequestLine = 64 << 10    // the line without its CRLF; longer: 414
	MaxHeader      = 256 << 10   // all field lines with their CRLFs; more: 431
	MaxValue       = 128<<10 - 1 // one field's value; longer: 431
	maxConnection  = 1 << 10     // the values of Connection, which are looked through for each field
	MaxFields      = 1000        // field lines; more: 431
)

// A Field is one field line of a request's head (RFC 9112 § 5). Both slices
// are parts of the connection's buffer and hold only until the next request.
type Field struct {
	Name, Value []byte
}

// Request is one parsed request head. Its slices are parts of the connection's
// buffer: they hold until the answer has ended.
type Request struct {
	Method []byte // a token, case kept
	Target []byte // as sent: origin-form or absolute-form (RFC 9112 § 3.2)
	Path   []byte // the target's path, still encoded; begins with "/"
	Query  []byte // what follows the first "?", raw
	Host   []byte // the target's authority, else the Host field
	Minor  int    // 1 for HTTP/1.1, 0 for HTTP/1.0
	Fields []Field

	Length    int64 // Content-Length, -1 without one
	Chunked   bool  // the body is chunked; then Length is -1
	Continue  bool  // Expect: 100-continue (RFC 9110 § 10.1.1)
	KeepAlive bool  // the client would keep the connection

	scan   int    // where to look for the next line end
	line   int    // start of the line at hand
	fields int    // start of the field lines, 0 before the request line is whole
	hosts  int    // Host fields seen
	te     bool   // Transfer-Encoding seen
	conn   []byte // the values of Connection
}

// A ProtocolError is a request that is answered with an error. One from the
// parser ends its connection, since nobody knows where the next would begin.
type ProtocolError struct {
	Status int    // 4xx or 5xx
	Reason string // for the log and the client; holds nothing that was sent
}

func (e *ProtocolError) Error() string {
	return strconv.Itoa(e.Status) + " " + e.Reason
}

func refuse(status int, reason string) *ProtocolError {
	return &ProtocolError{Status: status, Reason: reason}
}

// reset makes r ready for another head; it keeps the memory of Fields.
func (r *Request) reset() {
	f := r.Fields[:0]
	*r = Request{Fields: f, Length: -1}
}

// parse reads one request head from the start of buf, which holds all bytes
// that have come since the last request. It returns the head's size in bytes,
// or 0 if more must come first; each byte is looked at once, however slowly
// they come. buf must keep its contents between calls, but may move.
func (r *Request) parse(buf []byte) (int, *ProtocolError) {
	for {
		i := bytes.IndexByte(buf[r.scan:], '\n')
		if i < 0 {
			r.scan = len(buf)
			return 0, r.tooLong(buf)
		}
		end := r.scan + i
		r.scan = end + 1
		if end == r.line || buf[end-1] != '\r' {
			return 0, refuse(400, "line does not end in CRLF")
		}
		size := end - 1 - r.line
		switch {
		case r.fields == 0 && size == 0 && r.line == 0:
			// One empty line before the request is let pass (RFC 9112 § 2.2).
		case r.fields == 0 && size > MaxRequestLine:
			return 0, refuse(414, "request line too long")
		case r.fields == 0:
			r.fields = r.scan
		case r.scan-r.fields > MaxHeader+2:
			return 0, refuse(431, "header too large")
		case size == 0:
			// buf may have moved since the first line came: only now that
			// the head is whole are slices of it worth keeping.
			return r.scan, r.take(buf[:r.scan])
		}
		r.line = r.scan
	}
}

// tooLong refuses what has no end in sight.
func (r *Request) tooLong(buf []byte) *ProtocolError {
	if r.fields == 0 {
		if len(buf)-r.line > MaxRequestLine+1 {
			return refuse(414, "request line too long")
		}
	} else if len(buf)-r.fields > MaxHeader+1 {
		return refuse(431, "header too large")
	}
	return nil
}

// take takes a whole head apart.
func (r *Request) take(head []byte) *ProtocolError {
	line := bytes.TrimPrefix(head[:r.fields-2], []byte("\r\n"))
	if err := r.requestLine(line); err != nil {
		return err
	}
	for rest := head[r.fields:]; ; {
		i := bytes.IndexByte(rest, '\n')
		line, rest = rest[:i-1], rest[i+1:]
		if len(line) == 0 {
			return r.finish()
		}
		if err := r.field(line); err != nil {
			return err
		}
	}
}

func (r *Request) requestLine(line []byte) *ProtocolError {
	i := bytes.IndexByte(line, ' ')
	j := bytes.LastIndexByte(line, ' ')
	if i <= 0 || j == i {
		return refuse(400, "malformed request line")
	}
	r.Method, r.Target = line[:i], line[i+1:j]
	for _, c := range r.Method {
		if !tokenChar[c] {
			return refuse(400, "malformed method")
		}
	}
	for _, c := range r.Target {
		if c <= ' ' || c == 0x7f {
			return refuse(400, "malformed request target")
		}
	}
	version := line[j+1:]
	if len(version) != 8 || string(version[:5]) != "HTTP/" || version[6] != '.' ||
		!digit(version[5]) || !digit(version[7]) {
		return refuse(400, "malformed HTTP version")
	}
	if string(r.Method) == "PRI" {
		return refuse(400, "HTTP/2 is not spoken here")
	}
	if version[5] != '1' {
		return refuse(505, "HTTP version not supported")
	}
	r.Minor = min(int(version[7]-'0'), 1)
	return r.target()
}

// target takes the origin-form and the absolute-form apart (RFC 9112 § 3.2).
func (r *Request) target() *ProtocolError {
	t := r.Target
	if len(t) == 0 {
		return refuse(400, "malformed request target")
	}
	if t[0] != '/' {
		i := bytes.Index(t, []byte("://"))
		if string(r.Method) == "CONNECT" || i <= 0 || !(fold(t[:i], "http") || fold(t[:i], "https")) {
			return refuse(400, "request target is neither origin-form nor absolute-form")
		}
		t = t[i+3:]
		end := bytes.IndexAny(t, "/?#")
		if end < 0 {
			end = len(t)
		}
		r.Host = t[:end]
		if len(r.Host) == 0 || !hostChars(r.Host) {
			return refuse(400, "malformed authority in request target")
		}
		t = t[end:]
	}
	if bytes.IndexByte(t, '#') >= 0 {
		return refuse(400, "fragment in request target")
	}
	r.Path = t
	if i := bytes.IndexByte(t, '?'); i >= 0 {
		r.Path, r.Query = t[:i], t[i+1:]
	}
	if len(r.Path) == 0 {
		r.Path = []byte("/")
	}
	return nil
}

func (r *Request) field(line []byte) *ProtocolError {
	if len(r.Fields) == MaxFields {
		return refuse(431, "too many header fields")
	}
	name, value, perr := splitField(line)
	if perr != nil {
		return perr
	}
	if len(value) > MaxValue {
		return refuse(431, "header field too large")
	}
	r.Fields = append(r.Fields, Field{name, value})
	switch len(name) {
	case len("Host"):
		if fold(name, "host") {
			return r.host(value)
		}
	case len("Expect"):
		if fold(name, "expect") {
			if !fold(value, "100-continue") {
				return refuse(417, "unknown expectation")
			}
			r.Continue = true
		}
	case len("Connection"):
		if fold(name, "connection") {
			return r.connection(value)
		}
	case len("Content-Length"):
		if fold(name, "content-length") {
			return r.length(value)
		}
	case len("Transfer-Encoding"):
		if fold(name, "transfer-encoding") {
			if r.te {
				return refuse(400, "repeated Transfer-Encoding")
			}
			r.te = true
			if !fold(value, "chunked") {
				return refuse(501, "transfer coding not supported")
			}
			r.Chunked = true
		}
	}
	return nil
}

// splitField takes a line of a header or of a trailer apart (RFC 9112 § 5).
func splitField(line []byte) (name, value []byte, perr *ProtocolError) {
	i := bytes.IndexByte(line, ':')
	if i <= 0 {
		return nil, nil, refuse(400, "malformed header field")
	}
	name, value = line[:i], bytes.Trim(line[i+1:], " \t")
	for _, c := range name {
		if !tokenChar[c] {
			// White space before the colon and folded lines end here too
			// (RFC 9112 §§ 5.1, 5.2).
			return nil, nil, refuse(400, "malformed header field name")
		}
	}
	for _, c := range value {
		if c < ' ' && c != '\t' || c == 0x7f {
			return nil, nil, refuse(400, "control character in header field")
		}
	}
	return name, value, nil
}

func (r *Request) host(value []byte) *ProtocolError {
	if r.hosts++; r.hosts > 1 {
		return refuse(400, "repeated Host")
	}
	if !hostChars(value) {
		return refuse(400, "malformed Host")
	}
	if r.Host == nil { // the target's authority wins (RFC 9112 § 3.2.2)
		r.Host = value
	}
	return nil
}

func (r *Request) length(value []byte) *ProtocolError {
	if r.Length >= 0 {
		return refuse(400, "repeated Content-Length")
	}
	if len(value) == 0 || len(value) > 18 {
		return refuse(400, "malformed Content-Length")
	}
	var n int64
	for _, c := range value {
		if !digit(c) {
			return refuse(400, "malformed Content-Length")
		}
		n = n*10 + int64(c-'0')
	}
	r.Length = n
	return nil
}

// connection keeps the values of the field for [Request.HopByHop]; one that is
// repeated is rare enough to copy.
func (r *Request) connection(value []byte) *ProtocolError {
	if len(r.conn)+len(value) > maxConnection {
		return refuse(431, "Connection field too large")
	}
	if r.conn == nil {
		r.conn = value
		return nil
	}
	r.conn = append(append(append([]byte(nil), r.conn...), ','), value...)
	return nil
}

// finish checks what only the whole head can tell.
func (r *Request) finish() *ProtocolError {
	if r.Chunked {
		if r.Length >= 0 {
			return refuse(400, "both Content-Length and Transfer-Encoding")
		}
		if r.Minor == 0 {
			return refuse(400, "Transfer-Encoding in HTTP/1.0")
		}
	}
	if r.Minor == 1 && r.hosts == 0 {
		return refuse(400, "no Host")
	}
	if r.Minor == 0 {
		r.Continue = false
		r.KeepAlive = listed(r.conn, "keep-alive") && !listed(r.conn, "close")
	} else {
		r.KeepAlive = !listed(r.conn, "close")
	}
	// The end of a chunked body is where proxies and servers differ most, so
	// nothing follows one on the same connection (RFC 9112 § 6.1).
	if r.Chunked {
		r.KeepAlive = false
	}
	return nil
}

// HasBody tells whether a body follows the head, be it empty.
func (r *Request) HasBody() bool { return r.Chunked || r.Length >= 0 }

// HopByHop tells whether a field is for this connection alone: the ones of
// RFC 9110 § 7.6.1 and what the client's Connection field names.
func (r *Request) HopByHop(name []byte) bool {
	return HopByHop(name) || r.conn != nil && listed(r.conn, string(name))
}

// HopByHop tells whether a field of this name, in any case, never crosses a
// gateway (RFC 9110 § 7.6.1).
func HopByHop(name []byte) bool {
	switch len(name) {
	case 2:
		return fold(name, "te")
	case 7:
		return fold(name, "trailer") || fold(name, "upgrade")
	case 10:
		return fold(name, "connection") || fold(name, "keep-alive")
	case 16:
		return fold(name, "proxy-connection")
	case 17:
		return fold(name, "transfer-encoding")
	}
	return false
}

// listed tells whether a comma-separated list has token, in any case.
func listed(list []byte, token string) bool {
	for len(list) > 0 {
		item := list
		if i := bytes.IndexByte(list, ','); i >= 0 {
			item, list = list[:i], list[i+1:]
		} else {
			list = nil
		}
		if fold(bytes.Trim(item, " \t"), token) {
			return true
		}
	}
	return false
}

// fold compares in any case of ASCII letters.
func fold(b []byte, s string) bool {
	if len(b) != len(s) {
		return false
	}
	for i, c := range b {
		d := s[i]
		if c == d {
			continue
		}
		if c|0x20 != d|0x20 || c|0x20 < 'a' || c|0x20 > 'z' {
			return false
		}
	}
	return true
}

func digit(c byte) bool { return '0' <= c && c <= '9' }

// IsToken tells whether s is a token (RFC 9110 § 5.6.2).
func IsToken(s []byte) bool {
	for _, c := range s {
		if !tokenChar[c] {
			return false
		}
	}
	return len(s) > 0
}

// hostChars allows what RFC 3986 § 3.2 lets stand in host and port, no more:
// no user information, no white space, nothing of a path.
func hostChars(b []byte) bool {
	for _, c := range b {
		if !hostChar[c] {
			return false
		}
	}
	return true
}

var tokenChar, hostChar = charTable("!#$%&'*+-.^_`|~"), charTable("!$%&'()*+,-.:;=[]_~")

func charTable(extra string) (t [256]bool) {
	for c := range t {
		t[c] = digit(byte(c)) || 'a' <= c|0x20 && c|0x20 <= 'z' && c < 0x80
	}
	for _, c := range extra {
		t[c] = true
	}
	return t
}
