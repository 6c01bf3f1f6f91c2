package http1

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
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
		for s.Conns() > 0 {
			time.Sleep(time.Millisecond)
		}
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

// TestPipelining sends three requests at once, cut into two writes at every
// position.
func TestPipelining(t *testing.T) {
	t.Parallel()
	s := newServer(t, "unix", echo, nil)
	all := "GET /1 HTTP/1.1\r\nHost: h\r\n\r\n" +
		"POST /2 HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc" +
		"POST /3 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nxyz\r\n0\r\n\r\n"
	for i := range len(all) {
		c := s.dial()
		c.send(all[:i])
		if i%8 == 0 {
			time.Sleep(time.Millisecond) // so that the server sees the half
		}
		c.send(all[i:])
		for _, want := range []string{"GET /1 ", "POST /2 abc", "POST /3 xyz"} {
			if _, got := c.answer("POST"); got != want {
				t.Fatalf("cut at %d: %q, want %q", i, got, want)
			}
		}
		c.ended() // a chunked request is the last
		c.Close()
	}
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

func TestMaxConns(t *testing.T) {
	onBoth(t, func(t *testing.T, network string) {
		s := newServer(t, network, echo, func(s *Server) { s.MaxConns = 2 })
		one, two, three := s.dial(), s.dial(), s.dial()
		for _, c := range []*client{one, two} {
			c.send(get)
			c.answer("GET")
		}
		three.send(get) // connected, but not served
		three.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if _, err := three.in.Peek(1); !os.IsTimeout(err) {
			t.Fatalf("served past the limit: %v", err)
		}
		three.SetReadDeadline(time.Now().Add(10 * time.Second))
		one.Close()
		if r, _ := three.answer("GET"); r.StatusCode != 200 {
			t.Error(r)
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

// TestWatchGone: poll(2) tells a client that has gone from one that has only
// stopped sending, on a Unix socket. On TCP it does not, and there the end of
// the sending half counts as the end.
func TestWatchGone(t *testing.T) {
	onBoth(t, func(t *testing.T, network string) {
		gone, goOn := make(chan struct{}, 4), make(chan struct{})
		inside := make(chan struct{})
		s := newServer(t, network, func(x *Exchange) {
			x.WatchGone(func() { gone <- struct{}{} })
			inside <- struct{}{}
			<-goOn
			x.Unwatch()
			x.Answer(200, "", []byte("late"))
		}, nil)
		isGone := func(want bool) {
			t.Helper()
			select {
			case <-gone:
				if !want {
					t.Error("taken for gone")
				}
			case <-time.After(map[bool]time.Duration{true: 5 * time.Second, false: 100 * time.Millisecond}[want]):
				if want {
					t.Error("not noticed")
				}
			}
		}
		c := s.dial() // half-closed
		c.send(get)
		<-inside
		isGone(false)
		c.Conn.(interface{ CloseWrite() error }).CloseWrite()
		isGone(network == "tcp")
		goOn <- struct{}{}
		if _, body := c.answer("GET"); body != "late" {
			t.Errorf("%q", body)
		}
		c.ended()

		c = s.dial() // closed
		c.send(get)
		<-inside
		c.Close()
		isGone(true)
		goOn <- struct{}{}

		c = s.dial() // pipelining is not going away, and the next request is whole
		c.send(get)
		<-inside
		c.send(get)
		isGone(false)
		goOn <- struct{}{}
		c.answer("GET")
		<-inside
		goOn <- struct{}{}
		c.answer("GET")

		c.send(get) // half-closed and then closed
		<-inside
		c.Conn.(interface{ CloseWrite() error }).CloseWrite()
		isGone(network == "tcp")
		if network == "unix" {
			c.Close()
			isGone(true)
		}
		goOn <- struct{}{}
	})
}

// TestAbortRead wakes a reader that waits for more of a body.
func TestAbortRead(t *testing.T) {
	t.Parallel()
	s := newServer(t, "unix", func(x *Exchange) {
		read := make(chan error)
		go func() {
			_, err := io.ReadAll(x)
			read <- err
		}()
		time.Sleep(20 * time.Millisecond)
		x.AbortRead()
		if err := <-read; err != os.ErrDeadlineExceeded {
			t.Error(err)
		}
		x.Answer(200, "", []byte("done"))
	}, nil)
	c := s.dial()
	c.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nabc")
	if r, body := c.answer("POST"); body != "done" || !r.Close {
		t.Errorf("%v %q", r, body)
	}
}

// TestChunkedBodyReads shows that a head which nearly fills its buffer does
// not make each read of a chunked body a tiny one.
func TestChunkedBodyReads(t *testing.T) {
	t.Parallel()
	const size = 1 << 20
	for _, free := range []int{0, 1, 7, 100} {
		told := make(chan int, 1)
		s := newServer(t, "unix", func(x *Exchange) {
			buf, total, reads := make([]byte, 64<<10), 0, 0
			for {
				n, err := x.Read(buf)
				reads++
				if total += n; err != nil {
					if err != io.EOF || total != size {
						t.Errorf("%d bytes, %v", total, err)
					}
					break
				}
			}
			told <- reads
			x.Answer(200, "", nil)
		}, nil)
		const start = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nX: "
		h := start + strings.Repeat("x", firstBuffer-free-len(start)-4) + "\r\n\r\n"
		c := s.dial()
		c.send(h)
		time.Sleep(10 * time.Millisecond)
		c.send(fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", size, strings.Repeat("y", size)))
		c.answer("POST")
		if reads := <-told; reads > size/512 {
			t.Errorf("%d bytes free: %d reads for a body of %d", free, reads, size)
		}
	}
}

// inChild runs the test again in a process of its own, for what would harm
// the other tests. It returns true there.
func inChild(t *testing.T) bool {
	t.Helper()
	if os.Getenv("OW_CHILD") == t.Name() {
		return true
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "OW_CHILD="+t.Name())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

// set hides that a limit's type differs between systems.
func set[T int64 | uint64](p *T, n int) { *p = T(n) }

// TestAcceptError: for want of a descriptor the server says so once, waits,
// and goes on as soon as there is one.
func TestAcceptError(t *testing.T) {
	if !inChild(t) {
		return
	}
	var errs atomic.Int32
	s := newServer(t, "unix", echo, func(s *Server) {
		s.AcceptError = func(err error) {
			if !errors.Is(err, syscall.EMFILE) {
				t.Error(err)
			}
			errs.Add(1)
		}
	})
	first := s.dial()
	first.send(get)
	first.answer("GET")
	// A shortage that comes and goes.
	for range 3 {
		// The client's descriptor takes the last number that is free.
		var old unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
			t.Fatal(err)
		}
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		lim := old
		set(&lim.Cur, fd+1)
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
			t.Fatal(err)
		}
		if err := unix.Connect(fd, &unix.SockaddrUnix{Name: s.addr}); err != nil {
			t.Fatal(err)
		}
		unix.Write(fd, []byte(get))
		time.Sleep(300 * time.Millisecond)
		first.send(get) // those who are in are served
		first.answer("GET")
		unix.Setrlimit(unix.RLIMIT_NOFILE, &old)
		b := make([]byte, 4096)
		if n, err := unix.Read(fd, b); err != nil || !bytes.HasPrefix(b[:n], []byte("HTTP/1.1 200 OK\r\n")) {
			t.Errorf("%q, %v", b[:max(n, 0)], err)
		}
		unix.Close(fd)
	}
	if n := errs.Load(); n != 1 {
		t.Errorf("told %d times", n)
	}
}

// TestAllocations counts what a request costs on a keep-alive connection: its
// parts live in the connection and in pools.
func TestAllocations(t *testing.T) {
	if !inChild(t) { // other tests allocate too
		return
	}
	s := newServer(t, "unix", func(x *Exchange) {
		b := blocks.Get().(*Block)
		x.AddField(fieldName, fieldValue)
		x.Begin(200, 5)
		x.Send(b, 0, copy(b.Data(), "hello"), true)
		blocks.Put(b)
	}, func(s *Server) { s.Done = func(*Exchange) {} })
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: s.addr})
	}
	if err != nil {
		t.Fatal(err)
	}
	request := []byte(head("GET /a?b HTTP/1.1", "Host: h", "Accept: */*", "Cookie: a=b", "Connection: keep-alive"))
	answer := make([]byte, 4096)
	ask := func(n int) {
		for range n {
			if _, err := unix.Write(fd, request); err != nil {
				t.Fatal(err)
			}
			if n, err := unix.Read(fd, answer); err != nil || !bytes.HasSuffix(answer[:n], []byte("\r\n\r\nhello")) {
				t.Fatalf("%q, %v", answer[:n], err)
			}
		}
	}
	ask(100)
	const n = 5000
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	ask(n)
	runtime.ReadMemStats(&after)
	unix.Close(fd)
	each := float64(after.Mallocs-before.Mallocs) / n
	t.Logf("%.4f allocations a request", each)
	if each > 0.1 && !raceDetector {
		t.Errorf("%.2f allocations a request", each)
	}
}

var (
	blocks                = sync.Pool{New: func() any { return new(Block) }}
	fieldName, fieldValue = []byte("Content-Type"), []byte("text/plain")
)

// TestNothingStays: after many connections, ended in every way, neither
// goroutines nor descriptors are left.
func TestNothingStays(t *testing.T) {
	if !inChild(t) {
		return
	}
	s := newServer(t, "unix", func(x *Exchange) {
		x.WatchGone(func() {})
		switch string(x.Path) {
		case "/cut":
			x.Cut()
		case "/413":
			x.Error(413, "")
		default:
			echo(x)
		}
	}, nil)
	fds := func() int {
		l, err := os.ReadDir("/dev/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(l)
	}
	round := func() {
		for _, r := range []string{get, get + get, "GET /cut HTTP/1.1\r\nHost: h\r\n\r\n", "GE", "", "\n",
			"POST /413 HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nabc"} {
			c, err := net.Dial("unix", s.addr)
			if err != nil {
				t.Fatal(err)
			}
			io.WriteString(c, r)
			c.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
			io.Copy(io.Discard, c)
			c.Close()
		}
		for s.Conns() > 0 {
			time.Sleep(time.Millisecond)
		}
	}
	round()
	n, f := runtime.NumGoroutine(), fds()
	for range 20 {
		round()
	}
	for range 300 { // the sweep ends a second after the last connection
		if runtime.NumGoroutine() <= n && fds() <= f {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("goroutines %d, then %d; descriptors %d, then %d", n, runtime.NumGoroutine(), f, fds())
}
