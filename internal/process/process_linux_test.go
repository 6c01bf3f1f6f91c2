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

// TestOrphans: a process that leaves its process group uses no slot. It is found
// and terminated with its own process group Timeout later, and this is logged.
func TestOrphans(t *testing.T) {
	for name, trap := range map[string]string{"mild": "", "wild": `trap "" TERM;`} {
		t.Run(name, func(t *testing.T) {
			alone(t, func(t *testing.T) {
				o := options
				o.Scan = soon
				if name == "wild" {
					o.KillAfter = soon
				}
				r := newRig(t, o)
				before := time.Now()
				c := r.start(leaveSession(trap + `sleep 60 & echo $! >&4`))
				child, pid := c.out.pid(), c.out.pid()
				if e := c.exited(); !e.empty {
					t.Error("the group is not empty")
				}
				c.check("exit empty")
				r.until("it to be found", func() bool { return r.sup.groups[pid] != nil })
				r.do(func() {
					g := r.sup.groups[pid]
					if g.timer.when.Before(before.Add(o.Timeout)) || g.timer.when.After(time.Now().Add(o.Timeout)) || g.terminated || len(r.sup.groups) != 1 {
						t.Errorf("deadline %v, started after %v; %d orphans", g.timer.when, before, len(r.sup.groups))
					}
					if r.sup.Running() != 0 || r.sup.Idle() {
						t.Error("it uses a slot, or the supervisor is idle")
					}
					if log := r.log.String(); log != "" {
						t.Errorf("logged: %s", log)
					}
					g.passTimeout()
				})
				gone(t, pid)
				gone(t, child)
				r.until("the supervisor to be idle", r.sup.Idle)
				if log, want := r.log.String(), fmt.Sprintf("level=WARN msg=\"orphaned process terminated\" pid=%d reason=timeout\n", pid); !strings.Contains(log, want) {
					t.Errorf("logged: %s", log)
				}
			})
		})
	}
}

// TestOrphanExits: an orphan that exits by itself is not logged. What it leaves
// us before is reaped.
func TestOrphanExits(t *testing.T) {
	alone(t, func(t *testing.T) {
		o := options
		o.Scan = soon
		r := newRig(t, o)
		before := descriptors(t)
		c := r.start(shell(`exec 3<&0 4>&1; { OW_ROLE=setsid ` + os.Args[0] + ` sh -c 'echo ready; exec >&4; echo $$; read x; (sh -c : & echo $!); read x' <&3 & } | read y`))
		pid := c.out.pid()
		c.exited()
		r.until("it to be found", func() bool { return r.sup.groups[pid] != nil })
		r.until("the slot to be free", func() bool { return r.sup.Running() == 0 })
		r.do(r.sup.scan) // there must be another one after this
		c.say("")
		gone(t, c.out.pid())
		c.say("")
		gone(t, pid)
		r.until("the supervisor to be idle", r.sup.Idle)
		c.close()
		if after := descriptors(t); after != before {
			t.Errorf("%d descriptors, then %d", before, after)
		}
		if log := r.log.String(); log != "" {
			t.Errorf("logged: %s", log)
		}
	})
}

// TestOrphanInOurGroup: an orphan that has joined the monitor's process group is
// terminated, and the group is not.
func TestOrphanInOurGroup(t *testing.T) {
	alone(t, func(t *testing.T) {
		o := options
		o.Scan = soon
		r := newRig(t, o)
		unix.Setpgid(0, 0) // else our parent is in our process group
		c := r.start(self("intruder", fmt.Sprint("PGID=", unix.Getpgrp())))
		pid := c.out.pid()
		c.exited()
		r.until("it to be found", func() bool { return r.sup.groups[pid] != nil })
		r.do(func() { r.sup.groups[pid].passTimeout() })
		gone(t, pid) // and we are not
	})
}

// TestInherited: children from before this program was executed are reaped but
// never signalled.
func TestInherited(t *testing.T) {
	alone(t, func(t *testing.T) {
		o := options
		o.Scan = soon
		pid := descendants()[0].pid
		r := newRig(t, o)
		r.start(shell("read x"))
		r.do(func() {
			if !r.sup.inherited[pid] || r.sup.groups[pid] != nil {
				t.Errorf("inherited %v, groups %v", r.sup.inherited, r.sup.groups)
			}
			r.sup.KillAll()
		})
		r.until("the supervisor to be idle", r.sup.Idle)
		state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || !strings.Contains(string(state), ") S ") {
			t.Errorf("%s, %v", state, err)
		}
		unix.Kill(pid, unix.SIGKILL)
		r.do(func() { r.sup.scan() })
		eventually(t, "it to be reaped", func() bool {
			r.do(func() { r.sup.scan() })
			return unix.Kill(pid, 0) == unix.ESRCH
		})
	}, "/bin/sh", "-c", `sleep 60 >/dev/null 2>&1 & exec "$0" "$@"`)
}

// TestUnreservedPID: the process group of a reaped command is not signalled when
// no child of ours is in it, since its number may be reused.
func TestUnreservedPID(t *testing.T) {
	alone(t, func(t *testing.T) {
		r := newRig(t, options)
		c := r.start(self("escape"))
		echo, leftover := c.out.pid(), c.out.pid()
		pgid, _ := unix.Getpgid(echo)
		if e := c.exited(); e.empty {
			t.Fatal("no leftovers")
		}
		if pgid != c.g.pid {
			t.Fatalf("in group %d, not %d", pgid, c.g.pid)
		}
		r.do(func() {
			c.g.poll.Stop() // it would find the zombie first
			unix.Kill(leftover, unix.SIGKILL)
			unix.Waitid(unix.P_PID, leftover, nil, unix.WEXITED|unix.WNOWAIT, nil)
			c.g.Terminate("test")
			c.g.Kill()
		})
		c.say("still here")
		if s := c.out.line(); s != "still here" {
			t.Errorf("%q", s)
		}
		r.do(c.g.pollLeftovers)
		c.empty()
	})
}

// TestOtherInGroup: a command that has moved to another's process group is not
// reaped with the leftovers there.
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
			c.g.pollLeftovers()
			r.sup.scan()
		})
		if e := mover.exited(); describe(e.status) != "exit 7" {
			t.Error(describe(e.status))
		}
		alive(t, leftover)
		c.say("")
		c.empty()
	})
}

// TestUnwatched: an exit is detected if the poller cannot watch the process.
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
		for range 2 { // the first may be called before timers that are due
			r.do(func() {})
		}
		if len(c.exits) > 0 {
			t.Error("reported as exited")
		}
		goOn.Close()
		if e := c.exited(); describe(e.status) != "exit 7" {
			t.Error(describe(e.status))
		}
	})
}

func init() {
	// intruder leaves a process in the process group PGID.
	roles["intruder"] = func() int {
		cmd := exec.Command("/bin/sh", "-c", "echo $$; exec sleep 60")
		cmd.Stdout = os.Stdout
		cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true, Pgid: atoi(os.Getenv("PGID"))}
		if cmd.Start() != nil {
			return 1
		}
		return 0
	}
	// mover moves itself to the process group PGID.
	roles["mover"] = func() int {
		if unix.Setpgid(0, atoi(os.Getenv("PGID"))) != nil {
			return 1
		}
		fmt.Println(os.Getpid())
		bufio.NewReader(os.Stdin).ReadString('\n')
		return 7
	}
	// escape leaves two processes in its process group: the child of a process
	// in another session, and a leftover.
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
			io.Copy(io.Discard, says) // at end of file the echo has printed its pid
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
		r.Read(make([]byte, 1)) // until it has left the session
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
