// Package testpage is the application that is served when there is no command:
// it says hello and shows what a command would have been given. To a browser it
// also says whether everything between client and socket is right, and what is
// to be done where it is not; all of it is true of the request that it answers.
package testpage

import (
	"context"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/onewake/onewake/internal/cgi"
	"github.com/onewake/onewake/internal/cli"
	"github.com/onewake/onewake/sandbox"
)

// maxBody is how much of a request's body is read and thrown away, in bytes.
const maxBody = 1 << 20

// Page is a [cgi.Handler].
type Page struct {
	*cli.Config
	Setup    Setup
	Software string               // SERVER_SOFTWARE
	Sandbox  func() sandbox.State // how the core is confined
}

// Serve answers with "Hello world!" and all variables of the request, one
// NAME='value' a line, sorted: as plain text, or as HTML to who asks for it.
func (p *Page) Serve(_ context.Context, r *cgi.Request, w cgi.Writer) {
	if r.Body != nil {
		n, err := io.Copy(io.Discard, io.LimitReader(r.Body, maxBody))
		if err != nil {
			r.Fail(w, err)
			return
		}
		if n = max(r.Length, n); n > 0 || r.Length == 0 {
			r.Vars.Add("CONTENT_LENGTH", strconv.FormatInt(n, 10)) // as announced
		}
	}
	var lines []string
	for line := range strings.SplitSeq(strings.TrimSuffix(string(r.Vars.Bytes()), "\x00"), "\x00") {
		lines = append(lines, line)
	}
	slices.Sort(lines)
	// What a client sent is shown as it is, to nobody but this client, and is
	// to be taken for nothing but text.
	fields := []cgi.Field{{Name: "X-Content-Type-Options", Value: "nosniff"}, {Name: "Cache-Control", Value: "no-store"}}
	v := &view{Page: p, r: r, wire: r.Wire(), lines: lines}
	var out []byte
	if strings.Contains(v.variable("HTTP_ACCEPT"), "text/html") { // a browser
		fields = append(fields, cgi.Field{Name: "Content-Security-Policy", Value: policy}, cgi.Field{Name: "Content-Type", Value: "text/html; charset=utf-8"})
		out = v.html()
	} else {
		fields = append(fields, cgi.Field{Name: "Content-Type", Value: "text/plain; charset=utf-8"})
		out = []byte("Hello world!\n\n")
		for _, l := range lines {
			out = appendLine(out, l)
		}
	}
	w.Begin(200, fields, int64(len(out)))
	w.Write(out)
}

// appendLine writes one variable so that it takes one line whatever it holds.
func appendLine(b []byte, line string) []byte {
	const hex = "0123456789abcdef"
	eq := strings.IndexByte(line, '=')
	b = append(b, line[:eq+1]...)
	b = append(b, '\'')
	for _, c := range []byte(line[eq+1:]) {
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
