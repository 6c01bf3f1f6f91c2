package http1

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

func TestKeepAlive(t *testing.T) {
	onBoth(t, func(t *testing.T, network string) {
		s := newServer(t, network, echo, nil)
		c := s.dial()
		for i := range 3 {
			c.send(fmt.Sprintf("POST /%d HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nab", i))
			r, body := c.answer("POST")
			if r.StatusCode != 200 || body != fmt.Sprintf("POST /%d ab", i) || r.Close || r.Header.Get("Date") == "" ||
				r.Header.Get("Connection") != "" || r.ContentLength != int64(len(body)) {
				t.Fatalf("%v %q", r, body)
			}
		}
		c.send("GET /end HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
		if r, _ := c.answer("GET"); !r.Close {
			t.Error("no Connection: close")
		}
		c.ended()
		s.Stop()
		s.WaitIdle()
		if got := s.records(); got != "POST /0 200; POST /1 200; POST /2 200; GET /end 200" {
			t.Error(got)
		}
	})
}

func TestHTTP10(t *testing.T) {
	onBoth(t, func(t *testing.T, network string) {
		s := newServer(t, network, func(x *Exchange) {
			if string(x.Path) == "/stream" {
				x.Begin(200, -1) // no length
				b := new(Block)
				x.Send(b, 0, copy(b.Data(), "abc"), true)
				return
			}
			echo(x)
		}, nil)
		c := s.dial()
		c.send("GET /1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
		if r, body := c.answer("GET"); body != "GET /1 " || r.Header.Get("Connection") != "keep-alive" {
			t.Fatalf("%v %q", r, body)
		}
		c.send("GET /2 HTTP/1.0\r\n\r\n")
		if _, body := c.answer("GET"); body != "GET /2 " {
			t.Fatal(body)
		}
		c.ended()
		// Without a length the end of the connection is that of the body.
		c = s.dial()
		c.send("GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
		b, _ := io.ReadAll(c.in)
		if _, body, _ := strings.Cut(string(b), "\r\n\r\n"); body != "abc" || strings.Contains(string(b), "chunked") ||
			!strings.Contains(string(b), "Connection: close\r\n") {
			t.Errorf("%q", b)
		}
	})
}

// TestSmugglingEnds shows that nothing is served behind a request that is
// refused: where it ends is unknown.
func TestSmugglingEnds(t *testing.T) {
	t.Parallel()
	s := newServer(t, "unix", echo, nil)
	for _, first := range []string{
		"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 0\r\n\r\n",
		"GET / HTTP/1.1\nHost: h\n\n",
		"GET / HTTP/1.1\r\nHost: h\r\nX : y\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	} {
		c := s.dial()
		c.send(first + "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n")
		r, _ := c.answer("POST")
		if !r.Close {
			t.Errorf("%q: the connection stays", first)
		}
		c.ended()
		c.Close()
	}
	if got := s.records(); strings.Contains(got, "smuggled") {
		t.Error(got)
	}
}

func TestNoBody(t *testing.T) {
	onBoth(t, func(t *testing.T, network string) {
		s := newServer(t, network, func(x *Exchange) {
			status, _ := strconv.Atoi(string(x.Path[1:]))
			length := int64(5)
			if len(x.Query) > 0 {
				length = -1
			}
			x.Begin(status, length)
			b := new(Block)
			n := copy(b.Data(), "hello")
			if err := x.Send(b, 0, n, true); err != nil {
				t.Error(err)
			}
			if !x.Started() || x.NoBody() != (string(x.Method) == "HEAD" || status == 204 || status == 304) {
				t.Errorf("%s %d: %t %t", x.Method, status, x.Started(), x.NoBody())
			}
		}, nil)
		c := s.dial()
		for _, tt := range []struct{ method, target, length, body string }{
			{"HEAD", "/200", "5", ""}, {"HEAD", "/200?", "5", ""}, {"HEAD", "/200?x", "", ""},
			{"GET", "/204", "", ""}, {"GET", "/304", "", ""}, {"HEAD", "/204", "", ""}, {"GET", "/204?x", "", ""},
			{"GET", "/200", "5", "hello"}, {"GET", "/200?x", "", "hello"}, {"GET", "/404", "5", "hello"},
		} {
			c.send(tt.method + " " + tt.target + " HTTP/1.1\r\nHost: h\r\n\r\n")
			r, body := c.answer(tt.method)
			if r.Header.Get("Content-Length") != tt.length || body != tt.body || r.Close {
				t.Errorf("%s %s: length %q, body %q, close %t", tt.method, tt.target, r.Header.Get("Content-Length"), body, r.Close)
			}
			if r.StatusCode != 200 && r.StatusCode != 404 && r.TransferEncoding != nil {
				t.Errorf("%s %s: %v", tt.method, tt.target, r.TransferEncoding)
			}
		}
		c.send(get) // path "/" is status 0: only that it is framed counts
		if _, err := c.in.Peek(1); err != nil {
			t.Error(err)
		}
	})
}

// TestSend checks how parts of a body are framed: by chunks, by length, past
// the length, short of it, cut.
func TestSend(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("0123456789abcdef", BlockSize/16)
	s := newServer(t, "unix", func(x *Exchange) {
		b := new(Block)
		part := func(s string, last bool) error { return x.Send(b, 0, copy(b.Data(), s), last) }
		switch string(x.Path) {
		case "/chunks":
			x.Begin(200, -1)
			part("a", false)
			part("", false)
			part(big, false)
			part("", true)
		case "/empty":
			x.Begin(200, -1)
			part("", true)
		case "/one":
			x.Begin(200, -1)
			part(big, true)
		case "/offset":
			x.Begin(200, 3)
			copy(b.Data(), "abcdef")
			x.Send(b, 2, 5, true)
		case "/length":
			x.Begin(200, int64(len(big))+1)
			part(big, false)
			part("z", true)
		case "/long":
			x.Begin(200, 2)
			part("abc", false)
			part("d", true)
		case "/short":
			x.Begin(200, 9)
			if part("abc", true) != ErrCut || !x.WasCut {
				t.Error("short answer not cut")
			}
		case "/cut":
			x.Begin(200, -1)
			part("abc", false)
			x.Cut()
			if part("d", true) != ErrCut || x.Error(500, "") != ErrCut {
				t.Error("sending goes on after Cut")
			}
		case "/header":
			for i := range 100 {
				x.AddField([]byte("X-"+strconv.Itoa(i)), []byte(strings.Repeat("v", 100)))
			}
			x.AddField([]byte("DATE"), []byte("Thu, 01 Jan 1970 00:00:00 GMT"))
			x.Begin(299, 1)
			part("h", true)
		case "/error":
			x.AddField([]byte("X-Dropped"), []byte("y"))
			x.ErrorRetry(503, "full", 7)
		case "/nothing":
		}
	}, nil)
	for _, tt := range []struct{ path, body, problem string }{
		{"/chunks", "a" + big, ""}, {"/empty", "", ""}, {"/one", big, ""}, {"/offset", "cde", ""},
		{"/length", big + "z", ""}, {"/long", "ab", ""}, {"/short", "abc", "unexpected EOF"},
		{"/cut", "abc", "unexpected EOF"}, {"/header", "h", ""}, {"/error", "503 Service Unavailable: full\n", ""},
	} {
		c := s.dial()
		c.send("GET " + tt.path + " HTTP/1.1\r\nHost: h\r\n\r\n")
		r, err := http.ReadResponse(c.in, nil)
		if err != nil {
			t.Errorf("%s: %v", tt.path, err)
			continue
		}
		b, err := io.ReadAll(r.Body)
		if string(b) != tt.body || tt.problem == "" && err != nil || tt.problem != "" && (err == nil || err.Error() != tt.problem) {
			t.Errorf("%s: %.60q (%d bytes), %v", tt.path, b, len(b), err)
		}
		switch tt.path {
		case "/header":
			if len(r.Header) != 102 || len(r.Header["Date"]) != 1 || r.Header.Get("Date")[:3] != "Thu" || r.Status != "299 Status" {
				t.Errorf("%v", r)
			}
		case "/error":
			if r.Header.Get("Retry-After") != "7" || r.Header.Get("X-Dropped") != "" {
				t.Errorf("%v", r.Header)
			}
		}
		if tt.problem == "" { // the connection serves another
			c.send("GET /empty HTTP/1.1\r\nHost: h\r\n\r\n")
			c.answer("GET")
		}
		c.Close()
	}
	c := s.dial() // a handler that answers nothing is no endless wait
	c.send("GET /nothing HTTP/1.1\r\nHost: h\r\n\r\n")
	c.ended()
}

func TestExpectContinue(t *testing.T) {
	onBoth(t, func(t *testing.T, network string) {
		s := newServer(t, network, func(x *Exchange) {
			if string(x.Path) == "/413" {
				x.Error(413, "too large")
				return
			}
			echo(x)
		}, nil)
		post := func(path string) string {
			return "POST " + path + " HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
		}
		c := s.dial()
		c.send(post("/"))
		if r, err := http.ReadResponse(c.in, nil); err != nil || r.StatusCode != 100 {
			t.Fatal(r, err)
		}
		c.send("abc")
		if r, body := c.answer("POST"); body != "POST / abc" || r.Close {
			t.Fatalf("%v %q", r, body)
		}
		c.send(post("/") + "abc") // the body is there: nothing to ask for
		if r, body := c.answer("POST"); r.StatusCode != 200 || body != "POST / abc" {
			t.Fatalf("%v %q", r, body)
		}
		c.send("POST /0 HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n")
		if r, _ := c.answer("POST"); r.StatusCode != 200 {
			t.Fatal(r)
		}
		c.send("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n")
		if r, err := http.ReadResponse(c.in, nil); err != nil || r.StatusCode != 100 {
			t.Fatal(r, err)
		}
		c.send("1\r\nx\r\n0\r\n\r\n")
		if _, body := c.answer("POST"); body != "POST / x" {
			t.Fatal(body)
		}
		c.ended()
		c = s.dial() // a body that nobody wants is not asked for
		c.send(post("/413"))
		if r, _ := c.answer("POST"); r.StatusCode != 413 || !r.Close {
			t.Fatal(r)
		}
		c.Close()
		c = s.dial()
		c.send("POST / HTTP/1.1\r\nHost: h\r\nExpect: magic\r\nContent-Length: 3\r\n\r\n")
		if r, _ := c.answer("POST"); r.StatusCode != 417 || !r.Close {
			t.Fatal(r)
		}
	})
}

func TestAdmitRefuses(t *testing.T) {
	t.Parallel()
	s := newServer(t, "unix", echo, func(s *Server) {
		s.MaxConns = 1
		s.Admit = func(net.Conn, *Listener) (Peer, bool) { return Peer{}, false }
	})
	for range 3 { // and its slot is free again
		s.dial().ended()
	}
}
