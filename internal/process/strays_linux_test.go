package process

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestStrays: what leaves its group holds no place, is found, has the time of a
// group from then on, and is ended with all of its own group. The log tells.
func TestStrays(t *testing.T) {
	for name, trap := range map[string]string{"mild": "", "wild": `trap "" TERM;`} {
		t.Run(name, func(t *testing.T) {
			alone(t, func(t *testing.T) {
				o := options
				o.Look = soon
				if name == "wild" {
					o.KillAfter = soon
				}
				r := newRig(t, o)
				before := time.Now()
				c := r.start(leaveSession(trap + `sleep 60 & echo $! >&4`))
				child, pid := c.out.pid(), c.out.pid()
				if e := c.exited(); !e.over {
					t.Error("the group is not over")
				}
				c.check("exit over")
				r.until("it to be found", func() bool { return r.sup.strays[pid] != nil })
				r.do(func() {
					st := r.sup.strays[pid]
					if st.deadline.Before(before.Add(o.Timeout)) || st.deadline.After(time.Now().Add(o.Timeout)) || st.ended || len(r.sup.strays) != 1 {
						t.Errorf("deadline %v, begun at %v; %d strays", st.deadline, before, len(r.sup.strays))
					}
					if r.sup.Running() != 0 || r.sup.Idle() {
						t.Error("it holds a place, or is not waited for")
					}
					if log := r.logged(); log != "" {
						t.Errorf("logged: %s", log)
					}
					st.deadline = time.Now()
				})
				gone(t, pid)
				gone(t, child)
				r.until("nothing to be left", r.sup.Idle)
				if log, want := r.logged(), fmt.Sprintf("level=WARN msg=\"process left its group and is ended\" pid=%d\n", pid); !strings.Contains(log, want) {
					t.Errorf("logged: %s", log)
				}
			})
		})
	}
}

// TestStrayEndsByItself: then nothing is said of it.
func TestStrayEndsByItself(t *testing.T) {
	alone(t, func(t *testing.T) {
		o := options
		o.Look = soon
		r := newRig(t, o)
		c := r.start(leaveSession(":"))
		pid := c.out.pid()
		r.until("it to be found", func() bool { return r.sup.strays[pid] != nil })
		c.say("")
		gone(t, pid)
		r.until("nothing to be left", r.sup.Idle)
		if log := r.logged(); log != "" {
			t.Errorf("logged: %s", log)
		}
	})
}

// TestStrayInOurGroup: a stray that has joined the monitor's own process group is
// ended alone.
func TestStrayInOurGroup(t *testing.T) {
	alone(t, func(t *testing.T) {
		o := options
		o.Look = soon
		r := newRig(t, o)
		unix.Setpgid(0, 0) // else this test's own parent is in our group
		c := r.start(self("intruder", fmt.Sprint("PGID=", unix.Getpgrp())))
		pid := c.out.pid()
		c.exited()
		r.until("it to be found", func() bool { return r.sup.strays[pid] != nil })
		r.do(func() { r.sup.strays[pid].deadline = time.Now() })
		gone(t, pid) // and we are not
	})
}

// TestInherited: children that this program had before it was executed are
// reaped, and never signalled.
func TestInherited(t *testing.T) {
	alone(t, func(t *testing.T) {
		o := options
		o.Look = soon
		pid := children()[0].pid
		r := newRig(t, o)
		r.start(shell("read x"))
		r.do(func() {
			if !r.sup.inherited[pid] || len(r.sup.strays) != 0 {
				t.Errorf("inherited %v, strays %v", r.sup.inherited, r.sup.strays)
			}
			r.sup.KillAll()
		})
		r.until("all else to end", r.sup.Idle)
		state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || !strings.Contains(string(state), ") S ") {
			t.Errorf("%s, %v", state, err)
		}
		unix.Kill(pid, unix.SIGKILL)
		r.do(func() { r.sup.look() })
		eventually(t, "it to be reaped", func() bool {
			r.do(func() { r.sup.look() })
			return unix.Kill(pid, 0) == unix.ESRCH
		})
	}, "/bin/sh", "-c", `sleep 60 >/dev/null 2>&1 & exec "$0" "$@"`)
}

// TestNumberOfGroup: the process group of a command that has been reaped is not
// signalled once no child of ours is in it, since its number could be anyone's.
func TestNumberOfGroup(t *testing.T) {
	alone(t, func(t *testing.T) {
		r := newRig(t, options)
		c := r.start(self("escape"))
		echo, leftover := c.out.pid(), c.out.pid()
		pgid, _ := unix.Getpgid(echo)
		if e := c.exited(); e.over {
			t.Fatal("no leftover")
		}
		if pgid != c.g.pid {
			t.Fatalf("in group %d, not %d", pgid, c.g.pid)
		}
		r.do(func() {
			c.g.poll.Stop() // it would see the end first
			unix.Kill(leftover, unix.SIGKILL)
			unix.Waitid(unix.P_PID, leftover, nil, unix.WEXITED|unix.WNOWAIT, nil)
			c.g.End("test")
			c.g.Kill()
		})
		c.say("still here")
		if s := c.out.line(); s != "still here" {
			t.Errorf("%q", s)
		}
		r.do(c.g.check)
		c.over()
	})
}

// TestOtherInGroup: a command that has moved to another's process group is not
// reaped with what that one has left.
func TestOtherInGroup(t *testing.T) {
	alone(t, func(t *testing.T) {
		r := newRig(t, options)
		c := r.start(shell(leave))
		c.exited()
		leftover := c.out.pid()
		mover := r.start(self("mover", fmt.Sprint("PGID=", c.g.pid)))
		pid := mover.out.pid()
		if pgid, _ := unix.Getpgid(pid); pgid != c.g.pid {
			t.Fatalf("in group %d", pgid)
		}
		r.do(func() {
			mover.say("")
			unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
			c.g.check()
			r.sup.look()
		})
		if e := mover.exited(); describe(e.status) != "exit 7" {
			t.Error(describe(e.status))
		}
		alive(t, leftover)
		c.say("")
		c.over()
	})
}

// TestUnwatched: the end of a program is seen where the poller cannot watch it.
func TestUnwatched(t *testing.T) {
	alone(t, func(t *testing.T) {
		r := newRig(t, options)
		c := &command{r: r, exits: make(chan exit, 1)}
		in, goOn, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		r.do(func() {
			pid, handle, err := start(&Command{Path: "/bin/sh", Args: []string{"sh", "-c", "read x; exit 7"}, Dir: "/"}, in.Fd())
			if err != nil {
				t.Fatal(err)
			}
			unix.Close(handle)
			c.g = &Group{s: r.sup, h: c, pid: pid, handle: -1, own: true}
			r.sup.watch(c.g)
		})
		for range 2 { // of which the first may come before what is due at once
			r.do(func() {})
		}
		if len(c.exits) > 0 {
			t.Error("taken for dead")
		}
		goOn.Close()
		if e := c.exited(); describe(e.status) != "exit 7" {
			t.Error(describe(e.status))
		}
	})
}

func init() {
	// intruder leaves a process in the group PGID.
	roles["intruder"] = func() int {
		cmd := exec.Command("/bin/sh", "-c", "echo $$; exec sleep 60")
		cmd.Stdout = os.Stdout
		cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true, Pgid: atoi(os.Getenv("PGID"))}
		if cmd.Start() != nil {
			return 1
		}
		return 0
	}
	// mover moves itself to the group PGID.
	roles["mover"] = func() int {
		if unix.Setpgid(0, atoi(os.Getenv("PGID"))) != nil {
			return 1
		}
		fmt.Println(os.Getpid())
		bufio.NewReader(os.Stdin).ReadString('\n')
		return 7
	}
	// escape leaves two processes: one, in its group, that is the child of one
	// in a session of its own, and a leftover.
	roles["escape"] = func() int {
		if os.Getenv("OW_PARENT") != "" {
			says, w, _ := os.Pipe()
			echo := exec.Command("/bin/sh", "-c", "echo $$; exec 2>&-; while read x; do echo $x; done")
			echo.Stdin, echo.Stdout, echo.Stderr = os.Stdin, os.Stdout, w
			if echo.Start() != nil {
				return 1
			}
			w.Close()
			unix.Setsid()
			io.Copy(io.Discard, says) // the echo's standard error ends with its first line
			os.Stderr.Close()
			time.Sleep(time.Minute) // it is killed
			return 0
		}
		r, w, _ := os.Pipe()
		self, _ := os.Executable()
		parent := exec.Command(self)
		parent.Env = append(os.Environ(), "OW_PARENT=yes")
		parent.Stdin, parent.Stdout, parent.Stderr = os.Stdin, os.Stdout, w
		if parent.Start() != nil {
			return 1
		}
		w.Close()
		r.Read(make([]byte, 1)) // until it is in its session
		leftover := exec.Command("/bin/sh", "-c", "echo $$; exec sleep 60")
		leftover.Stdout = os.Stdout
		if leftover.Start() != nil {
			return 1
		}
		return 0
	}
}

func atoi(s string) (n int) {
	fmt.Sscan(s, &n)
	return n
}
