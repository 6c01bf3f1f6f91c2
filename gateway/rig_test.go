package gateway

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/http1"
	"github.com/onewake/onewake/sandbox"
	"github.com/onewake/onewake/spawn"
)

const (
	// killAfter passes in tests of commands that ignore SIGTERM.
	killAfter = 300 * time.Millisecond
	// bound ends a test that waits for what does not come.
	bound = 30 * time.Second
	// never is for times that must not pass during a test.
	never = time.Hour
)

// eventually waits for a condition that nothing tells of.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(bound); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// monitor starts the commands of all tests: it runs whatever script a
// request's PATH_INFO names.
var monitorLog = slog.New(slog.DiscardHandler)

var monitor struct {
	loop  *spawn.Loop
	sup   *spawn.Supervisor
	spool string // where it keeps bodies
}

func TestMain(m *testing.M) {
	flag.Parse()
	if flag.Lookup("test.fuzz").Value.String() == "" {
		flag.Set("test.parallel", "16") // most tests wait
	}
	spool, err := os.MkdirTemp("", "ow")
	if err == nil {
		monitor.spool = spool
		err = startMonitor()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	onLoop(monitor.sup.KillAll)
	os.RemoveAll(spool)
	os.Exit(code)
}

func startMonitor() error {
	if err := sandbox.AcquireReaper(); err != nil && !errors.Is(err, sandbox.ErrUnsupported) {
		return err
	}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := spawn.DefaultSignals()
		if err == nil {
			monitor.loop, err = spawn.NewLoop()
		}
		if err == nil {
			monitor.sup, err = spawn.NewSupervisor(monitor.loop, monitorLog, spawn.Command{
				Path: "/bin/sh", Args: []string{"sh", "-c", `. "$PATH_INFO"`}, Dir: "/",
				Env: []string{"PATH=/bin:/usr/bin"}, SpoolDir: monitor.spool,
			}, 64, killAfter, func(int) bool { return false })
		}
		ready <- err
		if err == nil {
			monitor.loop.Run()
		}
	}()
	return <-ready
}

// onLoop calls f on the monitor's loop and waits for it.
func onLoop(f func()) {
	done := make(chan struct{})
	monitor.loop.Post(func() { f(); close(done) })
	<-done
}

// rig is a core: an HTTP server and a gateway on a control socket of its own.
type rig struct {
	*Gateway
	t      *testing.T
	server *http1.Server
	dir    string // of socket and scripts
	sock   string
	log    lockedBuffer
	broken chan error
	sndbuf atomic.Int64 // of connections, in bytes, if not 0

	mu   sync.Mutex
	recs []Record
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newRig starts a core in which change has set what differs from the default.
func newRig(t *testing.T, change func(*Gateway)) *rig {
	t.Helper()
	dir, err := os.MkdirTemp("", "ow")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	r := &rig{t: t, dir: dir, sock: filepath.Join(dir, "s"), broken: make(chan error, 1)}
	r.Gateway = &Gateway{
		Meta:        Meta{Software: "onewake/test"},
		Client:      newClient(t, r.broken),
		Log:         slog.NewTextHandler(&r.log, nil),
		ContentType: "text/x-test", Timeout: never, MaxProcs: 8, MaxQueue: 8, MaxBody: 64 << 20,
		grace: never, lastWords: never,
	}
	if change != nil {
		change(r.Gateway)
	}
	r.serve("unix", r.sock)
	return r
}

// newClient makes a control socket; broken gets what its peer ends with.
func newClient(t *testing.T, broken chan error) *spawn.Client {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	unix.CloseOnExec(pair[0])
	unix.CloseOnExec(pair[1])
	var peer *spawn.Peer
	onLoop(func() {
		if peer, err = monitor.sup.NewPeer(pair[0]); err == nil {
			peer.OnBroken = func(err error) { broken <- err }
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	unix.SetNonblock(pair[1], true)
	c, err := spawn.NewClient(os.NewFile(uintptr(pair[1]), "control"))
	if err != nil {
		t.Fatal(err)
	}
	go c.Run()
	t.Cleanup(func() {
		select {
		case err := <-broken:
			if errors.Is(err, spawn.ErrBreach) {
				t.Errorf("the monitor saw a breach: %v", err)
			}
		default:
		}
		onLoop(peer.Close)
	})
	return c
}

// serve serves on a socket until the end of the test.
func (r *rig) serve(network, addr string) net.Addr {
	ln, err := net.Listen(network, addr)
	if err != nil {
		r.t.Fatal(err)
	}
	r.server = &http1.Server{
		Handler: r.Serve,
		Done: func(x *http1.Exchange) {
			if rec, ok := x.Value.(*Record); ok {
				r.mu.Lock()
				r.recs = append(r.recs, *rec)
				r.mu.Unlock()
			}
		},
		Admit: func(c net.Conn, l *http1.Listener) (http1.Peer, bool) {
			if n := r.sndbuf.Load(); n > 0 {
				c.(*net.UnixConn).SetWriteBuffer(int(n))
			}
			if l.Unix {
				return http1.Peer{Addr: "<unix>", UID: os.Getuid()}, true
			}
			host, port, err := net.SplitHostPort(c.RemoteAddr().String())
			return http1.Peer{Addr: host, Port: port, UID: -1}, err == nil
		},
	}
	s := r.server
	l := &http1.Listener{Listener: ln, Host: "host.test", Port: "0", Unix: network == "unix"}
	if !l.Unix {
		l.Host, l.Port, _ = net.SplitHostPort(ln.Addr().String())
	}
	go s.Serve(l)
	r.t.Cleanup(func() {
		s.Stop()
		s.WaitIdle()
	})
	return ln.Addr()
}

// script writes a script and gives the path to ask for.
func (r *rig) script(text string) string {
	r.t.Helper()
	f, err := os.CreateTemp(r.dir, "x")
	if err != nil {
		r.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text + "\n"); err != nil {
		r.t.Fatal(err)
	}
	return f.Name()
}

// conn is one connection to a rig.
type conn struct {
	net.Conn
	t  *testing.T
	in *bufio.Reader
}

func (r *rig) dial() *conn {
	r.t.Helper()
	c, err := net.Dial("unix", r.sock)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(bound))
	return &conn{c, r.t, bufio.NewReader(c)}
}

func (c *conn) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c.Conn, s); err != nil {
		c.t.Fatal(err)
	}
}

// answer reads an answer; err tells of a cut one. Without any answer the
// response is nil.
func (c *conn) answer(method string) (*http.Response, string, error) {
	r, err := http.ReadResponse(c.in, &http.Request{Method: method})
	if err != nil {
		return nil, "", err
	}
	b, err := io.ReadAll(r.Body)
	return r, string(b), err
}

func request(method, target string, fields ...string) string {
	return method + " " + target + " HTTP/1.1\r\nHost: h\r\n" + strings.Join(append(fields, ""), "\r\n") + "\r\n"
}

// get asks for a script on a new connection.
func (r *rig) get(text string) (*http.Response, string, error) {
	r.t.Helper()
	c := r.dial()
	defer c.Close()
	c.send(request("GET", r.script(text)))
	return c.answer("GET")
}

// record waits for the n-th request's record.
func (r *rig) record(n int) (rec Record) {
	r.t.Helper()
	eventually(r.t, "a record", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		if len(r.recs) <= n {
			return false
		}
		rec = r.recs[n]
		return true
	})
	return rec
}

// idle waits until no request is running or waiting, and nothing is kept for
// one.
func (r *rig) idle() {
	r.t.Helper()
	r.counts(0, 0)
	// A slot is free before its request lets go of the body.
	eventually(r.t, "memory, files and bodies to be let go", func() bool {
		return r.memory.Load() == 0 && r.files.Load() == 0 && r.streams.Load() == 0
	})
}

// counts waits until so many requests are running and waiting.
func (r *rig) counts(running, queued int) {
	r.t.Helper()
	eventually(r.t, fmt.Sprintf("%d requests to run and %d to wait", running, queued), func() bool {
		n, m, _ := r.Counts()
		return n == running && m == queued
	})
}

// logged waits for a text in the log.
func (r *rig) logged(text string) {
	r.t.Helper()
	eventually(r.t, fmt.Sprintf("%q in the log", text), func() bool { return strings.Contains(r.log.String(), text) })
}

// hold is a FIFO: `read x <hold` keeps a command where it is.
func (r *rig) hold() string {
	r.t.Helper()
	f, err := os.CreateTemp(r.dir, "hold")
	if err != nil {
		r.t.Fatal(err)
	}
	defer f.Close()
	os.Remove(f.Name())
	if err := unix.Mkfifo(f.Name(), 0o600); err != nil {
		r.t.Fatal(err)
	}
	return f.Name()
}

// release waits for a command to come to its hold, and lets it go on.
func (r *rig) release(hold string) {
	r.t.Helper()
	eventually(r.t, "a command to be held", func() bool {
		fd, err := unix.Open(hold, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err == unix.ENXIO { // nobody reads
			return false
		}
		if err != nil {
			r.t.Fatal(err)
		}
		unix.Write(fd, []byte("\n"))
		unix.Close(fd)
		return true
	})
}

// begin sends a request for a script and reads the head of its answer, which
// is not over: the rest is in the body.
func (r *rig) begin(c *conn, method, text string) *http.Response {
	r.t.Helper()
	c.send(request(method, r.script(text)))
	resp, err := http.ReadResponse(c.in, &http.Request{Method: method})
	if err != nil {
		r.t.Fatal(err)
	}
	return resp
}

// alive tells whether a process whose number is in a file still runs.
func alive(t *testing.T, file string) (alive bool) {
	t.Helper()
	eventually(t, "a process number in "+filepath.Base(file), func() bool {
		var pid int
		b, _ := os.ReadFile(file)
		_, err := fmt.Sscan(string(b), &pid)
		alive = err == nil && unix.Kill(pid, 0) == nil
		return err == nil && bytes.HasSuffix(b, []byte("\n"))
	})
	return alive
}

// dies waits for the process to be gone.
func dies(t *testing.T, file string) {
	t.Helper()
	eventually(t, "the process of "+filepath.Base(file)+" to be gone", func() bool { return !alive(t, file) })
}
