// Package testpage is the application that is served when there is no command:
// it says hello and shows what a command would have been given, so that one
// sees at a glance whether everything between client and socket is right.
package testpage

import (
	"bytes"
	"errors"
	"html"
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
	Meta gateway.Meta
	// About tells what an administrator wants to know about the connection of
	// a request, for the HTML page: names and values, in order.
	About func(x *http1.Exchange) [][2]string
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
	if wantsHTML(x) {
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

const (
	top = `<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>onewake works</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 60em; padding: 0 1em; color: #222; background: #fff }
h1 { color: #a00 }
table { border-collapse: collapse; width: 100% }
td { border-top: 1px solid #ddd; padding: .2em .6em; vertical-align: top; overflow-wrap: anywhere }
td:first-child { white-space: nowrap; font-weight: 600; width: 1%; overflow-wrap: normal }
code { font: 14px/1.5 ui-monospace, monospace }
</style>
<h1>Hello world!</h1>
<p>onewake answers here. It was started without a command, so it shows what a command would be given.</p>
`
	bottom = "</table>\n</html>\n"
)

func (p *Page) html(b []byte, lines [][]byte, x *http1.Exchange) []byte {
	row := func(name, value string) {
		b = append(b, "<tr><td>"...)
		b = append(b, html.EscapeString(name)...)
		b = append(b, "<td><code>"...)
		b = append(b, html.EscapeString(value)...)
		b = append(b, "</code>\n"...)
	}
	b = append(b, top...)
	b = append(b, "<h2>This connection</h2>\n<table>\n"...)
	if p.About != nil {
		for _, a := range p.About(x) {
			row(a[0], a[1])
		}
	}
	b = append(b, "</table>\n<h2>Variables of this request</h2>\n<table>\n"...)
	for _, l := range lines {
		eq := bytes.IndexByte(l, '=')
		row(string(l[:eq]), string(l[eq+1:]))
	}
	return append(b, bottom...)
}
