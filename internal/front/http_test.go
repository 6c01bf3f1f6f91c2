package front

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/onewake/onewake/internal/cgi"
	"github.com/onewake/onewake/internal/cli"
)

func TestKeepAlive(t *testing.T) {
	f := start(t, config(), "unix", hello)
	c := f.dial()
	for range 3 {
		if resp, body := c.send(get("/")).answer("GET"); resp.StatusCode != 200 || body != "hello" || resp.Close {
			t.Fatalf("%d %q close=%v", resp.StatusCode, body, resp.Close)
		}
	}
}

// On a Unix socket a half-closed connection is distinguished from a closed one;
// on TCP it is not.
func TestClientGone(t *testing.T) {
	for _, network := range []string{"unix", "tcp"} {
		for _, half := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s half=%v", network, half), func(t *testing.T) {
				in, ended := make(chan bool), make(chan error, 1)
				answer := make(chan bool)
				f := start(t, config(), network, func(ctx context.Context, r *cgi.Request, w cgi.Writer) {
					in <- true
					select {
					case <-ctx.Done():
						ended <- context.Cause(ctx)
						w.Cut()
					case <-answer:
						ended <- nil
						hello(ctx, r, w)
					}
				})
				c := f.dial().send(get("/"))
				<-in
				if !half {
					c.Close()
				} else {
					c.halfClose()
				}
				if half && network == "unix" {
					answer <- true
					if err := <-ended; err != nil {
						t.Fatal(err)
					}
					if _, body := c.answer("GET"); body != "hello" {
						t.Errorf("%q", body)
					}
					// The client can send no more, so the connection is closed.
					if rest := c.ended(); rest != "" {
						t.Errorf("%q after the answer", rest)
					}
					return
				}
				if err := <-ended; !errors.Is(err, context.Canceled) {
					t.Errorf("%v", err)
				}
			})
		}
	}
}

// The last write of an answer has its own timeout.
func TestLastWrite(t *testing.T) {
	for _, body := range []string{"", "hello"} {
		cfg := config()
		cfg.Times.IO = time.Nanosecond
		f := start(t, cfg, "unix", func(_ context.Context, _ *cgi.Request, w cgi.Writer) {
			w.Begin(200, nil, -1)
			if body != "" {
				w.Write([]byte(body)) // buffered until the end
			}
			cfg.Times.IO = patience
		})
		if _, got := f.dial().send(get("/")).answer("GET"); got != body {
			t.Errorf("%q, want %q", got, body)
		}
	}
}

// A client that first half-closes its connection, or sends a part of the next
// request, and then closes the connection is noticed.
func TestClientGoneInSteps(t *testing.T) {
	for _, first := range []string{"half-close", "next request"} {
		t.Run(first, func(t *testing.T) {
			in, ended := make(chan bool), make(chan error, 1)
			f := start(t, config(), "unix", func(ctx context.Context, r *cgi.Request, w cgi.Writer) {
				in <- true
				<-ctx.Done()
				ended <- context.Cause(ctx)
				w.Cut()
			})
			c := f.dial().send(get("/"))
			<-in
			if first == "half-close" {
				c.halfClose()
			} else {
				c.send(get("/"))
				f.awaitPartial(1)
			}
			c.Close()
			select {
			case err := <-ended:
				if !errors.Is(err, context.Canceled) {
					t.Errorf("%v", err)
				}
			case <-time.After(patience):
				t.Fatal("not noticed")
			}
		})
	}
}

// A request that arrives while the one before it is being answered is kept.
func TestNextRequestWaits(t *testing.T) {
	in, goOn := make(chan bool), make(chan bool)
	f := start(t, config(), "unix", slow(in, goOn))
	c := f.dial().send(get("/slow"))
	<-in
	c.send(get("/"))
	f.awaitPartial(1)
	goOn <- true
	for range 2 {
		if _, body := c.answer("GET"); body != "hello" {
			t.Errorf("%q", body)
		}
	}
}

func TestRefused(t *testing.T) {
	long := strings.Repeat("a", 64<<10)
	for _, tt := range []struct {
		name, raw string
		status    int
	}{
		{"longest line", get("/" + long[:65536-len("GET / HTTP/1.1")]), 200},
		{"line too long", get("/" + long[:65537-len("GET / HTTP/1.1")]), 414},
		{"endless line", "GET /" + long + long + long, 414},
		{"head too long", get("/", "A: "+long, "B: "+long, "C: "+long), 431},
		{"field too long", get("/", "A: "+long+long), 431},
		{"many fields", get("/", strings.Repeat("A:\r\n", 990)+"B: c"), 200},
		{"too many fields", get("/", strings.Repeat("A:\r\n", 1000)+"B: c"), 431},
		{"too many longer fields", get("/", strings.Repeat("A: b\r\n", 1000)+"B: c"), 431},
		{"one field too many", get("/", strings.Repeat("A: b\r\n", 998)+"B: c"), 431},
		{"many long fields", get("/", strings.Repeat("A: b\r\n", 997)+"B: c"), 200},
		{"too many fields, unfinished", "GET / HTTP/1.1\r\n" + strings.Repeat("A: bcd\r\n", 1700), 431},
		{"a body of many lines", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4000\r\n\r\n" + strings.Repeat("\n", 4000), 200},
		{"CONNECT", "CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n", 400},
		{"CONNECT with a path", "CONNECT /x HTTP/1.1\r\nHost: example.org\r\n\r\n", 400},
		{"asterisk", "OPTIONS * HTTP/1.1\r\nHost: example.org\r\n\r\n", 400},
		{"absolute", get("http://example.org/x"), 200},
		{"other scheme", get("ftp://example.org/x"), 400},
		{"no Host", "GET / HTTP/1.1\r\n\r\n", 400},
		{"two Hosts", get("/", "Host: b"), 400},
		{"Host with a bad port", "GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", 400},
		{"Host with bad brackets", "GET / HTTP/1.1\r\nHost: [zz]\r\n\r\n", 400},
		{"Host is a port", "GET / HTTP/1.1\r\nHost: :80\r\n\r\n", 400},
		{"Host is an address", "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", 200},
		{"NUL", get("/a%00b"), 400},
		{"bad escape", get("/a%zz"), 400},
		{"HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400},
		{"expectation", get("/", "Expect: wonders"), 417},
		{"transfer encoding", get("/", "Transfer-Encoding: gzip"), 501},
		{"outside", get("/elsewhere"), 200},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := start(t, config(), "unix", hello)
			c := f.dial()
			io.WriteString(c, tt.raw) // it may be refused before it has been sent completely
			if resp, _ := c.answer("GET"); resp.StatusCode != tt.status && !(tt.name == "HTTP/2" && resp.StatusCode == 505) {
				t.Errorf("%s, want %d", resp.Status, tt.status)
			}
		})
	}
}

// A header of too many lines is refused at once and starts nothing, however the
// reads split it.
func TestTooManyLines(t *testing.T) {
	f := start(t, config(), "unix", func(context.Context, *cgi.Request, cgi.Writer) { t.Error("a request") })
	for n := range 12 { // where the fields begin
		for _, field := range []string{"A:\r\n", "A:\n", "A: b\r\n", "A: bc\r\n", "A: bcdefgh\r\n", "A: bcdefghijklm\n"} {
			for _, end := range []string{"", "\r\n"} {
				c := f.dial()
				io.WriteString(c, "GET /"+strings.Repeat("x", n)+" HTTP/1.1\r\nHost: a\r\n"+strings.Repeat(field, 1100)+end)
				if resp, _ := c.answer("GET"); resp.StatusCode != 431 {
					t.Errorf("%d, %q: %s", n, field, resp.Status)
				}
				c.Close()
			}
		}
	}
}

func TestVariables(t *testing.T) {
	base := map[string]string{
		"GATEWAY_INTERFACE": "CGI/1.1", "SERVER_SOFTWARE": "onewake/test", "SERVER_PROTOCOL": "HTTP/1.1",
		"REQUEST_METHOD": "GET", "REQUEST_URI": "/a%20b?x=1", "SCRIPT_NAME": "", "PATH_INFO": "/a b", "QUERY_STRING": "x=1",
		"REMOTE_ADDR": "<unix>", "REMOTE_HOST": "<unix>", "REQUEST_SCHEME": "http", "SERVER_NAME": "host.test", "SERVER_PORT": "8080",
		"HTTP_HOST": "example.org", "UNIQUE_ID": "*", "HTTP_X_REQUEST_ID": "*",
	}
	for _, tt := range []struct {
		name      string
		script    string
		forwarded string
		raw       string
		want      map[string]string // in addition to base; "-": not set
	}{
		{"plain", "", "", get("/a%20b?x=1"), nil},
		{"script", "/app", "", get("/app/x"), map[string]string{"REQUEST_URI": "/app/x", "SCRIPT_NAME": "/app", "PATH_INFO": "/x", "QUERY_STRING": ""}},
		{"two slashes", "", "", get("//a//b"), map[string]string{"REQUEST_URI": "//a//b", "PATH_INFO": "//a//b", "QUERY_STRING": ""}},
		{"1.0", "", "", "GET /a%20b?x=1 HTTP/1.0\r\n\r\n", map[string]string{"SERVER_PROTOCOL": "HTTP/1.0", "HTTP_HOST": "-"}},
		{"fields", "", "", get("/a%20b?x=1", "X-A: 1", "x-a: 2", "Cookie: a=1", "Cookie: b=2", "X_B: no", "Proxy: no", "Connection: x-hop", "X-Hop: no", "Te: no"),
			map[string]string{"HTTP_X_A": "1, 2", "HTTP_COOKIE": "a=1; b=2"}},
		{"not trusted", "", "", get("/a%20b?x=1", "X-Real-IP: 192.0.2.1", "X-Remote-User: me"),
			map[string]string{"HTTP_X_REAL_IP": "192.0.2.1", "HTTP_X_REMOTE_USER": "me"}},
		{"trusted", "", "X-Real-IP,X-Forwarded-Proto,X-Forwarded-Host,X-Request-Id,X-Remote-User",
			get("/a%20b?x=1", "X-Real-IP: 192.0.2.1", "X-Forwarded-Proto: https", "X-Forwarded-Host: www.example.org", "X-Request-Id: me-1", "X-Remote-User: joe"),
			map[string]string{"REMOTE_ADDR": "192.0.2.1", "REMOTE_HOST": "192.0.2.1", "HTTPS": "on", "REQUEST_SCHEME": "https", "SERVER_NAME": "www.example.org",
				"SERVER_PORT": "443", "UNIQUE_ID": "me-1", "HTTP_X_REQUEST_ID": "me-1", "REMOTE_USER": "joe",
				"HTTP_X_REAL_IP": "192.0.2.1", "HTTP_X_FORWARDED_PROTO": "https", "HTTP_X_FORWARDED_HOST": "www.example.org", "HTTP_X_REMOTE_USER": "joe"}},
		{"the last element", "", "X-Forwarded-For", get("/a%20b?x=1", "X-Forwarded-For: 10.0.0.1, 192.0.2.1", "X-Forwarded-For: 10.0.0.2, 2001:db8::1"),
			map[string]string{"REMOTE_ADDR": "2001:db8::1", "REMOTE_HOST": "2001:db8::1", "HTTP_X_FORWARDED_FOR": "10.0.0.1, 192.0.2.1, 10.0.0.2, 2001:db8::1"}},
		{"host and port", "", "X-Forwarded-Host", get("/a%20b?x=1", "X-Forwarded-Host: [2001:db8::1]:8443"),
			map[string]string{"SERVER_NAME": "[2001:db8::1]", "SERVER_PORT": "8443", "HTTP_X_FORWARDED_HOST": "[2001:db8::1]:8443"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := config()
			cfg.ScriptName = tt.script
			cfg.Forwarded = strings.Split(tt.forwarded, ",")
			f := start(t, cfg, "unix", hello)
			resp, body := f.dial().send(tt.raw).answer("GET")
			if resp.StatusCode != 200 {
				t.Fatalf("%s %s", resp.Status, body)
			}
			have, want := variables(<-f.done), maps.Clone(base)
			for k, v := range tt.want {
				if want[k] = v; v == "-" {
					delete(want, k)
				}
			}
			for k, v := range want {
				if v == "*" && have[k] != "" {
					want[k] = have[k]
				}
			}
			for k := range have {
				if want[k] != have[k] {
					t.Errorf("%s=%q, want %q", k, have[k], want[k])
				}
				delete(want, k)
			}
			if len(want) > 0 {
				t.Errorf("missing: %v", want)
			}
		})
	}
}

// TestTrustedHeaders checks that package front knows each header of -forwarded
// and refuses invalid values.
func TestTrustedHeaders(t *testing.T) {
	for _, name := range cli.ForwardedHeaders {
		if !slices.ContainsFunc(trustedHeaders, func(h trustedHeader) bool { return h.name == name }) {
			t.Errorf("%s is not in trustedHeaders", name)
		}
	}
	for _, tt := range []struct{ field, value string }{
		{"X-Real-IP", "me"}, {"X-Real-IP", "fe80::1%lo0"}, {"X-Forwarded-For", "192.0.2.1, "}, {"X-Forwarded-Proto", "ftp"},
		{"X-Forwarded-Host", "a b"}, {"X-Forwarded-Host", "a:b"}, {"X-Request-Id", strings.Repeat("x", 129)}, {"X-Remote-User", "a\tb"},
	} {
		cfg := config()
		cfg.Forwarded = []string{tt.field}
		f := start(t, cfg, "unix", hello)
		if resp, body := f.dial().send(get("/", tt.field+": "+tt.value)).answer("GET"); resp.StatusCode != 400 || !strings.Contains(body, tt.field+" is not") {
			t.Errorf("%s %q: %s %q", tt.field, tt.value, resp.Status, body)
		}
	}
}

// TestTimes checks each timeout by letting it pass.
func TestTimes(t *testing.T) {
	const soon = 20 * time.Millisecond
	t.Run("nothing sent", func(t *testing.T) {
		cfg := config()
		cfg.Times.Header = soon
		start(t, cfg, "unix", hello).dial().ended()
	})
	t.Run("half of a head", func(t *testing.T) {
		cfg := config()
		cfg.Times.Header = soon
		start(t, cfg, "unix", hello).dial().send("GET / HTTP/1.1\r\n").ended()
	})
	t.Run("idle", func(t *testing.T) {
		cfg := config()
		cfg.Times.Idle = soon
		c := start(t, cfg, "unix", hello).dial().send(get("/"))
		c.answer("GET")
		if rest := c.ended(); rest != "" {
			t.Errorf("%q", rest)
		}
	})
	t.Run("body", func(t *testing.T) {
		cfg := config()
		cfg.Times.IO = time.Second // it bounds the write of the answer too
		failed := make(chan error, 1)
		f := start(t, cfg, "unix", readBody(failed))
		resp, _ := f.dial().send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf").answer("POST")
		if err := <-failed; !errors.Is(err, cgi.ErrBodyStalled) || resp.StatusCode != 408 {
			t.Errorf("%v, %s", err, resp.Status)
		}
	})
	t.Run("slow client", func(t *testing.T) {
		cfg := config()
		cfg.Times.IO = soon
		failed := make(chan error, 1)
		f := start(t, cfg, "unix", writeForever(failed))
		f.dial().send(get("/"))
		if err := <-failed; !errors.Is(err, cgi.ErrClientSlow) {
			t.Error(err)
		}
	})
}

func TestBodyErrors(t *testing.T) {
	for _, tt := range []struct {
		name, raw string
		want      error
	}{
		{"half", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf", cgi.ErrBodyCut},
		{"half of a chunk", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\na\r\nhalf", cgi.ErrBodyCut},
		{"bad chunk", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", cgi.ErrBodyBad},
	} {
		t.Run(tt.name, func(t *testing.T) {
			failed := make(chan error, 1)
			f := start(t, config(), "unix", readBody(failed))
			resp, _ := f.dial().send(tt.raw).halfClose().answer("POST")
			if err := <-failed; !errors.Is(err, tt.want) || resp.StatusCode != 408 {
				t.Errorf("%v, %s", err, resp.Status)
			}
		})
	}
}

// An answer does not wait for a body that is not needed.
func TestUnreadBody(t *testing.T) {
	f := start(t, config(), "unix", func(_ context.Context, r *cgi.Request, w cgi.Writer) { r.Refuse(w, 413, "no") })
	for _, raw := range []string{"Content-Length: 5\r\n\r\n", "Content-Length: 5\r\nExpect: 100-continue\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n"} {
		c := f.dial().send("POST / HTTP/1.1\r\nHost: a\r\n" + raw)
		if resp, _ := c.answer("POST"); resp.StatusCode != 413 || !resp.Close {
			t.Errorf("%q: %s", raw, resp.Status)
		}
	}
}

// A connection is closed after a chunked body, because another server may see
// its end elsewhere.
func TestChunkedIsLast(t *testing.T) {
	f := start(t, config(), "unix", func(ctx context.Context, r *cgi.Request, w cgi.Writer) {
		io.Copy(io.Discard, r.Body)
		hello(ctx, r, w)
	})
	c := f.dial().send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + get("/hidden"))
	if resp, _ := c.answer("POST"); resp.StatusCode != 200 || !resp.Close {
		t.Errorf("%s, close %v", resp.Status, resp.Close)
	}
	if rest := c.ended(); rest != "" {
		t.Errorf("%q", rest)
	}
}

func TestCut(t *testing.T) {
	f := start(t, config(), "unix", func(_ context.Context, r *cgi.Request, w cgi.Writer) {
		w.Begin(200, nil, -1)
		io.WriteString(w, "half")
		w.Flush()
		w.Cut()
	})
	if _, body := f.dial().send(get("/")).answer("GET"); body != "half (unexpected EOF)" {
		t.Errorf("%q", body)
	}
	if r := <-f.done; !r.Record.Cut || r.Record.Bytes != 4 || r.Record.Status != 200 {
		t.Errorf("%+v", r.Record)
	}
}

func TestNothingIsGuessed(t *testing.T) {
	f := start(t, config(), "unix", func(_ context.Context, r *cgi.Request, w cgi.Writer) {
		w.Begin(200, []cgi.Field{{Name: "Set-Cookie", Value: "a"}, {Name: "Set-Cookie", Value: "b"}}, -1)
		io.WriteString(w, "<html>")
	})
	resp, _ := f.dial().send(get("/")).answer("GET")
	if _, ok := resp.Header["Content-Type"]; ok || len(resp.Header["Set-Cookie"]) != 2 {
		t.Errorf("%v", resp.Header)
	}
}

func TestHead(t *testing.T) {
	f := start(t, config(), "unix", hello)
	c := f.dial()
	resp, body := c.send(strings.Replace(get("/"), "GET", "HEAD", 1)).answer("HEAD")
	if resp.ContentLength != 5 || body != "" {
		t.Errorf("%d %q", resp.ContentLength, body)
	}
	if r := <-f.done; r.Record.Bytes != 0 {
		t.Errorf("%d bytes", r.Record.Bytes)
	}
	if _, body := c.send(get("/")).answer("GET"); body != "hello" {
		t.Errorf("%q", body)
	}
}

// Reading past the end of a body sets no deadline: it would end the command.
func TestReadBehindBody(t *testing.T) {
	for _, body := range []string{
		"Content-Length: 0\r\n\r\n",
		"Content-Length: 4\r\n\r\nbody",
		"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
		"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	} {
		var f *front
		f = start(t, config(), "unix", func(ctx context.Context, r *cgi.Request, w cgi.Writer) {
			_, err := io.ReadAll(r.Body)
			n, eof := r.Body.Read(make([]byte, 1))
			if err != nil || n != 0 || eof != io.EOF {
				t.Errorf("%q: %v; %d, %v", body, err, n, eof)
			}
			f.each(func(c *conn) {
				if !c.deadline.IsZero() {
					t.Errorf("%q: a deadline at %v", body, c.deadline)
				}
			})
			hello(ctx, r, w)
		})
		f.dial().send("POST / HTTP/1.1\r\nHost: a\r\n" + body).answer("POST")
	}
}
