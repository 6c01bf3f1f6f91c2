package testpage

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/onewake/onewake/gateway"
	"github.com/onewake/onewake/http1"
)

// unixPeer connects on a Unix socket.
var unixPeer = http1.Peer{Addr: "<unix>", UID: 7}

// ask sends a request to the page on a real socket.
func ask(t *testing.T, p *Page, raw string) (*http.Response, string) {
	t.Helper()
	return askAs(t, p, unixPeer, "unix", raw)
}

// askAs does so as a peer, through "unix" or a TCP address.
func askAs(t *testing.T, p *Page, peer http1.Peer, through, raw string) (*http.Response, string) {
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
	s := &http1.Server{
		Handler: p.Serve,
		Admit:   func(net.Conn, *http1.Listener) (http1.Peer, bool) { return peer, true },
	}
	go s.Serve(&http1.Listener{Listener: ln, Name: name, Host: "host.test", Port: "0", Unix: network == "unix"})
	defer s.Stop()
	c, err := net.Dial(network, ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.WriteString(c, raw); err != nil {
		t.Fatal(err)
	}
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
		Meta: gateway.Meta{Software: "onewake/test"},
		Setup: Setup{
			Sockets: map[string]Socket{"unix:/x": {File: "0660 <7>:& co"}},
			User:    "service", UID: 8, Users: map[int]string{7: "<7> & co"}, ContentType: "text/x", Dir: "/",
		},
		Sandbox: func() string { return "capability mode" },
	}
}

// TestPlain: for curl, one NAME='value' a line, sorted, whatever the value.
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
	for _, want := range []string{`PATH_INFO='/a\x0ab\'\\'`, `QUERY_STRING='q'`, `HTTP_X_Y='it\'s <b>'`, `REMOTE_ADDR='<unix>'`, `SERVER_PORT='0'`, `SERVER_NAME='host.test'`} {
		if !slices.Contains(lines, want) {
			t.Errorf("no %s in\n%s", want, body)
		}
	}
	if strings.Contains(body, "evil") {
		t.Error("HTTP_PROXY is shown")
	}
}

// TestHTML: for a browser, with all that a client sent escaped.
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
	p.Meta.ScriptName = "/app"
	p.Sandbox, p.Setup = nil, Setup{}
	if r, _ := ask(t, p, "GET / HTTP/1.1\r\nHost: h\r\n\r\n"); r.StatusCode != 404 {
		t.Error(r)
	}
	if r, _ := ask(t, p, "GET /app HTTP/1.1\r\nHost: h\r\nAccept: text/html\r\n\r\n"); r.StatusCode != 200 {
		t.Error(r)
	}
	// A body is read, up to a bound, so that the answer reaches its sender.
	for _, n := range []int{5, maxBody, maxBody + 1, 4 << 20} {
		r, body := ask(t, page(), fmt.Sprintf("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s", n, strings.Repeat("x", n)))
		if r.StatusCode != 200 || !strings.Contains(body, "REQUEST_METHOD='POST'") || r.Close != (n > maxBody) {
			t.Errorf("%d bytes: %v", n, r)
		}
	}
}
