// Package testpage is the application that is served when there is no command:
// it says hello and shows what a command would have been given. To a browser it
// also says whether everything between client and socket is right, and what is
// to be done where it is not; all of it is true of the request that it answers.
package testpage

import (
	"bytes"
	"errors"
	"io"
	"os"
	"slices"
	"strconv"
	"sync"

	"github.com/onewake/onewake/gateway"
	"github.com/onewake/onewake/http1"
	"github.com/onewake/onewake/spawn"
)

// maxBody is how much of a request's body is read and thrown away, in bytes.
const maxBody = 1 << 20

// Page is a handler for [http1.Server].
type Page struct {
	Meta  gateway.Meta
	Setup Setup
	// Sandbox says how the core is confined: "capability mode", "off", or
	// "none: " and why.
	Sandbox func() string
}

// scratch is the memory of one answer.
type scratch struct {
	vars  spawn.Vars
	lines [][]byte
	out   []byte
}

var pool = sync.Pool{New: func() any { return new(scratch) }}

// Serve answers with "Hello world!" and all variables of the request, one
// NAME='value' a line, sorted: as plain text, or as HTML to who asks for it.
func (p *Page) Serve(x *http1.Exchange) {
	s := pool.Get().(*scratch)
	defer pool.Put(s)
	if perr := p.Meta.Fill(&s.vars, x); perr != nil {
		x.Error(perr.Status, perr.Reason)
		return
	}
	if x.HasBody() {
		n, err := io.Copy(io.Discard, io.LimitReader(x, maxBody))
		var perr *http1.ProtocolError
		switch {
		case errors.As(err, &perr):
			x.Error(perr.Status, perr.Reason)
			return
		case os.IsTimeout(err):
			x.Error(408, "body did not come in time")
			return
		case err != nil:
			x.Cut()
			return
		}
		if !x.BodyRead() {
			n = max(x.Length, n) // as announced
		}
		s.vars.Add("CONTENT_LENGTH", strconv.FormatInt(n, 10))
	}
	s.lines = s.lines[:0]
	for b := s.vars.Bytes(); len(b) > 0; {
		n := bytes.IndexByte(b, 0)
		s.lines = append(s.lines, b[:n])
		b = b[n+1:]
	}
	slices.SortFunc(s.lines, bytes.Compare)
	// What a client sent is shown as it is, to nobody but this client, and is
	// to be taken for nothing but text.
	x.AddField([]byte("X-Content-Type-Options"), []byte("nosniff"))
	x.AddField([]byte("Cache-Control"), []byte("no-store"))
	if wantsHTML(x) {
		x.AddField([]byte("Content-Security-Policy"), []byte(policy))
		s.out = p.html(s.out[:0], s.lines, x)
		x.Answer(200, "text/html; charset=utf-8", s.out)
		return
	}
	s.out = append(s.out[:0], "Hello world!\n\n"...)
	for _, l := range s.lines {
		s.out = appendLine(s.out, l)
	}
	x.Answer(200, "text/plain; charset=utf-8", s.out)
}

// wantsHTML tells browsers, which ask for text/html, from the rest.
func wantsHTML(x *http1.Exchange) bool {
	for _, f := range x.Fields {
		if http1.EqualFold(f.Name, "accept") && bytes.Contains(f.Value, []byte("text/html")) {
			return true
		}
	}
	return false
}

// appendLine writes one variable so that it takes one line whatever it holds.
func appendLine(b, line []byte) []byte {
	const hex = "0123456789abcdef"
	eq := bytes.IndexByte(line, '=')
	b = append(b, line[:eq+1]...)
	b = append(b, '\'')
	for _, c := range line[eq+1:] {
		switch {
		case c == '\'' || c == '\\':
			b = append(b, '\\', c)
		case c < ' ' || c == 0x7f:
			b = append(b, '\\', 'x', hex[c>>4], hex[c&15])
		default:
			b = append(b, c)
		}
	}
	return append(b, '\'', '\n')
}
