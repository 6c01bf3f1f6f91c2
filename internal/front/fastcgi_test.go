package front

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/onewake/onewake/internal/cgi"
	"github.com/onewake/onewake/internal/cli"
	"github.com/onewake/onewake/internal/scripts"
)

func fcgiConfig() *cli.Config {
	c := config()
	c.Protocol = cli.FastCGI
	return c
}

// pairs encodes name-value pairs. A length takes four bytes if it is 128 or
// more, or if long is set.
func pairs(long bool, nv ...string) []byte {
	var b []byte
	for i := 0; i < len(nv); i += 2 {
		for _, s := range nv[i : i+2] {
			if len(s) < 128 && !long {
				b = append(b, byte(len(s)))
			} else {
				b = binary.BigEndian.AppendUint32(b, uint32(len(s))|1<<31)
			}
		}
		b = append(append(b, nv[i]...), nv[i+1]...)
	}
	return b
}

// rec encodes a record, with optional padding.
func rec(kind byte, id uint16, content []byte, padding ...int) []byte {
	b := appendRecord(nil, kind, id, content)
	if len(padding) > 0 {
		b[6] = byte(padding[0])
		b = append(b, bytes.Repeat([]byte("P"), padding[0])...)
	}
	return b
}

func beginRec(id uint16, role, flags byte) []byte {
	return rec(fcgiBegin, id, []byte{0, role, flags, 0, 0, 0, 0, 0})
}

// ask encodes a complete request.
func ask(id uint16, keep bool, body string, nv ...string) []byte {
	flags := byte(0)
	if keep {
		flags = fcgiKeepConn
	}
	b := beginRec(id, fcgiResponder, flags)
	b = append(b, rec(fcgiParams, id, pairs(false, nv...))...)
	b = append(b, rec(fcgiParams, id, nil)...)
	if body != "" {
		b = append(b, rec(fcgiStdin, id, []byte(body))...)
	}
	return append(b, rec(fcgiStdin, id, nil)...)
}

// fcgiAnswer is the answer to one request.
type fcgiAnswer struct {
	stdout    string
	appStatus uint32
	status    byte
	empty     int // records of standard output without content
	kinds     []byte
}

// readEnd reads records up to the end of a request.
func (c *client) readEnd(id uint16) (a fcgiAnswer, err error) {
	for {
		var h [fcgiHeader]byte
		if _, err := io.ReadFull(c.r, h[:]); err != nil {
			return a, err
		}
		content := make([]byte, binary.BigEndian.Uint16(h[4:]))
		if _, err := io.ReadFull(c.r, content); err != nil {
			return a, err
		}
		if h[6] >= 128 {
			c.t.Errorf("%d bytes of padding", h[6])
		}
		if _, err := io.CopyN(io.Discard, c.r, int64(h[6])); err != nil {
			return a, err
		}
		a.kinds = append(a.kinds, h[1])
		if got := binary.BigEndian.Uint16(h[2:]); got != id {
			if h[1] == fcgiResult || h[1] == fcgiUnknown || h[1] == fcgiEnd {
				a.stdout += string(content)
				a.status = content[4]
				return a, nil
			}
			c.t.Errorf("a record of request %d", got)
		}
		switch h[1] {
		case fcgiStdout:
			a.stdout += string(content)
			if len(content) == 0 {
				a.empty++
			}
		case fcgiEnd:
			a.appStatus, a.status = binary.BigEndian.Uint32(content), content[4]
			return a, nil
		default:
			c.t.Errorf("a record of type %d", h[1])
		}
	}
}

func (c *client) mustEnd(id uint16) fcgiAnswer {
	c.t.Helper()
	a, err := c.readEnd(id)
	if err != nil {
		c.t.Fatal(err)
	}
	return a
}

const helloAnswer = "Status: 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"

// A request may be split in any way.
func TestFastCGISplit(t *testing.T) {
	bodies := make(chan string, 1)
	f := start(t, fcgiConfig(), "unix", func(ctx context.Context, r *cgi.Request, w cgi.Writer) {
		b, _ := io.ReadAll(r.Body)
		bodies <- string(b)
		hello(ctx, r, w)
	})
	nv := pairs(true, "REQUEST_METHOD", "POST", "CONTENT_LENGTH", "9", "HTTP_X", strings.Repeat("x", 200))
	var whole []byte
	whole = append(whole, beginRec(1, fcgiResponder, fcgiKeepConn)...)
	for _, p := range [][]byte{nv[:1], nv[1:7], nv[7:]} { // in the middle of a length, of a name
		whole = append(whole, rec(fcgiParams, 1, p, 7)...)
	}
	whole = append(whole, rec(fcgiParams, 1, nil, 255)...)
	for _, p := range []string{"nine", " b", "yte"} {
		whole = append(whole, rec(fcgiStdin, 1, []byte(p), 3)...)
	}
	whole = append(whole, rec(fcgiStdin, 1, nil, 8)...)
	c := f.dial()
	for _, size := range []int{1, 3, 8, 100, len(whole)} {
		for b := whole; len(b) > 0; b = b[min(size, len(b)):] {
			if _, err := c.Write(b[:min(size, len(b))]); err != nil {
				t.Fatal(err)
			}
		}
		a := c.mustEnd(1)
		if a.stdout != helloAnswer || a.empty != 1 || a.status != fcgiComplete || <-bodies != "nine byte" {
			t.Fatalf("size %d: %+v", size, a)
		}
		if v := variables(<-f.done); len(v["HTTP_X"]) != 200 || v["REQUEST_METHOD"] != "POST" {
			t.Errorf("%v", v)
		}
	}
}

func TestFastCGIKeep(t *testing.T) {
	f := start(t, fcgiConfig(), "unix", hello)
	c := f.dial()
	for id := range uint16(3) {
		c.send(string(ask(id+1, true, "", "REQUEST_METHOD", "GET")))
		c.mustEnd(id + 1)
	}
	c.send(string(ask(9, false, "", "REQUEST_METHOD", "GET")))
	c.mustEnd(9)
	if rest := c.ended(); rest != "" {
		t.Errorf("%q", rest)
	}
}

func TestFastCGIManagement(t *testing.T) {
	f := start(t, fcgiConfig(), "unix", hello)
	c := f.dial()
	c.send(string(rec(fcgiGetValues, 0, pairs(false, "FCGI_MPXS_CONNS", "", "FCGI_MAX_CONNS", "", "OTHER", ""))))
	a := c.mustEnd(1)
	want := "\x0f\x01FCGI_MPXS_CONNS0\x0e\x02FCGI_MAX_CONNS16"
	if a.kinds[0] != fcgiResult || a.stdout != want {
		t.Errorf("%q", a.stdout)
	}
	c.send(string(rec(77, 0, nil)))
	if a := c.mustEnd(1); a.kinds[0] != fcgiUnknown || a.stdout[0] != 77 {
		t.Errorf("%+v", a)
	}
	c.send(string(beginRec(1, 2, fcgiKeepConn))) // an authorizer
	if a := c.mustEnd(1); a.status != fcgiUnknownRole {
		t.Errorf("%+v", a)
	}
	// The connection still works. Records of unknown requests are skipped.
	c.send(string(rec(fcgiStdin, 7, []byte("lost"))))
	c.send(string(ask(1, false, "", "REQUEST_METHOD", "GET")))
	if a := c.mustEnd(1); a.stdout != helloAnswer {
		t.Errorf("%+v", a)
	}
}

// During a request a second one is refused, and management records are
// answered.
func TestFastCGIMeanwhile(t *testing.T) {
	in, goOn := make(chan bool), make(chan bool)
	f := start(t, fcgiConfig(), "unix", func(ctx context.Context, r *cgi.Request, w cgi.Writer) {
		io.Copy(io.Discard, r.Body)
		in <- true
		<-goOn
		hello(ctx, r, w)
	})
	c := f.dial()
	c.send(string(ask(1, true, "", "REQUEST_METHOD", "GET")))
	<-in
	c.send(string(beginRec(2, fcgiResponder, fcgiKeepConn)))
	if a := c.mustEnd(2); a.status != fcgiCantMpx {
		t.Errorf("%+v", a)
	}
	c.send(string(rec(fcgiGetValues, 0, pairs(false, "FCGI_MPXS_CONNS", ""))))
	if a := c.mustEnd(1); a.kinds[0] != fcgiResult {
		t.Errorf("%+v", a)
	}
	goOn <- true
	if a := c.mustEnd(1); a.stdout != helloAnswer {
		t.Errorf("%+v", a)
	}
}

// An abort or a closed connection ends the request; a half-closed connection
// does not.
func TestFastCGIGone(t *testing.T) {
	for _, how := range []string{"abort", "close", "half-close"} {
		t.Run(how, func(t *testing.T) {
			in, goOn, ended := make(chan bool), make(chan bool), make(chan error, 1)
			f := start(t, fcgiConfig(), "unix", func(ctx context.Context, r *cgi.Request, w cgi.Writer) {
				io.Copy(io.Discard, r.Body)
				in <- true
				select {
				case <-ctx.Done():
					ended <- context.Cause(ctx)
				case <-goOn:
					ended <- nil
				}
				hello(ctx, r, w)
			})
			c := f.dial()
			c.send(string(ask(1, true, "", "REQUEST_METHOD", "GET")))
			<-in
			switch how {
			case "abort":
				c.send(string(rec(fcgiAbort, 1, nil)))
			case "close":
				c.Close()
			case "half-close":
				c.halfClose()
				goOn <- true
				if err := <-ended; err != nil {
					t.Error(err)
				}
				if a := c.mustEnd(1); a.stdout != helloAnswer {
					t.Errorf("%+v", a)
				}
				c.ended()
				return
			}
			if err := <-ended; !errors.Is(err, cgi.ErrClientGone) {
				t.Errorf("%v", err)
			}
			if how == "abort" {
				c.mustEnd(1)
				c.send(string(ask(1, false, "", "REQUEST_METHOD", "GET")))
				<-in
				goOn <- true
				c.mustEnd(1)
			}
		})
	}
}

// An abort is noticed even if the handler does not read the body.
func TestFastCGIAbortUnread(t *testing.T) {
	in, ended := make(chan bool), make(chan error)
	f := start(t, fcgiConfig(), "unix", func(ctx context.Context, r *cgi.Request, w cgi.Writer) {
		in <- true
		<-ctx.Done()
		ended <- context.Cause(ctx)
		w.Cut()
	})
	c := f.dial().send(string(ask(1, true, "", "REQUEST_METHOD", "GET")))
	<-in
	c.send(string(rec(fcgiAbort, 1, nil)))
	if err := <-ended; !errors.Is(err, cgi.ErrClientGone) {
		t.Error(err)
	}
}

// An abort ends a write that waits for the client, and so does a client over TCP
// that has shut down its sending half.
func TestFastCGIAbortDuringWrite(t *testing.T) {
	for _, network := range []string{"unix", "tcp4"} {
		t.Run(network, func(t *testing.T) {
			failed := make(chan error)
			f := start(t, fcgiConfig(), network, writeForever(failed))
			c := f.dial().send(string(ask(1, true, "", "REQUEST_METHOD", "GET")))
			if _, err := c.r.Peek(1); err != nil { // it is being answered
				t.Fatal(err)
			}
			if network == "unix" {
				c.send(string(rec(fcgiAbort, 1, nil)))
			} else {
				c.halfClose()
			}
			select {
			case err := <-failed:
				if err != cgi.ErrClientGone {
					t.Error(err)
				}
			case <-time.After(patience / 2): // less than Times.IO
				t.Fatal("the write still waits")
			}
			c.ended()
		})
	}
}

// An abort before the parameters are complete starts nothing.
func TestFastCGIAbortEarly(t *testing.T) {
	f := start(t, fcgiConfig(), "unix", hello)
	c := f.dial()
	c.send(string(beginRec(1, fcgiResponder, fcgiKeepConn)) + string(rec(fcgiParams, 1, pairs(false, "A", "b"))) + string(rec(fcgiAbort, 1, nil)))
	if a := c.mustEnd(1); a.stdout != "" || a.status != fcgiComplete {
		t.Errorf("%+v", a)
	}
	if len(f.done) != 0 {
		t.Error("a request was served")
	}
}

func TestFastCGIBody(t *testing.T) {
	for _, tt := range []struct {
		name, length, body string
		want               string // of the body, or a status
	}{
		{"as long as it says", "4", "four", "four"},
		{"longer", "4", "four and more", "four"},
		{"no length", "", "any", "any"},
		{"nothing", "", "", ""},
		{"shorter", "5", "four", "ErrBodyCut"},
		{"no number", "x", "four", "400"},
		{"negative", "-1", "four", "400"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := make(chan string, 1)
			f := start(t, fcgiConfig(), "unix", func(ctx context.Context, r *cgi.Request, w cgi.Writer) {
				want := max(r.Length, 0)
				b, err := io.ReadAll(r.Body)
				if err == nil && int64(len(b)) < want {
					got <- "ErrBodyCut"
				} else {
					got <- string(b)
				}
				hello(ctx, r, w)
			})
			c := f.dial()
			c.send(string(ask(1, true, tt.body, "REQUEST_METHOD", "POST", "CONTENT_LENGTH", tt.length)))
			a := c.mustEnd(1)
			if tt.want == "400" {
				if !strings.HasPrefix(a.stdout, "Status: 400 Bad Request\r\n") {
					t.Errorf("%+v", a)
				}
			} else if b := <-got; b != tt.want {
				t.Errorf("%q", b)
			}
			// The rest of the body is not taken for the next request.
			c.send(string(ask(1, false, "", "REQUEST_METHOD", "GET")))
			c.mustEnd(1)
		})
	}
}

func TestFastCGIParameters(t *testing.T) {
	cfg := fcgiConfig()
	cfg.Param, cfg.Env, cfg.Form = []string{"MY_PARAM"}, []string{"PATH=/bin", "SERVER_ADMIN=me"}, true
	f := start(t, cfg, "unix", hello)
	c := f.dial()
	c.send(string(ask(1, true, "", "REQUEST_METHOD", "GET", "SCRIPT_NAME", "/a", "REMOTE_USER", "joe", "HTTPS", "on",
		"HTTP_PROXY", "no", "PATH", "no", "LD_PRELOAD", "no", "SERVER_ADMIN", "no", "MY_PARAM", "yes", "OTHER", "no", "other", "no",
		"A=B", "no", "", "no", "HTTP_a", "no", "FORM_a", "no", "CONTENT_LENGTH", "", "REMOTE_ADDR", "192.0.2.1", "SSL_CLIENT_S_DN", "dn", "HTTP_X_REQUEST_ID", "client", "QUERY_STRING", "1", "QUERY_STRING", "2")))
	c.mustEnd(1)
	r := <-f.done
	have := variables(r)
	want := map[string]string{"REQUEST_METHOD": "GET", "SCRIPT_NAME": "/a", "REMOTE_USER": "joe", "HTTPS": "on", "MY_PARAM": "yes", "HTTP_X_REQUEST_ID": "client",
		"REMOTE_ADDR": "192.0.2.1", "SSL_CLIENT_S_DN": "dn", "QUERY_STRING": "2", "GATEWAY_INTERFACE": "CGI/1.1", "UNIQUE_ID": r.ID}
	for name, value := range have {
		if want[name] != value {
			t.Errorf("%s=%q, want %q", name, value, want[name])
		}
		delete(want, name)
	}
	if r.ID == "client" {
		t.Error("the client has chosen the request ID")
	}
	if len(want) > 0 || r.Client != "192.0.2.1" || r.Target != "/a" {
		t.Errorf("missing %v; %+v", want, r)
	}
	if log := f.log.String(); strings.Count(log, "name=OTHER") != 1 {
		t.Errorf("%s", log)
	}
	c.send(string(ask(1, true, "", "REQUEST_METHOD", "GET", "QUERY_STRING", "a\x00b", "OTHER", "again")))
	if a := c.mustEnd(1); !strings.HasPrefix(a.stdout, "Status: 400 ") {
		t.Errorf("%+v", a)
	}
	if log := f.log.String(); strings.Count(log, "name=OTHER") != 1 {
		t.Errorf("told twice: %s", log)
	}
}

// TestFastCGIScript checks the different ways of web servers to name the same
// script.
func TestFastCGIScript(t *testing.T) {
	table := scripts.Names{"a b.cgi", "s/x.cgi", "x.cgi"}
	for _, tt := range []struct {
		file, script, query string
		name, left, info    string // what is found, SCRIPT_NAME, PATH_INFO
		prefix              string // -script-name
	}{
		{"/dir/x.cgi", "/cgi/x.cgi", "", "x.cgi", "/cgi/x.cgi", "", ""},
		{"/dir/s/x.cgi/i", "/cgi/s/x.cgi/i", "", "s/x.cgi", "/cgi/s/x.cgi", "/i", ""},
		{"/dir/x.cgi/%41", "/cgi/x.cgi/%41", "", "x.cgi", "/cgi/x.cgi", "/%41", ""},
		{"/dir/x.cgi?q", "/cgi/x.cgi", "q", "", "", "", ""},
		{"/dir//x.cgi", "/cgi/x.cgi", "", "x.cgi", "/cgi/x.cgi", "", ""},
		{"//dir/./s//x.cgi", "/cgi/x.cgi", "", "s/x.cgi", "/cgi/x.cgi", "", ""},
		{"/dir/x.cgi//i", "/cgi/x.cgi//i", "", "x.cgi", "/cgi/x.cgi", "//i", ""},
		{"", "//x.cgi", "", "x.cgi", "//x.cgi", "", ""},
		{"/dir/../x.cgi", "/y", "", "", "", "", ""},
		{"/dirs/x.cgi", "/x.cgi", "", "x.cgi", "/x.cgi", "", ""},
		{"/dirs/x.cgi", "/cgi/x.cgi", "", "", "", "", ""},
		{"", "/x.cgi/i", "", "x.cgi", "/x.cgi", "/i", ""},
		{"/dir/none.cgi", "/x.cgi", "", "", "", "", ""},
		{"proxy:fcgi://localhost//dir/a b.cgi", "/cgi/a b.cgi", "", "a b.cgi", "/cgi/a b.cgi", "", ""},
		{"proxy:fcgi://[::1]:9000/dir/x.cgi", "/cgi/x.cgi", "", "x.cgi", "/cgi/x.cgi", "", ""},
		{"proxy:fcgi://localhost/dir/x.cgi/a%20b%3Fc", "/cgi/x.cgi/a b?c", "d", "x.cgi", "/cgi/x.cgi", "/a b?c", ""},
		{"proxy:fcgi://localhost/dir/a%20b.cgi/i", "/cgi/a b.cgi/i", "", "a b.cgi", "/cgi/a b.cgi", "/i", ""},
		{"proxy:fcgi://localhost/dir/x.cgi?q=1", "/cgi/x.cgi", "q=1", "x.cgi", "/cgi/x.cgi", "", ""},
		{"proxy:fcgi://localhost/dir/x%2Ecgi/%zz", "/cgi/x.cgi/%zz", "", "", "", "", ""},
		{"proxy:fcgi://localhost", "/cgi/x.cgi", "", "", "", "", ""},
		{"proxy:fcgi://localhost/elsewhere/x.cgi", "/x.cgi", "", "x.cgi", "/x.cgi", "", ""},
		{"", "/cgi/x.cgi/i", "", "x.cgi", "/cgi/x.cgi", "/i", "/cgi"},
		{"", "/cgix.cgi", "", "", "", "", "/cgi"},
		{"/dir/x.cgi", "/other/x.cgi", "", "x.cgi", "/other/x.cgi", "", "/cgi"},
	} {
		f := &FastCGI{Service: Service{Config: &cli.Config{Scripts: "/dir", ScriptName: tt.prefix}, Scripts: table}}
		params := map[string]string{"SCRIPT_FILENAME": tt.file, "SCRIPT_NAME": tt.script, "QUERY_STRING": tt.query}
		req := new(cgi.Request)
		if ok := f.script(req, params); ok != (tt.name != "") || req.Script != tt.name {
			t.Errorf("%s: %v, %q", tt.file, ok, req.Script)
		} else if ok && (params["SCRIPT_NAME"] != tt.left || params["PATH_INFO"] != tt.info || params["SCRIPT_FILENAME"] != "/dir/"+tt.name) {
			t.Errorf("%s: %q", tt.file, params)
		}
	}
}

// A connection that sends something malformed is closed.
func TestFastCGIMalformed(t *testing.T) {
	for _, tt := range []struct {
		name string
		raw  []byte
	}{
		{"a record of another version", []byte("\x02\x01\x00\x01\x00\x08\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00")},
		{"HTTP", []byte(get("/"))},
		{"short begin", rec(fcgiBegin, 1, []byte{0, 1, 0})},
		{"pair past its end", append(beginRec(1, 1, 1), append(rec(fcgiParams, 1, []byte{5, 5, 'a'}), rec(fcgiParams, 1, nil)...)...)},
		{"half of a length", append(beginRec(1, 1, 1), append(rec(fcgiParams, 1, []byte{0x80, 0}), rec(fcgiParams, 1, nil)...)...)},
		{"huge lengths", append(beginRec(1, 1, 1), append(rec(fcgiParams, 1, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}), rec(fcgiParams, 1, nil)...)...)},
		{"a malformed question", rec(fcgiGetValues, 0, []byte{9})},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := start(t, fcgiConfig(), "unix", hello)
			c := f.dial()
			c.Write(tt.raw)
			if rest := c.ended(); rest != "" || len(f.done) != 0 {
				t.Errorf("%q", rest)
			}
			f.dial().send(get("/")).ended()
			log := f.log.String()
			if strings.Count(log, "level=WARN msg=\"not FastCGI\" listen="+f.l.Name+" error=") != 1 || strings.Contains(tt.name, "HTTP") != strings.Contains(log, "which could be HTTP") {
				t.Errorf("%s", log)
			}
		})
	}
}

// Parameters that are too large are refused, and the request is logged.
func TestFastCGIManyParameters(t *testing.T) {
	f := start(t, fcgiConfig(), "unix", hello)
	c := f.dial().send(string(beginRec(1, 1, 1)))
	for i := range 3 {
		c.send(string(rec(fcgiParams, 1, pairs(false, "REQUEST_METHOD", "PUT", "REQUEST_URI", "/x", "HTTP_X"+strconv.Itoa(i), strings.Repeat("x", 60000)))))
	}
	if a := c.mustEnd(1); !strings.HasPrefix(a.stdout, "Status: 431 ") {
		t.Errorf("%+v", a)
	}
	c.send(string(ask(1, true, "", "REQUEST_METHOD", "GET")))
	if rest := c.ended(); rest != "" {
		t.Errorf("%q", rest)
	}
	if r := <-f.done; r.Record.Status != 431 || r.Method != "PUT" || r.Target != "/x" {
		t.Errorf("%+v", r)
	}
}

// No request is served after the last answer of a connection.
func TestFastCGILast(t *testing.T) {
	for _, tt := range []struct {
		name string
		keep bool
		body bool // it is read
	}{{"not kept", false, true}, {"not kept, body unread", false, false}, {"retiring", true, true}, {"retiring, body unread", true, false}} {
		t.Run(tt.name, func(t *testing.T) {
			in, goOn := make(chan string, 9), make(chan bool)
			f := start(t, fcgiConfig(), "unix", func(ctx context.Context, r *cgi.Request, w cgi.Writer) {
				if tt.body {
					io.Copy(io.Discard, r.Body)
				}
				in <- r.Method
				<-goOn
				hello(ctx, r, w)
			})
			c := f.dial()
			c.send(string(ask(1, tt.keep, "", "REQUEST_METHOD", "GET")))
			<-in
			if tt.keep {
				f.gate.Retire()
			}
			close(goOn)
			c.mustEnd(1)
			if rest := c.send(string(ask(2, tt.keep, "", "REQUEST_METHOD", "AGAIN"))).ended(); rest != "" {
				t.Errorf("%q", rest)
			}
			c.Close()
			f.gate.Retire()
			f.gate.WaitIdle()
			if len(in) > 0 {
				t.Error("a request was served")
			}
		})
	}
}

// After CONTENT_LENGTH bytes the rest of standard input is skipped, and an
// abort is noticed.
func TestFastCGIHeard(t *testing.T) {
	for _, how := range []string{"abort", "close"} {
		t.Run(how, func(t *testing.T) {
			in, ended := make(chan string), make(chan error, 1)
			f := start(t, fcgiConfig(), "unix", func(ctx context.Context, r *cgi.Request, w cgi.Writer) {
				b := make([]byte, r.Length)
				io.ReadFull(r.Body, b)
				in <- string(b)
				<-ctx.Done()
				ended <- context.Cause(ctx)
				w.Cut()
			})
			c := f.dial()
			b := ask(1, true, "abc", "REQUEST_METHOD", "POST", "CONTENT_LENGTH", "3")
			c.send(string(b[:len(b)-fcgiHeader]) + string(rec(fcgiStdin, 1, []byte("de"))))
			if body := <-in; body != "abc" {
				t.Errorf("%q", body)
			}
			c.send(string(rec(fcgiStdin, 1, []byte("fg"))) + string(rec(fcgiGetValues, 0, pairs(false, "FCGI_MPXS_CONNS", ""))))
			if a := c.mustEnd(1); a.kinds[0] != fcgiResult {
				t.Errorf("%+v", a)
			}
			if how == "abort" {
				c.send(string(rec(fcgiAbort, 1, nil)))
			} else {
				c.Close()
			}
			if err := <-ended; err != cgi.ErrClientGone {
				t.Error(err)
			}
		})
	}
}

// While a body is read, an abort ends the request, and management records are
// answered.
func TestFastCGIWithinBody(t *testing.T) {
	ended := make(chan error, 1)
	f := start(t, fcgiConfig(), "unix", func(ctx context.Context, r *cgi.Request, w cgi.Writer) {
		b, err := io.ReadAll(r.Body)
		if string(b) != "half" || context.Cause(ctx) != cgi.ErrClientGone {
			t.Errorf("%q, %v", b, context.Cause(ctx))
		}
		ended <- err
		w.Cut()
	})
	c := f.dial()
	b := ask(1, true, "half", "REQUEST_METHOD", "POST", "CONTENT_LENGTH", "10")
	c.send(string(b[:len(b)-fcgiHeader]) + string(rec(fcgiGetValues, 0, pairs(false, "FCGI_MPXS_CONNS", ""))) + string(beginRec(2, fcgiResponder, 0)))
	if a := c.mustEnd(1); a.kinds[0] != fcgiResult {
		t.Errorf("%+v", a)
	}
	if a := c.mustEnd(2); a.status != fcgiCantMpx {
		t.Errorf("%+v", a)
	}
	c.send(string(rec(fcgiAbort, 1, nil)))
	if err := <-ended; err != cgi.ErrClientGone {
		t.Error(err)
	}
	c.ended()
}

func TestFastCGITimes(t *testing.T) {
	const soon = 20 * time.Millisecond
	t.Run("nothing sent", func(t *testing.T) {
		cfg := fcgiConfig()
		cfg.Times.Header = soon
		start(t, cfg, "unix", hello).dial().ended()
	})
	t.Run("parameters", func(t *testing.T) {
		cfg := fcgiConfig()
		cfg.Times.Header = soon
		c := start(t, cfg, "unix", hello).dial()
		c.send(string(beginRec(1, 1, 1)))
		c.ended()
	})
	t.Run("idle", func(t *testing.T) {
		cfg := fcgiConfig()
		cfg.Times.Idle = soon
		c := start(t, cfg, "unix", hello).dial()
		c.send(string(ask(1, true, "", "REQUEST_METHOD", "GET")))
		c.mustEnd(1)
		c.ended()
	})
	t.Run("body", func(t *testing.T) {
		cfg := fcgiConfig()
		cfg.Times.IO = time.Second // it bounds the write of the answer too
		failed := make(chan error, 1)
		f := start(t, cfg, "unix", readBody(failed))
		c := f.dial()
		b := ask(1, true, "half", "REQUEST_METHOD", "POST", "CONTENT_LENGTH", "10")
		c.send(string(b[:len(b)-fcgiHeader]))
		a := c.mustEnd(1)
		if err := <-failed; !errors.Is(err, cgi.ErrBodyStalled) || !strings.HasPrefix(a.stdout, "Status: 408 ") {
			t.Errorf("%v, %+v", err, a)
		}
		c.ended()
		c.send("more") // the server reads on, so that the client is sure to get the answer
	})
	t.Run("slow client", func(t *testing.T) {
		cfg := fcgiConfig()
		cfg.Times.IO = soon
		failed := make(chan error, 1)
		f := start(t, cfg, "unix", writeForever(failed))
		f.dial().send(string(ask(1, true, "", "REQUEST_METHOD", "GET")))
		if err := <-failed; !errors.Is(err, cgi.ErrClientSlow) {
			t.Error(err)
		}
	})
}

// To cut an answer the connection is closed without an end record.
func TestFastCGICut(t *testing.T) {
	f := start(t, fcgiConfig(), "unix", func(_ context.Context, r *cgi.Request, w cgi.Writer) {
		w.Begin(200, nil, -1)
		io.WriteString(w, "half")
		w.Flush()
		w.Cut()
	})
	c := f.dial()
	c.send(string(ask(1, true, "", "REQUEST_METHOD", "GET")))
	a, err := c.readEnd(1)
	if a.stdout != "Status: 200 OK\r\n\r\nhalf" || err != io.EOF || a.empty != 0 {
		t.Errorf("%+v, %v", a, err)
	}
}

// Output of any size is split into records. One empty record ends it.
func TestFastCGILarge(t *testing.T) {
	const head = "Status: 200 OK\r\n\r\n"
	for _, size := range []int{0, 1, fcgiMaxContent - len(head) - 1, fcgiMaxContent - len(head), fcgiMaxContent - len(head) + 1, 3_000_000} {
		f := start(t, fcgiConfig(), "unix", func(_ context.Context, r *cgi.Request, w cgi.Writer) {
			w.Begin(200, nil, -1)
			for n := size; n > 0; n -= 100_000 {
				w.Write(bytes.Repeat([]byte("x"), min(n, 100_000)))
			}
			r.Record.ExitStatus = 3
		})
		c := f.dial()
		c.send(string(ask(1, true, "", "REQUEST_METHOD", "GET")))
		a := c.mustEnd(1)
		if a.stdout != head+strings.Repeat("x", size) || a.appStatus != 3 || a.empty != 1 {
			t.Errorf("%d bytes of %d, status %d, %d empty records", len(a.stdout), len(head)+size, a.appStatus, a.empty)
		}
	}
}

func TestFastCGIStop(t *testing.T) {
	in, goOn := make(chan bool), make(chan bool)
	f := start(t, fcgiConfig(), "unix", func(ctx context.Context, r *cgi.Request, w cgi.Writer) {
		io.Copy(io.Discard, r.Body)
		if r.Method == "SLOW" {
			in <- true
			<-goOn
		}
		hello(ctx, r, w)
	})
	idle, busy := f.dial(), f.dial()
	idle.send(string(ask(1, true, "", "REQUEST_METHOD", "GET")))
	idle.mustEnd(1)
	busy.send(string(ask(1, true, "", "REQUEST_METHOD", "SLOW")))
	<-in
	f.gate.Stop()
	f.gate.WaitListeners()
	idle.ended()
	goOn <- true
	if a := busy.mustEnd(1); a.stdout != helloAnswer {
		t.Errorf("%+v", a)
	}
	busy.ended()
	f.gate.WaitIdle()
}

// The server survives any input, and serves each request at most once.
func FuzzFastCGI(f *testing.F) {
	f.Add(ask(1, true, "body", "REQUEST_METHOD", "POST", "CONTENT_LENGTH", "4"))
	f.Add(append(ask(1, true, "", "A", "b"), ask(2, false, "")...))
	f.Add(append(beginRec(1, 1, 0), rec(fcgiAbort, 1, nil)...))
	f.Add(rec(fcgiGetValues, 0, pairs(false, "FCGI_MPXS_CONNS", "")))
	f.Add(rec(fcgiParams, 0, []byte{0x80}, 255))
	cfg := fcgiConfig()
	cfg.Times.IO = 50 * time.Millisecond
	log := new(lines)
	_ = log
	f.Fuzz(func(t *testing.T, b []byte) {
		s := start(t, cfg, "unix", func(ctx context.Context, r *cgi.Request, w cgi.Writer) {
			io.Copy(io.Discard, r.Body)
			hello(ctx, r, w)
		})
		c, err := net.Dial("unix", s.addr.String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		go func() {
			c.Write(b)
			c.(*net.UnixConn).CloseWrite()
		}()
		if _, err := io.Copy(io.Discard, c); err != nil && !errors.Is(err, net.ErrClosed) && !strings.Contains(err.Error(), "reset") {
			t.Fatal(err)
		}
		s.gate.Stop()
		s.gate.WaitIdle()
	})
}
