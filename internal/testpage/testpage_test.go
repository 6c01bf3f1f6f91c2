package testpage

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/onewake/onewake/internal/cgi"
	"github.com/onewake/onewake/internal/cli"
	"github.com/onewake/onewake/internal/control"
	"github.com/onewake/onewake/internal/front"
	"github.com/onewake/onewake/sandbox"
)

// unixPeer is a peer on a Unix socket.
var unixPeer = cgi.Peer{Addr: cgi.NoAddr, UID: 7}

// ask sends a request to the page through the front.
func ask(t *testing.T, p *Page, raw string) (*http.Response, string) {
	t.Helper()
	return askAs(t, p, unixPeer, "unix", raw)
}

// as is a page whose requests come from a given peer.
type as struct {
	*Page
	peer cgi.Peer
}

func (a as) Serve(ctx context.Context, r *cgi.Request, w cgi.Writer) {
	r.Peer = a.peer
	a.Page.Serve(ctx, r, w)
}

// askAs is ask for a given peer, through "unix" or a TCP address.
func askAs(t *testing.T, p *Page, peer cgi.Peer, through, raw string) (*http.Response, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "ow")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	network, address, name := "unix", filepath.Join(dir, "s"), "unix:/x"
	if through != "unix" {
		network, address, name = "tcp", through, "tcp4:"+through
	}
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	l := &front.Listener{Listener: ln, Name: name, Host: "host.test", Port: "0", Unix: network == "unix"}
	gate := front.NewGate(p.Config, slog.New(slog.DiscardHandler), l)
	h := &front.HTTP{Service: front.Service{Config: p.Config, Gate: gate, Handler: as{p, peer}}, Software: p.Software}
	h.Prepare()
	go func() {
		h.Serve(l)
		l.Close()
	}()
	c, err := net.Dial(network, ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		c.Close()
		gate.Stop()
		gate.WaitIdle()
	}()
	c.SetDeadline(time.Now().Add(time.Minute))
	io.WriteString(c, raw) // the answer may come before all has been sent
	method, _, _ := strings.Cut(raw, " ")
	r, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r, string(b)
}

func page() *Page {
	return &Page{
		Config: &cli.Config{Protocol: cli.HTTP, MaxConns: 1, Times: cli.Times{Header: time.Minute, Idle: time.Minute, IO: time.Minute}},
		Setup: Setup{
			Sockets:  map[string]Socket{"unix:/x": {File: "0660 <7>:& co"}},
			Enforced: "all", User: "service", UID: 8, Users: map[int]string{7: "<7> & co"},
		},
		Software: "onewake/test",
		Sandbox:  func() sandbox.State { return sandbox.Confined },
	}
}

// The answer for curl has one NAME='value' on each line, sorted, for any value.
func TestPlain(t *testing.T) {
	t.Parallel()
	r, body := ask(t, page(), "GET /a%0Ab'%5c?q HTTP/1.1\r\nHost: h\r\nX-Y: it's <b>\r\nProxy: evil\r\nAccept: */*\r\n\r\n")
	if r.StatusCode != 200 || r.Header.Get("Content-Type") != "text/plain; charset=utf-8" || r.Close {
		t.Error(r)
	}
	rest, ok := strings.CutPrefix(body, "Hello world!\n\n")
	lines := strings.Split(strings.TrimSuffix(rest, "\n"), "\n")
	if !ok || !slices.IsSorted(lines) {
		t.Errorf("%s", body)
	}
	for _, l := range lines {
		if name, value, ok := strings.Cut(l, "='"); !ok || name == "" || !strings.HasSuffix(value, "'") {
			t.Errorf("line %q", l)
		}
	}
	for _, want := range []string{`PATH_INFO='/a\nb\'\\'`, `QUERY_STRING='q'`, `HTTP_X_Y='it\'s <b>'`, `REMOTE_ADDR='<unix>'`, `SERVER_PORT='0'`, `SERVER_NAME='host.test'`} {
		if !slices.Contains(lines, want) {
			t.Errorf("no %s in\n%s", want, body)
		}
	}
	if strings.Contains(body, "evil") {
		t.Error("HTTP_PROXY is shown")
	}
}

// In the answer for a browser, everything from the client is escaped.
func TestHTML(t *testing.T) {
	t.Parallel()
	r, body := ask(t, page(), "GET /%3Cscript%3E?<script>&\"' HTTP/1.1\r\nHost: h\r\nX: <img src=x onerror='y'>\r\nAccept: text/html,*/*;q=0.8\r\n\r\n")
	if r.StatusCode != 200 || r.Header.Get("Content-Type") != "text/html; charset=utf-8" {
		t.Error(r)
	}
	for _, bad := range []string{"<script>", "<img", "onerror='", "<7>"} {
		if strings.Contains(body, bad) {
			t.Errorf("%s is not escaped", bad)
		}
	}
	for _, want := range []string{"Hello world!", "&lt;script&gt;", "unix:/x", "&lt;7&gt; &amp; co", "SERVER_SOFTWARE", "onewake/test"} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s", want)
		}
	}
}

func TestOther(t *testing.T) {
	t.Parallel()
	if r, body := ask(t, page(), "HEAD / HTTP/1.1\r\nHost: h\r\n\r\n"); r.StatusCode != 200 || body != "" || r.ContentLength < 100 {
		t.Error(r, body)
	}
	if r, _ := ask(t, page(), "GET /%00 HTTP/1.1\r\nHost: h\r\n\r\n"); r.StatusCode != 400 {
		t.Error(r)
	}
	p := page()
	p.ScriptName = "/app"
	p.Setup = Setup{}
	if r, _ := ask(t, p, "GET / HTTP/1.1\r\nHost: h\r\n\r\n"); r.StatusCode != 404 {
		t.Error(r)
	}
	if r, _ := ask(t, p, "GET /app HTTP/1.1\r\nHost: h\r\nAccept: text/html\r\n\r\n"); r.StatusCode != 200 {
		t.Error(r)
	}
	// A body is read up to a limit, so that the client gets the answer.
	for _, n := range []int{5, maxBody, maxBody + 1, 4 << 20} {
		r, body := ask(t, page(), fmt.Sprintf("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s", n, strings.Repeat("x", n)))
		if r.StatusCode != 200 || !strings.Contains(body, "REQUEST_METHOD='POST'") || !strings.Contains(body, fmt.Sprintf("CONTENT_LENGTH='%d'", n)) {
			t.Errorf("%d bytes: %v", n, r)
		}
	}
	for end, want := range map[string]int{"0\r\n\r\n": 200, "5\r\nhello\r\n0\r\n\r\n": 200, "z\r\n": 400} {
		r, body := ask(t, page(), "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"+end)
		if r.StatusCode != want || strings.Contains(body, "CONTENT_LENGTH='5'") != strings.Contains(end, "hello") || strings.Contains(body, "CONTENT_LENGTH='0'") {
			t.Errorf("%q: %v, %s", end, r, body)
		}
	}
}

// recorder records an answer.
type recorder struct {
	status int
	cut    bool
	body   []byte
}

func (w *recorder) Begin(status int, _ []cgi.Field, _ int64) { w.status = status }
func (w *recorder) Write(p []byte) (int, error)              { w.body = append(w.body, p...); return len(p), nil }
func (w *recorder) Flush() error                             { return nil }
func (w *recorder) Cut()                                     { w.cut = true }

// The body is incomplete.
func TestBodyFails(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want recorder
	}{{cgi.ErrBodyStalled, recorder{status: 408}}, {cgi.ErrBodyCut, recorder{status: 400}}, {cgi.ErrClientGone, recorder{cut: true}}} {
		var w recorder
		r := &cgi.Request{Body: iotest.ErrReader(tt.err), Length: 5, Vars: new(control.Vars)}
		if page().Serve(t.Context(), r, &w); w.status != tt.want.status || w.cut != tt.want.cut {
			t.Errorf("%v: %+v", tt.err, w)
		}
	}
}
