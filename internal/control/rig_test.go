//go:build linux || freebsd

package control

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"log/slog"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/internal/process"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if flag.Lookup("test.fuzz").Value.String() == "" {
		flag.Set("test.parallel", "12") // most tests wait
	}
	os.Exit(m.Run())
}

var discard = slog.New(slog.DiscardHandler)

// bound ends a test that waits for what does not come, never is for times that
// must not pass during a test, and soon for those that must.
const (
	bound = 60 * time.Second
	never = time.Hour
	soon  = 10 * time.Millisecond
)

// alone runs f in a process of its own: a monitor's children, descriptors and
// limits are those of its whole process.
func alone(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	if os.Getenv("OW_ALONE") == t.Name() {
		f(t)
		return
	}
	t.Parallel()
	only := "^" + strings.ReplaceAll(regexp.QuoteMeta(t.Name()), "/", "$/^") + "$"
	cmd := exec.Command(os.Args[0], "-test.run="+only, "-test.v", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), "OW_ALONE="+t.Name())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if _, why, ok := bytes.Cut(out, []byte("--- SKIP")); ok {
		t.Skipf("%s", why)
	}
}

// rig is a monitor and its cores, on real control sockets.
type rig struct {
	t    *testing.T
	loop *process.Loop
	sup  *process.Supervisor
	o    PeerOptions
	dir  string

	mu  sync.Mutex
	log bytes.Buffer
}

func (r *rig) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.Write(p)
}

// newRig starts a monitor for at most max commands, which are the script of
// each request's QUERY_STRING.
func newRig(t *testing.T, max int) *rig {
	t.Helper()
	return newRigFor(t, process.Options{Max: max, Timeout: never, KillAfter: never, Look: soon})
}

func newRigFor(t *testing.T, o process.Options) *rig {
	t.Helper()
	r := &rig{t: t, dir: tempDir(t)}
	log := slog.New(slog.NewTextHandler(r, nil))
	cmd := &process.Command{Path: "/bin/sh", Args: []string{"sh", "-c", `eval "$QUERY_STRING"`}, Dir: "/", Env: []string{"PATH=/bin:/usr/bin"}}
	r.o = PeerOptions{
		Max: o.Max, MaxSpools: 8, SpoolDir: r.dir, Log: log, Filter: NewFilter(FilterOptions{}),
		Command: func(script string) (*process.Command, error) {
			switch script {
			case "":
				return cmd, nil
			case "gone":
				return nil, &os.PathError{Op: "exec", Path: "gone", Err: unix.ENOENT}
			}
			return nil, errors.New("not in the table")
		},
	}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := process.DefaultSignals()
		if err == nil {
			r.loop, err = process.NewLoop()
		}
		if err == nil {
			r.sup, err = process.NewSupervisor(r.loop, log, o)
		}
		ready <- err
		if err == nil {
			if err := r.loop.Run(); err != nil {
				panic(err)
			}
		}
	}()
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.do(r.sup.KillAll)
		r.until("all processes to end", r.sup.Idle)
	})
	return r
}

// do calls f on the loop.
func (r *rig) do(f func()) {
	done := make(chan struct{})
	r.loop.Post(func() { f(); close(done) })
	select {
	case <-done:
	case <-time.After(bound):
		panic("the loop is stuck")
	}
}

// until waits for something that the loop knows.
func (r *rig) until(what string, f func() bool) {
	r.t.Helper()
	eventually(r.t, what, func() (ok bool) {
		r.do(func() { ok = f() })
		return ok
	})
}

// eventually waits for a condition that nothing tells of.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(bound); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// idle waits for all commands to be over.
func (r *rig) idle() {
	r.t.Helper()
	r.until("nothing to be left", r.sup.Idle)
}

// raw is a core that sends what it likes, and what the monitor has of it.
type raw struct {
	*rig
	peer   *Peer
	failed chan error
	fd     int
}

func (r *rig) raw() *raw {
	r.t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	unix.CloseOnExec(pair[0])
	unix.CloseOnExec(pair[1])
	c := &raw{rig: r, failed: make(chan error, 2), fd: pair[1]}
	r.do(func() {
		if c.peer, err = NewPeer(pair[0], r.loop, r.sup, r.o); err == nil {
			c.peer.OnFail = func(err error) { c.failed <- err }
		}
	})
	if err != nil {
		r.t.Fatal(err)
	}
	unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: int64(bound / time.Second)})
	return c
}

func (c *raw) send(b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(c.fd, b)
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// end waits until the monitor has closed the connection, and returns the reason.
func (c *raw) end() error {
	c.t.Helper()
	select {
	case err := <-c.failed:
		unix.Close(c.fd)
		return err
	case <-time.After(bound):
		c.t.Fatal("the connection is still open")
		return nil
	}
}

// alive checks that the monitor has not closed the connection.
func (c *raw) alive() {
	c.t.Helper()
	select {
	case err := <-c.failed:
		c.t.Fatalf("the monitor has closed the connection: %v", err)
	default:
	}
}

// core is an honest one.
type core struct {
	*raw
	*Client
	ended chan error // of Run
}

func (r *rig) core() *core {
	r.t.Helper()
	c := &core{raw: r.raw(), ended: make(chan error, 1)}
	c.Client = newClient(r.t, c.fd)
	c.OnRetire, c.OnStop = func() {}, func() {}
	go func() { c.ended <- c.Run() }()
	return c
}

func newClient(t testing.TB, fd int) *Client {
	t.Helper()
	unix.SetNonblock(fd, true)
	c, err := NewClient(os.NewFile(uintptr(fd), "control"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// script is a request to run a shell script.
func script(s string) Start {
	var v Vars
	v.Add("QUERY_STRING", s)
	return Start{Vars: &v}
}

// piped is script with a pipe as standard input.
func piped(s string) Start {
	start := script(s)
	start.Pipe = true
	return start
}

// spooled is script with a file as standard input.
func spooled(s string, file *Spool) Start {
	start := script(s)
	start.Spool = file
	return start
}

// begin starts a command.
func (c *core) begin(s Start) *Process {
	c.t.Helper()
	p, err := c.Start(context.Background(), s)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, f := range []*os.File{p.Stdin, p.Stdout, p.Stderr} {
		if f != nil {
			f.SetDeadline(time.Now().Add(bound))
			c.t.Cleanup(func() { f.Close() })
		}
	}
	return p
}

// asks has Start called, which waits.
func (c *core) asks(ctx context.Context, s Start) chan result {
	ch := make(chan result, 1)
	go func() {
		p, err := c.Start(ctx, s)
		ch <- result{p, err}
	}()
	return ch
}

type result struct {
	p   *Process
	err error
}

func (r *rig) result(ch chan result) result {
	r.t.Helper()
	select {
	case res := <-ch:
		return res
	case <-time.After(bound):
		r.t.Fatal("Start does not return")
		return result{}
	}
}

// wait waits for a channel of a process.
func wait(t *testing.T, what string, ch <-chan struct{}) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(bound):
		t.Fatalf("waited in vain for the process to be %s", what)
	}
}

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// closed closes our ends.
func (p *Process) closed() {
	for _, f := range []*os.File{p.Stdin, p.Stdout, p.Stderr} {
		if f != nil {
			f.Close()
		}
	}
}

func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ow")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	os.Chmod(dir, 0o777)
	return dir
}

// descriptors counts what this process has open while the loop opens none.
func (r *rig) descriptors() (n int) {
	r.do(func() {
		for fd := range 4096 { // FreeBSD's /dev/fd may be nothing but 0, 1 and 2
			if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
				n++
			}
		}
	})
	return n
}

// setLimit hides that a limit's type differs between systems.
func setLimit[T int64 | uint64](p *T, n int) { *p = T(n) }
