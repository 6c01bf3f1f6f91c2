package front

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/onewake/onewake/internal/cgi"
	"github.com/onewake/onewake/internal/cli"
)

// patience ends a test that hangs.
const patience = time.Minute

// handler is a function as a [cgi.Handler].
type handler func(ctx context.Context, r *cgi.Request, w cgi.Writer)

func (h handler) Serve(ctx context.Context, r *cgi.Request, w cgi.Writer) { h(ctx, r, w) }

// front is a server with its own socket.
type front struct {
	t    *testing.T
	cfg  *cli.Config
	gate *Gate
	l    *Listener
	addr net.Addr
	done chan *cgi.Request // each finished request
	log  *lines
}

// lines collects a log.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// config returns a configuration with timeouts that do not pass during a test.
func config() *cli.Config {
	c := &cli.Config{Protocol: cli.HTTP, MaxConns: 16, MaxBody: 1 << 20}
	c.Times = cli.Times{Header: patience, Idle: patience, IO: patience, Grace: patience}
	return c
}

// start starts a server on a Unix socket or on a TCP port of the loopback
// interface.
func start(t *testing.T, cfg *cli.Config, network string, h handler) *front {
	t.Helper()
	dir, err := os.MkdirTemp("", "ow")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(dir, "s")
	}
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	f := &front{t: t, cfg: cfg, addr: ln.Addr(), done: make(chan *cgi.Request, 100), log: new(lines)}
	f.l = &Listener{Listener: ln, Name: network + ":" + address, Host: "host.test", Port: "8080", Unix: network == "unix"}
	log := slog.New(slog.NewTextHandler(f.log, nil))
	f.gate = NewGate(cfg, log, f.l)
	service := Service{Config: cfg, Gate: f.gate, Handler: h, Done: func(r *cgi.Request) { f.done <- r }}
	serve := func(*Listener) error { return nil }
	if cfg.Protocol == cli.FastCGI {
		serve = (&FastCGI{Service: service, Log: log}).Serve
	} else {
		s := &HTTP{Service: service, Software: "onewake/test", ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn)}
		s.Prepare()
		serve = s.Serve
	}
	go func() {
		serve(f.l)
		f.l.Close()
	}()
	t.Cleanup(func() {
		f.gate.Stop()
		f.gate.WaitListeners()
	})
	return f
}

// each calls look for each open connection.
func (f *front) each(look func(*conn)) {
	f.gate.mu.Lock()
	defer f.gate.mu.Unlock()
	for c := range f.gate.conns {
		c.mu.Lock()
		look(c)
		c.mu.Unlock()
	}
}

// awaitPartial waits until n connections have read a part of a request.
func (f *front) awaitPartial(n int) {
	f.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		begun := 0
		f.each(func(c *conn) {
			if c.partial {
				begun++
			}
		})
		if begun == n {
			return
		}
		if time.Now().After(end) {
			f.t.Fatalf("%d connections have a partial request, want %d", begun, n)
		}
	}
}

// within fails the test if wait does not return.
func (f *front) within(what string, wait func()) {
	f.t.Helper()
	done := make(chan bool)
	go func() {
		wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(patience):
		f.t.Fatal(what)
	}
}

// client is a connection to a front.
type client struct {
	net.Conn
	t *testing.T
	r *bufio.Reader
}

func (f *front) dial() *client {
	f.t.Helper()
	c, err := net.Dial(f.addr.Network(), f.addr.String())
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return &client{c, f.t, bufio.NewReader(c)}
}

func (c *client) send(text string) *client {
	c.t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		c.t.Fatal(err)
	}
	return c
}

// answer reads one HTTP answer.
func (c *client) answer(method string) (*http.Response, string) {
	c.t.Helper()
	resp, err := http.ReadResponse(c.r, &http.Request{Method: method})
	if err != nil {
		c.t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		b = append(b, " ("+err.Error()+")"...)
	}
	return resp, string(b)
}

// ended reads up to the end of the connection.
func (c *client) ended() string {
	c.t.Helper()
	b, err := io.ReadAll(c.r)
	if os.IsTimeout(err) {
		c.t.Fatal("the connection is not closed")
	}
	return string(b)
}

func (c *client) halfClose() *client {
	c.t.Helper()
	if err := c.Conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		c.t.Fatal(err)
	}
	return c
}

// hello answers every request.
func hello(_ context.Context, r *cgi.Request, w cgi.Writer) {
	w.Begin(200, []cgi.Field{{Name: "Content-Type", Value: "text/plain"}}, 5)
	io.WriteString(w, "hello")
}

// slow returns a handler like hello. For /slow it sends to in and receives from
// goOn first.
func slow(in chan<- bool, goOn <-chan bool) handler {
	return func(ctx context.Context, r *cgi.Request, w cgi.Writer) {
		if r.Target == "/slow" {
			in <- true
			<-goOn
		}
		hello(ctx, r, w)
	}
}

// readBody returns a handler that sends the error of reading the body to failed
// and answers 408.
func readBody(failed chan<- error) handler {
	return func(_ context.Context, r *cgi.Request, w cgi.Writer) {
		_, err := io.ReadAll(r.Body)
		failed <- err
		r.Refuse(w, 408, "late")
	}
}

// writeForever returns a handler that writes until there is an error, and sends
// that to failed.
func writeForever(failed chan<- error) handler {
	return func(_ context.Context, r *cgi.Request, w cgi.Writer) {
		w.Begin(200, nil, -1)
		for {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				failed <- err
				w.Cut()
				return
			}
		}
	}
}

// variables returns the variables of a request.
func variables(r *cgi.Request) map[string]string {
	vars := make(map[string]string)
	for v := range strings.SplitSeq(strings.TrimSuffix(string(r.Vars.Bytes()), "\x00"), "\x00") {
		name, value, _ := strings.Cut(v, "=")
		vars[name] = value
	}
	return vars
}

func get(target string, fields ...string) string {
	return "GET " + target + " HTTP/1.1\r\nHost: example.org\r\n" + strings.Join(append(fields, ""), "\r\n") + "\r\n"
}
