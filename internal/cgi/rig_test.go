//go:build linux || freebsd

package cgi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/internal/cli"
	"github.com/onewake/onewake/internal/control"
	"github.com/onewake/onewake/internal/process"
)

// The tests start real processes, most of them shell scripts, and synchronize
// with them through named pipes. They do not run in parallel, because each
// checks that no process, descriptor or goroutine is left.

const (
	bound = time.Minute           // ends a test that hangs
	never = time.Hour             // for times that must not pass during a test
	soon  = 10 * time.Millisecond // and for those that must
)

// monitor is the monitor's part, in this process. All tests use it.
var monitor struct {
	loop        *process.Loop
	supervisors map[limits]*process.Supervisor
}

// limits are the options of a supervisor.
type limits struct {
	max                int
	timeout, killAfter time.Duration
}

func TestMain(m *testing.M) {
	monitor.supervisors = make(map[limits]*process.Supervisor)
	ready := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := process.DefaultSignals()
		if err == nil {
			monitor.loop, err = process.NewLoop()
		}
		ready <- err
		if err == nil {
			monitor.loop.Run()
		}
	}()
	if err := <-ready; err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// onLoop calls f on the monitor's loop.
func onLoop(f func()) {
	done := make(chan struct{})
	monitor.loop.Post(func() { f(); close(done) })
	<-done
}

func supervisor(t *testing.T, l limits) (s *process.Supervisor) {
	t.Helper()
	var err error
	onLoop(func() {
		if s = monitor.supervisors[l]; s == nil {
			s, err = process.NewSupervisor(monitor.loop, slog.New(slog.DiscardHandler),
				process.Options{Max: l.max, Timeout: l.timeout, KillAfter: l.killAfter, Scan: never})
			monitor.supervisors[l] = s
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// setup is what a test can change.
type setup struct {
	*cli.Config
	monitor limits
	env     []string // of the commands
}

// rig is a gateway with its own control socket.
type rig struct {
	*Gateway
	t      *testing.T
	dir    string
	env    []string
	fifos  []*os.File
	log    logged
	sup    *process.Supervisor
	peer   *control.Peer
	broken chan error
	ends   sync.Once
}

// newRig makes a gateway with timeouts that never pass.
func newRig(t *testing.T, change func(*setup)) *rig {
	t.Helper()
	dir, err := os.MkdirTemp("", "ow")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := setup{
		Config: &cli.Config{
			ContentType: "text/x-test", Timeout: never, MaxProcs: 4, MaxQueue: 4, MaxBody: 1 << 20, SpoolDir: dir,
			Times: cli.Times{Grace: never},
		},
		monitor: limits{64, never, soon},
	}
	if change != nil {
		change(&s)
	}
	r := &rig{t: t, dir: dir, env: append(s.env, "PATH=/bin:/usr/bin", "DIR="+dir), broken: make(chan error, 1)}
	r.log.init()
	r.sup = supervisor(t, s.monitor)
	files, routines := descriptors(), runtime.NumGoroutine()
	r.Gateway = New(s.Config, r.connect(s.Config), slog.New(slog.NewTextHandler(&r.log, nil)))
	t.Cleanup(func() {
		if !t.Failed() {
			r.idle()
		}
		r.disconnect()
		for _, f := range r.fifos {
			f.Close()
		}
		if t.Failed() {
			return
		}
		eventually(t, "all descriptors to be closed", func() bool { return descriptors() == files })
		// A goroutine of the previous test may have been counted.
		eventually(t, "all goroutines to end", func() bool { return runtime.NumGoroutine() <= routines })
	})
	return r
}

// connect makes the control socket.
func (r *rig) connect(cfg *cli.Config) *control.Client {
	r.t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	onLoop(func() {
		r.peer, err = control.NewPeer(pair[0], monitor.loop, r.sup, control.PeerOptions{
			Max: cfg.MaxProcs, MaxSpools: cfg.MaxProcs + cfg.MaxQueue, SpoolDir: cfg.SpoolDir,
			Command: r.command, Filter: cfg.Filter(), Log: slog.New(slog.DiscardHandler),
		})
		if err == nil {
			r.peer.OnFail = func(err error) { r.broken <- err }
		}
	})
	if err != nil {
		r.t.Fatal(err)
	}
	unix.SetNonblock(pair[1], true)
	c, err := control.NewClient(os.NewFile(uintptr(pair[1]), "control"))
	if err != nil {
		r.t.Fatal(err)
	}
	go c.Run()
	return c
}

// disconnect closes the control socket, which terminates all processes.
func (r *rig) disconnect() {
	r.ends.Do(func() {
		select {
		case err := <-r.broken:
			if errors.Is(err, control.ErrProtocol) {
				r.t.Errorf("protocol violation: %v", err)
			}
		default:
		}
		onLoop(r.peer.Close)
	})
	eventually(r.t, "all processes to end", func() (idle bool) {
		onLoop(func() { idle = r.sup.Running() == 0 })
		return idle
	})
}

// startErrors are names of scripts that cannot be started.
var startErrors = map[string]error{
	"EAGAIN": unix.EAGAIN, "EMFILE": unix.EMFILE, "ENOMEM": unix.ENOMEM, "E2BIG": unix.E2BIG, "ECANCELED": unix.ECANCELED, "ESRCH": unix.ESRCH,
}

// command is what the monitor starts: the name of a script is its text.
func (r *rig) command(script string) (*process.Command, error) {
	if err := startErrors[script]; err != nil {
		return nil, err
	}
	if strings.HasPrefix(script, "/") {
		return &process.Command{Path: script, Args: []string{script}, Dir: "/"}, nil
	}
	const functions = `await() { read -r _ <"$DIR/$1"; }
tell() { echo "$2" >"$DIR/$1"; }
bytes() { head -c "$1" /dev/zero; }
`
	return &process.Command{Path: "/bin/sh", Args: []string{"sh", "-c", functions + script}, Dir: "/", Env: r.env}, nil
}

// fifo is a named pipe for synchronization with commands. Scripts use "await
// NAME" and "tell NAME TEXT".
type fifo struct {
	t *testing.T
	f *os.File
}

func (r *rig) fifo(name string) *fifo {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	if err := unix.Mkfifo(path, 0o600); err != nil {
		r.t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	f.SetDeadline(time.Now().Add(bound))
	r.fifos = append(r.fifos, f)
	return &fifo{r.t, f}
}

// tell lets one command continue that awaits f.
func (f *fifo) tell() {
	f.t.Helper()
	if _, err := io.WriteString(f.f, "go\n"); err != nil {
		f.t.Fatal(err)
	}
}

// readLine waits for a line from a command.
func (f *fifo) readLine() string {
	f.t.Helper()
	var line []byte
	for b := make([]byte, 1); ; line = append(line, b[0]) {
		if _, err := f.f.Read(b); err != nil {
			f.t.Fatalf("%q, %v", line, err)
		}
		if b[0] == '\n' {
			return string(line)
		}
	}
}

// pid waits for a process ID from a command.
func (f *fifo) pid() (pid int) {
	f.t.Helper()
	if _, err := fmt.Sscan(f.readLine(), &pid); err != nil {
		f.t.Fatal(err)
	}
	return pid
}

// watched is a state that changes. Tests can wait for changes.
type watched struct {
	mu   sync.Mutex
	more chan struct{}
}

func (n *watched) init() { n.more = make(chan struct{}) }

// change changes the state by calling f.
func (n *watched) change(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
	close(n.more)
	n.more = make(chan struct{})
}

// wait waits until f returns true. It calls f with n.mu held.
func (n *watched) wait(t *testing.T, what string, f func() bool) {
	t.Helper()
	for late := time.After(bound); ; {
		n.mu.Lock()
		ok, more := false, n.more
		func() {
			defer n.mu.Unlock()
			ok = f()
		}()
		if ok {
			return
		}
		select {
		case <-more:
		case <-late:
			t.Fatalf("timeout while waiting for %s", what)
		}
	}
}

// logged collects the log.
type logged struct {
	watched
	b     bytes.Buffer
	write func() // called before each record; may block
}

func (l *logged) Write(p []byte) (int, error) {
	if l.write != nil {
		l.write()
	}
	l.change(func() { l.b.Write(p) })
	return len(p), nil
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// logs waits for a text in the log.
func (r *rig) logs(text string) {
	r.t.Helper()
	r.log.wait(r.t, text, func() bool { return strings.Contains(r.log.b.String(), text) })
}

// call is a request in progress.
type call struct {
	*Request
	w      *writer
	cancel context.CancelCauseFunc
	done   chan struct{}
	record Record // after Serve has returned
}

// request makes a request for a script.
func request(script string) *Request {
	r := &Request{Method: "GET", Target: "/", ID: "id", Script: script, Vars: new(control.Vars)}
	r.Vars.Add("REQUEST_METHOD", "GET")
	return r
}

// post makes a request with a body.
func post(script string, body io.Reader, length int64) *Request {
	r := request(script)
	r.Method, r.Body, r.Length = "POST", body, length
	return r
}

// begin starts serving a request.
func (r *rig) begin(req *Request, hooks ...func(*writer)) *call {
	return r.beginBy(req, func(ctx context.Context, w Writer) { r.Serve(ctx, req, w) }, hooks...)
}

func (r *rig) beginBy(req *Request, serve func(context.Context, Writer), hooks ...func(*writer)) *call {
	r.t.Helper()
	ctx, cancel := context.WithCancelCause(context.Background())
	c := &call{Request: req, w: &writer{t: r.t, r: req}, cancel: cancel, done: make(chan struct{})}
	c.w.init()
	for _, h := range hooks {
		h(c.w)
	}
	go func() {
		defer close(c.done)
		serve(ctx, c.w)
		c.record = req.Record
		c.w.end()
		cancel(nil)
	}()
	return c
}

// wait waits until the request has been served, and returns the answer.
func (c *call) wait() string {
	c.w.t.Helper()
	select {
	case <-c.done:
	case <-time.After(bound):
		c.w.t.Fatalf("the answer is not complete: %v", c.w)
	}
	return c.w.String()
}

// serve serves a request and returns the answer.
func (r *rig) serve(req *Request, hooks ...func(*writer)) string {
	r.t.Helper()
	return r.begin(req, hooks...).wait()
}

// beginExited starts serving a request after its process has exited.
func (r *rig) beginExited(req *Request, hooks ...func(*writer)) *call {
	r.t.Helper()
	p := r.start(req)
	select {
	case <-p.Exited:
	case <-time.After(bound):
		r.t.Fatal("the process does not exit")
	}
	return r.beginBy(req, func(ctx context.Context, w Writer) { r.answer(ctx, req, w, new(body), p) }, hooks...)
}

func (r *rig) start(req *Request) *control.Process {
	r.t.Helper()
	p, err := r.Gateway.start(context.Background(), req, new(body), false)
	if err != nil {
		r.t.Fatal(err)
	}
	return p
}

// idle waits until no process runs, no request waits and no body is stored.
func (r *rig) idle() {
	r.t.Helper()
	r.counts(0, 0)
	if n, b := r.disk.files.Load(), r.disk.bytes.Load(); n != 0 || b != 0 {
		r.t.Errorf("%d files, %d bytes are still reserved", n, b)
	}
	r.Wait()
}

// counts waits for the numbers of running processes and queued requests.
func (r *rig) counts(running, queued int) {
	r.t.Helper()
	eventually(r.t, fmt.Sprintf("%d running, %d queued", running, queued), func() bool {
		n, m, _ := r.Counts()
		return n == running && m == queued
	})
}

// eventually polls a condition for which there is no event.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(bound); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			b := make([]byte, 64<<10)
			t.Fatalf("timeout while waiting for %s\n%s", what, b[:runtime.Stack(b, true)])
		}
	}
}

// blocked waits until n goroutines are in the given state and method.
func blocked(t *testing.T, state, method string, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d in %s", n, method), func() bool {
		b := make([]byte, 256<<10)
		have := 0
		for g := range strings.SplitSeq(string(b[:runtime.Stack(b, true)]), "\n\n") {
			head, frames, _ := strings.Cut(g, "\n")
			if strings.Contains(head, "["+state) && strings.Contains(frames, "."+method+"(") {
				have++
			}
		}
		return have == n
	})
}

func isAlive(pid int) bool { return unix.Kill(pid, 0) == nil }

// gone waits until a process does not exist any more.
func gone(t *testing.T, pid int) {
	t.Helper()
	eventually(t, fmt.Sprintf("process %d to be gone", pid), func() bool { return unix.Kill(pid, 0) == unix.ESRCH })
}

// descriptors counts the open descriptors of this process.
func descriptors() (n int) {
	for fd := range 1024 { // FreeBSD's /dev/fd may be nothing but 0, 1 and 2
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
			n++
		}
	}
	return n
}

// writer is a [Writer] that checks the order of calls.
type writer struct {
	watched
	t *testing.T
	r *Request

	status int
	fields []Field
	length int64
	body   []byte
	events []string
	cut    bool
	ended  bool // Serve has returned

	write func() error // called before each write; may block
	flush func() error
}

func (w *writer) event(name string, args ...any) {
	if w.ended || w.cut && name != "cut" {
		w.t.Errorf("%s after the end of the answer", name)
	}
	if (name == "begin") != (w.status == 0) && name != "cut" {
		w.t.Errorf("%s with status %d", name, w.status)
	}
	w.events = append(w.events, fmt.Sprint(append([]any{name}, args...)...))
}

func (w *writer) Begin(status int, fields []Field, length int64) {
	w.change(func() {
		w.event("begin")
		w.status, w.fields, w.length = status, fields, length
	})
	w.r.Record.Status = status
}

func (w *writer) Write(p []byte) (int, error) {
	if w.write != nil {
		if err := w.write(); err != nil {
			return 0, err
		}
	}
	w.change(func() {
		w.event("write ", len(p))
		w.body = append(w.body, p...)
	})
	w.r.Record.Bytes += int64(len(p))
	return len(p), nil
}

func (w *writer) Flush() error {
	if w.flush != nil {
		if err := w.flush(); err != nil {
			return err
		}
	}
	w.change(func() { w.event("flush") })
	return nil
}

func (w *writer) Cut() {
	w.change(func() {
		w.event("cut")
		w.cut = true
	})
	w.r.Record.Cut = true
}

// end checks the complete answer.
func (w *writer) end() {
	w.change(func() {
		w.ended = true
		empty := w.r.Method == "HEAD" || w.status == 204 || w.status == 205 || w.status == 304
		switch {
		case w.status == 0 && !w.cut:
			w.t.Error("no answer at all")
		case w.cut || w.r.Method == "HEAD" && w.r.Record.Refused != "":
		case empty && len(w.body) > 0:
			w.t.Errorf("%d bytes of a body where none is allowed", len(w.body))
		case !empty && w.length >= 0 && int64(len(w.body)) != w.length:
			w.t.Errorf("%d bytes, and the length is %d", len(w.body), w.length)
		}
	})
}

// String returns status, length ("-" if unknown), body and "cut"; for an error
// "STATUS: REASON".
func (w *writer) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := "nothing"
	body := string(w.body)
	if len(body) > 100 {
		body = fmt.Sprintf("(%d bytes)", len(body))
	}
	switch {
	case w.status == 0:
	case w.r.Record.Refused != "" && !w.cut:
		s = fmt.Sprintf("%d: %s", w.status, w.r.Record.Refused)
	case w.length < 0:
		s = fmt.Sprintf("%d - %s", w.status, body)
	default:
		s = fmt.Sprintf("%d %d %s", w.status, w.length, body)
	}
	if w.cut {
		s += " cut"
	}
	return s
}

// flushed waits until the body is this and has been flushed.
func (w *writer) flushed(body string) {
	w.t.Helper()
	w.wait(w.t, body+", flushed", func() bool {
		return string(w.body) == body && len(w.events) > 0 && w.events[len(w.events)-1] == "flush"
	})
}

// header returns the fields on one line.
func (w *writer) header() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var s []string
	for _, f := range w.fields {
		s = append(s, f.Name+": "+f.Value)
	}
	return strings.Join(s, "; ")
}
