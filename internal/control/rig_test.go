//go:build linux || freebsd

package control

import (
	"context"
	"errors"
	"flag"
	"log/slog"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/internal/looptest"
	"github.com/onewake/onewake/internal/process"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if flag.Lookup("test.fuzz").Value.String() == "" {
		flag.Set("test.parallel", "12") // most tests wait
	}
	os.Exit(m.Run())
}

// rig is a monitor. Its cores are connected by real control sockets.
type rig struct {
	t    *testing.T
	loop *process.Loop
	sup  *process.Supervisor
	o    PeerOptions
	dir  string // of the spool files
}

// newRig starts a monitor that runs at most max commands. The command is a shell
// script in the request's QUERY_STRING.
func newRig(t *testing.T, max int) *rig {
	t.Helper()
	return newRigWith(t, process.Options{Max: max, Timeout: looptest.Never, KillAfter: looptest.Never, Scan: looptest.Soon})
}

func newRigWith(t *testing.T, o process.Options) *rig {
	t.Helper()
	r := &rig{t: t, dir: looptest.Dir(t)}
	os.Chmod(r.dir, 0o777) // for tests that change the user
	log := slog.New(slog.DiscardHandler)
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
			return nil, errors.New("unknown")
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
		r.awaitIdle()
	})
	return r
}

// do calls f on the loop.
func (r *rig) do(f func()) { looptest.Do(r.loop.Post, f) }

// await waits until f, which is called on the loop, returns true.
func (r *rig) await(what string, f func() bool) {
	r.t.Helper()
	looptest.Eventually(r.t, what, func() (ok bool) {
		r.do(func() { ok = f() })
		return ok
	})
}

// awaitIdle waits until all processes have exited.
func (r *rig) awaitIdle() {
	r.t.Helper()
	r.await("no process is left", r.sup.Idle)
}

// rawCore is a core that can send arbitrary bytes, and the monitor's peer for it.
type rawCore struct {
	*rig
	peer   *Peer
	failed chan error // argument of OnFail
	fd     int
}

func (r *rig) rawCore() *rawCore {
	r.t.Helper()
	pair := socketPair(r.t)
	c := &rawCore{rig: r, failed: make(chan error, 2), fd: pair[1]}
	var err error
	r.do(func() {
		if c.peer, err = NewPeer(pair[0], r.loop, r.sup, r.o); err == nil {
			c.peer.OnFail = func(err error) { c.failed <- err }
		}
	})
	if err != nil {
		r.t.Fatal(err)
	}
	unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: int64(looptest.Bound / time.Second)})
	return c
}

func socketPair(t testing.TB) [2]int {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	unix.CloseOnExec(pair[0])
	unix.CloseOnExec(pair[1])
	return pair
}

func (c *rawCore) send(b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(c.fd, b)
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// awaitFail waits until the monitor closes the connection and returns the reason.
func (c *rawCore) awaitFail() error {
	c.t.Helper()
	select {
	case err := <-c.failed:
		unix.Close(c.fd)
		return err
	case <-time.After(looptest.Bound):
		c.t.Fatal("the connection is still open")
		return nil
	}
}

// checkOpen checks that the monitor has not closed the connection.
func (c *rawCore) checkOpen() {
	c.t.Helper()
	select {
	case err := <-c.failed:
		c.t.Fatalf("the monitor has closed the connection: %v", err)
	default:
	}
}

// core is an honest core.
type core struct {
	*rawCore
	*Client
	done chan error // result of Run
}

func (r *rig) core() *core {
	r.t.Helper()
	c := &core{rawCore: r.rawCore(), done: make(chan error, 1)}
	c.Client = newClient(r.t, c.fd)
	go func() { c.done <- c.Run() }()
	return c
}

func newClient(t testing.TB, fd int) *Client {
	t.Helper()
	unix.SetNonblock(fd, true)
	c, err := NewClient(os.NewFile(uintptr(fd), "control"))
	if err != nil {
		t.Fatal(err)
	}
	c.OnRetire, c.OnStop = func() {}, func() {}
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

// spooled is script with a spool file as standard input.
func spooled(s string, file *Spool) Start {
	start := script(s)
	start.Spool = file
	return start
}

// start starts a command.
func (c *core) start(s Start) *Process {
	c.t.Helper()
	p, err := c.Start(context.Background(), s)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, f := range p.files() {
		f.SetDeadline(time.Now().Add(looptest.Bound))
		c.t.Cleanup(func() { f.Close() })
	}
	return p
}

// result is what Start returns.
type result struct {
	p   *Process
	err error
}

// startLater calls Start in the background.
func startLater(c *Client, ctx context.Context, s Start) chan result {
	ch := make(chan result, 1)
	go func() {
		p, err := c.Start(ctx, s)
		ch <- result{p, err}
	}()
	return ch
}

// awaitResult waits until Start returns.
func (r *rig) awaitResult(ch chan result) result {
	r.t.Helper()
	select {
	case res := <-ch:
		return res
	case <-time.After(looptest.Bound):
		r.t.Fatal("Start does not return")
		return result{}
	}
}

// await waits for Exited or Over of a process.
func await(t *testing.T, ch chan struct{}) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(looptest.Bound):
		t.Fatal("timeout: the process should exit")
	}
}

func isClosed(ch chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// files are the pipes of p.
func (p *Process) files() (all []*os.File) {
	for _, f := range []*os.File{p.Stdin, p.Stdout, p.Stderr} {
		if f != nil {
			all = append(all, f)
		}
	}
	return all
}

func (p *Process) closeFiles() {
	for _, f := range p.files() {
		f.Close()
	}
}

// openFDs counts the open descriptors of this process. The loop opens none in the
// meantime.
func (r *rig) openFDs() (n int) {
	r.do(func() {
		for fd := range 4096 { // /dev/fd of FreeBSD may have only 0, 1 and 2
			if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
				n++
			}
		}
	})
	return n
}

// setLimit sets a field of unix.Rlimit, whose type differs between systems.
func setLimit[T int64 | uint64](p *T, n int) { *p = T(n) }
