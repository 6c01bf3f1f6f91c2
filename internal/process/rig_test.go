//go:build linux || freebsd

package process

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/internal/looptest"
)

// TestMain runs the tests, or the helper program that OW_ROLE names.
func TestMain(m *testing.M) {
	if role := os.Getenv("OW_ROLE"); role != "" {
		os.Exit(roles[role]())
	}
	os.Args[0], _ = filepath.Abs(os.Args[0]) // commands have another working directory
	flag.Parse()
	flag.Set("test.parallel", "12") // most tests wait
	os.Exit(m.Run())
}

var roles = map[string]func() int{}

// Of a test: how long it waits for an event, a time that must not expire, and one
// that must.
const (
	bound = looptest.Bound
	never = looptest.Never
	soon  = looptest.Soon
)

var (
	alone      = looptest.Alone
	eventually = looptest.Eventually
)

// rig is a supervisor with its loop.
type rig struct {
	t    *testing.T
	loop *Loop
	sup  *Supervisor
	log  looptest.Log
}

// options for most tests: no timer fires.
var options = Options{Max: 4, Timeout: never, KillAfter: never, Scan: never}

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
			r.sup, err = NewSupervisor(r.loop, slog.New(slog.NewTextHandler(&r.log, nil)), o)
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
func (r *rig) do(f func()) { looptest.Do(r.loop.Post, f) }

// until polls a condition on the loop.
func (r *rig) until(what string, f func() bool) {
	r.t.Helper()
	eventually(r.t, what, func() (ok bool) {
		r.do(func() { ok = f() })
		return ok
	})
}

// command is a started command and its handler.
type command struct {
	r       *rig
	g       *Group
	in      *os.File
	out     reader
	errs    *os.File
	exits   chan exit
	empties chan bool
	events  string // calls of the handler: "exit", "exit empty" or "exit, empty"
}

type exit struct {
	status syscall.WaitStatus
	empty  bool
}

func (c *command) OnExit(st syscall.WaitStatus, empty bool) {
	c.events += "exit"
	if empty {
		c.events += " empty"
	}
	c.exits <- exit{st, empty}
}

func (c *command) OnEmpty() {
	c.events += ", empty"
	c.empties <- true
}

// shell is a command that runs a script of sh(1).
func shell(script string, env ...string) *Command {
	return &Command{Path: "/bin/sh", Args: []string{"sh", "-c", script}, Dir: "/", Env: append([]string{"PATH=/bin:/usr/bin"}, env...)}
}

// self is a command that runs this program in a role.
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
	c = &command{r: r, exits: make(chan exit, 2), empties: make(chan bool, 2)}
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
		c.r.t.Fatal("the command does not exit")
		return exit{}
	}
}

func (c *command) empty() {
	c.r.t.Helper()
	select {
	case <-c.empties:
	case <-time.After(bound):
		c.r.t.Fatal("the group does not become empty")
	}
}

func (c *command) terminate(reason string) { c.r.do(func() { c.g.Terminate(reason) }) }

// check checks the calls of the handler for an empty group.
func (c *command) check(want string) {
	c.r.t.Helper()
	c.r.do(func() {
		if c.events != want || !c.g.empty || c.r.sup.groups[c.g.pid] == c.g {
			c.r.t.Errorf("%q, want %q; empty: %t", c.events, want, c.g.empty)
		}
	})
}

// reader reads the lines that a command writes.
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

// pid reads a line that is a process number.
func (r reader) pid() int {
	r.t.Helper()
	s := r.line()
	n, err := strconv.Atoi(s)
	if err != nil {
		r.t.Fatalf("%q is not a process number", s)
	}
	return n
}

// gone waits until a process has exited and been reaped.
func gone(t *testing.T, pid int) {
	t.Helper()
	eventually(t, fmt.Sprintf("process %d to be gone", pid), func() bool { return unix.Kill(pid, 0) == unix.ESRCH })
}

// alive checks that a process exists.
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

// descriptors counts the open descriptors of this process.
func descriptors(t *testing.T) int {
	t.Helper()
	n := 0
	for fd := range 4096 { // FreeBSD's /dev/fd may list only 0, 1 and 2
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
			n++
		}
	}
	return n
}

func tempDir(t *testing.T) string {
	t.Helper()
	dir := looptest.Dir(t)
	os.Chmod(dir, 0o777) // for tests that change the user
	return dir
}

// program finds a program in PATH.
func program(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatal(err)
	}
	return path
}
