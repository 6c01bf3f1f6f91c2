package http1

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestMain lets more tests run at once than there are CPUs: most of them wait
// for a deadline.
func TestMain(m *testing.M) {
	flag.Parse()
	if flag.Lookup("test.fuzz").Value.String() == "" {
		flag.Set("test.parallel", "16")
	}
	os.Exit(m.Run())
}

// server is a real server on a real socket.
type server struct {
	*Server
	t       *testing.T
	network string
	addr    string
	served  chan struct{}

	mu   sync.Mutex
	done []string // "METHOD target status"
}

// newServer starts a server; change, if set, sees it before the first
// connection.
func newServer(t *testing.T, network string, handler func(*Exchange), change func(*Server)) *server {
	t.Helper()
	s := &server{t: t, network: network, addr: "127.0.0.1:0", served: make(chan struct{})}
	if network == "unix" {
		dir, err := os.MkdirTemp("", "ow")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		s.addr = filepath.Join(dir, "s")
	}
	ln, err := net.Listen(network, s.addr)
	if err != nil {
		t.Fatal(err)
	}
	s.addr = ln.Addr().String()
	s.Server = &Server{
		Handler: handler,
		Admit: func(c net.Conn, l *Listener) (Peer, bool) {
			if l.Unix {
				return Peer{Addr: "<unix>", UID: os.Getuid()}, true
			}
			host, port, err := net.SplitHostPort(c.RemoteAddr().String())
			return Peer{Addr: host, Port: port, UID: -1}, err == nil
		},
		Done: func(x *Exchange) {
			s.mu.Lock()
			s.done = append(s.done, fmt.Sprintf("%s %s %d", x.Method, x.Target, x.Status))
			s.mu.Unlock()
		},
	}
	if change != nil {
		change(s.Server)
	}
	go func() {
		s.Serve(&Listener{Listener: ln, Name: network, Host: "localhost", Port: "0", Unix: network == "unix"})
		close(s.served)
	}()
	t.Cleanup(func() {
		s.Stop()
		s.WaitIdle()
	})
	return s
}

// records are what Done has been told so far.
func (s *server) records() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.done, "; ")
}

// client is one connection that speaks raw bytes.
type client struct {
	net.Conn
	t  *testing.T
	in *bufio.Reader
}

func (s *server) dial() *client {
	s.t.Helper()
	c, err := net.Dial(s.network, s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(30 * time.Second))
	return &client{c, s.t, bufio.NewReader(c)}
}

func (c *client) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c.Conn, s); err != nil {
		c.t.Fatal(err)
	}
}

// answer reads one answer to a request with the given method.
func (c *client) answer(method string) (*http.Response, string) {
	c.t.Helper()
	r, err := http.ReadResponse(c.in, &http.Request{Method: method})
	if err != nil {
		c.t.Fatal(err)
	}
	b, err := io.ReadAll(r.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return r, string(b)
}

// ended wants the connection to end without another byte.
func (c *client) ended() {
	c.t.Helper()
	b, err := io.ReadAll(c.in)
	if len(b) != 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
		c.t.Fatalf("%q, %v; want the end of the connection", b, err)
	}
}

// echo answers with what it was asked.
func echo(x *Exchange) {
	b, err := io.ReadAll(x)
	if err != nil {
		x.Error(400, err.Error())
		return
	}
	x.Answer(200, "text/plain", fmt.Appendf(nil, "%s %s %s", x.Method, x.Target, b))
}

var networks = []string{"unix", "tcp"}

// onBoth runs a test on each kind of socket.
func onBoth(t *testing.T, f func(t *testing.T, network string)) {
	t.Parallel()
	for _, n := range networks {
		t.Run(n, func(t *testing.T) {
			t.Parallel()
			f(t, n)
		})
	}
}

const get = "GET / HTTP/1.1\r\nHost: h\r\n\r\n"
