//go:build linux || freebsd

package cgi

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func cgiOn(s *setup) { s.CGI = true }

// TestCGI checks the design's table for CGI output that is complete when it is
// read.
func TestCGI(t *testing.T) {
	r := newRig(t, cgiOn)
	const bad = "502: malformed response from the command"
	for _, tt := range []struct{ name, method, script, want, header, log string }{
		{"LF", "", `printf 'Content-Type: a/b\n\nhello'`, "200 5 hello", "Content-Type: a/b", ""},
		{"CRLF", "", `printf 'Content-Type: a/b\r\n\r\nhello'`, "200 5 hello", "Content-Type: a/b", ""},
		{"mixed", "", `printf 'Content-Type: a/b\r\nX: y\n\r\nhello'`, "200 5 hello", "Content-Type: a/b; X: y", ""},
		{"no body", "", `printf 'X: y\n\n'`, "200 0 ", "X: y", ""},
		{"status", "", `printf 'Status: 404 Nowhere\n\ngone'`, "404 4 gone", "", ""},
		{"status 199", "", `printf 'Status: 199\n\n'`, bad, "", `not a status from 200 to 599: \"Status: 199\"`},
		{"status 600", "", `printf 'Status: 600\n\n'`, bad, "", `\"Status: 600\"`},
		{"no header", "", `printf 'hello world'`, bad, "", `not a header field: \"hello world\"`},
		{"an empty header", "", `printf '\nhello'`, bad, "", "no header"},
		{"a header without an end", "", `printf 'X: y\n'`, bad, "", "no empty line after the header"},
		{"no output", "", `:`, bad, "", "no output"},
		{"no output, exit 5", "", `exit 5`, bad, "", `level=ERROR msg="command failed" process=P request_id=id exit="exit 5"`},
		{"half a header, a signal", "", `printf 'X: y\n'; kill -10 $$`, bad, "", `exit="signal 10"`},
		{"Security Alert!", "", `printf '<b>Security Alert!</b> The PHP CGI cannot be accessed directly.\n\n'`, bad, "", `\"<b>Security Alert!</b> The PHP CGI cannot`},
		{"Transfer-Encoding", "", `printf 'Transfer-Encoding: chunked\n\n0\r\n\r\n'`, bad, "", "Transfer-Encoding is not allowed"},
		{"no value", "", `printf 'X:\nY: z\n\n'`, "200 0 ", "Y: z", ""},
		{"Content-Type twice", "", `printf 'Content-Type: a/b\nContent-Type: c/d\n\n'`, "200 0 ", "Content-Type: a/b", `level=WARN msg="second Content-Type ignored"`},
		{"two cookies", "", `printf 'Set-Cookie: a\nSet-Cookie: b\n\n'`, "200 0 ", "Set-Cookie: a; Set-Cookie: b", ""},

		{"a length", "", `printf 'Content-Length: 5\n\nhello'`, "200 5 hello", "", ""},
		{"too small a length", "", `printf 'Content-Length: 3\n\nhello'`, bad, "", "Content-Length is 3, but the body has 5 bytes"},
		{"too large a length", "", `printf 'Content-Length: 9\n\nhello'`, bad, "", "Content-Length is 9, but the body has 5 bytes"},
		{"too large a length, exit 6", "", `printf 'Content-Length: 9\n\nhello'; exit 6`, bad, "", `exit="exit 6"`},

		{"HEAD", "HEAD", `printf 'X: y\n\nhello'`, "200 - ", "X: y", ""},
		{"HEAD with a length", "HEAD", `printf 'Content-Length: 5\n\n'`, "200 5 ", "", ""},
		{"HEAD with length and body", "HEAD", `printf 'Content-Length: 5\n\nhello'`, "200 5 ", "", ""},
		{"204", "", `printf 'Status: 204\n\n'`, "204 - ", "", ""},
		{"204 with a body", "", `printf 'Status: 204\nContent-Length: 4\n\nbody'`, "204 - ", "", ""},
		{"205", "", `printf 'Status: 205\n\n'`, "205 - ", "", ""},
		{"205 with a body", "", `printf 'Status: 205\n\nbody'`, "205 - ", "", `level=WARN msg="body of a 205 response dropped"`},
		{"304", "", `printf 'Status: 304\nETag: "x"\n\nbody'`, "304 - ", `Etag: "x"`, ""},
		{"304 with a length", "", `printf 'Status: 304\nContent-Length: 4\n\n'`, "304 4 ", "", ""},

		{"exit 3 after a whole header", "", `printf 'X: y\n\nhello'; exit 3`, "200 5 hello", "X: y", `level=WARN msg="command failed" process=P request_id=id exit="exit 3"`},
		{"a signal", "", `printf 'X: y\n\nhello'; kill -9 $$`, "502: the command was killed", "", `level=ERROR msg="command failed" process=P request_id=id exit="signal 9"`},
		{"a signal after the length", "", `printf 'Content-Length: 5\n\nhello'; kill -9 $$`, "200 5 hello", "", `level=WARN msg="command failed" process=P request_id=id exit="signal 9"`},
		{"a signal and HEAD", "HEAD", `printf 'X: y\n\nhello'; kill -9 $$`, "200 - ", "X: y", `exit="signal 9"`},

		{"Location", "", `printf 'Location: http://x/y\n\nbody'`, "302 4 body", "Location: http://x/y", ""},
		{"Location and status", "", `printf 'Status: 301\nLocation: http://x/y\n\n'`, "301 0 ", "Location: http://x/y", ""},
		{"no path", "", `printf 'Location: /%%zz\n\n'`, bad, "", `Location is not a path: \"/%zz\"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			req := request(tt.script)
			if tt.method != "" {
				req.Method = tt.method
			}
			before := len(r.log.String())
			c := r.beginExited(req)
			if got := c.wait(); got != tt.want || c.record.Exit == "" && tt.want != bad {
				t.Errorf("%q, %q", got, c.record.Exit)
			}
			if h := c.w.header(); h != tt.header && c.record.Refused == "" {
				t.Errorf("header %q", h)
			}
			r.idle()
			log := r.log.String()[before:]
			want := strings.Replace(tt.log, "process=P", fmt.Sprintf("process=%d", c.record.Process), 1)
			if !strings.Contains(log, want) || tt.log == "" && log != "" {
				t.Errorf("log %s", log)
			}
			if strings.Contains(strings.Join(c.w.events, " "), "flush") {
				t.Errorf("%q: flush although the output is complete", c.w.events)
			}
		})
	}
}

// The header has a largest size. A command that writes without end is
// terminated.
func TestHeaderSize(t *testing.T) {
	r := newRig(t, cgiOn)
	for _, tt := range []struct{ script, want, log string }{
		{`printf 'X: '; bytes 65531 | tr '\0' x; printf '\n\n'`, "200", ""},
		{`printf 'X: '; bytes 65532 | tr '\0' x; printf '\n\n'`, "502", "header longer than 64 KiB"},
		{`exec yes 'X: y'`, "502", "header longer than 64 KiB"},
		{`exec cat /dev/zero`, "502", "header longer than 64 KiB"},
	} {
		c := r.begin(request(tt.script))
		if got := c.wait(); got[:3] != tt.want {
			t.Errorf("%s: %q", tt.script, got)
		}
		r.logs(tt.log)
		r.idle()
	}
}

// Output that comes in parts is passed on before the next part comes.
func TestCGIStreams(t *testing.T) {
	for _, tt := range []struct {
		name, script string
		first        string // what the client has when the command continues
		want         string
		exit         string
		log          string
	}{
		{"a body", `printf 'X: y\n\none'; await go; printf two`, "one", "200 - onetwo", "exit 0", ""},
		{"a header", `printf 'X: y\n\n'; await go; printf two`, "", "200 - two", "exit 0", ""},
		{"large", `printf 'X: y\n\none'; await go; bytes 1000000`, "one", "200 - (1000003 bytes)", "exit 0", ""},
		{"exit 3", `printf 'X: y\n\none'; await go; exit 3`, "one", "200 - one", "exit 3", `level=WARN msg="command failed"`},
		{"a signal", `printf 'X: y\n\none'; await go; kill -9 $$`, "one", "200 - one cut", "signal 9", `level=ERROR msg="command failed"`},
		{"a length", `printf 'Content-Length: 5\n\nhel'; await go; printf lo`, "hel", "200 5 hello", "*", ""},
		{"too small a length", `printf 'Content-Length: 5\n\nhel'; await go; printf lowowowow`, "hel", "200 5 hello", "*", ""},
		{"too large a length", `printf 'Content-Length: 9\n\nhel'; await go; printf lo`, "hel", "200 9 hello cut", "exit 0", `level=ERROR msg="response is shorter than its Content-Length" process=1 request_id=id missing=4`},
		{"too large a length, a signal", `printf 'Content-Length: 9\n\nhel'; await go; kill -9 $$`, "hel", "200 9 hel cut", "signal 9", `exit="signal 9"`},
		{"a large length", `printf 'Content-Length: 1000000\n\n'; await go; bytes 1000000`, "", "200 1000000 (1000000 bytes)", "*", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, cgiOn)
			goOn := r.fifo("go")
			c := r.begin(request(tt.script))
			c.w.flushed(tt.first)
			goOn.tell()
			if got := c.wait(); got != tt.want || c.record.Exit != tt.exit && tt.exit != "*" {
				t.Errorf("%q, %q", got, c.record.Exit)
			}
			r.idle()
			if log := r.log.String(); !strings.Contains(log, tt.log) || tt.log == "" && log != "" || strings.Contains(tt.log, "exit=") && strings.Contains(log, "shorter") {
				t.Errorf("log %s", log)
			}
		})
	}
}

// A header may come in pieces of any size.
func TestHeaderInPieces(t *testing.T) {
	r := newRig(t, cgiOn)
	goOn := r.fifo("go")
	c := r.begin(request(`p() { printf "$1"; await go; }; p 'Content-'; p 'Type: a/b\r'; p '\nX: y'; p '\r\n\r'; p '\nhe'; printf llo`))
	for range 5 {
		goOn.tell()
	}
	c.wait()
	if string(c.w.body) != "hello" || c.w.header() != "Content-Type: a/b; X: y" || c.w.status != 200 {
		t.Errorf("%v, %q", c.w, c.w.header())
	}
}

// Output that is not sent is still read, so that the command gets no SIGPIPE.
func TestDrained(t *testing.T) {
	for _, tt := range []struct{ method, head, want string }{
		{"HEAD", "X: y", "200 - "}, {"GET", "Status: 204", "204 - "}, {"GET", "Status: 304", "304 - "}, {"GET", "Content-Length: 0", "200 0 "},
	} {
		t.Run(tt.head, func(t *testing.T) {
			r := newRig(t, cgiOn)
			goOn, said := r.fifo("go"), r.fifo("said")
			req := request(fmt.Sprintf(`printf '%s\n\n'; await go; bytes 300000 && tell said ok`, tt.head))
			req.Method = tt.method
			if got := r.serve(req); got != tt.want {
				t.Errorf("%q", got)
			}
			goOn.tell()
			if s := said.readLine(); s != "ok" {
				t.Errorf("%q", s)
			}
		})
	}
}

// redirects lets r follow local redirects to scripts, by their path.
func redirects(r *Request, scripts map[string]string) {
	r.Redirect = func(location string) error {
		path, query, _ := strings.Cut(location, "?")
		r.Vars.Reset()
		r.Vars.Add("REQUEST_METHOD", "GET")
		r.Vars.Add("PATH_INFO", path)
		r.Vars.Add("QUERY_STRING", query)
		r.Query, r.Type = query, ""
		if r.Script = scripts[path]; r.Script == "" {
			return &Refusal{Status: 404, Reason: "no such script"}
		}
		return nil
	}
}

// A local redirect is a GET without a body. The only slot is free again for it.
func TestRedirect(t *testing.T) {
	for _, tt := range []struct{ name, script, want string }{
		{"inside", `printf 'Location: /app/end?a=b\n\nignored'`, "200 17 GET,/app/end,a=b,"},
		{"no such script", `printf 'Location: /app/x\n\n'`, "404: no such script"},
		{"exit 3", `printf 'Location: /app/end?a=b\n\n'; exit 3`, "200 17 GET,/app/end,a=b,"},
		{"much is ignored", `printf 'Location: /app/end?a=b\n\n'; bytes 300000`, "200 17 GET,/app/end,a=b,"},
		{"killed", `printf 'Location: /app/end?a=b\n\n'; kill -9 $$`, "502: the command was killed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, func(s *setup) { s.CGI, s.MaxProcs, s.MaxQueue, s.ScriptName = true, 1, 0, "/app" })
			req := post(tt.script, strings.NewReader("body"), 4)
			redirects(req, map[string]string{
				"/app/end": `printf 'Content-Length: 17\n\n%s' "$REQUEST_METHOD,$PATH_INFO,$QUERY_STRING,$CONTENT_LENGTH$(cat)"`,
			})
			if got := r.serve(req); got != tt.want {
				t.Errorf("%q", got)
			}
		})
	}
}

// A redirect is followed only after its command has exited, even if that has
// closed its output.
func TestRedirectAfterTheEnd(t *testing.T) {
	r := newRig(t, func(s *setup) { s.CGI, s.ScriptName, s.Times.Grace = true, "/app", 1 })
	goOn := r.fifo("go")
	req := request(`printf 'Location: /app/end\n\n'; exec >&-; await go; : >"$DIR/done"`)
	redirects(req, map[string]string{"/app/end": `[ -e "$DIR/done" ]; printf 'X: y\n\n%s' $?`})
	c := r.begin(req)
	blocked(t, "select", "(*answer).wait", 1)
	goOn.tell()
	if got := c.wait(); !strings.HasPrefix(got, "200 ") || !strings.HasSuffix(got, " 0") {
		t.Errorf("%q", got)
	}
}

// These redirects go to the client.
func TestRedirectOutside(t *testing.T) {
	r := newRig(t, func(s *setup) { s.CGI, s.ScriptName = true, "/app" })
	for _, tt := range []struct{ name, script, want, header string }{
		{"outside", `printf 'Location: /login\n\nbody'`, "302 4 body", "Location: /login"},
		{"another field", `printf 'Location: /app/end\nSet-Cookie: s=1\n\n'`, "302 0 ", "Set-Cookie: s=1; Location: /app/end"},
		{"a fragment", `printf 'Location: /app/end#x\n\n'`, "302 0 ", "Location: /app/end#x"},
		{"another host", `printf 'Location: //h/app/end\n\n'`, "302 0 ", "Location: //h/app/end"},
	} {
		req := request(tt.script)
		redirects(req, nil)
		c := r.beginExited(req)
		if got := c.wait(); got != tt.want || c.w.header() != tt.header {
			t.Errorf("%s: %q, %q", tt.name, got, c.w.header())
		}
	}
}

// Without Request.Redirect all redirects go to the client.
func TestNoRedirect(t *testing.T) {
	r := newRig(t, cgiOn)
	c := r.beginExited(request(`printf 'Location: /end\n\nbody'`))
	if got := c.wait(); got != "302 4 body" || c.w.header() != "Location: /end" {
		t.Errorf("%q, %q", got, c.w.header())
	}
}

func TestRedirectTenTimes(t *testing.T) {
	for n, want := range map[int]string{1: "200 3 end", 10: "200 3 end", 11: "502: too many local redirects"} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			r := newRig(t, func(s *setup) { s.CGI, s.MaxProcs, s.MaxQueue = true, 1, 0 })
			// The script counts down in the query; each step is a process.
			const count = `[ "$QUERY_STRING" = 0 ] && { printf 'Content-Length: 3\n\nend'; exit; }
printf 'Location: /count?%d\n\n' $((QUERY_STRING - 1))`
			req := request(count)
			redirects(req, map[string]string{"/count": count})
			req.Redirect(fmt.Sprintf("/count?%d", n))
			c := r.begin(req)
			if got := c.wait(); got != want || c.record.Process != uint64(min(n, 10)+1) {
				t.Errorf("%q, %d processes", got, c.record.Process)
			}
		})
	}
}

// A request never has two processes at once.
func TestRedirectOneAfterTheOther(t *testing.T) {
	r := newRig(t, cgiOn)
	goOn, said := r.fifo("go"), r.fifo("said")
	req := request(`printf 'Location: /end\n\n'; tell said $$; await go`)
	redirects(req, map[string]string{"/end": `printf 'Content-Length: 3\n\nend'`})
	pid, redirect := 0, req.Redirect
	known := make(chan struct{})
	req.Redirect = func(location string) error {
		<-known
		if unix.Kill(pid, 0) != unix.ESRCH {
			t.Error("the first process is still running")
		}
		return redirect(location)
	}
	c := r.begin(req)
	pid = said.pid()
	close(known)
	goOn.tell()
	if got := c.wait(); got != "200 3 end" {
		t.Errorf("%q", got)
	}
}
