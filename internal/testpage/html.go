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

// head is the page as far as it is always the same.
//
//go:embed head.html
var head string

// policy lets a browser use nothing but the page and its own style, whose hash
// it holds (Content Security Policy Level 3).
var policy = func() string {
	_, style, _ := strings.Cut(head, "<style>")
	style, _, _ = strings.Cut(style, "</style>")
	sum := sha256.Sum256([]byte(style))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}()

// prose is a text in which what is to be typed, letter by letter, stands in
// backquotes.
type prose string

// writer writes a page. (html/template would do more, and costs a process
// 1.5 MB.)
type writer struct{ bytes.Buffer }

// put writes markup. Whatever stands in it is shown as the text that it is.
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

// row writes a name, its value, and what there is to say about it.
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

// html is the page.
func (v *view) html() []byte {
	v.look()
	w := new(writer)
	w.WriteString(head)
	w.put("<h2>Is the wiring right?</h2>\n")
	if len(v.mend) == 0 {
		w.put("<p class=\"fine\">Nothing is to be mended.</p>\n")
	}
	if len(v.mend)+len(v.know) > 0 {
		w.put("<ul>\n")
		for _, s := range v.mend {
			w.put("<li class=\"mend\"><b>To mend:</b> %s</li>\n", s)
		}
		for _, s := range v.know {
			w.put("<li><b>To know:</b> %s</li>\n", s)
		}
		w.put("</ul>\n")
	}
	w.put("<h2>This connection</h2>\n<dl>\n")
	v.connection(w)
	w.put("</dl>\n<h2>What the web server sent</h2>\n<dl>\n")
	if host := v.vars["HTTP_HOST"]; host != "" {
		w.row("Host", host, "should be the name in the browser's address bar")
	} else {
		w.row("Host", "", "none")
	}
	if v.Protocol == cli.FastCGI {
		v.parametersSent(w)
	} else {
		v.fieldsSent(w)
	}
	w.put("</dl>\n<h2>Variables of this request</h2>\n<dl>\n")
	for _, name := range v.names {
		w.row(name, v.vars[name], "")
	}
	w.put("</dl>\n</body>\n</html>\n")
	return w.Bytes()
}

// connection tells who is at its two ends.
func (v *view) connection(w *writer) {
	w.row("Listener", v.wire.Listener, "")
	if v.socket.File != "" {
		w.row("Socket file", v.socket.File, prose("when this core started; what the system asks of who connects: "+v.Setup.Enforced))
	}
	switch peer := v.r.Peer; {
	case !v.wire.Unix:
		w.row("Peer", peer.Addr+" port "+peer.Port, "")
	case peer.UID < 0:
		w.row("Peer", "unknown", "this system does not tell who connected")
	default:
		w.row("Peer", strings.TrimSpace(fmt.Sprintf("uid %d %s", peer.UID, v.Setup.Users[peer.UID])), "as the kernel noted when it connected")
	}
	if v.Setup.Allow != "" && v.wire.Unix {
		w.row("Let in", v.Setup.Allow, "by `-allow`")
	}
	w.row("Protocol", v.wire.Protocol, map[bool]prose{true: "the connection is kept for more requests", false: "the connection ends with the answer"}[v.wire.Keep])
	told := v.Protocol == cli.FastCGI || v.told("X-Real-IP") || v.told("X-Forwarded-For")
	switch addr := v.vars["REMOTE_ADDR"]; {
	case addr == "", addr == cgi.NoAddr:
		w.row("Client", addr, "no address is known")
	case told:
		w.row("Client", addr, "the web server says so, and is believed")
	default:
		w.row("Client", addr, "the peer, which may be the web server")
	}
	w.row("Sandbox", v.sandbox.String(), map[bool]prose{true: "the core can open no file, make no connection and start no program"}[v.sandbox == sandbox.Confined])
	w.row("Runs as", v.Setup.User, "and so would a command")
	w.row("Served by", v.Software, "")
}
