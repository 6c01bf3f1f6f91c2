package gateway

import (
	"bytes"
	"errors"

	"github.com/onewake/onewake/http1"
)

// field is one header field of a command's response.
type field struct {
	name, value []byte
}

// response is the header of a CGI response (RFC 3875 § 6). Its slices are
// parts of what was parsed.
type response struct {
	status   int    // of Status, 0 without one
	location []byte // nil without one
	length   int64  // of Content-Length, -1 without one
	fields   []field
}

var (
	errNoHeader  = errors.New("response has no header")
	errLongHead  = errors.New("response header longer than 64 KiB")
	errMalformed = errors.New("malformed response header")
)

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
// or CRLF; they are not folded.
func parseResponse(head []byte, fields []field) (response, error) {
	r := response{length: -1, fields: fields[:0]}
	seen := false
	for len(head) > 0 {
		i := bytes.IndexByte(head, '\n')
		if i < 0 {
			return r, errMalformed
		}
		line := bytes.TrimSuffix(head[:i], []byte("\r"))
		head = head[i+1:]
		if len(line) == 0 {
			break
		}
		seen = true
		if err := r.line(line); err != nil {
			return r, err
		}
	}
	if !seen {
		return r, errNoHeader
	}
	return r, nil
}

func (r *response) line(line []byte) error {
	i := bytes.IndexByte(line, ':')
	if i <= 0 || !http1.IsToken(line[:i]) {
		return errMalformed
	}
	name, value := line[:i], http1.TrimSpace(line[i+1:])
	for _, c := range value {
		if c < ' ' && c != '\t' || c == 0x7f {
			return errMalformed
		}
	}
	switch {
	case http1.EqualFold(name, "status"):
		return r.setStatus(value)
	case http1.EqualFold(name, "location"):
		if r.location != nil || len(value) == 0 {
			return errMalformed
		}
		r.location = value
	case http1.EqualFold(name, "content-length"):
		return r.setLength(value)
	case http1.HopByHop(name):
		// Between us and the web server, and none of the command's business.
	default:
		r.fields = append(r.fields, field{name, value})
	}
	return nil
}

func (r *response) setStatus(value []byte) error {
	if r.status != 0 || len(value) < 3 || len(value) > 3 && value[3] != ' ' {
		return errMalformed
	}
	n := 0
	for _, c := range value[:3] {
		if c < '0' || c > '9' {
			return errMalformed
		}
		n = 10*n + int(c-'0')
	}
	if n < 200 || n > 599 {
		return errMalformed
	}
	r.status = n
	return nil
}

func (r *response) setLength(value []byte) error {
	if r.length >= 0 || len(value) == 0 || len(value) > 18 {
		return errMalformed
	}
	var n int64
	for _, c := range value {
		if c < '0' || c > '9' {
			return errMalformed
		}
		n = 10*n + int64(c-'0')
	}
	r.length = n
	return nil
}

// isLocal tells whether the response is a local redirect (§ 6.2.2): a path for
// Location and no Status.
func (r *response) isLocal() bool {
	return len(r.location) > 0 && r.location[0] == '/' && r.status == 0
}

// code is the status to answer with: 302 for a redirect to the client without
// one (§ 6.2.3), else 200 (§ 6.3.3).
func (r *response) code() int {
	switch {
	case r.status != 0:
		return r.status
	case r.location != nil:
		return 302
	}
	return 200
}
