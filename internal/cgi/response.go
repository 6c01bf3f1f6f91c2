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
	status   int // 0 if there is none
	location string
	length   int64 // -1 if there is none
	fields   []Field
	twice    bool // there are several Content-Types; fields has the first
}

// headerEnd searches for the empty line that ends a header, from the beginning
// of a line. It returns the offset after the empty line, or -1 and the offset to
// continue from when there is more input.
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

// parseResponse parses a header. Lines end in LF or CRLF and cannot be folded.
// An error quotes the invalid line.
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

// hopByHop are the fields that concern only one connection (RFC 9110 § 7.6.1).
// They are dropped.
var hopByHop = map[string]bool{
	"Connection": true, "Keep-Alive": true, "Proxy-Connection": true, "Te": true, "Trailer": true, "Upgrade": true,
}

func (r *response) line(line string) error {
	name, value, found := strings.Cut(line, ":")
	if !found || !isToken(name) {
		return errors.New("not a header field")
	}
	value = strings.Trim(value, " \t")
	if strings.ContainsFunc(value, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }) {
		return errors.New("control character in a header field")
	}
	name = textproto.CanonicalMIMEHeaderKey(name)
	if value == "" {
		return nil // § 6.3: the same as no field
	}
	switch name {
	case "Status":
		return r.setStatus(value)
	case "Content-Length":
		return r.setLength(value)
	case "Transfer-Encoding":
		return errors.New("Transfer-Encoding is not allowed")
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
		return errors.New("not a status from 200 to 599")
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
		return errors.New("not a length")
	}
	if r.length >= 0 {
		return errors.New("a second Content-Length")
	}
	r.length = int64(n)
	return nil
}

// isLocal reports whether r is a local redirect, which the server follows itself
// (§ 6.2.2): the location is a path below script and does not begin with "//",
// which precedes a host. With other fields or a fragment it goes to the client,
// which would not see them otherwise.
func (r *response) isLocal(script string) (bool, error) {
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

// code returns the status. The default is 302 for a redirect (§ 6.2.3), else 200
// (§ 6.3.3).
func (r *response) code() int {
	switch {
	case r.status != 0:
		return r.status
	case r.location != "":
		return http.StatusFound
	}
	return http.StatusOK
}

// all returns the fields for the client.
func (r *response) all() []Field {
	if r.location == "" {
		return r.fields
	}
	return append(r.fields, Field{"Location", r.location})
}

// isToken reports whether s is a token (RFC 9110 § 5.6.2), like the name of a field.
func isToken(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return s != ""
}
