// Package testpage is the application that runs when there is no command. It says
// hello and shows the variables that a command would get. In a browser it also shows
// problems in the configuration between client and socket, as seen in this request.
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

// maxBody is how many bytes of a request's body are read and discarded.
const maxBody = 1 << 20

// Page is a [cgi.Handler].
type Page struct {
	*cli.Config
	Setup    Setup
	Software string               // SERVER_SOFTWARE
	Sandbox  func() sandbox.State // whether the core is in the sandbox
}

// Setup is what the page shows of the service. The monitor looks it up, because the
// core can read neither files nor databases in the sandbox.
type Setup struct {
	Sockets  map[string]Socket // by the listener's name
	Enforced string            // of [perms.Enforced]
	User     string            // of onewake
	UID      int
	Users    map[int]string // names of likely peers
	Allow    string         // -allow, empty if not given
}

// Socket is a socket file.
type Socket struct {
	File  string   // mode and owner, "0660 onewake:www"; empty if there is none
	Open  bool     // to every local user
	Notes []string // of [perms.Notes]
}

// view is the page for one request.
type view struct {
	*Page
	r        *cgi.Request
	wire     *cgi.Wire
	vars     map[string]string
	names    []string // of vars, sorted
	socket   Socket
	sandbox  sandbox.State
	problems []prose
	notes    []prose
}

// Serve answers with "Hello world!" and all variables of the request, sorted, one
// NAME='value' on each line, as plain text, or as HTML if the client accepts it.
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
	// The answer contains what the client sent. It must not be cached, and a browser
	// must not guess another content type.
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

// visible returns s on one line. Characters that are not printable are escaped as
// in Go.
func visible(s string) string {
	q := strconv.Quote(s)
	return strings.ReplaceAll(q[1:len(q)-1], `\"`, `"`)
}
