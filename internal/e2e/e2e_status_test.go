//go:build freebsd || linux

package e2e

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// These tests check every row of the design's table of statuses with a real
// request. The tests of package front check 408, because no flag sets its
// timeout.

// scripted starts a server whose command is the shell script that the query
// names. The script runs in dir.
type scripted struct {
	*server
	dir string
	n   int
}

func startScripted(t *testing.T, flags ...string) *scripted {
	t.Helper()
	dir := newDir(t, nil)
	return &scripted{shell(t, `. "./$QUERY_STRING"`, append(flags, "-dir", dir)...), dir, 0}
}

// target returns the target of a request for a script.
func (s *scripted) target(t *testing.T, script string) string {
	t.Helper()
	s.n++
	name := fmt.Sprintf("script%d", s.n)
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(script), 0o644); err != nil {
		t.Fatal(err)
	}
	return "/?" + name
}

// zeros returns a script that writes n bytes without another program.
func zeros(n int) string { return fmt.Sprintf("printf %%0%dd 0", n) }

func TestStatusRaw(t *testing.T) {
	t.Parallel()
	const block = 64 << 10
	tests := []struct {
		name   string
		script string
		status int
		length int64 // Content-Length of the answer
		size   int   // of the body
		exit   string
	}{
		{"output", "echo hello", 200, 6, 6, "exit 0"},
		{"no output", ":", 200, 0, 0, "exit 0"},
		{"nearly a block", zeros(block - 1), 200, block - 1, block - 1, "exit 0"},
		// Whether the end of the output is seen in time for a Content-Length
		// depends on timing.
		{"just a block", zeros(block), 200, -2, block, "exit 0"},
		{"more than a block", zeros(block + 1), 200, -1, block + 1, "exit 0"},
		{"a lot", zeros(50*block + 7), 200, -1, 50*block + 7, "exit 0"},
		{"exit 3", "echo partial; echo reason >&2; exit 3", 500, -2, -1, "exit 3"},
		{"killed", "echo partial; echo reason >&2; kill -9 $$", 500, -2, -1, "signal 9"},
	}
	s := startScripted(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			target := s.target(t, tt.script)
			a := s.get(target)
			a.wantStatus(t, tt.status)
			if tt.size >= 0 && len(a.body) != tt.size {
				t.Errorf("body of %d bytes, want %d", len(a.body), tt.size)
			}
			if tt.length > -2 && a.length != tt.length {
				t.Errorf("Content-Length %d, want %d", a.length, tt.length)
			}
			rec := s.await("request", "target", target)
			if rec["exit"] != tt.exit {
				t.Errorf("access record %v, want %s", rec, tt.exit)
			}
			if tt.status == 500 {
				if strings.Contains(a.body, "reason") || strings.Contains(a.body, "partial") {
					t.Errorf("the client got %q", a.body)
				}
				if r := s.await("stderr", "process", rec["process"]); r["text"] != "reason\n" {
					t.Errorf("stderr record %v", r)
				}
				s.await("command failed", "exit", tt.exit, "process", rec["process"])
			} else {
				wantField("Content-Type", "text/plain; charset=utf-8")(t, a)
			}
		})
	}
	for _, tt := range []struct{ name, end, exit string }{
		{"cut by an exit", "exit 3", "exit 3"},
		{"cut by a signal", "kill -9 $$", "signal 9"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			target := s.target(t, zeros(100000)+"; "+tt.end)
			a := s.get(target)
			if a.status != 200 || a.err != io.ErrUnexpectedEOF {
				t.Errorf("got %d, %d bytes, %v; want 200 and a truncated body", a.status, len(a.body), a.err)
			}
			if rec := s.await("request", "target", target); rec["cut"] != "true" || rec["exit"] != tt.exit {
				t.Errorf("access record %v", rec)
			}
		})
	}
	s.stop()
}

func TestStatusCGI(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		script string
		status int
		body   string // "-": not checked
		check  func(t *testing.T, a *answer)
		exit   string
	}{
		{"LF", `printf 'Content-Type: text/x\nX-A: 1\n\nbody'`, 200, "body", wantField("Content-Type", "text/x"), "exit 0"},
		{"CRLF", `printf 'Content-Type: text/x\r\nX-A: 1\r\n\r\nbody'`, 200, "body", wantField("X-A", "1"), "exit 0"},
		{"status 599", `printf 'Status: 599\n\nno'`, 599, "no", wantNoField("Content-Type"), "exit 0"},
		{"absolute location", `printf 'Location: http://elsewhere.example/x\n\n'`, 302, "", wantField("Location", "http://elsewhere.example/x"), "exit 0"},
		{"absolute location with status", `printf 'Status: 307 x\nLocation: http://elsewhere.example/x\n\n'`, 307, "", wantField("Location", "http://elsewhere.example/x"), "exit 0"},
		{"local location with status", `printf 'Status: 303 x\nLocation: /there\n\n'`, 303, "", wantField("Location", "/there"), "exit 0"},
		{"fields", `printf 'Set-Cookie: a=1\nSet-Cookie: b=2\nConnection: x\nKeep-Alive: 1\nUpgrade: h2c\nTrailer: x\nProxy-Connection: x\n\nbody'`, 200, "body", func(t *testing.T, a *answer) {
			if c := a.header.Values("Set-Cookie"); !slices.Equal(c, []string{"a=1", "b=2"}) {
				t.Errorf("Set-Cookie %q", c)
			}
			// net/http removes Connection from the header of the answer.
			for _, f := range []string{"Connection", "Keep-Alive", "Upgrade", "Trailer", "Proxy-Connection"} {
				wantNoField(f)(t, a)
			}
		}, "exit 0"},
		{"a true length", `printf 'Content-Length: 4\n\nbody'`, 200, "body", wantField("Content-Length", "4"), ""},
		{"header of 64 KiB", `printf 'X-Long: '; ` + zeros(65500) + `; printf '\n\nbody'`, 200, "body", func(t *testing.T, a *answer) {
			if n := len(a.header.Get("X-Long")); n != 65500 {
				t.Errorf("field of %d bytes", n)
			}
		}, "exit 0"},
		{"exit 3 after a whole header", `printf 'X-A: 1\n\nbody'; exit 3`, 200, "body", nil, "exit 3"},

		{"nothing", `exit 3`, 502, "-", nil, ""},
		{"no header", `echo hello`, 502, "-", nil, ""},
		{"malformed header", `printf 'X A: 1\n\nhello'`, 502, "-", nil, ""},
		{"header too long", `printf 'X-Long: '; ` + zeros(70000) + `; printf '\n\nhello'`, 502, "-", nil, ""},
		{"status 600", `printf 'Status: 600\n\n'`, 502, "-", nil, ""},
		{"length too small", `printf 'Content-Length: 3\n\nhello'`, 502, "-", nil, ""},
	}
	s := startScripted(t, "-cgi")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			target := s.target(t, tt.script)
			a := s.get(target)
			if tt.body == "-" {
				a.wantStatus(t, tt.status)
				if strings.Contains(a.body, "hello") || len(a.body) > 200 {
					t.Errorf("body %q", a.body)
				}
			} else {
				a.want(t, tt.status, tt.body)
			}
			if tt.check != nil {
				tt.check(t, a)
			}
			rec := s.await("request", "target", target)
			if rec["status"] != fmt.Sprint(tt.status) || tt.exit != "" && rec["exit"] != tt.exit {
				t.Errorf("access record %v", rec)
			}
			if tt.exit != "" && tt.exit != "exit 0" {
				s.await("command failed", "exit", tt.exit, "process", rec["process"])
			}
		})
	}
	// Whether a part has been sent before the command exits depends on timing.
	// The answer is never complete.
	for _, tt := range []struct{ name, script string }{
		{"killed", `printf 'X-A: 1\n\nbody'; kill -9 $$`},
		{"length too large", `printf 'Content-Length: 5\n\nbody'`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := s.get(s.target(t, tt.script))
			if a.status != 502 && (a.status != 200 || a.err != io.ErrUnexpectedEOF) {
				t.Errorf("got %d, %q, %v; want 502 or a truncated body", a.status, a.body, a.err)
			}
		})
	}
	// Output is passed on as it comes: each line arrives while the command
	// still waits. After that, death by a signal and a wrong Content-Length can
	// only cut the answer.
	for _, tt := range []struct{ name, head, end, rest string }{
		{"streamed", "X-A: 1", "exit 3", "0\r\n\r\n"},
		{"streamed and killed", "X-A: 1", "kill -9 $$", ""},
		{"streamed and too short", "Content-Length: 20", ":", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			first, second := newGate(t, fmt.Sprintf("%s/first%d", s.dir, s.n)), newGate(t, fmt.Sprintf("%s/second%d", s.dir, s.n))
			target := s.target(t, fmt.Sprintf("printf '%s\n\nfirst\n'; : <first%d; echo second; : <second%[2]d; %[3]s", tt.head, s.n, tt.end))
			c := dial(t, s.addr)
			c.send("%s", get11(target))
			c.until("first\n")
			first()
			c.until("second\n")
			second()
			rest, _ := io.ReadAll(c.r)
			if got := strings.TrimPrefix(string(rest), "\r\n"); got != tt.rest { // the end of a chunk
				t.Errorf("then %q, want %q", got, tt.rest)
			}
			rec := s.await("request", "target", target)
			if cut := rec["cut"] == "true"; cut != (tt.rest == "") {
				t.Errorf("access record %v", rec)
			}
			if tt.end == ":" {
				s.await("response is shorter than its Content-Length", "process", rec["process"], "missing", "7")
			}
		})
	}
	s.stop()
}

func wantField(name, value string) func(*testing.T, *answer) {
	return func(t *testing.T, a *answer) {
		t.Helper()
		if got := a.header.Values(name); len(got) != 1 || got[0] != value {
			t.Errorf("%s: %q, want %q", name, got, value)
		}
	}
}

func wantNoField(name string) func(*testing.T, *answer) {
	return func(t *testing.T, a *answer) {
		t.Helper()
		if got, ok := a.header[name]; ok {
			t.Errorf("%s: %q, want none", name, got)
		}
	}
}

func TestStatusLocalRedirect(t *testing.T) {
	t.Parallel()
	dir := newDir(t, nil)
	// The command logs its begin and its exit, which comes after the end of its
	// output.
	s := cgi(t, `echo begin >>notes
n=${QUERY_STRING#n=}
if test "$n" -gt 0
then
	printf 'Location: %s\n\n' "/next?n=$((n-1))"
	exec >&-
	i=0; while test $i -lt 10000; do i=$((i+1)); done
else
	printf 'X-A: 1\n\n%s %s %s %s' "$REQUEST_METHOD" "$PATH_INFO" "$QUERY_STRING" "$CONTENT_LENGTH"
fi
echo end >>notes`, "-dir", dir)
	s.get("/first?n=0").want(t, 200, "GET /first n=0 ")
	s.request("POST", post11("/first?n=2", "body")).want(t, 200, "GET /next n=0 ")
	s.get("/first?n=1000").wantStatus(t, 502)
	s.stop()
	b, err := os.ReadFile(dir + "/notes")
	if err != nil {
		t.Fatal(err)
	}
	// One process at a time, and at most ten redirects.
	if want := strings.Repeat("begin\nend\n", 1+3+11); string(b) != want {
		t.Errorf("the commands have written %q, want %q", b, want)
	}
}

func TestStatusNotStarted(t *testing.T) {
	t.Parallel()
	dir := newDir(t, nil)
	command := script(t, dir, "command", "echo hello\n")
	l := launch{args: []string{"--", command}}
	if os.Geteuid() == 0 {
		l.cred = nobody(t) // root may do anything
	}
	s := l.start(t)
	s.get("/").want(t, 200, "hello\n")
	for i, tt := range []struct {
		name string
		do   func() error
	}{
		{"gone", func() error { return os.Rename(command, command+".away") }},
		{"no interpreter", func() error { return writeProgram(command, []byte("#!/nonexistent\n"), 0o755) }},
		{"not permitted", func() error { return os.Chmod(command, 0) }},
	} {
		if err := tt.do(); err != nil {
			t.Fatal(err)
		}
		a := s.get("/")
		if a.status != 502 {
			t.Errorf("%s: got %d, want 502", tt.name, a.status)
		}
		s.awaitN(i+1, "command cannot be started")
	}
	if err := os.Rename(command+".away", command); err != nil {
		t.Fatal(err)
	}
	s.get("/").want(t, 200, "hello\n")
	s.stop()
}

func TestStatusTimeout(t *testing.T) {
	t.Parallel()
	// The timeout must be long enough for the command to reach the point where
	// it waits. How long that takes is unknown, so the test tries longer ones.
	longEnough := func(t *testing.T, try func(timeout string) bool) {
		for d := 200 * time.Millisecond; !try(d.String()); d *= 4 {
			if d > patience {
				t.Fatalf("the command has not started within %v", d)
			}
		}
	}
	for _, tt := range []struct{ name, script, killAfter string }{
		{"TERM", `trap 'echo told >told; exit' TERM; sleep 1000 & echo $! >child; echo half; echo $$ >leader; wait`, "10m"},
		{"KILL", `trap '' TERM; sleep 1000 & echo $! >child; echo half; echo $$ >leader; wait`, "100ms"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			longEnough(t, func(timeout string) bool {
				dir := newDir(t, nil)
				s := shell(t, tt.script, "-timeout", timeout, "-kill-after", tt.killAfter, "-dir", dir)
				s.get("/").wantStatus(t, 504)
				s.await("request", "status", "504", "ended", "timeout")
				if fi, err := os.Stat(dir + "/leader"); err != nil || fi.Size() == 0 {
					s.stop()
					return false
				}
				awaitGone(t, readPID(t, dir+"/leader"), readPID(t, dir+"/child"))
				if _, err := os.Stat(dir + "/told"); (err == nil) != (tt.name == "TERM") {
					t.Errorf("a command with %q has not removed its file: %v", tt.script, err)
				}
				s.stop()
				return true
			})
		})
	}
	t.Run("streamed", func(t *testing.T) {
		longEnough(t, func(timeout string) bool {
			s := cgi(t, `printf 'X-A: 1\n\nabc'; exec sleep 1000`, "-timeout", timeout)
			a := s.get("/")
			if a.status == 504 {
				s.stop()
				return false
			}
			if a.status != 200 || a.body != "abc" || a.err != io.ErrUnexpectedEOF {
				t.Errorf("got %d, %q, %v; want a truncated body", a.status, a.body, a.err)
			}
			s.await("request", "ended", "timeout", "cut", "true")
			s.stop()
			return true
		})
	})
}

func TestStatusClientGone(t *testing.T) {
	t.Parallel()
	dir := newDir(t, nil)
	s := launch{dir: dir, args: append([]string{"-listen", "unix:" + dir + "/s", "-listen", "tcp4:127.0.0.1:0", "-dir", dir, "-timeout", "10m"}, sh(`case $PATH_INFO in
/wait) sleep 1000 & echo $! >child; echo $$ >leader; wait;;
/endless) echo $$ >leader; while printf %010000d 0; do :; done;;
/answer) : <gate; echo answer;;
esac`)...)}.start(t)
	tcp := dialable(splitList(s.await("start")["listen"])[1])
	leave := func(t *testing.T, addr, request string) {
		c := dial(t, addr)
		c.send("%s", request)
		leader, child := readPID(t, dir+"/leader"), readPID(t, dir+"/child")
		os.Remove(dir + "/leader")
		os.Remove(dir + "/child")
		c.Close()
		awaitGone(t, leader, child)
		s.await("request", "target", strings.Fields(request)[1], "ended", "client gone", "cut", "true")
	}
	t.Run("unix", func(t *testing.T) { leave(t, s.addr, get11("/wait?unix")) })
	t.Run("tcp", func(t *testing.T) { leave(t, tcp, get11("/wait?tcp")) })
	t.Run("after a body", func(t *testing.T) { leave(t, s.addr, chunked11("/wait?body", strings.Repeat("x", 200<<10))) })
	t.Run("at a failed write", func(t *testing.T) {
		c := dial(t, s.addr)
		c.send("%s", get11("/endless"))
		if _, err := io.CopyN(io.Discard, c.r, 1<<20); err != nil {
			t.Fatal(err)
		}
		leader := readPID(t, dir+"/leader")
		os.Remove(dir + "/leader")
		c.Close()
		awaitGone(t, leader)
		s.await("request", "target", "/endless", "cut", "true")
	})
	t.Run("half closed", func(t *testing.T) {
		open := newGate(t, dir+"/gate")
		c := dial(t, s.addr)
		c.send("%s", get11("/answer"))
		c.halfClose()
		// A later request has been finished, so this one has been read too.
		leave(t, s.addr, get11("/wait?later"))
		open()
		c.answer("GET").want(t, 200, "answer\n")
	})
	s.stop()
}

func TestStatusTooLarge(t *testing.T) {
	t.Parallel()
	dir := newDir(t, nil)
	s := shell(t, `echo ran >>ran; case $QUERY_STRING in body) wc -c;; ?*) eval echo '${#'"$QUERY_STRING}";; esac`, "-dir", dir, "-max-body", "2MiB")
	ran := func() int {
		b, _ := os.ReadFile(dir + "/ran")
		return strings.Count(string(b), "\n")
	}
	line := func(n int) string { // a request line of n bytes
		const around = len("GET /?PATH ") + len("HTTP/1.1")
		return "GET /?PATH" + strings.Repeat("x", n-around) + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
	}
	value := func(n int) string { return strings.Repeat("v", n) }
	var manyFields []string
	for i := range 70 {
		manyFields = append(manyFields, fmt.Sprintf("X-%03d: %s", i, value(2000)))
	}
	tests := []struct {
		name   string
		raw    string
		status int
		body   string
	}{
		{"request line of 65,536 bytes", line(65536), 200, ""},
		{"request line of 65,537 bytes", line(65537), 414, ""},
		{"endless request line", "GET /" + strings.Repeat("x", 200_000), 414, ""},
		{"a value that can be executed", get11("/?HTTP_X", "X: "+value(128<<10-8)), 200, fmt.Sprint(128<<10 - 8)},
		{"a value of 128 KiB", get11("/?HTTP_X", "X: "+value(128<<10)), 431, ""},
		{"a value too large with its name", get11("/?HTTP_X", "X: "+value(128<<10-1)), 431, ""},
		{"two values too large together", get11("/?HTTP_X", "X: "+value(100<<10), "X: "+value(100<<10)), 431, ""},
		{"header of more than 132 KiB", get11("/?PATH", manyFields...), 431, ""},
		{"header of nearly 128 KiB", get11("/?HTTP_X_059", manyFields[:64]...), 200, "2000"},
		{"body of the largest size", post11("/?body", value(2<<20)), 200, fmt.Sprint(2 << 20)},
		{"body that is larger", post11("/?body", value(2<<20+1)), 413, ""},
		{"larger body that is not sent", text11("POST", "/", "Content-Length: 2097153"), 413, ""},
		{"chunked body of the largest size", chunked11("/?body", value(2<<20)), 200, fmt.Sprint(2 << 20)},
		{"chunked body that is larger", chunked11("/?body", value(2<<20+1)), 413, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := ran()
			a := s.request("GET", tt.raw)
			if tt.status == 431 { // from net/http, which does not read the rest
				a.err = nil
			}
			a.wantStatus(t, tt.status)
			if tt.body != "" && strings.TrimSpace(a.body) != tt.body {
				t.Errorf("body %.100q, want %q", a.body, tt.body)
			}
			if n := ran() - before; tt.status != 200 && n != 0 {
				t.Errorf("%d commands ran for a request that was refused", n)
			}
		})
	}
	s.stop()
}

// A body that is announced as too large is refused before the client sends it.
func TestStatusExpect(t *testing.T) {
	t.Parallel()
	s := shell(t, `read -r line; echo "$line"`, "-max-body", "1000")
	c := dial(t, s.addr)
	c.send("%s", text11("POST", "/", "Content-Length: 1001", "Expect: 100-continue"))
	c.answer("POST").wantStatus(t, 413)
	c.closed()
	c.Close()
	c = dial(t, s.addr)
	c.send("%s", text11("POST", "/", "Content-Length: 6", "Expect: 100-continue", "Connection: close"))
	c.answer("POST").wantStatus(t, 100)
	c.send("hello\n")
	c.answer("POST").want(t, 200, "hello\n")
	c.closed()
	s.request("POST", text11("POST", "/", "Content-Length: 5", "Expect: something")).wantStatus(t, 417)
	s.stop()
}

// -max-procs commands run, -max-queue requests wait, and the next one is
// refused. A request whose client gives up waiting starts no command.
func TestStatusQueueFull(t *testing.T) {
	t.Parallel()
	dir := newDir(t, nil)
	open := newGate(t, dir+"/gate")
	s := shell(t, `echo "$PATH_INFO" >>ran; : <gate; echo done`, "-dir", dir, "-max-procs", "2", "-max-queue", "3", "-timeout", "10m")
	waiting := make(map[string]*conn)
	for i := range 5 {
		path := fmt.Sprintf("/%d", i)
		waiting[path] = dial(t, s.addr)
		waiting[path].send("%s", get11(path))
	}
	ran := func() []string {
		b, _ := os.ReadFile(dir + "/ran")
		return strings.Fields(string(b))
	}
	eventually(t, "two commands that have begun", func() bool { return len(ran()) >= 2 })
	// One of six is refused, whichever comes last.
	waiting["/5"] = dial(t, s.addr).send("%s", get11("/5"))
	type outcome struct {
		path string
		a    *answer
	}
	outcomes := make(chan outcome, len(waiting))
	for path, c := range waiting {
		go func() {
			a, _ := c.tryAnswer("GET")
			outcomes <- outcome{path, a}
		}()
	}
	first := <-outcomes
	if first.a == nil {
		t.Fatalf("%s: no answer", first.path)
	}
	first.a.wantStatus(t, 503)
	delete(waiting, first.path)
	// It is refused before its body is read.
	a := s.request("POST", text11("POST", "/", "Content-Length: 5"))
	a.wantStatus(t, 503)
	wantField("Retry-After", "1")(t, a)
	running := ran()
	if len(running) != 2 {
		t.Errorf("commands run for %q, want two", running)
	}
	gone := ""
	for path, c := range waiting {
		if !slices.Contains(running, path) {
			gone = path
			c.Close()
			break
		}
	}
	s.await("request", "target", gone, "ended", "client gone")
	open()
	for range waiting {
		if o := <-outcomes; o.path != gone {
			o.a.want(t, 200, "done\n")
		}
	}
	s.stop()
	if got := ran(); len(got) != 4 || slices.Contains(got, gone) {
		t.Errorf("commands ran for %q, want all but %s", got, gone)
	}
}

func TestStatusMalformed(t *testing.T) {
	t.Parallel()
	s := shell(t, `printf '%s %s' "$SCRIPT_NAME" "$PATH_INFO"`, "-script-name", "/app")
	tests := []struct {
		name, raw string
		status    int
		body      string
	}{
		{"whole segment", get11("/app/x"), 200, "/app /x"},
		{"the name alone, with a query", get11("/app?x"), 200, "/app "},
		{"absolute form, with an encoded slash", get11("http://example.org/app%2Fy"), 200, "/app /y"},
		{"half a segment", get11("/apple"), 404, ""},
		{"outside", get11("/"), 404, ""},
		{"NUL in the path", get11("/app/%00"), 400, ""},
		{"broken encoding", get11("/app/%zz"), 400, ""},
		{"NUL in a field", get11("/app", "X: a\x00b"), 400, ""},
		{"NUL in the target", get11("/app/\x00"), 400, ""},
		{"asterisk", text11("OPTIONS", "*"), 400, ""},
		{"CONNECT", text11("CONNECT", "example.org:80"), 400, ""},
		{"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, ""},
		{"no host", "GET /app HTTP/1.1\r\n\r\n", 400, ""},
		{"two hosts", get11("/app", "Host: y"), 400, ""},
		{"space before the colon", get11("/app", "X : a"), 400, ""},
		{"two lengths", text11("POST", "/app", "Content-Length: 1", "Content-Length: 2") + "x", 400, ""},
		{"broken chunk", text11("POST", "/app", "Transfer-Encoding: chunked") + "zz\r\n", 400, ""},
		{"another coding", text11("POST", "/app", "Transfer-Encoding: gzip"), 501, ""},
		{"HTTP/2.0", "GET /app HTTP/2.0\r\n\r\n", 505, ""},
		{"garbage", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n", 400, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := s.request("GET", tt.raw)
			a.wantStatus(t, tt.status)
			if tt.status == 200 && a.body != tt.body {
				t.Errorf("body %q, want %q", a.body, tt.body)
			}
		})
	}
	s.stop()
}

func TestHTTP(t *testing.T) {
	t.Parallel()
	s := cgi(t, `body=; test -z "$CONTENT_LENGTH" || read -r body; case $PATH_INFO in
/204) printf 'Status: 204 x\n\njunk';;
/304) printf 'Status: 304 x\nETag: "x"\n\njunk';;
/length) printf 'Content-Length: 4\n\nbody';;
*) printf 'X-A: 1\n\n%s %s [%s]' "$REQUEST_METHOD" "$PATH_INFO" "$body";; esac`)
	t.Run("keep-alive", func(t *testing.T) {
		c := dial(t, s.addr)
		c.send("%s", text11("GET", "/first"))
		c.answer("GET").want(t, 200, "GET /first []")
		c.send("%s", get11("/last"))
		c.answer("GET").want(t, 200, "GET /last []")
		c.closed()
	})
	t.Run("pipelining", func(t *testing.T) {
		c := dial(t, s.addr)
		c.send("%s", text11("GET", "/1")+text11("POST", "/2", "Content-Length: 4")+"body"+text11("HEAD", "/3")+get11("/4"))
		c.answer("GET").want(t, 200, "GET /1 []")
		c.answer("POST").want(t, 200, "POST /2 [body]")
		c.answer("HEAD").want(t, 200, "")
		c.answer("GET").want(t, 200, "GET /4 []")
		c.closed()
	})
	t.Run("no body", func(t *testing.T) {
		c := dial(t, s.addr)
		c.send("%s", text11("GET", "/204")+text11("GET", "/304")+get11("/after"))
		a := c.answer("GET")
		a.want(t, 204, "")
		wantNoField("Content-Length")(t, a)
		c.answer("GET").want(t, 304, "")
		c.answer("GET").want(t, 200, "GET /after []")
	})
	t.Run("HTTP/1.0", func(t *testing.T) {
		c := dial(t, s.addr)
		c.send("GET /length HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
		c.answer("GET").want(t, 200, "body")
		c.send("GET /old HTTP/1.0\r\n\r\n")
		c.answer("GET").want(t, 200, "GET /old []")
		c.closed()
	})
	t.Run("chunked", func(t *testing.T) {
		c := dial(t, s.addr)
		c.send("%s", text11("POST", "/c", "Transfer-Encoding: chunked")+"3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\nTrailer: x\r\n\r\n")
		c.answer("POST").want(t, 200, "POST /c [abcdefg]")
		c.closed() // RFC 9112 § 6.1
	})
	t.Run("a body that nobody reads", func(t *testing.T) {
		s.request("POST", post11("/length", "\n"+strings.Repeat("x", 2<<20))).want(t, 200, "body")
	})
	t.Run("a head in many pieces", func(t *testing.T) {
		c := dial(t, s.addr)
		for _, b := range []byte(get11("/slow")) {
			c.send("%s", string(b))
		}
		c.answer("GET").want(t, 200, "GET /slow []")
	})
	s.stop()
}
