package testpage

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/onewake/onewake/internal/cgi"
	"github.com/onewake/onewake/internal/cli"
	"github.com/onewake/onewake/sandbox"
)

// markup is HTML. Only a constant of this source becomes one, so that nothing
// that came with a request can.
type markup string

// writer writes a page.
type writer struct{ b []byte }

func (w *writer) raw(m markup) { w.b = append(w.b, m...) }

// text writes s so that it is shown as it is. What could not be seen, or would
// move what stands next to it, is shown as an escape.
func (w *writer) text(s string) {
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == '&':
			w.raw("&amp;")
		case r == '<':
			w.raw("&lt;")
		case r == '>':
			w.raw("&gt;")
		case r == '"':
			w.raw("&#34;")
		case r == '\'':
			w.raw("&#39;")
		case r == utf8.RuneError && n == 1, r < utf8.RuneSelf && !unicode.IsPrint(r):
			w.raw("<i>")
			w.b = fmt.Appendf(w.b, `\x%02x`, s[0])
			w.raw("</i>")
		case !unicode.IsPrint(r):
			w.raw("<i>")
			w.b = fmt.Appendf(w.b, `\u{%x}`, r)
			w.raw("</i>")
		default:
			w.b = append(w.b, s[:n]...)
		}
		s = s[n:]
	}
}

// say writes a sentence: prose and what is to be read, or typed, letter by
// letter, in turns.
func (w *writer) say(parts ...string) {
	for i, s := range parts {
		switch {
		case i%2 == 0:
			w.text(s)
		case s != "":
			w.raw("<code>")
			w.text(s)
			w.raw("</code>")
		}
	}
}

// row writes a name, its value, and what there is to say about it.
func (w *writer) row(name markup, value string, note ...string) {
	w.raw("<dt>")
	w.raw(name)
	w.fact(value, note)
}

// variable writes the same, of a name that is no constant.
func (w *writer) variable(name, value string, note ...string) {
	w.raw("<dt>")
	w.say("", name)
	w.fact(value, note)
}

func (w *writer) fact(value string, note []string) {
	w.raw("</dt>\n<dd>")
	switch {
	case len(note) == 0:
		w.say("", value)
	case value == "":
		w.say(note...)
	default:
		w.say("", value)
		w.raw(" <span>")
		w.say(note...)
		w.raw("</span>")
	}
	w.raw("</dd>\n")
}

// policy lets a browser use nothing but the page and its own style, whose hash
// it holds (Content Security Policy Level 3).
const policy = "default-src 'none'; style-src 'sha256-VtScnqA4OwYs4/e6JLxzzN6n9g0jxNB0FO8ZoeW+Keo='; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

const (
	top markup = `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>onewake works</title>
<style>`
	style markup = `
:root { color-scheme: light dark; --page: #fff; --text: #1d1d1f; --soft: #5c5c63; --line: #e2e2e6; --mend: #b3261e; --fine: #1e7a3c }
@media (prefers-color-scheme: dark) {
:root { --page: #141416; --text: #e6e6ea; --soft: #a0a0a8; --line: #303036; --mend: #ff8a80; --fine: #7dd695 }
}
body { background: var(--page); color: var(--text); font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 46rem; overflow-wrap: anywhere; padding: 1.5rem 1rem 3rem }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 }
h2 { font-size: 1.1rem; margin: 2.25rem 0 .5rem }
p { margin: .5rem 0 }
code { font: .875em/1.5 ui-monospace, monospace }
i, dt, dd span { color: var(--soft) }
i { font-style: normal }
ul { list-style: none; margin: .75rem 0; padding: 0 }
li, .fine { border-left: 3px solid var(--line); margin: .75rem 0; padding-left: .75rem }
li b { color: var(--soft) }
.mend { border-color: var(--mend) }
.mend b { color: var(--mend) }
.fine { border-color: var(--fine) }
dl { border-bottom: 1px solid var(--line); display: grid; grid-template-columns: minmax(8rem, max-content) minmax(0, 1fr); margin: 0 }
dt, dd { border-top: 1px solid var(--line); margin: 0; padding: .3rem 0 }
dt { padding-right: 1.5rem }
dd span { display: block; font-size: .875rem }
@media (max-width: 40rem) {
dl { display: block }
dt { padding-bottom: 0 }
dd { border: 0; padding-top: 0 }
}
`
	head markup = `</style>
</head>
<body>
<h1>Hello world!</h1>
<p>onewake answers here. It was started without a command, so it shows what a command would be given.</p>
`
	bottom markup = `</body>
</html>
`
)

// html writes the page.
func (v *view) html() []byte {
	v.look()
	w := new(writer)
	w.raw(top)
	w.raw(style)
	w.raw(head)
	v.verdict(w)
	v.request(w)
	v.fields(w)
	w.raw("<h2>Variables of this request</h2>\n<dl>\n")
	for _, l := range v.lines {
		name, value, _ := strings.Cut(l, "=")
		w.variable(name, value)
	}
	w.raw("</dl>\n")
	v.command(w)
	w.raw(bottom)
	return w.b
}

// verdict answers whether the wiring is right.
func (v *view) verdict(w *writer) {
	w.raw("<h2>Is the wiring right?</h2>\n<p>")
	w.say("This request came through ", v.wire.Listener)
	if f := v.socket.File; f != "" {
		w.say(", mode and owner ", f)
	}
	switch {
	case !v.wire.Unix:
		w.say(", from ", v.r.Peer.Addr, " port ", v.r.Peer.Port, ".")
	case v.r.Peer.UID < 0:
		w.say(". This system does not tell who connected.")
	case v.peer() == "":
		w.say(", from a process of uid ", strconv.Itoa(v.r.Peer.UID), ".")
	default:
		w.say(", from a process of user ", v.peer(), " (uid ", strconv.Itoa(v.r.Peer.UID), ").")
	}
	w.raw("</p>\n")
	switch n := len(v.mend); n {
	case 0:
		w.raw("<p class=\"fine\">Nothing is to be mended.</p>\n")
	case 1:
		w.raw("<p>One thing is to be mended:</p>\n")
	default:
		w.raw("<p>")
		w.text(strconv.Itoa(n))
		w.raw(" things are to be mended:</p>\n")
	}
	if len(v.mend)+len(v.note) == 0 {
		return
	}
	w.raw("<ul>\n")
	for _, s := range v.mend {
		w.raw("<li class=\"mend\"><b>To mend:</b> ")
		w.say(s...)
		w.raw("</li>\n")
	}
	for _, s := range v.note {
		w.raw("<li><b>To know:</b> ")
		w.say(s...)
		w.raw("</li>\n")
	}
	w.raw("</ul>\n")
}

// request tells the facts that the verdict rests on.
func (v *view) request(w *writer) {
	w.raw("<h2>This connection</h2>\n<dl>\n")
	w.row("Listener", v.wire.Listener)
	if v.socket.File != "" {
		w.row("Socket file", v.socket.File, "when this core started; what the system asks of who connects: "+v.Setup.Enforced)
	}
	switch {
	case !v.wire.Unix:
		w.row("Peer", v.r.Peer.Addr+" port "+v.r.Peer.Port)
	case v.r.Peer.UID < 0:
		w.row("Peer", "unknown")
	case v.peer() == "":
		uid := strconv.Itoa(v.r.Peer.UID)
		w.row("Peer", "uid "+uid, "for its name, ask ", "id "+uid)
	default:
		w.row("Peer", "uid "+strconv.Itoa(v.r.Peer.UID)+" "+v.peer(), "as the kernel noted when it connected")
	}
	if v.wire.Unix {
		if v.Setup.Allow != "" {
			w.row("Let in", v.Setup.Allow, "by ", "-allow")
		} else {
			w.row("Let in", "", "whoever the file's mode lets in: there is no ", "-allow")
		}
	}
	protocol := v.wire.Protocol
	if v.wire.Keep {
		w.row("Protocol", protocol, "the connection is kept for more requests")
	} else {
		w.row("Protocol", protocol, "the connection ends with the answer")
	}
	switch {
	case v.vouched:
		w.row("Client", v.variable("REMOTE_ADDR"), "the web server says so, and is believed")
	case v.wire.Unix:
		w.row("Client", v.variable("REMOTE_ADDR"), "no address is known")
	default:
		w.row("Client", v.variable("REMOTE_ADDR"), "the peer, which may be the web server")
	}
	switch v.sandbox {
	case sandbox.Confined:
		w.row("Sandbox", v.sandbox.String(), "the core can open no file, make no connection and start no program")
	case sandbox.Off:
		w.row("Sandbox", v.sandbox.String(), "by ", "-sandbox off")
	default:
		w.row("Sandbox", v.sandbox.String())
	}
	w.row("Runs as", v.Setup.User, "and so would a command")
	w.row("Served by", v.Software)
	w.raw("</dl>\n")
}

// fields tells what became of the header fields that a web server sets.
func (v *view) fields(w *writer) {
	w.raw("<h2>What the web server sent</h2>\n<dl>\n")
	if host := v.variable("HTTP_HOST"); host != "" {
		w.row("Host", host, "should be the name in the browser's address bar")
	} else {
		w.row("Host", "", "none")
	}
	if v.Protocol == cli.FastCGI {
		v.showParameters(w)
		w.raw("</dl>\n")
		return
	}
	for i, f := range v.wire.Fields {
		switch {
		case cli.ForwardedBit(f.Name) != 0 && !v.believes(f.Name):
			w.variable(f.Name, f.Value, "not believed, since a client can send it too")
		case cli.ForwardedBit(f.Name) != 0 && v.overruled(i):
			w.variable(f.Name, f.Value, "not believed: the last one of this name is")
		case cli.ForwardedBit(f.Name) != 0:
			w.variable(f.Name, f.Value, "believed, by ", "-forwarded")
		case isForwarded(f.Name):
			w.variable(f.Name, f.Value, "never believed")
		}
	}
	if names := v.withheld(); len(names) > 0 {
		w.row("Not passed on", strings.Join(names, ", "), "would not reach a command")
	}
	w.raw("</dl>\n")
}

// withheld are the names of the fields that are no variables.
func (v *view) withheld() (names []string) {
	have := make(map[string]bool)
	for _, f := range v.wire.Fields {
		name := f.Name
		key := strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
		plain := !strings.ContainsFunc(name, func(r rune) bool {
			return !('a' <= r|0x20 && r|0x20 <= 'z' || '0' <= r && r <= '9' || r == '-')
		})
		switch {
		case have[name], key == "CONTENT_LENGTH", key == "CONTENT_TYPE", plain && v.has("HTTP_"+key):
		default:
			names = append(names, name)
		}
		have[name] = true
	}
	return names
}

// command tells what would be different with one.
func (v *view) command(w *writer) {
	w.raw("<h2>With a command</h2>\n<dl>\n")
	env := []string{"those above, and ", "PATH"}
	if len(v.Setup.Env) > 0 {
		env = append(env, ", and by ", "-env", ": ", strings.Join(v.Setup.Env, ", "))
	}
	env = append(env, "; ", "CONTENT_LENGTH", " with a body; never ", "HTTP_PROXY", "; nothing else of onewake's own environment")
	w.row("Its variables", "", env...)
	w.row("Its input", "", "the body of the request, the same with and without ", "-cgi")
	w.row("Without <code>-cgi</code>", "", "all that it writes is the body of the answer, as ", v.Setup.ContentType,
		"; it is held until the command has ended or written 64 KiB, so that an exit status other than 0 makes it a 500")
	w.row("With <code>-cgi</code>", "", "it writes a header first, ", "Content-Type:", ", ", "Status:", " or ", "Location:",
		", then an empty line; the body is passed on as it comes, and output without such a header is a 502")
	w.row("It runs", "", "as user ", v.Setup.User, " in ", v.Setup.Dir, ", one process a request, not through a shell")
	w.raw("</dl>\n")
}

// isForwarded tells the other fields by which proxies tell of clients.
func isForwarded(name string) bool {
	name = strings.ToLower(name)
	return strings.HasPrefix(name, "x-forwarded-") || name == "forwarded"
}

// overruled tells whether a field of the same name follows the ith.
func (v *view) overruled(i int) bool {
	return slices.ContainsFunc(v.wire.Fields[i+1:], func(f cgi.Field) bool { return strings.EqualFold(f.Name, v.wire.Fields[i].Name) })
}
