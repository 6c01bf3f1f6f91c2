//go:build stress

package http1

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

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

var (
	blocks                = sync.Pool{New: func() any { return new(Block) }}
	fieldName, fieldValue = []byte("Content-Type"), []byte("text/plain")
)

// TestParseAllocates nothing for a request as a proxy sends it.
func TestParseAllocates(t *testing.T) {
	b := []byte(head("GET /a/b?c=d HTTP/1.1", "Host: example.org", "X-Real-IP: 192.0.2.1", "User-Agent: curl/8.0", "Accept: */*",
		"Cookie: a=b", "Connection: close", "Content-Length: 5"))
	r := &Request{Fields: make([]Field, 0, 16)}
	if n := testing.AllocsPerRun(1000, func() {
		r.reset()
		if size, err := r.parse(b); size != len(b) || err != nil {
			t.Fatal(size, err)
		}
	}); n != 0 {
		t.Errorf("%v allocations a request", n)
	}
}
