package testpage

import (
	"context"
	"html"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/onewake/onewake/internal/cgi"
	"github.com/onewake/onewake/internal/cli"
	"github.com/onewake/onewake/internal/control"
	"github.com/onewake/onewake/sandbox"
)

// The policy permits only the page's own style.
func TestPolicy(t *testing.T) {
	t.Parallel()
	if !strings.Contains(head, "<style>\n:root") || !strings.Contains(policy, "style-src 'sha256-") {
		t.Errorf("policy %s", policy)
	}
	for _, accept := range []string{"*/*", "text/html"} {
		r, _ := ask(t, page(), "GET / HTTP/1.1\r\nHost: h\r\nAccept: "+accept+"\r\n\r\n")
		if got := r.Header.Get("Content-Security-Policy"); (got == policy) != (accept == "text/html") {
			t.Errorf("%s: policy %q", accept, got)
		}
		if got := r.Header.Get("X-Content-Type-Options"); got != "nosniff" {
			t.Errorf("%s: X-Content-Type-Options %q", accept, got)
		}
		if got := r.Header.Get("Cache-Control"); got != "no-store" {
			t.Errorf("%s: Cache-Control %q", accept, got)
		}
	}
}

func TestVisible(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{
		"":                      "",
		"plain \\ text":         `plain \\ text`,
		"<a href=\"x\">&'":      "&lt;a href=&#34;x&#34;&gt;&amp;&#39;",
		`\"`:                    `\\&#34;`,
		"a\x01\x7fb\nc\td":      `a\x01\x7fb\nc\td`,
		"\xff<\xc3":             `\xff&lt;\xc3`,
		"žluťoučký 馬":           "žluťoučký 馬",
		"a\u202eb\u2028\ufeffc": `a\u202eb\u2028\ufeffc`,
		"\ufffd":                "\ufffd",
		"`%s`":                  "`%s`",
	} {
		w := new(writer)
		if w.put("%s", s); w.String() != want {
			t.Errorf("%q: %q, want %q", s, w.String(), want)
		}
	}
	w := new(writer)
	if w.put("<p>%s", prose("type `<x>` or `y`, not `z")); w.String() != "<p>type <code>&lt;x&gt;</code> or <code>y</code>, not <code>z</code>" {
		t.Error(w.String())
	}
}

// findings returns the problems and notes of a page, without markup.
func findings(t *testing.T, body string) (problems, notes []string) {
	t.Helper()
	_, part, ok := strings.Cut(body, "<h2>Configuration</h2>\n")
	part, _, ok2 := strings.Cut(part, "<h2>")
	if !ok || !ok2 {
		t.Fatalf("no findings in %s", body)
	}
	for line := range strings.Lines(part) {
		line = html.UnescapeString(tags.ReplaceAllString(strings.TrimSuffix(line, "\n"), ""))
		if s, ok := strings.CutPrefix(line, "Problem: "); ok {
			problems = append(problems, s)
		} else if s, ok := strings.CutPrefix(line, "Note: "); ok {
			notes = append(notes, s)
		}
	}
	return problems, notes
}

// sameFindings compares the beginnings of findings.
func sameFindings(t *testing.T, what string, got, want []string) {
	t.Helper()
	ok := len(got) == len(want)
	for i := 0; ok && i < len(got); i++ {
		ok = strings.HasPrefix(got[i], want[i])
	}
	if !ok {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

var tags = regexp.MustCompile("<[^>]*>")

// Each problem is reported where it exists, and only there.
func TestFindings(t *testing.T) {
	t.Parallel()
	const (
		get    = "GET / HTTP/1.1\r\nHost: h\r\n"
		addr   = "X-Real-IP: 192.0.2.1\r\n"
		scheme = "X-Forwarded-Proto: https\r\n"
	)
	both := "X-Real-IP,X-Forwarded-Proto"
	tcpPeer := cgi.Peer{Addr: "127.0.0.1", Port: "4711", UID: -1}
	uid := func(n int) cgi.Peer { return cgi.Peer{Addr: cgi.NoAddr, UID: n} }
	open := func(p *Page) {
		p.Setup.Sockets = map[string]Socket{"unix:/x": {File: "0666 a:b", Open: true, Notes: []string{"every local user can connect"}}}
	}
	for _, tt := range []struct {
		name      string
		forwarded string // -forwarded
		set       func(p *Page)
		peer      cgi.Peer
		through   string
		request   string // without the end of its header
		problems  []string
		notes     []string
		body      string // part of the page
	}{
		{"well", both, nil, unixPeer, "unix", get + addr + scheme, nil, nil, "No problems found."},
		{"a named peer", both, nil, unixPeer, "unix", get + addr + scheme, nil, nil,
			"<code>0660 &lt;7&gt;:&amp; co</code> <span>when this core started; connect(2) needs: all</span></dd>\n<dt>Peer</dt>\n<dd><code>uid 7 &lt;7&gt; &amp; co</code>"},
		{"a number", both, func(p *Page) { p.Setup.Users = nil }, unixPeer, "unix", get + addr + scheme, nil, nil, "<dt>Peer</dt>\n<dd><code>uid 7</code>"},
		{"nobody knows", both, nil, uid(-1), "unix", get + addr + scheme, nil, nil, "this system does not report the user"},
		{"root connects", both, nil, uid(0), "unix", get + addr + scheme, []string{"the peer is root"}, nil, ""},
		{"we connect", both, nil, uid(8), "unix", get + addr + scheme, []string{"the peer is root or onewake's own user"}, nil, ""},
		{"we are root", both, func(p *Page) { p.Setup.UID = 0 }, unixPeer, "unix", get + addr + scheme, []string{"onewake and its commands run as root"}, nil, ""},
		{"all is root", both, func(p *Page) { p.Setup.UID = 0 }, uid(0), "unix", get + addr + scheme,
			[]string{"the peer is root", "onewake and its commands run as root"}, nil, ""},
		{"open to all", both, open, unixPeer, "unix", get + addr + scheme, []string{"socket file: every local user can connect."}, nil, ""},
		{"open, -allow", both, func(p *Page) { open(p); p.Setup.Allow = "www" }, unixPeer, "unix", get + addr + scheme, nil, nil, "<code>www</code> <span>by <code>-allow"},
		{"a note", both, func(p *Page) { p.Setup.Sockets["unix:/x"] = Socket{Notes: []string{"thus"}} }, unixPeer, "unix", get + addr + scheme, nil,
			[]string{"socket file: thus."}, ""},
		{"loopback", "", nil, tcpPeer, "127.0.0.1:0", get, nil,
			[]string{"every local user", "the client's address is unknown."}, "<dt>Peer</dt>\n<dd><code>127.0.0.1 port 4711</code>"},
		{"every address", "", nil, tcpPeer, "0.0.0.0:0", get, []string{"the port is not on the loopback interface"},
			[]string{"the client's address is unknown"}, ""},
		{"a port trusts", "X-Real-IP", nil, tcpPeer, "127.0.0.1:0", get + "X-Real-IP: 127.0.0.1\r\n", nil,
			[]string{"every local user can connect to a port"}, "<dd><code>127.0.0.1</code> <span>sent by the web server, trusted"},
		{"HTTP/1.0", both, nil, unixPeer, "unix", "GET / HTTP/1.0\r\n" + addr + scheme, []string{"the request uses HTTP/1.0"}, nil, "<dt>Host</dt>\n<dd><span>none</span></dd>"},
		{"closed", both, nil, unixPeer, "unix", get + "Connection: close\r\n" + addr + scheme, nil, nil, "<span>the connection is closed after the answer</span>"},
		{"chunked", both, nil, unixPeer, "unix", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n" + addr + scheme, nil, nil, ""},
		{"nothing of the client", "", nil, unixPeer, "unix", get, nil,
			[]string{"the client's address is unknown. nginx: proxy_set_header X-Real-IP $remote_addr;, and start onewake with -forwarded X-Real-IP"}, ""},
		{"not trusted", "", nil, unixPeer, "unix", get + addr + scheme, nil,
			[]string{"not trusted: X-Real-IP, X-Forwarded-Proto. If the web server sets it in every request, start onewake with -forwarded X-Real-IP,X-Forwarded-Proto"},
			"not trusted, because a client can send it"},
		{"one of two", "X-Real-IP", nil, unixPeer, "unix", get + addr + scheme + "X-Forwarded-For: 192.0.2.1\r\n", nil,
			[]string{"not trusted: X-Forwarded-Proto. If the web server sets it in every request, start onewake with -forwarded X-Real-IP,X-Forwarded-Proto"}, ""},
		{"does not come", both, nil, unixPeer, "unix", get + addr,
			[]string{"X-Forwarded-Proto is trusted (-forwarded) but missing. Unless the web server sets it in every request, a client can send its own. nginx: proxy_set_header X-Forwarded-Proto $scheme;"}, nil, ""},
		{"no host", both + ",X-Forwarded-Host", nil, unixPeer, "unix", get + addr + scheme,
			[]string{"X-Forwarded-Host is trusted (-forwarded) but missing. Unless the web server sets it in every request, a client can send its own. nginx: proxy_set_header X-Forwarded-Host $host:$server_port;"}, nil, ""},
		{"no user", both + ",X-Remote-User", nil, unixPeer, "unix", get + addr + scheme, nil,
			[]string{`X-Remote-User is trusted (-forwarded) but missing. Unless the web server sets it in every request, a client can send its own. nginx: proxy_set_header X-Remote-User "";`}, ""},
		{"no address", "X-Real-IP", nil, unixPeer, "unix", get + "X-Real-IP: unix:\r\n", nil, nil, "<dd><code>&lt;unix&gt;</code> <span>address unknown</span>"},
		{"said twice", "X-Real-IP", nil, unixPeer, "unix", get + "x-real-ip: 192.0.2.2\r\n" + addr, nil, nil,
			"<dd><code>192.0.2.2</code> <span>trusted (<code>-forwarded</code>); the last of repeated ones counts</span>"},
		{"never trusted", "X-Real-IP", nil, unixPeer, "unix", get + addr + "X-Forwarded-Port: 1\r\n", nil, nil,
			"<dt>X-Forwarded-Port</dt>\n<dd><code>1</code> <span>never trusted</span>"},
		{"not passed on", both, nil, unixPeer, "unix", get + addr + scheme + "Proxy: p\r\nX_Real_IP: q\r\nTE: trailers\r\nX-Real: r\r\nContent-Type: t\r\nContent-Length: 0\r\n", nil, nil,
			"<dt>Not passed on</dt>\n<dd><code>Proxy, Te, X_real_ip</code>"},
		{"no sandbox", both, func(p *Page) { p.Sandbox = func() sandbox.State { return sandbox.None } }, unixPeer, "unix", get + addr + scheme, nil,
			[]string{"there is no sandbox: " + sandbox.ErrUnsupported.Error() + ". An attacker who takes over the core has all rights of user service."}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := page()
			p.Forwarded = strings.Split(tt.forwarded, ",")
			if tt.set != nil {
				tt.set(p)
			}
			raw := tt.request + "Accept: text/html\r\n\r\n"
			if strings.Contains(raw, "chunked") {
				raw += "0\r\n\r\n"
			}
			_, body := askAs(t, p, tt.peer, tt.through, raw)
			problems, notes := findings(t, body)
			sameFindings(t, "problems", problems, tt.problems)
			sameFindings(t, "notes", notes, tt.notes)
			if !strings.Contains(body, tt.body) {
				t.Errorf("no %q in %s", tt.body, body)
			}
		})
	}
}

// askFastCGI sends a browser's request through a web server that sends these
// parameters.
func askFastCGI(p *Page, keep bool, listener string, params ...string) string {
	p.Protocol = cli.FastCGI
	r := &cgi.Request{Peer: unixPeer, Vars: new(control.Vars)}
	wire := &cgi.Wire{Listener: listener, Unix: listener == "unix:/x", Local: true, Protocol: "FastCGI", Keep: keep}
	if !wire.Unix {
		r.Peer = cgi.Peer{Addr: "127.0.0.1", Port: "4711", UID: -1}
	}
	filter := p.Filter()
	for _, param := range append(params, "HTTP_ACCEPT=text/html") {
		name, value, _ := strings.Cut(param, "=")
		wire.Fields = append(wire.Fields, cgi.Field{Name: name, Value: value})
		if filter.Allows(name) {
			r.Vars.Add(name, value)
		}
	}
	r.Wire = func() *cgi.Wire { return wire }
	var w recorder
	p.Serve(context.Background(), r, &w)
	return string(w.body)
}

// With FastCGI the page shows which parameters a command gets, and does not mention
// headers.
func TestFastCGI(t *testing.T) {
	t.Parallel()
	usual := []string{"QUERY_STRING=", "REMOTE_ADDR=192.0.2.1", "REQUEST_METHOD=GET", "SCRIPT_NAME=/", "SERVER_NAME=h", "SERVER_PORT=80", "SERVER_PROTOCOL=HTTP/1.1"}
	with := func(more ...string) []string { return append(slices.Clone(usual), more...) }
	const all = "QUERY_STRING, REMOTE_ADDR, REQUEST_METHOD, SCRIPT_NAME, SERVER_NAME, SERVER_PORT, SERVER_PROTOCOL, "
	for _, tt := range []struct {
		name     string
		set      func(p *Page)
		listener string
		closed   bool
		params   []string
		problems []string
		notes    []string
		body     []string
	}{
		{"well", nil, "unix:/x", false, with("HTTP_X_REAL_IP=192.0.2.9", "HTTP_HOST=h"), nil, nil, []string{
			"No problems found.", "<dt>Host</dt>\n<dd><code>h</code>", "<dt>Passed on</dt>\n<dd><code>" + all + "HTTP_X_REAL_IP, HTTP_HOST, HTTP_ACCEPT</code>",
			"<dt>Client</dt>\n<dd><code>192.0.2.1</code> <span>sent by the web server, trusted"}},
		{"dropped", nil, "unix:/x", false, with("COLOUR=secret", "PHP_VALUE=secret", "COLOUR=again"), nil,
			[]string{"not passed on: COLOUR, PHP_VALUE. If a command needs it, start onewake with -param COLOUR -param PHP_VALUE"},
			[]string{"<dt>Not passed on</dt>\n<dd><code>COLOUR, PHP_VALUE</code> <span><code>-param"}},
		{"by -param", func(p *Page) { p.Param = []string{"COLOUR"} }, "unix:/x", false, with("COLOUR=blue"), nil, nil, []string{all + "COLOUR, HTTP_ACCEPT", "<dd><code>blue</code>"}},
		{"never", func(p *Page) { p.Env = []string{"SET=1"} }, "unix:/x", false,
			with("HTTP_PROXY=secret", "PATH=secret", "LD_PRELOAD=secret", "a-<b>=secret", "SET=secret"), nil, nil,
			[]string{"<dt>Never passed on</dt>\n<dd><code>HTTP_PROXY, PATH, LD_PRELOAD, a-&lt;b&gt;, SET</code> <span>set by <code>-env"}},
		{"too few", nil, "unix:/x", false, []string{"REQUEST_METHOD=GET", "SCRIPT_NAME="},
			[]string{"the web server did not send QUERY_STRING, REMOTE_ADDR, SERVER_NAME, SERVER_PORT, SERVER_PROTOCOL, which CGI programs need. nginx: include fastcgi_params;"}, nil,
			[]string{"<dt>Client</dt>\n<dd><span>address unknown</span></dd>"}},
		{"closed", nil, "unix:/x", true, usual, nil, nil, []string{"<dd><code>FastCGI</code> <span>the connection is closed after the answer"}},
		{"a port", nil, "tcp4:127.0.0.1:9000", false, usual, nil, []string{"every local user can connect to a port"}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := page()
			if tt.set != nil {
				tt.set(p)
			}
			body := askFastCGI(p, !tt.closed, tt.listener, tt.params...)
			problems, notes := findings(t, body)
			sameFindings(t, "problems", problems, tt.problems)
			sameFindings(t, "notes", notes, tt.notes)
			for _, want := range tt.body {
				if !strings.Contains(body, want) {
					t.Errorf("no %q in %s", want, body)
				}
			}
			if strings.Contains(body, "secret") || strings.Contains(body, "proxy_set_header") || strings.Contains(body, "not trusted, because") {
				t.Errorf("a dropped value or an HTTP finding is in %s", body)
			}
		})
	}
}

// A sandbox that is off is a problem only on a system that has one.
func TestSandboxOff(t *testing.T) {
	t.Parallel()
	p := page()
	p.Sandbox = func() sandbox.State { return sandbox.Off }
	_, body := ask(t, p, "GET / HTTP/1.1\r\nHost: h\r\nAccept: text/html\r\n\r\n")
	problems, notes := findings(t, body)
	got := notes
	if runtime.GOOS == "freebsd" {
		got = problems
	}
	if !slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, "the sandbox is off (-sandbox off)") }) {
		t.Errorf("problems %q, notes %q", problems, notes)
	}
}

// The page covers every field that -forwarded takes.
func TestForwardedFields(t *testing.T) {
	t.Parallel()
	var names []string
	for _, header := range forwardedFields {
		names = append(names, header.name)
	}
	if !slices.Equal(names, cli.ForwardedHeaders) {
		t.Errorf("%q, want %q", names, cli.ForwardedHeaders)
	}
}
