package cgi

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
)

// response is the header of a CGI response (RFC 3875 § 6).
type response struct {
	status   int    // of Status, 0 without one
	location string // empty without one
	length   int64  // of Content-Length, -1 without one
	fields   []Field
	twice    bool // Content-Type came more than once; the first counts
}

// headerEnd looks for the empty line that ends a header, from an offset at
// which a line begins. It gives the offset behind it, or -1 and where to look
// next time.
func headerEnd(b []byte, from int) (end, next int) {
	for {
		i := bytes.IndexByte(b[from:], '\n')
		if i < 0 {
			return -1, from
		}
		if i == 0 || i == 1 && b[from] == '\r' {
			return from + i + 1, 0
		}
		from += i + 1
	}
}

// parseResponse parses a whole header, as headerEnd found it. Lines end in LF
// or CRLF; they are not folded. An error quotes the line that is wrong.
func parseResponse(head []byte) (r response, err error) {
	r.length = -1
	seen := false
	for line := range strings.Lines(string(head)) {
		line = strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
		if line == "" {
			break
		}
		seen = true
		if err := r.line(line); err != nil {
			return r, fmt.Errorf("%w: %s: %.200q", errBadResponse, err, line)
		}
	}
	if !seen {
		return r, fmt.Errorf("%w: no header", errBadResponse)
	}
	return r, nil
}

// hopByHop are the fields that concern one connection and are none of the
// command's business (RFC 9110 § 7.6.1).
var hopByHop = map[string]bool{
	"Connection": true, "Keep-Alive": true, "Proxy-Connection": true, "Te": true, "Trailer": true, "Upgrade": true,
}

func (r *response) line(line string) error {
	name, value, found := strings.Cut(line, ":")
	if !found || !isToken(name) {
		return fmt.Errorf("not a header field")
	}
	value = strings.Trim(value, " \t")
	if strings.ContainsFunc(value, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }) {
		return fmt.Errorf("control character in a header field")
	}
	name = textproto.CanonicalMIMEHeaderKey(name)
	if value == "" {
		return nil // § 6.3: a field without a value is as good as not sent
	}
	switch name {
	case "Status":
		return r.setStatus(value)
	case "Content-Length":
		return r.setLength(value)
	case "Transfer-Encoding":
		return fmt.Errorf("a command does not encode its body")
	case "Location":
		if r.location != "" {
			return errors.New("a second Location")
		}
		r.location = value
		return nil
	case "Content-Type":
		for _, f := range r.fields {
			if f.Name == name {
				r.twice = true
				return nil
			}
		}
	}
	if !hopByHop[name] {
		r.fields = append(r.fields, Field{name, value})
	}
	return nil
}

func (r *response) setStatus(value string) error {
	code, _, _ := strings.Cut(value, " ")
	n, err := strconv.Atoi(code)
	if err != nil || len(code) != 3 || n < 200 || n > 599 {
		return fmt.Errorf("not a status from 200 to 599")
	}
	if r.status != 0 {
		return errors.New("a second Status")
	}
	r.status = n
	return nil
}

func (r *response) setLength(value string) error {
	n, err := strconv.ParseUint(value, 10, 62)
	if err != nil {
		return fmt.Errorf("not a length")
	}
	if r.length >= 0 {
		return errors.New("a second Content-Length")
	}
	r.length = int64(n)
	return nil
}

// inside tells whether a response is a redirect that the server follows itself
// (§ 6.2.2): to a path below script, with no other field that the client would
// lose and without a fragment, which only the client can keep. What begins with
// two slashes names a host.
func (r *response) inside(script string) (bool, error) {
	if !strings.HasPrefix(r.location, "/") || strings.HasPrefix(r.location, "//") {
		return false, nil
	}
	path, _, _ := strings.Cut(r.location, "?")
	path, err := url.PathUnescape(path)
	if err != nil || strings.ContainsRune(path, 0) {
		return false, fmt.Errorf("%w: Location is not a path: %.200q", errBadResponse, r.location)
	}
	rest, ok := strings.CutPrefix(path, script)
	return ok && (rest == "" || rest[0] == '/') && r.status == 0 && r.length < 0 && len(r.fields) == 0 &&
		!strings.Contains(r.location, "#"), nil
}

// code is the status to answer with: 302 for a redirect to the client without
// one (§ 6.2.3), else 200 (§ 6.3.3).
func (r *response) code() int {
	switch {
	case r.status != 0:
		return r.status
	case r.location != "":
		return http.StatusFound
	}
	return http.StatusOK
}

// all are the fields that the client gets.
func (r *response) all() []Field {
	if r.location == "" {
		return r.fields
	}
	return append(r.fields, Field{"Location", r.location})
}

// isToken tells whether s is a token (RFC 9110 § 5.6.2), as names of fields are.
func isToken(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return s != ""
}
