package process

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestOutsideProcessGroup: a leftover outside the process group belongs to the
// Group: it keeps the slot and is terminated.
func TestOutsideProcessGroup(t *testing.T) {
	for name, trap := range map[string]string{"by itself": "", "mild": "", "wild": `trap "" TERM;`} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			alone(t, func(t *testing.T) {
				o := options
				if name == "wild" {
					o.KillAfter = soon
				}
				r := newRig(t, o)
				bystander := r.start(leaveSession(trap + ":"))
				bystander.exited()
				other := bystander.out.pid()
				c := r.start(leaveSession(trap + `sleep 60 & echo $! >&4`))
				child, pid := c.out.pid(), c.out.pid()
				if e := c.exited(); e.empty {
					t.Error("the group is empty")
				}
				r.do(func() {
					r.sup.scan()
					if r.sup.Running() != 2 || len(r.sup.groups) != 2 {
						t.Errorf("%d slots in use, %d groups", r.sup.Running(), len(r.sup.groups))
					}
				})
				if name == "by itself" {
					c.say("")
					gone(t, pid)
					alive(t, child) // it is a leftover too
				}
				c.terminate("test")
				c.empty()
				gone(t, pid)
				gone(t, child)
				alive(t, other)
				c.check("exit, empty")
				if log := r.log.String(); strings.Count(log, `msg="leftover processes terminated"`) != 1 {
					t.Errorf("logged: %s", log)
				}
			})
		})
	}
}

// TestOutsideRunning: a process outside the process group of a running command is
// terminated after the command.
func TestOutsideRunning(t *testing.T) {
	alone(t, func(t *testing.T) {
		r := newRig(t, options)
		c := r.start(shell(`exec 3<&0; OW_ROLE=setsid ` + os.Args[0] + ` sh -c 'echo $$; read x' <&3 & wait`))
		pid := c.out.pid()
		c.terminate("test")
		if e := c.exited(); describe(e.status) != "signal 15" {
			t.Error(describe(e.status))
		}
		gone(t, pid)
		r.until("the slot to be free", func() bool { return r.sup.Running() == 0 })
	})
}

// TestOutsideKilled: a process outside the process group gets SIGKILL too.
func TestOutsideKilled(t *testing.T) {
	alone(t, func(t *testing.T) {
		o := options
		o.KillAfter = soon
		r := newRig(t, o)
		c := r.start(shell(`trap "" TERM; exec 3<&0; OW_ROLE=setsid ` + os.Args[0] + ` sh -c 'trap "" TERM; echo $$; read x' <&3 & wait`))
		pid := c.out.pid()
		c.terminate("test")
		if e := c.exited(); describe(e.status) != "signal 9" {
			t.Error(describe(e.status))
		}
		gone(t, pid)
	})
}

// TestHiddenProcess: the poller cannot watch a set-user-ID command if users
// cannot see the processes of others. The loop polls it and does not block.
func TestHiddenProcess(t *testing.T) {
	if os.Getenv("OW_ALONE") == "" {
		if os.Getuid() != 0 {
			t.Skip("needs root: it makes a set-user-ID program")
		}
		if n, err := unix.SysctlUint32("security.bsd.see_other_uids"); err != nil || n != 0 {
			t.Skip("needs sysctl security.bsd.see_other_uids=0")
		}
	}
	alone(t, func(t *testing.T) {
		dir := tempDir(t)
		program := dir + "/setuid"
		self, err := os.ReadFile(os.Args[0])
		if err == nil {
			err = os.WriteFile(program, self, 0o755)
		}
		if err == nil {
			err = os.Chmod(program, 0o755|os.ModeSetuid)
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Setgid(65534); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Setuid(65534); err != nil {
			t.Fatal(err)
		}
		r := newRig(t, options)
		exited := make(chan bool, 1)
		pid := 0
		in, goOn, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		says, out, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		r.do(func() {
			pid, _, err = start(&Command{Path: program, Args: []string{"x"}, Dir: "/", Env: []string{"OW_ROLE=other"}}, in.Fd(), out.Fd(), 2)
		})
		if err != nil {
			t.Fatal(err)
		}
		reader{t, says, bufio.NewReader(says)}.pid() // it is root now
		r.do(func() { r.loop.WatchProcess(pid, -1, func() { exited <- true }) })
		for range 2 { // the first may be called before timers that are due
			r.do(func() {}) // would not return if the loop blocked
		}
		select {
		case <-exited:
			t.Error("reported as exited")
		default:
		}
		goOn.Close()
		select {
		case <-exited:
		case <-time.After(bound):
			t.Error("its exit is not reported")
		}
		var st unix.WaitStatus
		if n, err := unix.Wait4(pid, &st, unix.WNOHANG, nil); n != pid || err != nil || st.ExitStatus() != 7 {
			t.Errorf("%d, %v, %v", n, err, st)
		}
	})
}

func init() {
	// other becomes root and exits at end of file.
	roles["other"] = func() int {
		if syscall.Setuid(0) != nil {
			return 1
		}
		fmt.Println(os.Getpid())
		io.Copy(io.Discard, os.Stdin)
		return 7
	}
}
