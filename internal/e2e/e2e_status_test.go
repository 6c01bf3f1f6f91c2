//go:build freebsd || linux

package e2e

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// Every row of the design's table of statuses, by a real request.

func TestStatusRaw(t *testing.T) {
	t.Parallel()
	const block = 64 << 10
	tests := []struct {
		name    string
		command string
		status  int
		length  int64 // Content-Length of the answer
		size    int   // of the body
		exit    string
	}{
		{"output", "echo hello", 200, 6, 6, "exit 0"},
		{"no output", ":", 200, 0, 0, "exit 0"},
		{"nearly a block", fmt.Sprintf("head -c %d /dev/zero", block-1), 200, block - 1, block - 1, "exit 0"},
		// Whether the end is seen in time to tell the length is a matter of luck.
		{"just a block", fmt.Sprintf("head -c %d /dev/zero", block), 200, -2, block, "exit 0"},
		{"more than a block", fmt.Sprintf("head -c %d /dev/zero", block+1), 200, -1, block + 1, "exit 0"},
		{"a lot", fmt.Sprintf("head -c %d /dev/zero", 50*block+7), 200, -1, 50*block + 7, "exit 0"},
		{"exit 3", "echo partial; echo reason >&2; exit 3", 500, -2, -1, "exit 3"},
		{"exit 1 without output", "echo reason >&2; exit 1", 500, -2, -1, "exit 1"},
		{"killed", "echo partial; echo reason >&2; kill -9 $$", 500, -2, -1, "signal 9"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := shell(t, tt.command)
			a := s.get("/")
			a.wantStatus(t, tt.status)
			if tt.size >= 0 && len(a.body) != tt.size {
				t.Errorf("body of %d bytes, want %d", len(a.body), tt.size)
			}
			if tt.length > -2 && a.length != tt.length {
				t.Errorf("Content-Length %d, want %d", a.length, tt.length)
			}
			rec := s.await("request", "exit", tt.exit)
			if tt.status == 500 {
				if strings.Contains(a.body, "reason") || strings.Contains(a.body, "partial") {
					t.Errorf("the client was told %q", a.body)
				}
				if r := s.await("stderr"); r["text"] != "reason\n" || r["id"] != rec["id"] {
					t.Errorf("stderr record %v", r)
				}
				s.await("command failed", "status", tt.exit, "id", rec["id"])
			} else if ct := a.header.Get("Content-Type"); ct != "text/plain; charset=utf-8" {
				t.Errorf("Content-Type %q", ct)
			}
			s.stop()
		})
	}
}

func TestStatusRawCut(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, how, exit string }{
		{"exit", "exit 3", "exit 3"},
		{"signal", "kill -9 $$", "signal 9"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := shell(t, "head -c 100000 /dev/zero; "+tt.how)
			a := s.get("/")
			if a.status != 200 || a.err != io.ErrUnexpectedEOF {
				t.Errorf("got %d, %d bytes, %v; want 200 and a truncated body", a.status, len(a.body), a.err)
			}
			if rec := s.await("request", "exit", tt.exit); rec["cut"] != "true" {
				t.Errorf("access record %v", rec)
			}
			// HTTP/1.0 has no way to show it but the connection's end.
			a = s.request("GET", "GET / HTTP/1.0\r\n\r\n")
			if a.status != 200 || len(a.body) > 100000 {
				t.Errorf("HTTP/1.0: %d, %d bytes", a.status, len(a.body))
			}
			s.stop()
		})
	}
}

func TestStatusCGI(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 1000)
	tests := []struct {
		name    string
		command string
		status  int
		body    string // "-" is not looked at
		check   func(t *testing.T, a *answer)
		exit    string
	}{
		{"LF", `printf 'Content-Type: text/x\nX-A: 1\n\nbody'`, 200, "body", wantField("Content-Type", "text/x"), "exit 0"},
		{"CRLF", `printf 'Content-Type: text/x\r\nX-A: 1\r\n\r\nbody'`, 200, "body", wantField("X-A", "1"), "exit 0"},
		{"status", `printf 'Status: 404 Nothing Here\nContent-Type: text/x\n\nno'`, 404, "no", nil, "exit 0"},
		{"status 599", `printf 'Status: 599\n\nno'`, 599, "no", nil, "exit 0"},
		{"no content type", `printf 'X-A: 1\n\nbody'`, 200, "body", wantNoField("Content-Type"), "exit 0"},
		{"absolute location", `printf 'Location: http://elsewhere.example/x\n\n'`, 302, "", wantField("Location", "http://elsewhere.example/x"), "exit 0"},
		{"absolute location with status", `printf 'Status: 307 x\nLocation: http://elsewhere.example/x\n\n'`, 307, "", wantField("Location", "http://elsewhere.example/x"), "exit 0"},
		{"local location with status", `printf 'Status: 303 x\nLocation: /there\n\n'`, 303, "", wantField("Location", "/there"), "exit 0"},
		{"repeated fields", `printf 'Set-Cookie: a=1\nSet-Cookie: b=2\n\n'`, 200, "", func(t *testing.T, a *answer) {
			if c := a.header.Values("Set-Cookie"); len(c) != 2 || c[0] != "a=1" || c[1] != "b=2" {
				t.Errorf("Set-Cookie %q", c)
			}
		}, "exit 0"},
		{"hop by hop", `printf 'Connection: x\nKeep-Alive: 1\nTransfer-Encoding: gzip\nUpgrade: h2c\nTrailer: x\nProxy-Connection: x\nX-A: 1\n\nbody'`,
			200, "body", func(t *testing.T, a *answer) {
				for _, f := range []string{"Keep-Alive", "Upgrade", "Trailer", "Proxy-Connection"} {
					wantNoField(f)(t, a)
				}
				// The command's own; net/http takes ours out.
				wantNoField("Connection")(t, a)
				wantField("X-A", "1")(t, a)
			}, "exit 0"},
		{"a true length", `printf 'Content-Length: 4\n\nbody'`, 200, "body", wantField("Content-Length", "4"), "exit 0"},
		{"header of 64 KiB", `printf 'X-Long: '; head -c 65500 /dev/zero | tr '\0' x; printf '\n\nbody'`, 200, "body", func(t *testing.T, a *answer) {
			if n := len(a.header.Get("X-Long")); n != 65500 {
				t.Errorf("field of %d bytes", n)
			}
		}, "exit 0"},
		{"exit 3 after a whole header", `printf 'X-A: 1\n\nbody'; exit 3`, 200, "body", nil, "exit 3"},

		{"nothing", `:`, 502, "-", nil, ""},
		{"nothing, exit 3", `exit 3`, 502, "-", nil, ""},
		{"no header", `echo hello`, 502, "-", nil, ""},
		{"empty header", `printf '\nhello'`, 502, "-", nil, ""},
		{"unfinished header", `printf 'X-A: 1\n'`, 502, "-", nil, ""},
		{"malformed header", `printf 'X A: 1\n\nhello'`, 502, "-", nil, ""},
		{"control character", `printf 'X-A: a\001b\n\nhello'`, 502, "-", nil, ""},
		{"header too long", `printf 'X-Long: '; head -c 70000 /dev/zero | tr '\0' x; printf '\n\nbody'`, 502, "-", nil, ""},
		{"endless header", `while :; do echo 'X-A: ` + long + `'; done`, 502, "-", nil, ""},
		{"status 199", `printf 'Status: 199\n\n'`, 502, "-", nil, ""},
		{"status 600", `printf 'Status: 600\n\n'`, 502, "-", nil, ""},
		{"status abc", `printf 'Status: abc\n\n'`, 502, "-", nil, ""},
		{"length too small", `printf 'Content-Length: 3\n\nbody'`, 502, "-", nil, ""},
		{"two lengths", `printf 'Content-Length: 4\nContent-Length: 4\n\nbody'`, 502, "-", nil, ""},
	}
	// One server for all: the command looks for its text in a file.
	dir := newDir(t, nil)
	s := start(t, "-cgi", "-dir", dir, "--", "/bin/sh", "-c", `. "./$QUERY_STRING"`)
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			file := fmt.Sprintf("c%d", i)
			if err := os.WriteFile(filepath.Join(dir, file), []byte(tt.command), 0o644); err != nil {
				t.Fatal(err)
			}
			a := s.get("/?" + file)
			if tt.body == "-" {
				a.wantStatus(t, tt.status)
				if strings.Contains(a.body, "hello") || strings.Contains(a.body, "body\n") || len(a.body) > 200 {
					t.Errorf("body %q", a.body)
				}
			} else {
				a.want(t, tt.status, tt.body)
			}
			if tt.check != nil {
				tt.check(t, a)
			}
			rec := s.await("request", "path", "/?"+file)
			if rec["status"] != fmt.Sprint(tt.status) || tt.exit != "" && rec["exit"] != tt.exit {
				t.Errorf("access record %v", rec)
			}
			if tt.exit != "" && tt.exit != "exit 0" {
				s.await("command failed", "status", tt.exit, "id", rec["id"])
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

// CGI output is passed on as it comes; a death by a signal shows.
func TestStatusCGIStream(t *testing.T) {
	t.Parallel()
	dir := newDir(t, nil)
	s := cgi(t, `printf 'X-A: 1\n\nfirst\n'; while ! test -e go; do sleep .02; done; echo second; case $QUERY_STRING in kill) kill -9 $$;; exit) exit 3;; esac`,
		"-dir", dir)
	for _, how := range []string{"", "exit", "kill"} {
		os.Remove(filepath.Join(dir, "go"))
		c := dial(t, s.addr)
		c.send("%s", get11("/?"+how))
		var head []byte
		// The first line is here while the command still waits for us.
		for !strings.HasSuffix(string(head), "first\n") {
			b, err := c.r.ReadByte()
			if err != nil {
				t.Fatalf("after %q: %v", head, err)
			}
			head = append(head, b)
		}
		if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		rest, _ := io.ReadAll(c.r)
		whole := strings.HasSuffix(string(rest), "\r\n0\r\n\r\n")
		if !strings.Contains(string(rest), "second\n") || whole == (how == "kill") {
			t.Errorf("%q: got %q, then %q", how, head, rest)
		}
		rec := s.await("request", "path", "/?"+how)
		if (rec["cut"] == "true") != (how == "kill") {
			t.Errorf("%q: access record %v", how, rec)
		}
	}
	s.stop()
}

// Whether anything has been sent by the time that the command is killed is a
// matter of chance; whole the answer is in no case.
func TestStatusCGIKilled(t *testing.T) {
	t.Parallel()
	s := cgi(t, `printf 'X-A: 1\n\nbody'; kill -9 $$`)
	for range 20 {
		a := s.get("/")
		if a.status != 502 && (a.status != 200 || a.err == nil) {
			t.Errorf("got %d, %q, %v", a.status, a.body, a.err)
		}
	}
	s.stop()
	if n := len(s.find("command failed", "status", "signal 9")); n != 20 {
		t.Errorf("%d records of a failed command, want 20", n)
	}
}

// A length that the command promises and does not keep, once the answer has
// begun, is shown by the end of the connection.
func TestStatusCGIShort(t *testing.T) {
	t.Parallel()
	quick := cgi(t, `printf 'Content-Length: 5\n\nbody'`)
	for range 20 {
		a := quick.get("/")
		if a.status != 502 && (a.status != 200 || a.err != io.ErrUnexpectedEOF) {
			t.Errorf("got %d, %q, %v", a.status, a.body, a.err)
		}
	}
	quick.stop()
	s := cgi(t, `printf 'Content-Length: 10\n\nabc'; sleep .2; echo`)
	a := s.get("/")
	if a.status != 200 || a.err != io.ErrUnexpectedEOF {
		t.Errorf("got %d, %q, %v; want a truncated body", a.status, a.body, a.err)
	}
	s.await("response is shorter than its Content-Length", "missing", "6")
	s.stop()
}

func TestStatusLocalRedirect(t *testing.T) {
	t.Parallel()
	dir := newDir(t, nil)
	// The command notes how many of its kind run at the same time.
	s := cgi(t, `mkdir running 2>/dev/null || echo twice >>overlap
n=${QUERY_STRING#n=}
rmdir running
if test "$n" -gt 0; then printf 'Location: %s\n\n' "/next?n=$((n-1))"; exit; fi
printf 'X-A: 1\n\n%s %s %s %s' "$REQUEST_METHOD" "$PATH_INFO" "$QUERY_STRING" "$CONTENT_LENGTH"`, "-dir", dir)
	s.get("/first?n=0").want(t, 200, "GET /first n=0 ")
	s.get("/first?n=1").want(t, 200, "GET /next n=0 ")
	s.get("/first?n=10").want(t, 200, "GET /next n=0 ")
	s.request("POST", post11("/first?n=2", "body")).want(t, 200, "GET /next n=0 ")
	s.get("/first?n=11").wantStatus(t, 502)
	if _, err := os.Stat(filepath.Join(dir, "overlap")); err == nil {
		t.Error("two processes ran for one request at the same time")
	}
	s.stop()
}

func TestStatusNotStarted(t *testing.T) {
	t.Parallel()
	dir := newDir(t, nil)
	command := script(t, dir, "command", "echo hello\n")
	s := start(t, "--", command)
	s.get("/").want(t, 200, "hello\n")
	os.Rename(command, command+".away")
	s.get("/").wantStatus(t, 502)
	s.await("command cannot be started")
	if err := writeProgram(command, []byte("#!/nonexistent\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	s.get("/").wantStatus(t, 502)
	os.Rename(command+".away", command)
	os.Chmod(command, 0)
	if os.Geteuid() != 0 {
		s.get("/").wantStatus(t, 502)
	}
	os.Chmod(command, 0o755)
	s.get("/").want(t, 200, "hello\n")
	s.stop()
}

func TestStatusTimeout(t *testing.T) {
	t.Parallel()
	t.Run("nothing sent", func(t *testing.T) {
		dir := newDir(t, nil)
		s := shell(t, `sleep 100 & echo $! >child; echo $$ >leader; echo half; wait`, "-timeout", "300ms", "-dir", dir)
		s.get("/").wantStatus(t, 504)
		s.await("request", "status", "504", "ended", "timeout")
		awaitGone(t, readPID(t, dir+"/leader"), readPID(t, dir+"/child"))
		s.stop()
	})
	t.Run("streamed", func(t *testing.T) {
		s := cgi(t, `printf 'X-A: 1\n\nabc'; exec sleep 100`, "-timeout", "300ms")
		a := s.get("/")
		if a.status != 200 || a.body != "abc" || a.err != io.ErrUnexpectedEOF {
			t.Errorf("got %d, %q, %v; want a truncated body", a.status, a.body, a.err)
		}
		s.await("request", "ended", "timeout", "cut", "true")
		s.stop()
	})
	t.Run("TERM ignored", func(t *testing.T) {
		dir := newDir(t, nil)
		s := shell(t, `trap '' TERM; echo $$ >leader; while :; do sleep .1; done`, "-timeout", "300ms", "-kill-after", "300ms", "-dir", dir)
		began := time.Now()
		s.get("/").wantStatus(t, 504)
		pid := readPID(t, dir+"/leader")
		awaitGone(t, pid)
		if d := time.Since(began); d < 500*time.Millisecond || d > 5*time.Second {
			t.Errorf("ended after %v", d)
		}
		s.stop()
	})
}

func TestStatusClientGone(t *testing.T) {
	t.Parallel()
	// sleeper runs until it is ended; the file tells when it has begun.
	sleeper := `sleep 100 & echo $! >child; echo $$ >leader; wait`
	for _, network := range []string{"unix", "tcp"} {
		t.Run(network, func(t *testing.T) {
			dir := newDir(t, nil)
			flags := []string{"-dir", dir}
			if network == "tcp" {
				flags = append(flags, "-listen", "tcp4:127.0.0.1:0")
			}
			s := shell(t, sleeper, flags...)
			c := dial(t, s.addr)
			c.send("%s", get11("/"))
			leader, child := readPID(t, dir+"/leader"), readPID(t, dir+"/child")
			c.Close()
			awaitGone(t, leader, child)
			s.await("request", "ended", "client gone", "cut", "true")
			s.stop()
		})
	}
	t.Run("with a body read ahead", func(t *testing.T) {
		dir := newDir(t, nil)
		s := shell(t, sleeper, "-dir", dir)
		c := dial(t, s.addr)
		c.send("%s", post11("/", strings.Repeat("x", 1<<20)))
		leader := readPID(t, dir+"/leader")
		c.Close()
		awaitGone(t, leader)
		s.stop()
	})
	t.Run("in the middle of a body", func(t *testing.T) {
		dir := newDir(t, nil)
		s := shell(t, `echo $$ >leader; cat >/dev/null; sleep 100`, "-dir", dir)
		c := dial(t, s.addr)
		c.send("%s", text11("POST", "/", "Content-Length: 3000000"))
		c.send("%s", strings.Repeat("x", 2<<20))
		leader := readPID(t, dir+"/leader")
		c.Close()
		awaitGone(t, leader)
		s.stop()
	})
	t.Run("at a failed write", func(t *testing.T) {
		dir := newDir(t, nil)
		s := shell(t, `echo $$ >leader; exec cat /dev/zero`, "-dir", dir)
		c := dial(t, s.addr)
		c.send("%s", get11("/"))
		if _, err := io.CopyN(io.Discard, c.r, 1<<20); err != nil {
			t.Fatal(err)
		}
		leader := readPID(t, dir+"/leader")
		c.Close()
		awaitGone(t, leader)
		s.await("request", "cut", "true")
		s.stop()
	})
	t.Run("half closed", func(t *testing.T) {
		s := shell(t, `sleep .3; echo answer`)
		c := dial(t, s.addr)
		c.send("%s", get11("/"))
		c.halfClose()
		c.answer("GET").want(t, 200, "answer\n")
		s.stop()
	})
	t.Run("while it waits for a slot", func(t *testing.T) {
		dir := newDir(t, nil)
		s := shell(t, `echo "$REQUEST_URI" >>ran; while ! test -e go; do sleep .02; done`, "-dir", dir, "-max-procs", "1")
		c1, c2 := dial(t, s.addr), dial(t, s.addr)
		c1.send("%s", get11("/1"))
		eventually(t, "a running command", func() bool { return s.status()["running"] == "1" })
		c2.send("%s", get11("/2"))
		eventually(t, "a queued request", func() bool { return s.status()["queued"] == "1" })
		c2.Close()
		eventually(t, "an empty queue", func() bool { return s.status()["queued"] == "0" })
		os.WriteFile(dir+"/go", nil, 0o644)
		c1.answer("GET").wantStatus(t, 200)
		s.stop()
		if b, _ := os.ReadFile(dir + "/ran"); string(b) != "/1\n" {
			t.Errorf("commands ran for %q", b)
		}
	})
}

func TestStatusTooLarge(t *testing.T) {
	t.Parallel()
	dir := newDir(t, nil)
	s := shell(t, `echo ran >>ran; cat >/dev/null; eval echo '${#'"$QUERY_STRING}"`, "-dir", dir, "-max-body", "2MiB")
	ran := func() int {
		b, _ := os.ReadFile(dir + "/ran")
		return strings.Count(string(b), "\n")
	}
	line := func(n int) string { // a request line of n bytes
		const around = len("GET /?PATH ") + len("HTTP/1.1")
		return "GET /?PATH" + strings.Repeat("x", n-around) + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
	}
	value := func(n int) string { return strings.Repeat("v", n) }
	chunked := func(n int) string {
		return text11("POST", "/?PATH", "Transfer-Encoding: chunked") +
			fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", n, strings.Repeat("x", n))
	}
	var manyFields []string
	for i := range 140 {
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
		{"a value that can be executed", get11("/?HTTP_X", "X: "+value(128<<10-8)), 200, fmt.Sprintln(128<<10 - 8)},
		{"a value of 128 KiB", get11("/?HTTP_X", "X: "+value(128<<10)), 431, ""},
		{"a value too large with its name", get11("/?HTTP_X", "X: "+value(128<<10-1)), 431, ""},
		{"two values too large together", get11("/?HTTP_X", "X: "+value(100<<10), "X: "+value(100<<10)), 431, ""},
		{"header of more than 256 KiB", get11("/?PATH", manyFields...), 431, ""},
		{"header of nearly 256 KiB", get11("/?HTTP_X_099", manyFields[:128]...), 200, "2000\n"},
		{"body of the largest size", post11("/?PATH", value(2<<20)), 200, ""},
		{"body that is larger", post11("/?PATH", value(2<<20+1)), 413, ""},
		{"larger body that is not sent", text11("POST", "/", "Content-Length: 2097153"), 413, ""},
		{"chunked body of the largest size", chunked(2 << 20), 200, ""},
		{"chunked body that is larger", chunked(2<<20 + 1), 413, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := ran()
			a := s.request("GET", tt.raw)
			a.wantStatus(t, tt.status)
			if tt.body != "" && a.body != tt.body {
				t.Errorf("body %.100q, want %q", a.body, tt.body)
			}
			if n := ran() - before; tt.status != 200 && n != 0 {
				t.Errorf("%d commands ran for a request that was refused", n)
			}
		})
	}
	s.stop()
}

// A body announced as too large is refused before the client sends it.
func TestStatusExpect(t *testing.T) {
	t.Parallel()
	s := shell(t, `cat`, "-max-body", "1000")
	c := dial(t, s.addr)
	c.send("%s", text11("POST", "/", "Content-Length: 1001", "Expect: 100-continue"))
	c.answer("POST").wantStatus(t, 413)
	c.closed()
	c.Close()
	c = dial(t, s.addr)
	c.send("%s", text11("POST", "/", "Content-Length: 5", "Expect: 100-continue", "Connection: close"))
	c.answer("POST").wantStatus(t, 100)
	c.send("hello")
	c.answer("POST").want(t, 200, "hello")
	c.closed()
	s.request("POST", text11("POST", "/", "Content-Length: 5", "Expect: something")).wantStatus(t, 417)
	s.stop()
}

func TestStatusQueueFull(t *testing.T) {
	t.Parallel()
	dir := newDir(t, nil)
	s := shell(t, `cat >/dev/null; while ! test -e go; do sleep .02; done; echo done`, "-dir", dir, "-max-procs", "2", "-max-queue", "3")
	var waiting []*conn
	for range 5 {
		c := dial(t, s.addr)
		c.send("%s", get11("/"))
		waiting = append(waiting, c)
	}
	eventually(t, "two running and three queued", func() bool {
		st := s.status()
		return st["running"] == "2" && st["queued"] == "3"
	})
	// Refused before its body is read: it is never sent.
	a := s.request("POST", text11("POST", "/", "Content-Length: 5"))
	a.wantStatus(t, 503)
	wantField("Retry-After", "1")(t, a)
	if st := s.status(); st["refused"] != "1" {
		t.Errorf("status record %v", st)
	}
	os.WriteFile(dir+"/go", nil, 0o644)
	for _, c := range waiting {
		c.answer("GET").want(t, 200, "done\n")
	}
	s.stop()
}

func TestStatusMalformed(t *testing.T) {
	t.Parallel()
	s := start(t, "-script-name", "/app", "--", "/bin/sh", "-c", `printf '%s %s' "$SCRIPT_NAME" "$PATH_INFO"`)
	tests := []struct {
		name, raw string
		status    int
		body      string
	}{
		{"whole segment", get11("/app/x"), 200, "/app /x"},
		{"the name alone", get11("/app"), 200, "/app "},
		{"with a query", get11("/app?x"), 200, "/app "},
		{"absolute form", get11("http://example.org/app/y"), 200, "/app /y"},
		{"encoded slash", get11("/app%2Fz"), 200, "/app /z"},
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
		{"bare LF", "GET /app HTTP/1.1\nHost: x\n\n", 400, ""},
		{"folded field", get11("/app", "X: a", " b"), 400, ""},
		{"space before the colon", get11("/app", "X : a"), 400, ""},
		{"two lengths", text11("POST", "/app", "Content-Length: 1", "Content-Length: 1") + "x", 400, ""},
		{"length and chunked", text11("POST", "/app", "Content-Length: 1", "Transfer-Encoding: chunked") + "0\r\n\r\n", 400, ""},
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
	dir := newDir(t, nil)
	s := cgi(t, `echo "$REQUEST_METHOD $REQUEST_URI" >>log; body=$(cat); case $PATH_INFO in
/204) printf 'Status: 204 x\n\njunk';;
/304) printf 'Status: 304 x\nETag: "x"\n\njunk';;
*) printf 'X-A: 1\n\n%s %s [%s]' "$REQUEST_METHOD" "$PATH_INFO" "$body";; esac`, "-dir", dir)
	t.Run("keep-alive", func(t *testing.T) {
		c := dial(t, s.addr)
		for i := range 3 {
			c.send("%s", text11("GET", fmt.Sprintf("/%d", i)))
			c.answer("GET").want(t, 200, fmt.Sprintf("GET /%d []", i))
		}
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
		c.send("GET /old HTTP/1.0\r\n\r\n")
		a := c.answer("GET")
		a.want(t, 200, "GET /old []")
		c.closed()
		// Kept only where the length of the answer is known.
		page := start(t)
		c = dial(t, page.addr)
		c.send("GET /1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
		c.answer("GET").wantStatus(t, 200)
		c.send("GET /2 HTTP/1.0\r\n\r\n")
		c.answer("GET").wantStatus(t, 200)
		c.closed()
		page.stop()
	})
	t.Run("chunked", func(t *testing.T) {
		c := dial(t, s.addr)
		c.send("%s", text11("POST", "/c", "Transfer-Encoding: chunked")+"3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\nTrailer: x\r\n\r\n")
		c.answer("POST").want(t, 200, "POST /c [abcdefg]")
		c.closed() // RFC 9112 § 6.1
	})
	t.Run("a body that nobody reads", func(t *testing.T) {
		s := cgi(t, `printf 'X-A: 1\n\nhello'`)
		s.request("POST", post11("/", strings.Repeat("x", 5<<20))).want(t, 200, "hello")
		s.stop()
	})
	t.Run("slow head", func(t *testing.T) {
		c := dial(t, s.addr)
		for _, b := range []byte(get11("/slow")) {
			c.send("%s", string(b))
			time.Sleep(time.Millisecond)
		}
		c.answer("GET").want(t, 200, "GET /slow []")
	})
	s.stop()
}

// Deadlines of a client that sends nothing, or too slowly.
func TestStatusSlowClient(t *testing.T) {
	t.Parallel()
	s := start(t)
	c := dial(t, s.addr)
	began := time.Now()
	c.send("GET / HTTP/1.1\r\nHost:")
	c.answer("GET").wantStatus(t, 408)
	if d := time.Since(began); d < 9*time.Second || d > 14*time.Second {
		t.Errorf("408 after %v, want 10s", d)
	}
	c.Close()
	s.stop()
}

// TestStatusNoDescriptor needs a way to take descriptors away from a process
// that runs; see linux_test.go.

// Quick and slow commands, small and large output, answers that are cut: one
// after the other on connections that are kept, many at once. No answer is late
// by more than a moment, or another request's.
func TestMixed(t *testing.T) {
	t.Parallel()
	s := shell(t, `case $PATH_INFO in
/fail) echo secret; exit 1;;
/cut) head -c 200000 /dev/zero; exit 1;;
/large) head -c 150000 /dev/zero;;
/slow) sleep .03; echo "$QUERY_STRING";;
*) echo "$QUERY_STRING";; esac`, "-max-procs", "4")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			var c *conn
			for j := range 60 {
				if c == nil {
					c = dial(t, s.addr)
				}
				path := []string{"/quick", "/fail", "/slow", "/large", "/quick", "/cut"}[(i+j)%6]
				id := fmt.Sprintf("%d.%d", i, j)
				c.SetDeadline(time.Now().Add(patience))
				c.trySend(text11("GET", path+"?"+id))
				a, err := c.tryAnswer("GET")
				if err != nil {
					t.Errorf("%s: %v", path, err)
					return
				}
				ok := a.err == nil && a.status == 200
				switch path {
				case "/quick", "/slow":
					ok = ok && a.body == id+"\n"
				case "/large":
					ok = ok && len(a.body) == 150000
				case "/fail":
					ok = a.err == nil && a.status == 500
				case "/cut":
					ok = a.err == io.ErrUnexpectedEOF && a.status == 200
				}
				if !ok {
					t.Errorf("%s: got %d, %.100q, %v", path, a.status, a.body, a.err)
				}
				if a.err != nil {
					c.Close()
					c = nil
				}
			}
		})
	}
	wg.Wait()
	s.stop()
}
