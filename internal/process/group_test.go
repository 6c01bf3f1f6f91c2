//go:build linux || freebsd

package process

import (
	"bufio"
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestTerminate: the group gets SIGTERM, and SIGKILL after KillAfter.
func TestTerminate(t *testing.T) {
	for _, tt := range []struct {
		name, script string // sets traps
		then         string
		killAfter    time.Duration
		status       string
	}{
		{"willing", "", "exec sleep 60", never, "signal 15"},
		{"with a child", "", "sleep 60; :", never, "signal 15"},
		{"handles TERM", "trap 'exit 7' TERM", "wait", never, "exit 7"},
		{"ignores TERM", "trap '' TERM", "exec sleep 60", soon, "signal 9"},
		{"stopped", "", "kill -STOP $$; exec sleep 60", never, "signal 15"},
		{"stopped, and ignores TERM", "trap '' TERM", "kill -STOP $$; exec sleep 60", soon, "signal 9"},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
			alone(t, func(t *testing.T) {
				o := options
				o.KillAfter = tt.killAfter
				r := newRig(t, o)
				c := r.start(shell("sleep 61 & " + tt.script + "\necho $$; echo $!; " + tt.then))
				pid, child := c.out.pid(), c.out.pid()
				if strings.HasPrefix(tt.then, "kill -STOP") {
					eventually(t, "the command to stop", func() bool { return stopped(t, pid) })
				}
				c.terminate("test")
				c.terminate("test") // has no effect
				if got := describe(c.exited().status); got != tt.status {
					t.Errorf("%s, want %s", got, tt.status)
				}
				gone(t, pid)
				gone(t, child)
				r.until("the group to be empty", func() bool { return r.sup.Running() == 0 })
				c.terminate("test") // has no effect either
				if log := r.log.String(); log != "" {
					t.Errorf("logged: %s", log)
				}
				r.do(func() {
					if c.g.TimedOut() {
						t.Error("TimedOut reports true")
					}
				})
			})
		})
	}
}

// stopped reports whether a process is stopped by a signal.
func stopped(t *testing.T, pid int) bool {
	t.Helper()
	state, err := exec.Command("ps", "-o", "stat=", "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		t.Fatal(err)
	}
	return bytes.HasPrefix(state, []byte("T"))
}

// TestTimeout: a command is terminated at its timeout.
func TestTimeout(t *testing.T) {
	alone(t, func(t *testing.T) {
		o := options
		o.Timeout = soon
		r := newRig(t, o)
		c := r.start(shell("exec sleep 60"))
		if e := c.exited(); describe(e.status) != "signal 15" || !c.g.TimedOut() {
			t.Errorf("%s, timed out: %t", describe(e.status), c.g.TimedOut())
		}
	})
}

// leave is a command that exits and leaves a process in its group, which prints
// its pid and exits when it has read a line.
const leave = `exec 3<&0; sh -c 'echo $$; read x; echo $x' <&3 & exit 5`

// leaveSession is a command that exits and leaves a process in a new session,
// which runs script, prints its pid and exits when it has read a line.
func leaveSession(script string) *Command {
	return shell(`exec 3<&0 4>&1; { OW_ROLE=setsid ` + os.Args[0] + ` sh -c '` + script + `; echo ready; exec >&4; echo $$; read x' <&3 & } | read y; exit 5`)
}

// TestLeftoversExit: leftovers run on and keep the slot until they exit.
func TestLeftoversExit(t *testing.T) {
	alone(t, func(t *testing.T) {
		o := options
		o.Max = 1
		r := newRig(t, o)
		c := r.start(shell(leave))
		if e := c.exited(); e.empty || describe(e.status) != "exit 5" {
			t.Fatalf("%s, empty: %t", describe(e.status), e.empty)
		}
		pid := c.out.pid()
		turn := make(chan error, 1)
		r.do(func() {
			r.sup.Ask(func(err error) { turn <- err })
			if r.sup.Running() != 1 || len(turn) > 0 {
				t.Error("the slot is free")
			}
		})
		alive(t, pid)
		c.say("goodbye")
		if s := c.out.line(); s != "goodbye" {
			t.Errorf("%q", s)
		}
		c.empty()
		if err := <-turn; err != nil {
			t.Error(err)
		}
		c.check("exit, empty")
		gone(t, pid)
		c.terminate("test") // has no effect and is not logged
		r.do(func() {
			if c.g.terminated || len(r.loop.timers) != 1 {
				t.Errorf("terminated: %t, %d timers", c.g.terminated, len(r.loop.timers)) // one is for the next scan
			}
		})
		if log := r.log.String(); log != "" {
			t.Errorf("logged: %s", log)
		}
	})
}

// TestLeftoversTerminated: leftovers are terminated at the timeout and by
// Terminate, by SIGTERM and then SIGKILL, and this is logged.
func TestLeftoversTerminated(t *testing.T) {
	for _, tt := range []struct {
		name, script string
		killAfter    time.Duration
		end          func(g *Group)
		reason       string
	}{
		{"timeout", leave, never, (*Group).passTimeout, "timeout"},
		{"by owner", leave, never, func(g *Group) { g.Terminate("client gone") }, `"client gone"`},
		{"stubborn", `exec 3<&0; sh -c 'trap "" TERM; echo $$; read x' <&3 & exit 5`, soon, (*Group).passTimeout, "timeout"},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
			alone(t, func(t *testing.T) {
				o := options
				o.KillAfter = tt.killAfter
				r := newRig(t, o)
				c := r.start(shell(tt.script))
				pid := c.out.pid()
				if e := c.exited(); e.empty {
					t.Fatal("no leftovers")
				}
				c.g.ID = 77
				r.do(func() { tt.end(c.g) })
				c.empty()
				gone(t, pid)
				c.check("exit, empty")
				want := `level=WARN msg="leftover processes terminated" process=77 reason=` + tt.reason + "\n"
				if log := r.log.String(); !strings.HasSuffix(log, want) || strings.Count(log, "\n") != 1 {
					t.Errorf("logged: %s", log)
				}
				if c.g.TimedOut() != (tt.reason == "timeout") {
					t.Errorf("timed out: %t", c.g.TimedOut())
				}
			})
		})
	}
}

// passTimeout makes the timeout of a group fire soon.
func (g *Group) passTimeout() {
	g.timer.Stop()
	g.timer = g.s.loop.After(soon, g.timer.f)
}

// TestTerminatedWithLeftovers: a command exits at SIGTERM, and a process of its
// group does not.
func TestTerminatedWithLeftovers(t *testing.T) {
	t.Run("by TERM", func(t *testing.T) { testTerminatedWithLeftovers(t, false) })
	t.Run("by KILL", func(t *testing.T) { testTerminatedWithLeftovers(t, true) })
}

func testTerminatedWithLeftovers(t *testing.T, killed bool) {
	alone(t, func(t *testing.T) {
		o := options
		r := newRig(t, o)
		c := r.start(shell(`OW_ROLE=stubborn ` + os.Args[0] + ` & trap 'read y; exit 3' TERM; echo set; wait`))
		first, second := c.out.line(), c.out.line() // in whatever order
		pid, err := strconv.Atoi(strings.Trim(first+second, "set"))
		if err != nil {
			t.Fatal(err)
		}
		c.terminate("timeout")
		if s := c.out.line(); s != "terminated" {
			t.Errorf("%q", s)
		}
		// As if the command had exited only at SIGKILL, which this process did
		// not get. This happens on FreeBSD outside the process group.
		r.do(func() { c.g.killed = killed })
		c.say("")
		if e := c.exited(); e.empty || describe(e.status) != "exit 3" {
			t.Errorf("%s, empty: %t", describe(e.status), e.empty)
		}
		// A second SIGTERM is for processes forked after the first.
		if s := c.out.line(); s != "terminated" {
			t.Errorf("%q", s)
		}
		r.do(func() {
			if r.sup.Running() != 1 {
				t.Error("the slot is free")
			}
			unix.Kill(pid, unix.SIGTERM)
		})
		if s := c.out.line(); s != "terminated" {
			t.Errorf("%q", s) // it was killed
		}
		r.do(func() {
			c.g.timer.Stop()
			c.g.timer = r.loop.After(soon, c.g.timer.f) // that of SIGKILL
		})
		c.empty()
		gone(t, pid)
	})
}

// TestLeaderLeavesGroup: a leader in another process group is terminated too.
func TestLeaderLeavesGroup(t *testing.T) {
	alone(t, func(t *testing.T) {
		r := newRig(t, options)
		c := r.start(self("leaver"))
		pid := c.out.pid()
		if pgid, err := unix.Getpgid(pid); err != nil || pgid == pid {
			t.Errorf("in group %d, %v", pgid, err)
		}
		c.terminate("test")
		c.exited()
		gone(t, pid)
	})
}

// TestZombiesReaped: exited descendants of a running command are reaped.
func TestZombiesReaped(t *testing.T) {
	alone(t, func(t *testing.T) {
		o := options
		o.Scan = soon
		r := newRig(t, o)
		c := r.start(shell(`(sh -c : & echo $!); read x`))
		gone(t, c.out.pid())
		c.say("")
		c.exited()
		r.until("the supervisor to be idle", r.sup.Idle)
	})
}

// TestPIDReused: when all processes have left a process group, the kernel may
// reuse its number for the next command.
func TestPIDReused(t *testing.T) {
	alone(t, func(t *testing.T) {
		r := newRig(t, options)
		old := &command{r: r, empties: make(chan bool, 1)}
		next := &command{r: r, exits: make(chan exit, 1)}
		r.do(func() {
			pid, handle, err := start(&Command{Path: "/bin/sh", Args: []string{"sh", "-c", "exit 6"}, Dir: "/"}, uintptr(r.sup.null))
			if err != nil {
				t.Fatal(err)
			}
			old.g = &Group{s: r.sup, h: old, pid: pid, reaped: true}
			r.sup.groups[pid] = old.g
			next.g = &Group{s: r.sup, h: next, pid: pid, handle: handle}
			r.sup.running = 2
			r.sup.watch(next.g)
			if r.sup.Running() != 1 || !old.g.empty {
				t.Errorf("%d groups, the old one empty: %t", r.sup.Running(), old.g.empty)
			}
		})
		old.empty()
		if e := next.exited(); describe(e.status) != "exit 6" || !e.empty {
			t.Errorf("%+v", e)
		}
	})
}

// TestOwn: a program of ours uses no slot, has no timeout and is not terminated
// with the commands. When it exits, its leftovers are killed.
func TestOwn(t *testing.T) {
	alone(t, func(t *testing.T) {
		o := options
		o.Timeout, o.KillAfter = 1, soon
		r := newRig(t, o)
		says, out, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		c := &command{r: r, exits: make(chan exit, 1), empties: make(chan bool, 1), out: reader{t, says, bufio.NewReader(says)}}
		const stubborn = `trap "" TERM HUP; echo $$ >&2; exec sleep 60`
		r.do(func() {
			c.g, err = r.sup.StartOwn(shell(`sh -c '`+stubborn+`' & echo $! >&2; OW_ROLE=setsid `+os.Args[0]+` sh -c '`+stubborn+`' & read x; wait`), c, out.Fd())
		})
		if err != nil {
			t.Fatal(err)
		}
		out.Close()
		pids := []int{c.out.pid(), c.out.pid(), c.out.pid()} // of one of them twice
		r.do(func() {
			if r.sup.Running() != 0 || r.sup.Idle() {
				t.Errorf("%d running, idle: %t", r.sup.Running(), r.sup.Idle())
			}
			r.sup.TerminateAll()
			r.sup.stopping = false
			if c.g.terminated {
				t.Error("terminated with the commands")
			}
			unix.Kill(c.g.PID(), unix.SIGKILL)
		})
		if e := c.exited(); describe(e.status) != "signal 9" {
			t.Error(describe(e.status))
		}
		for _, pid := range pids {
			gone(t, pid)
		}
		r.until("the supervisor to be idle", r.sup.Idle)
	})
}

// TestReapedByOthers: a command whose status is lost has not succeeded.
func TestReapedByOthers(t *testing.T) {
	alone(t, func(t *testing.T) {
		r := newRig(t, options)
		c := r.start(shell("read x"))
		r.do(func() {
			c.say("")
			unix.Wait4(c.g.pid, nil, 0, nil)
		})
		if e := c.exited(); describe(e.status) != "signal 9" {
			t.Error(describe(e.status))
		}
	})
}

// TestTerminateAll: TerminateAll and KillAll terminate commands, leftovers and
// orphans. No command is started from then on.
func TestTerminateAll(t *testing.T) {
	for name, kill := range map[string]bool{"TerminateAll": false, "TerminateAll, KILL": false, "KillAll": true} {
		t.Run(strings.ReplaceAll(name, ", ", "_"), func(t *testing.T) {
			alone(t, func(t *testing.T) {
				o := options
				o.Scan = soon
				trap := ""
				if name != "TerminateAll" {
					trap = `trap "" TERM;`
				}
				if name == "TerminateAll, KILL" {
					o.KillAfter = soon
				}
				r := newRig(t, o)
				runs := r.start(shell(trap + `sleep 61 & echo $$; echo $!; exec sleep 60`))
				leaves := r.start(shell(`exec 3<&0; sh -c '` + trap + `echo $$; read x' <&3 & exit 5`))
				orphan := r.start(leaveSession(trap + ":"))
				pids := []int{runs.out.pid(), runs.out.pid(), leaves.out.pid(), orphan.out.pid()}
				leaves.exited()
				orphan.exited()
				if runtime.GOOS == "linux" {
					r.until("an orphan to be found", func() bool {
						return slices.ContainsFunc(slices.Collect(maps.Values(r.sup.groups)), func(g *Group) bool { return g.orphan })
					})
				}
				r.do(func() {
					if r.sup.Idle() {
						t.Error("idle")
					}
					r.sup.TerminateAll()
					if kill { // does not wait for KillAfter
						r.sup.KillAll()
					}
					var err error
					r.sup.Ask(func(e error) { err = e })
					if err != unix.ECANCELED {
						t.Errorf("Ask: %v", err)
					}
				})
				for _, pid := range pids {
					gone(t, pid)
				}
				r.until("the supervisor to be idle", r.sup.Idle)
				r.do(func() {
					if list := descendants(); len(list) != 0 || len(r.loop.timers) != 0 {
						t.Errorf("left: children %v, %d timers", list, len(r.loop.timers))
					}
				})
				if log := r.log.String(); !strings.Contains(log, `reason="service ending"`) {
					t.Errorf("logged: %s", log)
				}
			})
		})
	}
}

func init() {
	// setsid does as setsid(1).
	roles["setsid"] = func() int {
		path, err := exec.LookPath(os.Args[1])
		if err == nil {
			_, err = syscall.Setsid()
		}
		if err == nil {
			err = syscall.Exec(path, os.Args[1:], []string{"PATH=/bin:/usr/bin"})
		}
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	// stubborn prints each SIGTERM and does not exit.
	roles["stubborn"] = func() int {
		terms := make(chan os.Signal, 1)
		signal.Notify(terms, unix.SIGTERM)
		fmt.Println(os.Getpid())
		for sig := range terms {
			fmt.Println(sig)
		}
		return 0
	}
	// leaver moves itself into the process group of its child.
	roles["leaver"] = func() int {
		child := exec.Command("/bin/sleep", "60")
		child.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if child.Start() != nil || unix.Setpgid(0, child.Process.Pid) != nil {
			return 1
		}
		fmt.Println(os.Getpid())
		time.Sleep(time.Minute) // it is killed
		return 0
	}
}
