package testpage

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html"
	"strings"

	"github.com/onewake/onewake/internal/cgi"
	"github.com/onewake/onewake/internal/cli"
	"github.com/onewake/onewake/sandbox"
)

// head is the constant part of the page.
//
//go:embed head.html
var head string

// policy permits a browser to use only the page and its own style, whose hash it
// contains (Content Security Policy Level 3).
var policy = func() string {
	_, style, _ := strings.Cut(head, "<style>")
	style, _, _ = strings.Cut(style, "</style>")
	sum := sha256.Sum256([]byte(style))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}()

// prose is text with code in backquotes.
type prose string

// writer writes a page. It is used instead of html/template, which costs 1.5 MB of
// memory.
type writer struct{ bytes.Buffer }

// put writes markup with escaped texts.
func (w *writer) put(markup string, texts ...any) {
	for i, t := range texts {
		s := html.EscapeString(visible(fmt.Sprint(t)))
		if _, ok := t.(prose); ok {
			parts := strings.Split(s, "`")
			for i := 1; i < len(parts); i += 2 {
				parts[i] = "<code>" + parts[i] + "</code>"
			}
			s = strings.Join(parts, "")
		}
		texts[i] = s
	}
	fmt.Fprintf(w, markup, texts...)
}

// row writes a name, its value and a note.
func (w *writer) row(name, value string, note prose) {
	w.put("<dt>%s</dt>\n<dd>", name)
	if value != "" {
		w.put("<code>%s</code> ", value)
	}
	if note != "" {
		w.put("<span>%s</span>", note)
	}
	w.put("</dd>\n")
}

// html returns the page.
func (v *view) html() []byte {
	v.check()
	w := new(writer)
	w.WriteString(head)
	w.put("<h2>Configuration</h2>\n")
	if len(v.problems) == 0 {
		w.put("<p class=\"good\">No problems found.</p>\n")
	}
	if len(v.problems)+len(v.notes) > 0 {
		w.put("<ul>\n")
		for _, s := range v.problems {
			w.put("<li class=\"problem\"><b>Problem:</b> %s</li>\n", s)
		}
		for _, s := range v.notes {
			w.put("<li><b>Note:</b> %s</li>\n", s)
		}
		w.put("</ul>\n")
	}
	w.put("<h2>This connection</h2>\n<dl>\n")
	v.connection(w)
	w.put("</dl>\n<h2>What the web server sent</h2>\n<dl>\n")
	if host := v.vars["HTTP_HOST"]; host != "" {
		w.row("Host", host, "should match the browser's address bar")
	} else {
		w.row("Host", "", "none")
	}
	if v.Protocol == cli.FastCGI {
		v.listParameters(w)
	} else {
		v.listFields(w)
	}
	w.put("</dl>\n<h2>Variables of this request</h2>\n<dl>\n")
	for _, name := range v.names {
		w.row(name, v.vars[name], "")
	}
	w.put("</dl>\n</body>\n</html>\n")
	return w.Bytes()
}

// connection shows both ends of the connection.
func (v *view) connection(w *writer) {
	w.row("Listener", v.wire.Listener, "")
	if v.socket.File != "" {
		w.row("Socket file", v.socket.File, prose("when this core started; connect(2) needs: "+v.Setup.Enforced))
	}
	switch peer := v.r.Peer; {
	case !v.wire.Unix:
		w.row("Peer", peer.Addr+" port "+peer.Port, "")
	case peer.UID < 0:
		w.row("Peer", "unknown", "this system does not report the user")
	default:
		w.row("Peer", strings.TrimSpace(fmt.Sprintf("uid %d %s", peer.UID, v.Setup.Users[peer.UID])), "credentials from the kernel, at connect(2)")
	}
	if v.Setup.Allow != "" && v.wire.Unix {
		w.row("Allowed", v.Setup.Allow, "by `-allow`")
	}
	w.row("Protocol", v.wire.Protocol, map[bool]prose{true: "the connection stays open", false: "the connection is closed after the answer"}[v.wire.Keep])
	sent := v.Protocol == cli.FastCGI
	for _, name := range []string{"X-Real-IP", "X-Forwarded-For"} {
		sent = sent || v.Trusts(name) && v.received(name)
	}
	switch addr := v.vars["REMOTE_ADDR"]; {
	case addr == "", addr == cgi.NoAddr:
		w.row("Client", addr, "address unknown")
	case sent:
		w.row("Client", addr, "sent by the web server, trusted")
	default:
		w.row("Client", addr, "the peer's address, which may be the web server's")
	}
	w.row("Sandbox", v.sandbox.String(), map[bool]prose{true: "the core cannot open files, connect or start programs"}[v.sandbox == sandbox.Confined])
	w.row("Runs as", v.Setup.User, "commands run as the same user")
	w.row("Served by", v.Software, "")
}
