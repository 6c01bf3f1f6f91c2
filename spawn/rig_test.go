//go:build linux || freebsd

package spawn

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/sandbox"
)

// TestMain is also the commands and monitors that tests start: OW_ROLE says
// which.
func TestMain(m *testing.M) {
	if role := os.Getenv("OW_ROLE"); role != "" {
		os.Exit(roles[role]())
	}
	flag.Parse()
	if flag.Lookup("test.fuzz").Value.String() == "" {
		flag.Set("test.parallel", "12") // most tests wait
	}
	os.Exit(m.Run())
}

var discard = slog.New(slog.DiscardHandler)

var roles = map[string]func() int{}

// alone runs f in a process of its own: a monitor's children, descriptors and
// limits are those of its whole process. prefix is a command that executes the
// rest of its arguments.
func alone(t *testing.T, f func(t *testing.T), prefix ...string) {
	t.Helper()
	if os.Getenv("OW_ALONE") == t.Name() {
		f(t)
		return
	}
	t.Parallel()
	args := append(prefix, os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=2m")
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "OW_ALONE="+t.Name())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if _, why, ok := bytes.Cut(out, []byte("--- SKIP")); ok {
		t.Skipf("%s", why)
	}
}

// rig is a monitor with one core, on a real control socket.
type rig struct {
	t      *testing.T
	loop   *Loop
	sup    *Supervisor
	peer   *Peer
	client *Client
	broken chan error
	dir    string

	mu  sync.Mutex
	log bytes.Buffer
}

func (r *rig) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.Write(p)
}

// logged is what the monitor has logged.
func (r *rig) logged() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.String()
}

// newRig starts a monitor whose command is a shell script.
func newRig(t *testing.T, script string, max int, killAfter time.Duration) *rig {
	t.Helper()
	return newRigFor(t, Command{Path: "/bin/sh", Args: []string{"sh", "-c", script}, Dir: "/", Env: []string{"PATH=/bin:/usr/bin"}}, max, killAfter)
}

func newRigFor(t *testing.T, cmd Command, max int, killAfter time.Duration) *rig {
	t.Helper()
	r := &rig{t: t, dir: tempDir(t)}
	if cmd.SpoolDir == "" {
		cmd.SpoolDir = r.dir
	}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := DefaultSignals()
		if e := sandbox.AcquireReaper(); err == nil && !errors.Is(e, sandbox.ErrUnsupported) {
			err = e
		}
		if err == nil {
			r.loop, err = NewLoop()
		}
		if err == nil {
			r.sup, err = NewSupervisor(r.loop, slog.New(slog.NewTextHandler(r, nil)), cmd, max, killAfter, func(int) bool { return false })
		}
		ready <- err
		if err == nil {
			if err := r.loop.Run(); err != nil {
				t.Error(err)
			}
		}
	}()
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.do(func() { r.sup.KillAll() })
		r.until("all processes to end", func() bool { return r.sup.Idle() })
	})
	fd := 0
	r.peer, r.broken, fd = r.newPeer()
	unix.SetNonblock(fd, true)
	var err error
	if r.client, err = NewClient(os.NewFile(uintptr(fd), "control")); err != nil {
		t.Fatal(err)
	}
	r.client.OnRetire, r.client.OnStop, r.client.OnWantStats = func() {}, func() {}, func() Stats { return Stats{Served: 7} }
	return r
}

// newPeer makes a control socket; fd is the core's end.
func (r *rig) newPeer() (p *Peer, broken chan error, fd int) {
	r.t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	unix.CloseOnExec(pair[0])
	unix.CloseOnExec(pair[1])
	broken = make(chan error, 1)
	r.do(func() {
		if p, err = r.sup.NewPeer(pair[0]); err == nil {
			p.OnBroken = func(err error) { broken <- err }
		}
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return p, broken, pair[1]
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

// run starts the core's reading.
func (r *rig) run() *rig {
	go r.client.Run()
	return r
}

// start asks for a command.
func (r *rig) start(stdin bool, vars ...string) *Process {
	r.t.Helper()
	var v Vars
	v.Reset()
	for _, s := range vars {
		name, value, _ := strings.Cut(s, "=")
		v.Add(name, value)
	}
	p := r.client.New(stdin)
	if err := r.client.Start(p, &v); err != nil {
		r.t.Fatal(err)
	}
	return p
}

// happens waits for the next thing that happens.
func happens(t *testing.T, p *Process) Event {
	t.Helper()
	select {
	case e := <-p.Events:
		return e
	case <-time.After(bound):
		t.Fatal("nothing happens")
		return Event{}
	}
}

func started(t *testing.T, p *Process) {
	t.Helper()
	if e := happens(t, p); e.Kind != EventStarted {
		t.Fatalf("%+v; want it started", e)
	}
}

func exited(t *testing.T, p *Process) Status {
	t.Helper()
	e := happens(t, p)
	if e.Kind != EventExited {
		t.Fatalf("%+v; want it ended", e)
	}
	return e.Status
}

func failed(t *testing.T, p *Process) error {
	t.Helper()
	e := happens(t, p)
	if e.Kind != EventFailed {
		t.Fatalf("%+v; want it failed", e)
	}
	return e.Errno
}

// closed closes the core's ends.
func (p *Process) closed() {
	for _, fd := range []*int{&p.Stdin, &p.Stdout, &p.Stderr} {
		if *fd >= 0 {
			unix.Close(*fd)
			*fd = -1
		}
	}
}

// output runs a command to its end and gives what it has said.
func (r *rig) output(stdin bool, vars ...string) (string, Status) {
	r.t.Helper()
	p := r.start(stdin, vars...)
	started(r.t, p)
	if p.Stdin >= 0 {
		unix.Close(p.Stdin)
		p.Stdin = -1
	}
	out := os.NewFile(uintptr(p.Stdout), "stdout")
	b, err := io.ReadAll(out)
	if err != nil {
		r.t.Fatal(err)
	}
	out.Close()
	p.Stdout = -1
	p.closed()
	return string(b), exited(r.t, p)
}

func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ow")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	os.Chmod(dir, 0o777)
	return dir
}

// descriptors counts what this process has open.
func descriptors(t *testing.T) int {
	t.Helper()
	n := 0
	for fd := range 4096 { // FreeBSD's /dev/fd may be nothing but 0, 1 and 2
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
			n++
		}
	}
	return n
}

// trueProgram is true(1), which is not in /bin everywhere.
func trueProgram(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("true")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// bound ends a test that waits for what does not come.
const bound = 30 * time.Second

// never is for times that must not pass during a test.
const never = time.Hour

// eventually waits for a condition that nothing tells of.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(bound); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// reader reads lines, by which a command says how far it is.
type reader struct {
	t  *testing.T
	in *bufio.Reader
}

// stdout takes over the core's end of a command's stdout.
func (r *rig) stdout(p *Process) reader {
	f := os.NewFile(uintptr(p.Stdout), "stdout")
	p.Stdout = -1
	r.t.Cleanup(func() { f.Close() })
	return newReader(r.t, f)
}

func newReader(t *testing.T, f *os.File) reader {
	f.SetReadDeadline(time.Now().Add(bound))
	return reader{t, bufio.NewReader(f)}
}

func (r reader) line() string {
	r.t.Helper()
	s, err := r.in.ReadString('\n')
	if err != nil {
		r.t.Fatalf("%q, %v", s, err)
	}
	return strings.TrimSuffix(s, "\n")
}

// pid reads a line with a process number.
func (r reader) pid() int {
	r.t.Helper()
	s := r.line()
	n, err := strconv.Atoi(s)
	if err != nil {
		r.t.Fatalf("%q is no process number", s)
	}
	return n
}

// gone waits for a process to be away, its zombie included.
func gone(t *testing.T, pid int) {
	t.Helper()
	eventually(t, fmt.Sprintf("process %d to be gone", pid), func() bool { return unix.Kill(pid, 0) == unix.ESRCH })
}

func isBreach(err error) bool { return errors.Is(err, ErrBreach) }
