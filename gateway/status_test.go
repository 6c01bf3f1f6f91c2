package gateway

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/http1"
	"github.com/onewake/onewake/spawn"
)

// cut is the status of a table's row whose answer is cut: truncated, or none.
const cut = -1

// TestRaw: each row is one of the design's table of statuses for raw output.
func TestRaw(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	block := fmt.Sprint(http1.BlockSize)
	head := func(n string) string { return "head -c " + n + " /dev/zero | tr '\\0' x" }
	for _, tt := range []struct {
		name, script string
		status       int
		length       int // of the body
		known        bool
		log          string
	}{
		{"exit 0", "printf hello", 200, 5, true, ""},
		{"no output", ":", 200, 0, true, ""},
		{"exit 3", "printf secret; echo why >&2; exit 3", 500, -1, true, "exit 3"},
		{"a signal", "printf secret; kill -9 $$", 500, -1, true, "signal 9"},
		{"just under a block", head("65535"), 200, 65535, true, ""},
		{"just a block", head(block), 200, http1.BlockSize, true, ""},
		{"a block and a byte", head("65537"), 200, 65537, false, ""},
		{"long", head("1000000"), 200, 1000000, false, ""},
		{"long, then exit 4", head("1000000") + "; exit 4", cut, 0, false, "exit 4"},
		{"long, then a signal", head("1000000") + "; kill -TERM $$", cut, 0, false, "signal 15"},
		{"output looks like a header", `printf 'Status: 404\r\n\r\n'`, 200, 15, true, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			resp, body, err := r.get(tt.script)
			if tt.status == cut {
				if resp != nil && err != io.ErrUnexpectedEOF {
					t.Fatalf("%v, %v; want a cut answer", resp.Status, err)
				}
			} else if err != nil || resp.StatusCode != tt.status || tt.length >= 0 && len(body) != tt.length {
				t.Fatalf("%v, %d bytes, %v", resp, len(body), err)
			} else if known := resp.ContentLength >= 0; known != tt.known && len(body) != http1.BlockSize {
				// Of just a block the end may come too late to be told.
				t.Errorf("length %d", resp.ContentLength)
			}
			if tt.status == 200 && resp.Header.Get("Content-Type") != "text/x-test" {
				t.Errorf("%v", resp.Header)
			}
			if strings.Contains(body, "secret") || strings.Contains(body, "why") {
				t.Errorf("the client is told %q", body)
			}
			if tt.log != "" {
				r.logged(tt.log)
			}
		})
	}
	t.Run("a block and then exit 1", func(t *testing.T) {
		hold := r.hold()
		resp := r.begin(r.dial(), "GET", head(block)+"; read x <"+hold+"; exit 1")
		r.release(hold)
		if _, err := io.ReadAll(resp.Body); err != io.ErrUnexpectedEOF || resp.StatusCode != 200 {
			t.Errorf("%v, %v; want a cut answer", resp.Status, err)
		}
		r.logged("exit 1")
	})
	for i, want := range []int{200, 500} {
		t.Run(fmt.Sprintf("stdout closed before exit %d", i), func(t *testing.T) {
			c, hold := r.dial(), r.hold()
			c.send(request("GET", r.script(fmt.Sprintf("printf hi; exec >&-; read x <%s; exit %d", hold, i))))
			r.release(hold)
			if resp, body, err := c.answer("GET"); err != nil || resp.StatusCode != want || want == 200 && body != "hi" {
				t.Errorf("%v, %q, %v", resp, body, err)
			}
		})
	}
	r.logged("text=\"why\\n\"")
	r.idle()
}

// TestCGI: each row is one of the design's table of statuses for CGI.
func TestCGI(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(g *Gateway) { g.CGI = true })
	for _, tt := range []struct {
		name, script string
		status       int
		body         string
		header       string // "Name: value", empty value: must be absent
		log          string
	}{
		{"LF", `printf 'Content-Type: a/b\n\nhello'`, 200, "hello", "Content-Type: a/b", ""},
		{"CRLF", `printf 'Content-Type: a/b\r\n\r\nhello'`, 200, "hello", "Content-Type: a/b", ""},
		{"mixed", `printf 'Content-Type: a/b\r\nX: y\n\r\nhello'`, 200, "hello", "X: y", ""},
		{"no Content-Type is none", `printf 'Status: 200\n\nhello'`, 200, "hello", "Content-Type:", ""},
		{"no body", `printf 'Status: 200 OK\n\n'`, 200, "", "", ""},
		{"status with reason", `printf 'Status: 404 Nowhere\n\ngone'`, 404, "gone", "", ""},
		{"status without reason", `printf 'status:404\n\ngone'`, 404, "gone", "", ""},
		{"status 599", `printf 'Status: 599\n\n'`, 599, "", "", ""},
		{"status 600", `printf 'Status: 600\n\n'`, 502, "", "", "malformed"},
		{"status 199", `printf 'Status: 199\n\n'`, 502, "", "", ""},
		{"status 100", `printf 'Status: 100\n\n'`, 502, "", "", ""},
		{"status 20", `printf 'Status: 20\n\n'`, 502, "", "", ""},
		{"status 2000", `printf 'Status: 2000\n\n'`, 502, "", "", ""},
		{"status word", `printf 'Status: OK\n\n'`, 502, "", "", ""},
		{"status twice", `printf 'Status: 200\nStatus: 404\n\n'`, 502, "", "", ""},
		{"204", `printf 'Status: 204\n\n'`, 204, "", "Content-Length:", ""},
		{"204 with body", `printf 'Status: 204\n\nbody'`, 204, "", "Content-Length:", ""},
		{"304 with body", `printf 'Status: 304\nETag: "x"\n\nbody'`, 304, "", `ETag: "x"`, ""},
		{"no output", ":", 502, "", "", "no header"},
		{"no output, exit 5", "exit 5", 502, "", "", "exit 5"},
		{"header without end", `printf 'Content-Type: a/b\n'`, 502, "", "", "malformed"},
		{"body without header", `printf 'hello world'`, 502, "", "", "malformed"},
		{"empty header", `printf '\nhello'`, 502, "", "", "no header"},
		{"no colon", `printf 'hello\n\n'`, 502, "", "", "malformed"},
		{"space before colon", `printf 'X : y\n\n'`, 502, "", "", ""},
		{"folded", `printf 'X: y\n z\n\n'`, 502, "", "", ""},
		{"NUL in value", `printf 'X: y\000z\n\n'`, 502, "", "", ""},
		{"CR in value", `printf 'X: y\rz\n\n'`, 502, "", "", ""},
		{"NPH", `printf 'HTTP/1.1 200 OK\r\n\r\n'`, 502, "", "", ""},
		{"header of just 64 KiB", `printf 'X: '; head -c 65531 /dev/zero | tr '\0' x; printf '\n\n'`, 200, "", "", ""},
		{"header too long", `printf 'X: '; head -c 65532 /dev/zero | tr '\0' x; printf '\n\n'`, 502, "", "", "longer than 64 KiB"},
		{"endless header", `while :; do echo 'X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy'; done`, 502, "", "", "longer than 64 KiB"},
		{"length", `printf 'Content-Length: 5\n\nhello'`, 200, "hello", "Content-Length: 5", ""},
		{"length too small", `printf 'Content-Length: 3\n\nhello'`, 502, "", "", "contradicts"},
		{"length too small, and slow", `printf 'Content-Length: 3\n\nhello'; exec sleep 60`, 502, "", "", "contradicts"},
		{"length twice", `printf 'Content-Length: 5\nContent-Length: 5\n\nhello'`, 502, "", "", ""},
		{"length with plus", `printf 'Content-Length: +5\n\nhello'`, 502, "", "", ""},
		{"length list", `printf 'Content-Length: 5, 5\n\nhello'`, 502, "", "", ""},
		{"length empty", `printf 'Content-Length:\n\nhello'`, 502, "", "", ""},
		{"hop-by-hop", `printf 'Connection: close\nTransfer-Encoding: chunked\nTrailer: x\nKeep-Alive: 5\nUpgrade: h2c\nX: y\n\n0\r\n\r\n'`, 200, "0\r\n\r\n", "Trailer:", ""},
		{"cookies", `printf 'Set-Cookie: a=1\nSet-Cookie: b=2\n\n'`, 200, "", "Set-Cookie: a=1", ""},
		{"absolute Location", `printf 'Location: http://x/y\n\n'`, 302, "", "Location: http://x/y", ""},
		{"Location and status", `printf 'Status: 301\nLocation: /y\n\n'`, 301, "", "Location: /y", ""},
		{"relative Location", `printf 'Location: y\n\n'`, 302, "", "Location: y", ""},
		{"empty Location", `printf 'Location:\n\n'`, 502, "", "", ""},
		{"two Locations", `printf 'Location: http://a/\nLocation: http://b/\n\n'`, 502, "", "", ""},
		{"exit 3 after a header", `printf 'X: y\n\nhello'; exit 3`, 200, "hello", "", "exit 3"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			resp, body, err := r.get(tt.script)
			if err != nil || resp.StatusCode != tt.status || tt.status != 502 && body != tt.body {
				t.Fatalf("%v, %.100q, %v", resp, body, err)
			}
			if name, value, ok := strings.Cut(tt.header, ":"); ok && resp.Header.Get(name) != strings.TrimSpace(value) {
				t.Errorf("%s: %q", name, resp.Header.Get(name))
			}
			if resp != nil && resp.Header.Get("Connection") != "" {
				t.Errorf("Connection: %q", resp.Header.Get("Connection"))
			}
			if tt.log != "" {
				r.logged(tt.log)
			}
		})
	}
	t.Run("a signal at once", func(t *testing.T) {
		// Either it is seen before the answer has begun or it cuts it.
		resp, _, err := r.get(`printf 'X: y\n\nhello'; kill -9 $$`)
		if resp != nil && resp.StatusCode != 502 && err != io.ErrUnexpectedEOF {
			t.Errorf("%v, %v", resp, err)
		}
	})
	t.Run("HEAD", func(t *testing.T) {
		c := r.dial()
		for _, tt := range []struct{ script, length string }{
			{`printf 'X: y\n\nhello'`, ""}, {`printf 'Content-Length: 5\n\n'`, "5"}, {`printf 'Content-Length: 5\n\nhello'`, "5"},
			{`printf 'X: y\n\n'; head -c 1000000 /dev/zero`, ""},
		} {
			c.send(request("HEAD", r.script(tt.script)))
			resp, body, err := c.answer("HEAD")
			if err != nil || resp.StatusCode != 200 || body != "" || tt.length != "" && resp.Header.Get("Content-Length") != tt.length {
				t.Errorf("%v, %q, %v", resp, body, err)
			}
		}
	})
}

// TestStreamed: what a command does after a part of its answer has gone out.
func TestStreamed(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(g *Gateway) { g.CGI = true })
	for _, tt := range []struct {
		name, first, then string
		body              string
		whole             bool
		log               string
	}{
		{"without a length", `X: y\n\nhe`, "printf llo", "hello", true, ""},
		{"then a signal", `X: y\n\nhello`, "kill -9 $$", "hello", false, "signal 9"},
		{"then exit 3", `X: y\n\nhello`, "exit 3", "hello", true, "exit 3"},
		{"with a length", `Content-Length: 5\n\nhel`, "printf lo", "hello", true, ""},
		{"with a length, and too much", `Content-Length: 5\n\nhel`, "printf lowowowow", "hello", true, ""},
		{"with a length, and too little", `Content-Length: 9\n\nhello`, ":", "hello", false, "shorter"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, hold := r.dial(), r.hold()
			resp := r.begin(c, "GET", fmt.Sprintf("printf '%s'; read x <%s; %s", tt.first, hold, tt.then))
			r.release(hold)
			body, err := io.ReadAll(resp.Body)
			if string(body) != tt.body || (err == nil) != tt.whole || err != nil && err != io.ErrUnexpectedEOF {
				t.Errorf("%q, %v", body, err)
			}
			if tt.log != "" {
				r.logged(tt.log)
			}
		})
	}
}

// TestDrained: what a command writes after 204, 304 or to HEAD is read to its
// end, so that it is not hurt by a closed pipe, and the connection goes on.
func TestDrained(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(g *Gateway) { g.CGI = true })
	c := r.dial()
	for _, tt := range []struct{ method, head string }{{"GET", "Status: 204"}, {"GET", "Status: 304"}, {"HEAD", "X: y"}, {"GET", "Content-Length: 0"}} {
		done, hold := r.dir+"/done", r.hold()
		os.Remove(done)
		c.send(request(tt.method, r.script(fmt.Sprintf(`trap '' PIPE; printf '%s\n\n'; read x <%s; head -c 300000 /dev/zero && echo ok >%s`, tt.head, hold, done))))
		if resp, body, err := c.answer(tt.method); err != nil || body != "" || resp.Close {
			t.Errorf("%s: %v, %q, %v", tt.head, resp, body, err)
		}
		r.release(hold)
		r.idle()
		if b, err := os.ReadFile(done); err != nil || string(b) != "ok\n" {
			t.Errorf("%s: not drained: %q, %v", tt.head, b, err)
		}
	}
}

// TestLocalRedirect: RFC 3875 § 6.2.2, and 10 deep at most.
func TestLocalRedirect(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(g *Gateway) { g.CGI = true; g.MaxProcs = 1 })
	target := r.script(`printf 'X: y\n\n'; echo "$REQUEST_METHOD $QUERY_STRING $CONTENT_LENGTH $CONTENT_TYPE $REQUEST_URI"; cat`)
	c := r.dial()
	c.send(request("POST", r.script(fmt.Sprintf(`printf 'Location: %s?a=b\n\n'`, target)), "Content-Type: t/t", "Content-Length: 4") + "body")
	resp, body, err := c.answer("POST")
	if want := "GET a=b   " + target + "?a=b\n"; err != nil || resp.StatusCode != 200 || body != want {
		t.Errorf("%v, %q, %v; want %q", resp, body, err, want)
	}
	// Counts down in the query; each step is a process of its own.
	count := r.script(`printf x >>` + r.dir + `/steps
[ "$QUERY_STRING" = 0 ] && { printf 'X: y\n\nend'; exit; }
printf 'Location: %s?%d\n\n' "$PATH_INFO" $((QUERY_STRING - 1))`)
	for n, want := range map[int]int{1: 200, 10: 200, 11: 502, 50: 502} {
		os.Remove(r.dir + "/steps")
		c.send(request("GET", fmt.Sprintf("%s?%d", count, n)))
		resp, _, err := c.answer("GET")
		if err != nil || resp.StatusCode != want {
			t.Errorf("%d deep: %v, %v", n, resp, err)
		}
		if b, _ := os.ReadFile(r.dir + "/steps"); len(b) != min(n, 10)+1 {
			t.Errorf("%d deep: %d processes", n, len(b))
		}
	}
	for loc, want := range map[string]int{"/%zz": 400, "/a%00b": 400} {
		c.send(request("GET", r.script(fmt.Sprintf(`echo 'Location: %s'; echo`, loc))))
		if resp, _, err := c.answer("GET"); err != nil || resp.StatusCode != want {
			t.Errorf("%s: %v, %v", loc, resp, err)
		}
	}
	r.idle()
}

// TestRefused: requests that no process is started for.
func TestRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(g *Gateway) { g.ScriptName = "/app"; g.MaxBody = 1000 })
	long := strings.Repeat("a", 60000)
	for _, tt := range []struct {
		name, in string
		status   int
	}{
		{"outside script-name", request("GET", "/"), 404},
		{"no whole segment", request("GET", "/apple"), 404},
		{"other case", request("GET", "/App/x"), 404},
		{"NUL", request("GET", "/app/%00"), 400},
		{"half an escape", request("GET", "/app/%4"), 400},
		{"no escape", request("GET", "/app/%zz"), 400},
		{"asterisk", request("OPTIONS", "*"), 400},
		{"CONNECT", request("CONNECT", "h:1"), 400},
		{"HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400},
		{"request line", request("GET", "/app/"+strings.Repeat("a", 65536)), 414},
		{"header", request("GET", "/app", "A: "+long, "B: "+long, "C: "+long, "D: "+long, "E: "+long), 431},
		{"value of 128 KiB", request("GET", "/app", "A: "+long+long+strings.Repeat("a", 128<<10-120000)), 431},
		{"value that fits no variable", request("GET", "/app", "A: "+long+long+strings.Repeat("a", 128<<10-120000-1)), 431},
		{"values that fit none when joined", request("GET", "/app", "A: "+long, "a: "+long, "A: "+long), 431},
		{"known length", request("POST", "/app", "Content-Length: 1001"), 413},
		{"huge known length", request("POST", "/app", "Content-Length: 999999999999999999"), 413},
		{"chunked", request("POST", "/app", "Transfer-Encoding: chunked") + "3e9\r\n" + strings.Repeat("a", 1001), 413},
		{"malformed chunks", request("POST", "/app", "Transfer-Encoding: chunked") + "x\r\n", 400},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := r.dial()
			defer c.Close()
			c.send(tt.in)
			if resp, body, err := c.answer("GET"); err != nil || resp.StatusCode != tt.status {
				t.Errorf("%v, %q, %v", resp, body, err)
			}
		})
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rec := range r.recs {
		if rec.Started {
			t.Error("a process has been started")
		}
	}
}

// TestVariablesNeverBreach sweeps sizes around the limit of all variables
// together: whatever a client sends, the monitor must never see more than it
// takes, since it ends a core that asks for it.
func TestVariablesNeverBreach(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	path := "/" + strings.Repeat("a", 65000) // REQUEST_URI and PATH_INFO
	fields := func(fill int) []string {
		f := []string{"Content-Length: 1", "A: " + strings.Repeat("a", 100000), "B: " + strings.Repeat("b", 100000)}
		if fill > 0 {
			f = append(f, "C: "+strings.Repeat("c", fill))
		}
		for i := range 600 { // each costs more as a variable than as a field
			f = append(f, fmt.Sprintf("d%d:", i))
		}
		return f
	}
	ask := func(fill int) int {
		c := r.dial()
		defer c.Close()
		c.send(request("POST", path, fields(fill)...) + "x")
		resp, _, err := c.answer("POST")
		if err != nil {
			select {
			case err := <-r.broken:
				t.Fatalf("fill %d: the monitor gave the core up: %v", fill, err)
			default:
				t.Fatalf("fill %d: %v", fill, err)
			}
		}
		return resp.StatusCode
	}
	// Find the first size that is refused, then look closely around it.
	low, high := 0, 60000
	if ask(low) == 431 || ask(high) != 431 {
		t.Fatalf("the limit is not between: %d, %d", ask(low), ask(high))
	}
	for high-low > 1 {
		if mid := (low + high) / 2; ask(mid) == 431 {
			high = mid
		} else {
			low = mid
		}
	}
	for fill := low - 20; fill < high+3; fill++ {
		if status := ask(fill); (status == 431) != (fill >= high) {
			t.Errorf("fill %d: %d", fill, status)
		}
	}
}

func TestOverload(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(g *Gateway) { g.MaxProcs = 1; g.MaxQueue = 1 })
	hold := r.hold()
	wait := r.script("read x <" + hold + "; printf ok")
	first, second := r.dial(), r.dial()
	first.send(request("GET", wait))
	r.counts(1, 0)
	second.send(request("GET", wait))
	r.counts(1, 1)
	third := r.dial()
	third.send(request("POST", wait, "Content-Length: 1000", "Expect: 100-continue"))
	resp, _, err := third.answer("POST")
	if err != nil || resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "1" || !resp.Close {
		t.Errorf("%v, %v: before the body is asked for", resp, err)
	}
	fourth := r.dial()
	fourth.send(request("GET", wait))
	if resp, _, err := fourth.answer("GET"); err != nil || resp.StatusCode != 503 || resp.Close {
		t.Errorf("%v, %v", resp, err)
	}
	if _, _, refused := r.Counts(); refused != 2 {
		t.Errorf("%d refused", refused)
	}
	for _, c := range []*conn{first, second} {
		r.release(hold)
		if resp, body, err := c.answer("GET"); err != nil || body != "ok" {
			t.Errorf("%v, %v", resp, err)
		}
	}
	fourth.send(request("GET", wait)) // and it is well again
	r.release(hold)
	if resp, _, err := fourth.answer("GET"); err != nil || resp.StatusCode != 200 {
		t.Errorf("%v, %v", resp, err)
	}
	r.idle()
}

// TestQueue is first come, first served; those who leave lose their place and
// nobody else's.
func TestQueue(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(g *Gateway) { g.MaxProcs = 1; g.MaxQueue = 100 })
	hold, order := r.hold(), r.dir+"/order"
	first := r.dial()
	first.send(request("GET", r.script("read x <"+hold)))
	r.counts(1, 0)
	note := r.script(`echo "$QUERY_STRING" >>` + order)
	var conns []*conn
	for i := range 20 {
		c := r.dial()
		c.send(request("GET", fmt.Sprintf("%s?%d", note, i)))
		conns = append(conns, c)
		r.counts(1, i+1)
	}
	want := ""
	for i, c := range conns {
		if i%5 == 2 {
			c.Close()
		} else {
			want += fmt.Sprintln(i)
		}
	}
	r.counts(1, 16) // a client that has gone frees its place
	r.release(hold)
	for i, c := range conns {
		if i%5 != 2 {
			if _, _, err := c.answer("GET"); err != nil {
				t.Error(err)
			}
		}
	}
	if got, _ := os.ReadFile(order); string(got) != want {
		t.Errorf("served in the order %q", strings.Fields(string(got)))
	}
	r.idle()
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	for _, cgi := range []bool{false, true} {
		running := make(chan *run, 1)
		r := newRig(t, func(g *Gateway) { g.CGI = cgi; g.began = func(r *run) { running <- r } })
		pid := r.dir + "/pid"
		for i, tt := range []struct {
			name, script string
			status       int
		}{
			{"silent", `exec sleep 60`, 504},
			{"ignores TERM", `trap '' TERM; exec sleep 60`, 504},
			{"held output", `echo held; exec sleep 60`, 504},
			{"streamed output", `printf 'X: y\n\n'; head -c 200000 /dev/zero; exec sleep 60`, cut},
			{"stopped itself", `kill -STOP $$`, 504},
			{"writes for ever", `printf 'X: y\n\n'; exec cat /dev/zero`, cut},
		} {
			t.Run(fmt.Sprintf("%s cgi=%t", tt.name, cgi), func(t *testing.T) {
				os.Remove(pid)
				c := r.dial()
				c.send(request("GET", r.script("echo $$ >"+pid+"; "+tt.script)))
				alive(t, pid)
				if tt.status == cut {
					c.in.Peek(1) // the answer has begun
				}
				(<-running).expire()
				resp, _, err := c.answer("GET")
				switch {
				case tt.status == cut && err == nil, tt.status != cut && (err != nil || resp.StatusCode != tt.status):
					t.Errorf("%v, %v", resp, err)
				}
				dies(t, pid)
				if rec := r.record(i); rec.Ended != "timeout" {
					t.Errorf("ended by %q", rec.Ended)
				}
			})
		}
		r.idle()
	}
	// And it passes by itself.
	r := newRig(t, func(g *Gateway) { g.Timeout = 10 * time.Millisecond })
	if resp, _, err := r.get("exec sleep 60"); err != nil || resp.StatusCode != 504 {
		t.Errorf("%v, %v", resp, err)
	}
}

// expire has the timeout pass now.
func (r *run) expire() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deadline = time.Now()
	r.timer.Reset(0)
}

// TestClientGone ends the process group, wherever the request is.
func TestClientGone(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(g *Gateway) { g.CGI = true })
	for i, tt := range []struct {
		name, script string
		begun        bool
		body         string
	}{
		{"before output", `exec sleep 60`, false, ""},
		{"after the header", `printf 'X: y\n\n'; exec sleep 60`, true, ""},
		{"while streaming", `printf 'X: y\n\n'; exec cat /dev/zero`, true, ""},
		{"after the body was read ahead", `exec sleep 60`, false, strings.Repeat("b", 1000)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pid := fmt.Sprintf("%s/pid%d", r.dir, i)
			c := r.dial()
			c.send(request("POST", r.script("echo $$ >"+pid+"; "+tt.script), fmt.Sprintf("Content-Length: %d", len(tt.body))) + tt.body)
			if !alive(t, pid) {
				t.Error("not started")
			}
			if tt.begun {
				c.in.Peek(1)
			}
			c.Close()
			dies(t, pid)
			if rec := r.record(i); rec.Ended != "client gone" {
				t.Errorf("ended by %q", rec.Ended)
			}
		})
	}
	r.idle()
}

// TestHalfClosed: a client that only stops sending on a Unix socket waits for
// its answer, and gets it.
func TestHalfClosed(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	half, hold, pid := r.dial(), r.hold(), r.dir+"/pid"
	half.send(request("GET", r.script("read x <"+hold+"; printf late")))
	half.Conn.(*net.UnixConn).CloseWrite()
	r.counts(1, 0)
	// Long enough for one that came later to be found gone.
	gone := r.dial()
	gone.send(request("GET", r.script("echo $$ >"+pid+"; exec sleep 60")))
	alive(t, pid)
	gone.Close()
	dies(t, pid)
	r.release(hold)
	if resp, body, err := half.answer("GET"); err != nil || resp.StatusCode != 200 || body != "late" {
		t.Errorf("%v, %q, %v", resp, body, err)
	}
	addr := r.serve("tcp", "127.0.0.1:0") // and one that goes on TCP is noticed
	c, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	pid += "2"
	io.WriteString(c, request("GET", r.script("echo $$ >"+pid+"; exec sleep 60")))
	alive(t, pid)
	c.Close()
	dies(t, pid)
	r.idle()
}

// TestStreaming: the first bytes of a CGI answer arrive while the command
// still runs, without a delay for company.
func TestStreaming(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(g *Gateway) { g.CGI = true })
	hold := r.hold()
	resp := r.begin(r.dial(), "GET", `printf 'X: y\n\n'; printf one; read x <`+hold+`; printf two`)
	b := make([]byte, 3)
	if _, err := io.ReadFull(resp.Body, b); err != nil || string(b) != "one" {
		t.Fatalf("%q, %v", b, err)
	}
	if running, _, _ := r.Counts(); running != 1 {
		t.Error("the command should still run")
	}
	r.release(hold)
	if rest, err := io.ReadAll(resp.Body); err != nil || string(rest) != "two" {
		t.Errorf("%q, %v", rest, err)
	}
	// HTTP/1.0 gets the same, ended by the connection.
	c := r.dial()
	c.send("GET " + r.script(`printf 'X: y\n\n'; printf a; read x <`+hold+`; printf b`) + " HTTP/1.0\r\n\r\n")
	c.in.Peek(1)
	r.release(hold)
	all, _ := io.ReadAll(c.in)
	if !bytes.HasSuffix(all, []byte("\r\n\r\nab")) || bytes.Contains(all, []byte("chunked")) {
		t.Errorf("%q", all)
	}
}

// TestGrandchild: one that holds stdout open holds the answer back for a
// moment at most.
func TestGrandchild(t *testing.T) {
	if _, err := exec.LookPath("setsid"); err != nil {
		t.Skip("needs setsid(1), of util-linux")
	}
	t.Parallel()
	for _, cgi := range []bool{false, true} {
		r := newRig(t, func(g *Gateway) { g.CGI, g.grace, g.lastWords = cgi, time.Millisecond, time.Millisecond })
		pid, other := r.dir+"/pid", r.hold()
		// In the group it is ended at once; out of it, only when those who ran
		// beside it have ended.
		beside := r.dial()
		beside.send(request("GET", r.script("read x <"+other)))
		r.counts(1, 0)
		for _, how := range []string{"sh", "setsid sh"} {
			os.Remove(pid)
			hold := r.hold()
			c := r.dial()
			c.send(request("GET", r.script(fmt.Sprintf(`printf 'X: y\n\nhello'; %s -c 'trap "" TERM; echo $$ >%s; exec sleep 60' & read x <%s`, how, pid, hold))))
			alive(t, pid)
			r.release(hold)
			if resp, body, err := c.answer("GET"); err != nil || resp.StatusCode != 200 || !strings.HasSuffix(body, "hello") {
				t.Errorf("%s: %v, %q, %v", how, resp, body, err)
			}
			if how == "sh" {
				dies(t, pid)
			} else if !alive(t, pid) {
				t.Error("the answer came after the process's end")
			}
		}
		r.release(other)
		r.idle()
	}
}

// TestLateExit: a command that closes stdout and goes on holds its answer back
// for a moment at most.
func TestLateExit(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(g *Gateway) { g.CGI, g.grace = true, time.Millisecond })
	for script, want := range map[string]int{"exec >&-; exec sleep 60": 502, `printf 'X: y\n\nhello'; exec >&-; exec sleep 60`: 200} {
		if resp, body, err := r.get(script); err != nil || resp.StatusCode != want || want == 200 && body != "hello" {
			t.Errorf("%s: %v, %q, %v", script, resp, body, err)
		}
	}
	r.idle()
}

// TestStderr: quoted, with the request's number, the first 8 KiB; a command
// that floods it is neither blocked nor believed.
func TestStderr(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	for _, script := range []string{
		`head -c 1000000 /dev/zero | tr '\0' e >&2; printf ok`, // too much for the pipe
		`head -c 9000 /dev/zero | tr '\0' e >&2; printf ok`,    // quick
	} {
		began := len(r.log.String())
		resp, body, err := r.get(script)
		if err != nil || resp.StatusCode != 200 || body != "ok" {
			t.Fatalf("%v, %q, %v", resp, body, err)
		}
		eventually(t, "the end of stderr", func() bool { return strings.Contains(r.log.String()[began:], "stderr was longer") })
		log := r.log.String()[began:]
		if n := strings.Count(log, "eeee") * 4; n < maxStderr-32 || strings.Count(log, "e") > maxStderr+500 {
			t.Errorf("%s: %d bytes logged", script, n)
		}
		total := 1000000
		if strings.Contains(script, "9000") {
			total = 9000
		}
		if want := fmt.Sprintf("bytes=%d", total-maxStderr); !strings.Contains(log, want) {
			t.Errorf("%s: no %s", script, want)
		}
		for line := range strings.Lines(log) {
			if len(line) > 2048 {
				t.Errorf("a record of %d bytes", len(line))
			}
		}
	}
	r.get(`printf 'a\nlevel=ERROR msg=forged\n\033[2J' >&2`)
	r.logged(`text="a\nlevel=ERROR msg=forged\n\x1b[2J"`)
}

// TestCannotStart: 502 for good, 503 for now.
func TestCannotStart(t *testing.T) {
	t.Parallel()
	// The other end of the control socket is this test: it says what a
	// monitor says that cannot start anything.
	for _, tt := range []struct {
		errno  syscall.Errno
		status int
	}{{syscall.ENOENT, 502}, {syscall.EACCES, 502}, {syscall.ENOEXEC, 502}, {syscall.E2BIG, 502},
		{syscall.EAGAIN, 503}, {syscall.EMFILE, 503}, {syscall.ENFILE, 503}, {syscall.ENOMEM, 503}} {
		r := newRig(t, func(g *Gateway) { g.Client = refusing(t, tt.errno) })
		resp, _, err := r.get("")
		if err != nil || resp.StatusCode != tt.status || (resp.Header.Get("Retry-After") != "") != (tt.status == 503) {
			t.Errorf("%v: %v, %v", tt.errno, resp, err)
		}
		r.idle()
		r.logged("cannot be started")
	}
}

// refusing is a client whose monitor fails each start.
func refusing(t *testing.T, errno syscall.Errno) *spawn.Client {
	var sup *spawn.Supervisor
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	if errno == syscall.ENOENT { // this one for real
		onLoop(func() {
			sup, err = spawn.NewSupervisor(monitor.loop, monitorLog, spawn.Command{Path: "/nonexistent/x", Args: []string{"x"}, Dir: "/"}, 4, killAfter, func(int) bool { return true })
			if err == nil {
				_, err = sup.NewPeer(pair[0])
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	} else {
		go func() {
			b := make([]byte, 64<<10)
			for {
				n, err := unix.Read(pair[0], b)
				if err != nil || n < 13 {
					return
				}
				// Length, kind 9 (failed), the request's number, errno.
				f := append([]byte{0, 0, 0, 13, 9}, b[5:13]...)
				unix.Write(pair[0], append(f, 0, 0, 0, byte(errno)))
			}
		}()
		t.Cleanup(func() { unix.Shutdown(pair[0], unix.SHUT_RDWR) })
	}
	unix.SetNonblock(pair[1], true)
	c, err := spawn.NewClient(os.NewFile(uintptr(pair[1]), "control"))
	if err != nil {
		t.Fatal(err)
	}
	go c.Run()
	return c
}
