//go:build linux || freebsd

package process

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain is also the commands that tests start: OW_ROLE says which.
func TestMain(m *testing.M) {
	if role := os.Getenv("OW_ROLE"); role != "" {
		os.Exit(roles[role]())
	}
	flag.Parse()
	flag.Set("test.parallel", "12") // most tests wait
	os.Exit(m.Run())
}

var roles = map[string]func() int{}

// bound ends a test that waits for what does not come.
const bound = 60 * time.Second

// never is for times that must not pass during a test, and soon for those that
// must.
const (
	never = time.Hour
	soon  = 10 * time.Millisecond
)

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
	only := "^" + strings.ReplaceAll(regexp.QuoteMeta(t.Name()), "/", "$/^") + "$"
	args := append(prefix, os.Args[0], "-test.run="+only, "-test.v", "-test.timeout=5m")
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

// rig is a supervisor on a loop of its own.
type rig struct {
	t    *testing.T
	loop *Loop
	sup  *Supervisor

	mu  sync.Mutex
	log bytes.Buffer
}

func (r *rig) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.Write(p)
}

// logged is what the supervisor has logged.
func (r *rig) logged() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.String()
}

// options are those of most tests: nothing happens by itself.
var options = Options{Max: 4, Timeout: never, KillAfter: never, Look: never}

func newRig(t *testing.T, o Options) *rig {
	t.Helper()
	r := &rig{t: t}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := DefaultSignals()
		if err == nil {
			r.loop, err = NewLoop()
		}
		if err == nil {
			r.sup, err = NewSupervisor(r.loop, slog.New(slog.NewTextHandler(r, nil)), o)
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

// command is one that a test has started, and its handler.
type command struct {
	r      *rig
	g      *Group
	in     *os.File
	out    reader
	errs   *os.File
	exits  chan exit
	overs  chan bool
	events string // of the loop: "exit", "exit over", "exit, over"
}

type exit struct {
	status syscall.WaitStatus
	over   bool
}

func (c *command) OnExit(st syscall.WaitStatus, over bool) {
	c.events += "exit"
	if over {
		c.events += " over"
	}
	c.exits <- exit{st, over}
}

func (c *command) OnOver() {
	c.events += ", over"
	c.overs <- true
}

// shell is a command that is a script of sh(1).
func shell(script string, env ...string) *Command {
	return &Command{Path: "/bin/sh", Args: []string{"sh", "-c", script}, Dir: "/", Env: append([]string{"PATH=/bin:/usr/bin"}, env...)}
}

// self is a command that is this program in a role.
func self(role string, env ...string) *Command {
	return &Command{Path: os.Args[0], Args: []string{"x"}, Dir: "/", Env: append([]string{"PATH=/bin:/usr/bin", "OW_ROLE=" + role}, env...)}
}

// start starts a command whose stdin is a pipe.
func (r *rig) start(cmd *Command) *command {
	r.t.Helper()
	c, err := r.try(cmd, StdinPipe)
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

func (r *rig) try(cmd *Command, stdin int) (c *command, err error) {
	c = &command{r: r, exits: make(chan exit, 2), overs: make(chan bool, 2)}
	var ends []int
	r.do(func() { c.g, ends, err = r.sup.Start(cmd, stdin, c) })
	if err != nil {
		return nil, err
	}
	file := func(fd int) *os.File {
		f := os.NewFile(uintptr(fd), "pipe")
		f.SetDeadline(time.Now().Add(bound))
		r.t.Cleanup(func() { f.Close() })
		return f
	}
	c.out = reader{r.t, file(ends[0]), nil}
	c.out.in = bufio.NewReader(c.out.f)
	c.errs = file(ends[1])
	if len(ends) > 2 {
		c.in = file(ends[2])
	}
	return c, nil
}

// close closes our ends.
func (c *command) close() {
	c.out.f.Close()
	c.errs.Close()
	if c.in != nil {
		c.in.Close()
	}
}

// say writes a line to the command.
func (c *command) say(s string) {
	c.r.t.Helper()
	if _, err := io.WriteString(c.in, s+"\n"); err != nil {
		c.r.t.Fatal(err)
	}
}

func (c *command) exited() exit {
	c.r.t.Helper()
	select {
	case e := <-c.exits:
		return e
	case <-time.After(bound):
		c.r.t.Fatal("the command does not end")
		return exit{}
	}
}

func (c *command) over() {
	c.r.t.Helper()
	select {
	case <-c.overs:
	case <-time.After(bound):
		c.r.t.Fatal("the group is not over")
	}
}

func (c *command) end(why string) { c.r.do(func() { c.g.End(why) }) }

// check wants the events of a command that is over.
func (c *command) check(want string) {
	c.r.t.Helper()
	c.r.do(func() {
		if c.events != want || !c.g.over || c.r.sup.groups[c.g.pid] == c.g {
			c.r.t.Errorf("%q, want %q; over: %t", c.events, want, c.g.over)
		}
	})
}

// reader reads lines, by which a command says how far it is.
type reader struct {
	t  *testing.T
	f  *os.File
	in *bufio.Reader
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

// alive wants a process to be there.
func alive(t *testing.T, pid int) {
	t.Helper()
	if err := unix.Kill(pid, 0); err != nil {
		t.Errorf("process %d: %v", pid, err)
	}
}

func describe(st syscall.WaitStatus) string {
	if st.Signaled() {
		return fmt.Sprintf("signal %d", int(st.Signal()))
	}
	return fmt.Sprintf("exit %d", st.ExitStatus())
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

// program finds a program that is not in the same place everywhere.
func program(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatal(err)
	}
	return path
}
