// Package testpage is the application that is served when there is no command:
// it says hello and shows what a command would have been given. To a browser it
// also says whether everything between client and socket is right, and what is
// to be done where it is not; all of it is true of the request that it answers.
package testpage

import (
	"context"
	"fmt"
	"io"
	"maps"
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

// Setup is what the page tells of the service besides the request. It is looked
// up before the core is confined, which can ask neither files nor databases.
type Setup struct {
	Sockets  map[string]Socket // by the listener's name
	Enforced string            // what the system asks of who connects to a file
	User     string            // who onewake runs as
	UID      int
	Users    map[int]string // names of those who may be expected to connect
	Allow    string         // -allow, empty if not given
}

// Socket is a socket file.
type Socket struct {
	File  string   // mode and owner, "0660 onewake:www"; empty if there is none
	Open  bool     // for every user of the machine
	Notes []string // of [perms.Notes]
}

// view is one request as the page sees it.
type view struct {
	*Page
	r          *cgi.Request
	wire       *cgi.Wire
	vars       map[string]string
	names      []string // of vars, sorted
	socket     Socket
	sandbox    sandbox.State
	mend, know []prose // what is to be mended, and what is well to know
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
	v := &view{Page: p, r: r, wire: r.Wire(), vars: make(map[string]string), sandbox: p.Sandbox()}
	v.socket = p.Setup.Sockets[v.wire.Listener]
	for line := range strings.SplitSeq(strings.TrimSuffix(string(r.Vars.Bytes()), "\x00"), "\x00") {
		name, value, _ := strings.Cut(line, "=")
		v.vars[name] = value
	}
	v.names = slices.Sorted(maps.Keys(v.vars))
	// What a client sent is shown as it is, to nobody but this client, and is
	// to be taken for nothing but text.
	fields := []cgi.Field{{Name: "X-Content-Type-Options", Value: "nosniff"}, {Name: "Cache-Control", Value: "no-store"}}
	var out []byte
	if strings.Contains(v.vars["HTTP_ACCEPT"], "text/html") { // a browser
		fields = append(fields, cgi.Field{Name: "Content-Security-Policy", Value: policy}, cgi.Field{Name: "Content-Type", Value: "text/html; charset=utf-8"})
		out = v.html()
	} else {
		fields = append(fields, cgi.Field{Name: "Content-Type", Value: "text/plain; charset=utf-8"})
		out = []byte("Hello world!\n\n")
		for _, name := range v.names {
			out = fmt.Appendf(out, "%s='%s'\n", name, strings.ReplaceAll(visible(v.vars[name]), "'", `\'`))
		}
	}
	w.Begin(200, fields, int64(len(out)))
	w.Write(out)
}

// visible is s on one line. What could not be seen, or would move what stands
// next to it, is one of Go's escapes.
func visible(s string) string {
	q := strconv.Quote(s)
	return strings.ReplaceAll(q[1:len(q)-1], `\"`, `"`)
}
