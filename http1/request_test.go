package http1

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// head joins lines as a request head.
func head(lines ...string) string { return strings.Join(lines, "\r\n") + "\r\n\r\n" }

// describe says all that a parsed head tells.
func describe(r *Request) string {
	s := fmt.Sprintf("%s %s path=%s query=%s host=%s 1.%d length=%d", r.Method, r.Target, r.Path, r.Query, r.Host, r.Minor, r.Length)
	for _, f := range []struct {
		name string
		set  bool
	}{{"chunked", r.Chunked}, {"continue", r.Continue}, {"keep-alive", r.KeepAlive}} {
		if f.set {
			s += " " + f.name
		}
	}
	for _, f := range r.Fields {
		s += fmt.Sprintf(" %q=%q", f.Name, f.Value)
	}
	return s
}

// parsed parses b as it comes in pieces of step bytes. An answer of 0 bytes
// and no error means that more is waited for.
func parsed(b []byte, step int) (*Request, int, *ProtocolError) {
	r := new(Request)
	r.reset()
	for n := step; ; n += step {
		n = min(n, len(b))
		size, err := r.parse(b[:n])
		if size > 0 || err != nil || n == len(b) {
			return r, size, err
		}
	}
}

const (
	more = 0   // the parser waits for more
	ok   = 200 // accepted
)

func TestRequest(t *testing.T) {
	t.Parallel()
	const h = "Host: h"
	tests := []struct {
		name   string
		in     string
		status int
		want   string // of describe; empty: not looked at
	}{
		{"plain", head("GET / HTTP/1.1", h), ok, `GET / path=/ query= host=h 1.1 length=-1 keep-alive "Host"="h"`},
		{"query", head("GET /a/b?c=d?e HTTP/1.1", h), ok, `GET /a/b?c=d?e path=/a/b query=c=d?e host=h 1.1 length=-1 keep-alive "Host"="h"`},
		{"empty query", head("GET /? HTTP/1.1", h), ok, `GET /? path=/ query= host=h 1.1 length=-1 keep-alive "Host"="h"`},
		{"method is a token, its case kept", head("m-x!#$%&'*+.^_`|~1 / HTTP/1.1", h), ok, ""},
		{"invalid UTF-8 in target", head("GET /\xff\xfe?\x80 HTTP/1.1", h), ok, "GET /\xff\xfe?\x80 path=/\xff\xfe query=\x80 host=h 1.1 length=-1 keep-alive \"Host\"=\"h\""},
		{"invalid UTF-8 in value", head("GET / HTTP/1.1", h, "X: \xff\xc0"), ok, `GET / path=/ query= host=h 1.1 length=-1 keep-alive "Host"="h" "X"="\xff\xc0"`},
		{"percent-encoding is the gateway's", head("GET /%zz%00 HTTP/1.1", h), ok, ""},
		{"value trimmed of spaces and tabs", head("GET / HTTP/1.1", "Host:h", "X: \t a \t b\t "), ok, `GET / path=/ query= host=h 1.1 length=-1 keep-alive "Host"="h" "X"="a \t b"`},
		{"empty value", head("GET / HTTP/1.1", h, "X:"), ok, ""},
		{"one empty line first", "\r\n" + head("GET / HTTP/1.1", h), ok, `GET / path=/ query= host=h 1.1 length=-1 keep-alive "Host"="h"`},
		{"two empty lines first", "\r\n\r\n" + head("GET / HTTP/1.1", h), 400, ""},
		{"an empty line alone", "\r\n", more, ""},
		{"two empty lines alone", "\r\n\r\n", more, ""},
		{"three empty lines", "\r\n\r\n\r\n", 400, ""},
		{"pipelined bytes are left", head("GET / HTTP/1.1", h) + "GET /2 HTTP/1.1\n", ok, ""},

		// Line ends: a proxy that takes LF or CR for one would see other fields.
		{"bare LF after request line", "GET / HTTP/1.1\nHost: h\r\n\r\n", 400, ""},
		{"bare LF after field", "GET / HTTP/1.1\r\nHost: h\n\r\n", 400, ""},
		{"bare LF at the end", "GET / HTTP/1.1\r\nHost: h\r\n\n", 400, ""},
		{"bare LF first", "\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", 400, ""},
		{"bare CR in request line", head("GET /\rX HTTP/1.1", h), 400, ""},
		{"bare CR after version", head("GET / HTTP/1.1\r", h), 400, ""},
		{"bare CR in value", head("GET / HTTP/1.1", h, "X: a\rContent-Length: 5"), 400, ""},
		{"CR at the end of a value", head("GET / HTTP/1.1", h, "X: a\r"), 400, ""},
		{"CR CR LF as the end", "GET / HTTP/1.1\r\nHost: h\r\n\r\r\n\r\n", 400, ""},
		{"CR in name", head("GET / HTTP/1.1", h, "X\r: a"), 400, ""},
		{"LF in the middle of a value", head("GET / HTTP/1.1", h, "X: a\nTransfer-Encoding: chunked"), 400, ""},

		// Control characters.
		{"NUL in target", head("GET /\x00 HTTP/1.1", h), 400, ""},
		{"NUL in method", head("G\x00T / HTTP/1.1", h), 400, ""},
		{"NUL in name", head("GET / HTTP/1.1", h, "X\x00: a"), 400, ""},
		{"NUL in value", head("GET / HTTP/1.1", h, "X: a\x00b"), 400, ""},
		{"NUL in Host", head("GET / HTTP/1.1", "Host: h\x00"), 400, ""},
		{"control in value", head("GET / HTTP/1.1", h, "X: a\x01b"), 400, ""},
		{"vertical tab before value", head("GET / HTTP/1.1", h, "X:\x0ba"), 400, ""},
		{"form feed after value", head("GET / HTTP/1.1", h, "X: a\x0c"), 400, ""},
		{"DEL in value", head("GET / HTTP/1.1", h, "X: a\x7f"), 400, ""},
		{"DEL in target", head("GET /\x7f HTTP/1.1", h), 400, ""},
		{"tab in target", head("GET /a\tb HTTP/1.1", h), 400, ""},
		{"escape in target", head("GET /\x1b HTTP/1.1", h), 400, ""},

		// The request line.
		{"space in target", head("GET /a b HTTP/1.1", h), 400, ""},
		{"two spaces before target", head("GET  / HTTP/1.1", h), 400, ""},
		{"two spaces before version", head("GET /  HTTP/1.1", h), 400, ""},
		{"space before method", head(" GET / HTTP/1.1", h), 400, ""},
		{"space after version", head("GET / HTTP/1.1 ", h), 400, ""},
		{"tabs for spaces", head("GET\t/\tHTTP/1.1", h), 400, ""},
		{"tab after method", head("GET\t / HTTP/1.1", h), 400, ""},
		{"no target", head("GET HTTP/1.1", h), 400, ""},
		{"empty target", head("GET  HTTP/1.1", h), 400, ""},
		{"no method", head("/ HTTP/1.1", h), 400, ""},
		{"method with a colon", head("GET: / HTTP/1.1", h), 400, ""},
		{"method beyond ASCII", head("G\xc3\x89T / HTTP/1.1", h), 400, ""},
		{"fragment", head("GET /a#b HTTP/1.1", h), 400, ""},
		{"fragment in query", head("GET /a?b#c HTTP/1.1", h), 400, ""},
		{"field instead of a request line", head("Host: h", "X: y"), 400, ""},
		{"TLS hello", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, ""},

		// Versions.
		{"HTTP/0.9", "GET /\r\n\r\n", 400, ""},
		{"HTTP/0.9 named", head("GET / HTTP/0.9", h), 505, ""},
		{"HTTP/1.0 without Host", head("GET / HTTP/1.0"), ok, `GET / path=/ query= host= 1.0 length=-1`},
		{"HTTP/1.0 keep-alive", head("GET / HTTP/1.0", "Connection: Keep-Alive"), ok, `GET / path=/ query= host= 1.0 length=-1 keep-alive "Connection"="Keep-Alive"`},
		{"HTTP/1.0 keep-alive and close", head("GET / HTTP/1.0", "Connection: keep-alive, close"), ok, `GET / path=/ query= host= 1.0 length=-1 "Connection"="keep-alive, close"`},
		{"HTTP/1.2 is 1.1", head("GET / HTTP/1.2", h), ok, `GET / path=/ query= host=h 1.1 length=-1 keep-alive "Host"="h"`},
		{"HTTP/1.9 without Host", head("GET / HTTP/1.9"), 400, ""},
		{"HTTP/2.0", head("GET / HTTP/2.0", h), 505, ""},
		{"HTTP/3.1", head("GET / HTTP/3.1", h), 505, ""},
		{"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, ""},
		{"HTTP/1.10", head("GET / HTTP/1.10", h), 400, ""},
		{"HTTP/01.1", head("GET / HTTP/01.1", h), 400, ""},
		{"HTTP/1.", head("GET / HTTP/1.", h), 400, ""},
		{"HTTP/1", head("GET / HTTP/1", h), 400, ""},
		{"HTTP/1,1", head("GET / HTTP/1,1", h), 400, ""},
		{"http/1.1", head("GET / http/1.1", h), 400, ""},
		{"HTTP/+1.1", head("GET / HTTP/+.1", h), 400, ""},
		{"XHTTP/1.1", head("GET / XHTTP/1.1", h), 400, ""},

		// Forms of the target.
		{"absolute-form", head("GET http://a:8/p?q HTTP/1.1", h), ok, `GET http://a:8/p?q path=/p query=q host=a:8 1.1 length=-1 keep-alive "Host"="h"`},
		{"absolute-form, https in any case", head("GET HttpS://a HTTP/1.1", h), ok, `GET HttpS://a path=/ query= host=a 1.1 length=-1 keep-alive "Host"="h"`},
		{"absolute-form without path", head("GET http://a?q HTTP/1.1", h), ok, `GET http://a?q path=/ query=q host=a 1.1 length=-1 keep-alive "Host"="h"`},
		{"absolute-form, IPv6", head("GET http://[::1]:80/ HTTP/1.1", h), ok, ""},
		{"absolute-form, HTTP/1.0", head("GET http://a/ HTTP/1.0"), ok, `GET http://a/ path=/ query= host=a 1.0 length=-1`},
		{"absolute-form still needs Host", head("GET http://a/ HTTP/1.1"), 400, ""},
		{"absolute-form without authority", head("GET http:///p HTTP/1.1", h), 400, ""},
		{"absolute-form with user", head("GET http://u@a/ HTTP/1.1", h), 400, ""},
		{"absolute-form with fragment", head("GET http://a#f HTTP/1.1", h), 400, ""},
		{"absolute-form, backslash", head(`GET http://a\b/ HTTP/1.1`, h), 400, ""},
		{"absolute-form, percent-encoded authority", head("GET http://a%2f/ HTTP/1.1", h), ok, ""},
		{"other scheme", head("GET ftp://a/ HTTP/1.1", h), 400, ""},
		{"scheme alone", head("GET http: HTTP/1.1", h), 400, ""},
		{"scheme without slashes", head("GET http:a HTTP/1.1", h), 400, ""},
		{"relative path", head("GET a/b HTTP/1.1", h), 400, ""},
		{"relative path with a URL behind", head("GET x?http://a/ HTTP/1.1", h), 400, ""},
		{"asterisk-form", head("OPTIONS * HTTP/1.1", h), 400, ""},
		{"authority-form", head("GET a:80 HTTP/1.1", h), 400, ""},
		{"CONNECT", head("CONNECT a:80 HTTP/1.1", h), 400, ""},
		{"CONNECT, absolute-form", head("CONNECT http://a:80/ HTTP/1.1", h), 400, ""},
		{"two slashes are a path", head("GET //a/b HTTP/1.1", h), ok, `GET //a/b path=//a/b query= host=h 1.1 length=-1 keep-alive "Host"="h"`},
		{"backslash is no slash", head(`GET \a HTTP/1.1`, h), 400, ""},
		{"query alone", head("GET ?a HTTP/1.1", h), 400, ""},

		// Host.
		{"no Host", head("GET / HTTP/1.1"), 400, ""},
		{"no Host but others", head("GET / HTTP/1.1", "X-Host: h"), 400, ""},
		{"two Hosts", head("GET / HTTP/1.1", h, "Host: i"), 400, ""},
		{"two equal Hosts", head("GET / HTTP/1.1", h, "HOST: h"), 400, ""},
		{"two Hosts in HTTP/1.0", head("GET / HTTP/1.0", h, h), 400, ""},
		{"empty Host", head("GET / HTTP/1.1", "Host:"), ok, ""},
		{"Host with port", head("GET / HTTP/1.1", "Host: [::1]:80"), ok, ""},
		{"Host list", head("GET / HTTP/1.1", "Host: a, b"), 400, ""},
		{"Host with user", head("GET / HTTP/1.1", "Host: u@h"), 400, ""},
		{"Host with path", head("GET / HTTP/1.1", "Host: h/p"), 400, ""},
		{"Host with query", head("GET / HTTP/1.1", "Host: h?p"), 400, ""},
		{"Host with fragment", head("GET / HTTP/1.1", "Host: h#p"), 400, ""},
		{"Host with backslash", head("GET / HTTP/1.1", `Host: h\i`), 400, ""},
		{"Host with space", head("GET / HTTP/1.1", "Host: h i"), 400, ""},
		{"Host beyond ASCII", head("GET / HTTP/1.1", "Host: h\xc3\xa9"), 400, ""},
		{"Host with quotes", head("GET / HTTP/1.1", `Host: "h"`), 400, ""},
		{"Host with markup", head("GET / HTTP/1.1", "Host: <h>"), 400, ""},

		// Field names.
		{"space before colon", head("GET / HTTP/1.1", h, "X : a"), 400, ""},
		{"tab before colon", head("GET / HTTP/1.1", h, "X\t: a"), 400, ""},
		{"space before the colon of Content-Length", head("GET / HTTP/1.1", h, "Content-Length : 5"), 400, ""},
		{"space before the colon of Transfer-Encoding", head("GET / HTTP/1.1", h, "Transfer-Encoding : chunked"), 400, ""},
		{"space in name", head("GET / HTTP/1.1", h, "X Y: a"), 400, ""},
		{"no name", head("GET / HTTP/1.1", h, ": a"), 400, ""},
		{"no colon", head("GET / HTTP/1.1", h, "X"), 400, ""},
		{"name beyond ASCII", head("GET / HTTP/1.1", h, "X\xc3\xa9: a"), 400, ""},
		{"byte order mark", head("GET / HTTP/1.1", h, "\xef\xbb\xbfX: a"), 400, ""},
		{"parentheses in name", head("GET / HTTP/1.1", h, "X(c): a"), 400, ""},
		{"folded line, space", head("GET / HTTP/1.1", h, "X: a", " b"), 400, ""},
		{"folded line, tab", head("GET / HTTP/1.1", h, "X: a", "\tb"), 400, ""},
		{"folded line with a field in it", head("GET / HTTP/1.1", h, "X: a", " Content-Length: 5"), 400, ""},
		{"folded line before the first field", head("GET / HTTP/1.1", " X: a", h), 400, ""},
		{"folded Transfer-Encoding", head("POST / HTTP/1.1", h, "Transfer-Encoding:", " chunked"), 501, ""},
		{"line of a space alone", head("GET / HTTP/1.1", h, " "), 400, ""},
		{"underscore and dot are let through", head("GET / HTTP/1.1", h, "X_Y.z: a"), ok, ""},

		// Content-Length.
		{"length", head("POST / HTTP/1.1", h, "Content-Length: 5"), ok, `POST / path=/ query= host=h 1.1 length=5 keep-alive "Host"="h" "Content-Length"="5"`},
		{"length 0", head("POST / HTTP/1.1", h, "content-length:0"), ok, `POST / path=/ query= host=h 1.1 length=0 keep-alive "Host"="h" "content-length"="0"`},
		{"length with zeros first", head("POST / HTTP/1.1", h, "Content-Length: 007"), ok, `POST / path=/ query= host=h 1.1 length=7 keep-alive "Host"="h" "Content-Length"="007"`},
		{"longest length", head("POST / HTTP/1.1", h, "Content-Length: 999999999999999999"), ok, ""},
		{"length past 18 digits", head("POST / HTTP/1.1", h, "Content-Length: 1000000000000000000"), 400, ""},
		{"length past 63 bits", head("POST / HTTP/1.1", h, "Content-Length: 18446744073709551621"), 400, ""},
		{"length past 64 bits by zeros", head("POST / HTTP/1.1", h, "Content-Length: 00000000000000000005"), 400, ""},
		{"length with plus", head("POST / HTTP/1.1", h, "Content-Length: +5"), 400, ""},
		{"length with minus", head("POST / HTTP/1.1", h, "Content-Length: -5"), 400, ""},
		{"length -0", head("POST / HTTP/1.1", h, "Content-Length: -0"), 400, ""},
		{"length list", head("POST / HTTP/1.1", h, "Content-Length: 5, 5"), 400, ""},
		{"length list without space", head("POST / HTTP/1.1", h, "Content-Length: 5,5"), 400, ""},
		{"length with comma", head("POST / HTTP/1.1", h, "Content-Length: 5,"), 400, ""},
		{"length in hex", head("POST / HTTP/1.1", h, "Content-Length: 0x5"), 400, ""},
		{"length of hex digits", head("POST / HTTP/1.1", h, "Content-Length: a"), 400, ""},
		{"length with underscore", head("POST / HTTP/1.1", h, "Content-Length: 1_0"), 400, ""},
		{"length with exponent", head("POST / HTTP/1.1", h, "Content-Length: 1e1"), 400, ""},
		{"length with fraction", head("POST / HTTP/1.1", h, "Content-Length: 5.0"), 400, ""},
		{"length with space inside", head("POST / HTTP/1.1", h, "Content-Length: 5 5"), 400, ""},
		{"length in quotes", head("POST / HTTP/1.1", h, `Content-Length: "5"`), 400, ""},
		{"empty length", head("POST / HTTP/1.1", h, "Content-Length:"), 400, ""},
		{"length in wide digits", head("POST / HTTP/1.1", h, "Content-Length: \xef\xbc\x95"), 400, ""},
		{"two equal lengths", head("POST / HTTP/1.1", h, "Content-Length: 5", "Content-Length: 5"), 400, ""},
		{"two lengths", head("POST / HTTP/1.1", h, "Content-Length: 5", "content-length: 6"), 400, ""},
		{"GET with a length has a body", head("GET / HTTP/1.1", h, "Content-Length: 5"), ok, `GET / path=/ query= host=h 1.1 length=5 keep-alive "Host"="h" "Content-Length"="5"`},
		{"Content_Length is another field", head("POST / HTTP/1.1", h, "Content_Length: 5"), ok, `POST / path=/ query= host=h 1.1 length=-1 keep-alive "Host"="h" "Content_Length"="5"`},

		// Transfer-Encoding.
		{"chunked", head("POST / HTTP/1.1", h, "Transfer-Encoding: chunked"), ok, `POST / path=/ query= host=h 1.1 length=-1 chunked "Host"="h" "Transfer-Encoding"="chunked"`},
		{"chunked in any case", head("POST / HTTP/1.1", h, "transfer-ENCODING: \tCHUNKED "), ok, ""},
		{"chunked and length", head("POST / HTTP/1.1", h, "Transfer-Encoding: chunked", "Content-Length: 5"), 400, ""},
		{"length and chunked", head("POST / HTTP/1.1", h, "Content-Length: 5", "Transfer-Encoding: chunked"), 400, ""},
		{"chunked and length 0", head("POST / HTTP/1.1", h, "Transfer-Encoding: chunked", "Content-Length: 0"), 400, ""},
		{"chunked in HTTP/1.0", head("POST / HTTP/1.0", h, "Transfer-Encoding: chunked"), 400, ""},
		{"chunked twice", head("POST / HTTP/1.1", h, "Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), 400, ""},
		{"chunked, then another line", head("POST / HTTP/1.1", h, "Transfer-Encoding: chunked", "Transfer-Encoding: identity"), 400, ""},
		{"chunked, then an empty line of it", head("POST / HTTP/1.1", h, "Transfer-Encoding: chunked", "Transfer-Encoding:"), 400, ""},
		{"another, then chunked", head("POST / HTTP/1.1", h, "Transfer-Encoding: gzip", "Transfer-Encoding: chunked"), 501, ""},
		{"xchunked", head("POST / HTTP/1.1", h, "Transfer-Encoding: xchunked"), 501, ""},
		{"chunkedx", head("POST / HTTP/1.1", h, "Transfer-Encoding: chunkedx"), 501, ""},
		{"chunked, chunked", head("POST / HTTP/1.1", h, "Transfer-Encoding: chunked, chunked"), 501, ""},
		{"gzip, chunked", head("POST / HTTP/1.1", h, "Transfer-Encoding: gzip, chunked"), 501, ""},
		{"chunked, gzip", head("POST / HTTP/1.1", h, "Transfer-Encoding: chunked, gzip"), 501, ""},
		{"identity", head("POST / HTTP/1.1", h, "Transfer-Encoding: identity"), 501, ""},
		{"identity with length", head("POST / HTTP/1.1", h, "Transfer-Encoding: identity", "Content-Length: 5"), 501, ""},
		{"identity, chunked", head("POST / HTTP/1.1", h, "Transfer-Encoding: identity, chunked"), 501, ""},
		{"empty coding", head("POST / HTTP/1.1", h, "Transfer-Encoding:"), 501, ""},
		{"chunked with comma", head("POST / HTTP/1.1", h, "Transfer-Encoding: chunked,"), 501, ""},
		{"comma and chunked", head("POST / HTTP/1.1", h, "Transfer-Encoding: ,chunked"), 501, ""},
		{"chunked with parameter", head("POST / HTTP/1.1", h, "Transfer-Encoding: chunked;q=1"), 501, ""},
		{"chunked in quotes", head("POST / HTTP/1.1", h, `Transfer-Encoding: "chunked"`), 501, ""},
		{"chunked behind a vertical tab", head("POST / HTTP/1.1", h, "Transfer-Encoding: \x0bchunked"), 400, ""},
		{"chunked behind a no-break space", head("POST / HTTP/1.1", h, "Transfer-Encoding: \xa0chunked"), 501, ""},
		{"chunked with NUL", head("POST / HTTP/1.1", h, "Transfer-Encoding: chunked\x00"), 400, ""},
		{"chunked with long s", head("POST / HTTP/1.1", h, "Tran\xc5\xbffer-Encoding: chunked"), 400, ""},
		{"chunked with Kelvin sign", head("POST / HTTP/1.1", h, "Transfer-Encoding: chun\xe2\x84\xaaed"), 501, ""},
		{"Transfer_Encoding is another field", head("POST / HTTP/1.1", h, "Transfer_Encoding: chunked", "Content-Length: 5"), ok, ""},
		{"Content-Encoding is another field", head("POST / HTTP/1.1", h, "Content-Encoding: chunked", "Content-Length: 5"), ok, ""},

		// Connection and Expect.
		{"close", head("GET / HTTP/1.1", h, "Connection: close"), ok, `GET / path=/ query= host=h 1.1 length=-1 "Host"="h" "Connection"="close"`},
		{"close in a list", head("GET / HTTP/1.1", h, "Connection: x ,\tCLOSE"), ok, `GET / path=/ query= host=h 1.1 length=-1 "Host"="h" "Connection"="x ,\tCLOSE"`},
		{"close in the second of two lines", head("GET / HTTP/1.1", h, "Connection: x", "Connection: close"), ok, `GET / path=/ query= host=h 1.1 length=-1 "Host"="h" "Connection"="x" "Connection"="close"`},
		{"close in the first of two lines", head("GET / HTTP/1.1", h, "Connection: close", "Connection: x"), ok, `GET / path=/ query= host=h 1.1 length=-1 "Host"="h" "Connection"="close" "Connection"="x"`},
		{"closed is not close", head("GET / HTTP/1.1", h, "Connection: closed"), ok, `GET / path=/ query= host=h 1.1 length=-1 keep-alive "Host"="h" "Connection"="closed"`},
		{"100-continue", head("POST / HTTP/1.1", h, "Expect: 100-Continue", "Content-Length: 1"), ok, `POST / path=/ query= host=h 1.1 length=1 continue keep-alive "Host"="h" "Expect"="100-Continue" "Content-Length"="1"`},
		{"100-continue in HTTP/1.0 is ignored", head("POST / HTTP/1.0", "Expect: 100-continue", "Content-Length: 1"), ok, `POST / path=/ query= host= 1.0 length=1 "Expect"="100-continue" "Content-Length"="1"`},
		{"unknown expectation", head("POST / HTTP/1.1", h, "Expect: 200-ok"), 417, ""},
		{"list of expectations", head("POST / HTTP/1.1", h, "Expect: 100-continue, x"), 417, ""},

		// Unfinished.
		{"nothing", "", more, ""},
		{"half a method", "GE", more, ""},
		{"request line", "GET / HTTP/1.1\r\n", more, ""},
		{"half an end", "GET / HTTP/1.1\r\nHost: h\r\n\r", more, ""},

		// Limits.
		{"longest request line", head("GET /"+strings.Repeat("a", MaxRequestLine-14)+" HTTP/1.1", h), ok, ""},
		{"longest request line after an empty one", "\r\n" + head("GET /"+strings.Repeat("a", MaxRequestLine-14)+" HTTP/1.1", h), ok, ""},
		{"request line too long", head("GET /"+strings.Repeat("a", MaxRequestLine-13)+" HTTP/1.1", h), 414, ""},
		{"request line without end", "GET /" + strings.Repeat("a", MaxRequestLine), 414, ""},
		{"longest request line, not ended", "GET /" + strings.Repeat("a", MaxRequestLine-5), more, ""},
		{"longest value", head("GET / HTTP/1.1", h, "X: "+strings.Repeat("a", MaxValue)), ok, ""},
		{"value too long", head("GET / HTTP/1.1", h, "X: "+strings.Repeat("a", MaxValue+1)), 431, ""},
		{"long white space does not count as value", head("GET / HTTP/1.1", h, "X: "+strings.Repeat(" ", MaxValue+1)), ok, ""},
		{"longest header", headerOf(MaxHeader), ok, ""},
		{"header too long by one", headerOf(MaxHeader + 1), 431, ""},
		{"header without end", strings.TrimSuffix(headerOf(MaxHeader+9), "\r\n\r\n"), 431, ""},
		{"most fields", head("GET / HTTP/1.1", h, strings.TrimSuffix(strings.Repeat("a:\r\n", MaxFields-1), "\r\n")), ok, ""},
		{"too many fields", head("GET / HTTP/1.1", h, strings.TrimSuffix(strings.Repeat("a:\r\n", MaxFields), "\r\n")), 431, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := []byte(tt.in)
			r, n, err := parsed(b, max(len(b), 1))
			status := more
			if err != nil {
				status = err.Status
			} else if n > 0 {
				status = ok
			}
			if status != tt.status {
				t.Fatalf("status %d (%v), want %d", status, err, tt.status)
			}
			if status == ok {
				if end := strings.Index(tt.in[2:], "\r\n\r\n") + 6; n != end {
					t.Errorf("head ends at %d, want %d", n, end)
				}
				if got := describe(r); tt.want != "" && got != tt.want {
					t.Errorf("got  %s\nwant %s", got, tt.want)
				}
			}
			// However slowly the bytes come, the result is the same.
			for _, step := range []int{1, 2, 3, 7, 4096} {
				r2, n2, err2 := parsed(b, step)
				if n2 != n || (err == nil) != (err2 == nil) || err != nil && *err != *err2 {
					t.Fatalf("in pieces of %d: %d bytes, %v; at once: %d bytes, %v", step, n2, err2, n, err)
				}
				if status == ok && describe(r2) != describe(r) {
					t.Errorf("in pieces of %d: %.200s", step, describe(r2))
				}
			}
		})
	}
}

// headerOf makes a request whose field lines take n bytes with their CRLFs.
func headerOf(n int) string {
	const first = "Host: h\r\n"
	half := (n - len(first)) / 2
	rest := n - len(first) - half
	line := func(n int) string { return "X:" + strings.Repeat("a", n-4) }
	return head("GET / HTTP/1.1", "Host: h", line(half), line(rest))
}

// TestRequestLooksOnce shows that time is linear in size: after each call all
// bytes that have come are done with, so that the next call looks only at new
// ones.
func TestRequestLooksOnce(t *testing.T) {
	t.Parallel()
	b := []byte(headerOf(MaxHeader))
	r := new(Request)
	r.reset()
	for n := 1; n < len(b); n++ {
		if size, err := r.parse(b[:n]); size != 0 || err != nil {
			t.Fatal(n, size, err)
		}
		if r.scan != n {
			t.Fatalf("%d bytes have come, the next look begins at %d", n, r.scan)
		}
	}
}

// TestRequestMoves shows that the buffer may move between calls, as it does
// when it grows.
func TestRequestMoves(t *testing.T) {
	t.Parallel()
	b := []byte(head("GET /a?b HTTP/1.1", "Host: h", "X: y", "Connection: z"))
	r := new(Request)
	r.reset()
	for n := 1; n <= len(b); n++ {
		moved := append([]byte(nil), b[:n]...)
		size, err := r.parse(moved)
		if err != nil {
			t.Fatal(err)
		}
		if n < len(b) {
			clear(moved)
		} else if size != n {
			t.Fatal(size)
		}
	}
	if got := describe(r); got != `GET /a?b path=/a query=b host=h 1.1 length=-1 keep-alive "Host"="h" "X"="y" "Connection"="z"` {
		t.Error(got)
	}
}

func TestHopByHop(t *testing.T) {
	t.Parallel()
	r, _, err := parsed([]byte(head("GET / HTTP/1.1", "Host: h", "Connection: a, B", "Connection: c")), 1)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		"Connection": true, "KEEP-ALIVE": true, "te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true,
		"Proxy-Connection": true, "A": true, "b": true, "C": true,
		"Host": false, "d": false, "Cookie": false, "TEA": false, "ab": false, "": false,
	} {
		if got := r.HopByHop([]byte(name)); got != want {
			t.Errorf("%q: %t", name, got)
		}
	}
}

// bodyEnd decodes a body behind a head and tells what it is and what follows.
func bodyEnd(r *Request, rest []byte) (body, after []byte, whole bool) {
	if !r.Chunked {
		n := max(r.Length, 0)
		if int64(len(rest)) < n {
			return nil, nil, false
		}
		return rest[:n], rest[n:], true
	}
	body, n, done, err := unchunk(rest, len(rest)+1)
	return body, rest[n:], done && err == nil
}

// FuzzRequest compares this parser with net/http's: what is accepted here is
// accepted there, and both agree on where it ends. Not the other way round:
// much that net/http accepts is refused.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		head("GET / HTTP/1.1", "Host: h"),
		head("GET /a?b HTTP/1.0", "Connection: keep-alive"),
		"\r\n" + head("GET http://a:1/b?c HTTP/1.1", "Host: h"),
		head("POST / HTTP/1.1", "Host: h", "Content-Length: 5") + "helloGET / HTTP/1.1\r\n",
		head("POST / HTTP/1.1", "Host: h", "Transfer-Encoding: chunked") + "5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\nGET",
		head("POST / HTTP/1.1", "Host: h", "Transfer-Encoding: chunked", "Content-Length: 5") + "0\r\n\r\n",
		head("POST / HTTP/1.1", "Host: h", "Transfer-Encoding: xchunked") + "0\r\n\r\n",
		head("POST / HTTP/1.1", "Host: h", "Content-Length: 5", "Content-Length: 6"),
		head("POST / HTTP/1.1", "Host: h", "Content-Length : 5"),
		head("GET / HTTP/1.1", "Host: h", "X: a", " b"),
		"GET / HTTP/1.1\nHost: h\n\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		head("OPTIONS * HTTP/1.1", "Host: h"),
		head("CONNECT a:1 HTTP/1.1", "Host: h"),
		head("GET /\xff%zz HTTP/1.2", "Host: [::1]:8", "X_Y: \xff"),
		head("POST / HTTP/1.1", "Host: h", "Trailer: Content-Length", "Transfer-Encoding: chunked") + "0\r\n\r\n",
		head("POST / HTTP/1.1", "Host: h", "Expect: 100-continue", "Content-Length: 0"),
	} {
		f.Add([]byte(s), uint16(len(s)/2))
	}
	f.Fuzz(func(t *testing.T, b []byte, at uint16) {
		r, n, perr := parsed(b, max(len(b), 1))
		r2, n2, perr2 := parsed(b, max(int(at), 1))
		if (perr == nil) != (perr2 == nil) || perr == nil && n != n2 || n > 0 && describe(r) != describe(r2) {
			t.Fatalf("at once: %d, %v; in pieces of %d: %d, %v", n, perr, at, n2, perr2)
		}
		if perr != nil {
			if perr.Status < 400 || perr.Status > 505 || perr.Reason == "" {
				t.Fatalf("refused with %d %q", perr.Status, perr.Reason)
			}
			return
		}
		if n == 0 {
			return
		}
		body, after, whole := bodyEnd(r, b[n:])
		if !whole {
			return
		}
		std, in, err := readRequest(b)
		var uerr *url.Error
		if err != nil && (errors.As(err, &uerr) || strings.Contains(err.Error(), "invalid URI")) {
			// A target that net/url takes for no URL is of no concern to
			// where the request ends; the gateway looks at it.
			std, in, err = readRequest(bytes.Replace(b, r.Target, []byte("/"), 1))
		} else if err == nil && std.RequestURI != string(r.Target) {
			t.Fatalf("target %q, net/http: %q", r.Target, std.RequestURI)
		}
		if err != nil {
			if strings.Contains(err.Error(), "bad trailer key") {
				return // trailers are dropped here
			}
			t.Fatalf("net/http: %v", err)
		}
		if std.Method != string(r.Method) {
			t.Fatalf("method %q, net/http: %q", r.Method, std.Method)
		}
		if !r.Chunked && std.ContentLength != max(r.Length, 0) || r.Chunked && std.ContentLength != -1 {
			t.Fatalf("length %d, net/http: %d", r.Length, std.ContentLength)
		}
		stdBody, err := io.ReadAll(std.Body)
		if err != nil {
			if tolerated(err) {
				return
			}
			t.Fatalf("body, net/http: %v", err)
		}
		stdAfter, _ := io.ReadAll(in)
		if !bytes.Equal(body, stdBody) || !bytes.Equal(after, stdAfter) {
			t.Fatalf("body %q, then %q; net/http: %q, then %q", body, after, stdBody, stdAfter)
		}
	})
}

// readRequest skips one empty line, which net/http's server does elsewhere.
func readRequest(b []byte) (*http.Request, *bufio.Reader, error) {
	in := bufio.NewReaderSize(bytes.NewReader(bytes.TrimPrefix(b, []byte("\r\n"))), 1<<20)
	r, err := http.ReadRequest(in)
	return r, in, err
}

// tolerated tells whether net/http's chunked reader found only a limit passed
// that is higher here.
func tolerated(err error) bool {
	return strings.Contains(err.Error(), "too much non-data") || strings.Contains(err.Error(), "line too long") ||
		strings.Contains(err.Error(), "suspiciously long trailer")
}
