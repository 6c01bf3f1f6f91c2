//go:build linux || freebsd

package process

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestEnd: SIGTERM to the group, SIGKILL after a while to whoever ignores it.
func TestEnd(t *testing.T) {
	for _, tt := range []struct {
		name, script string // the script begins when traps are to be set
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
				c.end("test")
				c.end("test") // once more is no harm
				if got := describe(c.exited().status); got != tt.status {
					t.Errorf("%s, want %s", got, tt.status)
				}
				gone(t, pid)
				gone(t, child)
				r.until("the group to be over", func() bool { return r.sup.Running() == 0 })
				c.end("test") // and so is one after the end
				if log := r.logged(); log != "" {
					t.Errorf("logged: %s", log)
				}
				r.do(func() {
					if c.g.TimedOut() {
						t.Error("it has not timed out")
					}
				})
			})
		})
	}
}

// stopped tells whether a signal has stopped a process.
func stopped(t *testing.T, pid int) bool {
	t.Helper()
	state, err := exec.Command("ps", "-o", "stat=", "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		t.Fatal(err)
	}
	return bytes.HasPrefix(state, []byte("T"))
}

// TestTimeout: the supervisor ends by itself what nobody else ends.
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

// leave is a command that ends and leaves a process in its group, which says
// its number, and ends when it has read a line.
const leave = `exec 3<&0; sh -c 'echo $$; read x; echo $x' <&3 & exit 5`

// leaveSession is a command that ends when it has left a process in a session of
// its own, which does as script says, tells its number and reads a line.
func leaveSession(script string) *Command {
	return shell(`exec 3<&0 4>&1; { OW_ROLE=setsid ` + os.Args[0] + ` sh -c '` + script + `; echo ready; exec >&4; echo $$; read x' <&3 & } | read y; exit 5`)
}

// TestLeftoversEnd: what a command leaves behind runs on, holds its place and
// ends by itself.
func TestLeftoversEnd(t *testing.T) {
	alone(t, func(t *testing.T) {
		o := options
		o.Max = 1
		r := newRig(t, o)
		c := r.start(shell(leave))
		if e := c.exited(); e.over || describe(e.status) != "exit 5" {
			t.Fatalf("%s, over: %t", describe(e.status), e.over)
		}
		pid := c.out.pid()
		turn := make(chan error, 1)
		r.do(func() {
			r.sup.Ask(func(err error) { turn <- err })
			if r.sup.Running() != 1 || len(turn) > 0 {
				t.Error("its place is taken")
			}
		})
		alive(t, pid)
		c.say("goodbye")
		if s := c.out.line(); s != "goodbye" {
			t.Errorf("%q", s)
		}
		c.over()
		if err := <-turn; err != nil {
			t.Error(err)
		}
		c.check("exit, over")
		gone(t, pid)
		c.end("test") // which is too late, and nothing to tell of
		r.do(func() {
			if c.g.ended || len(r.loop.timers) != 1 {
				t.Errorf("ended, with %d timers", len(r.loop.timers)) // one looks for strays
			}
		})
		if log := r.logged(); log != "" {
			t.Errorf("logged: %s", log)
		}
	})
}

// TestLeftoversEnded: what runs on is ended at the group's timeout, or when its
// owner says so: by SIGTERM, and if that is of no use by SIGKILL. The log tells.
func TestLeftoversEnded(t *testing.T) {
	for _, tt := range []struct {
		name, script string
		killAfter    time.Duration
		end          func(g *Group)
		reason       string
	}{
		{"timeout", leave, never, (*Group).passTimeout, "timeout"},
		{"by owner", leave, never, func(g *Group) { g.End("client gone") }, `"client gone"`},
		{"stubborn", `exec 3<&0; sh -c 'trap "" TERM; echo $$; read x' <&3 & exit 5`, soon, (*Group).passTimeout, "timeout"},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
			alone(t, func(t *testing.T) {
				o := options
				o.KillAfter = tt.killAfter
				r := newRig(t, o)
				c := r.start(shell(tt.script))
				pid := c.out.pid()
				if e := c.exited(); e.over {
					t.Fatal("nothing is left")
				}
				c.g.ID = 77
				r.do(func() { tt.end(c.g) })
				c.over()
				gone(t, pid)
				c.check("exit, over")
				want := `level=WARN msg="leftovers ended" process=77 reason=` + tt.reason + "\n"
				if log := r.logged(); !strings.HasSuffix(log, want) || strings.Count(log, "\n") != 1 {
					t.Errorf("logged: %s", log)
				}
				if c.g.TimedOut() != (tt.reason == "timeout") {
					t.Errorf("timed out: %t", c.g.TimedOut())
				}
			})
		})
	}
}

// passTimeout has the timeout of a group come soon.
func (g *Group) passTimeout() {
	g.timer.Stop()
	g.timer = g.s.loop.After(soon, g.timer.f)
}

// TestEndedWithLeftovers: End comes while the command runs; it ends, and
// something of its group does not, for a while.
func TestEndedWithLeftovers(t *testing.T) {
	t.Run("by TERM", func(t *testing.T) { testEndedWithLeftovers(t, false) })
	t.Run("by KILL", func(t *testing.T) { testEndedWithLeftovers(t, true) })
}

func testEndedWithLeftovers(t *testing.T, killed bool) {
	alone(t, func(t *testing.T) {
		o := options
		r := newRig(t, o)
		c := r.start(shell(`OW_ROLE=stubborn ` + os.Args[0] + ` & trap 'read y; exit 3' TERM; echo set; wait`))
		first, second := c.out.line(), c.out.line() // in whatever order
		pid, err := strconv.Atoi(strings.Trim(first+second, "set"))
		if err != nil {
			t.Fatal(err)
		}
		c.end("timeout")
		if s := c.out.line(); s != "terminated" {
			t.Errorf("%q", s)
		}
		// As if only SIGKILL had ended the command, and this one had not been
		// in its process group, as it may be on FreeBSD.
		r.do(func() { c.g.killed = killed })
		c.say("")
		if e := c.exited(); e.over || describe(e.status) != "exit 3" {
			t.Errorf("%s, over: %t", describe(e.status), e.over)
		}
		// Once more, for what was born after the first one.
		if s := c.out.line(); s != "terminated" {
			t.Errorf("%q", s)
		}
		r.do(func() {
			if r.sup.Running() != 1 {
				t.Error("its place is free")
			}
			unix.Kill(pid, unix.SIGTERM)
		})
		if s := c.out.line(); s != "terminated" {
			t.Errorf("%q", s) // killed
		}
		r.do(func() {
			c.g.timer.Stop()
			c.g.timer = r.loop.After(soon, c.g.timer.f) // that of SIGKILL
		})
		c.over()
		gone(t, pid)
	})
}

// TestLeaderLeavesGroup: one that is in another group is ended as well.
func TestLeaderLeavesGroup(t *testing.T) {
	alone(t, func(t *testing.T) {
		r := newRig(t, options)
		c := r.start(self("leaver"))
		pid := c.out.pid()
		if pgid, err := unix.Getpgid(pid); err != nil || pgid == pid {
			t.Errorf("in group %d, %v", pgid, err)
		}
		c.end("test")
		c.exited()
		gone(t, pid)
	})
}

// TestDeadChildrenReaped: those that a running command has left to us, too.
func TestDeadChildrenReaped(t *testing.T) {
	alone(t, func(t *testing.T) {
		o := options
		o.Look = soon
		r := newRig(t, o)
		c := r.start(shell(`(sh -c : & echo $!); read x`))
		gone(t, c.out.pid())
		c.say("")
		c.exited()
		r.until("nothing to be left", r.sup.Idle)
	})
}

// TestNumberGivenAgain: where all have left a process group its number may be
// that of the next command.
func TestNumberGivenAgain(t *testing.T) {
	alone(t, func(t *testing.T) {
		r := newRig(t, options)
		old := &command{r: r, overs: make(chan bool, 1)}
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
			if r.sup.Running() != 1 || !old.g.over {
				t.Errorf("%d groups, the old one over: %t", r.sup.Running(), old.g.over)
			}
		})
		old.over()
		if e := next.exited(); describe(e.status) != "exit 6" || !e.over {
			t.Errorf("%+v", e)
		}
	})
}

// TestOwn: a program of ours holds no place and has no timeout, a stop of the
// commands is none of its own, and what it has left is killed with its end.
func TestOwn(t *testing.T) {
	alone(t, func(t *testing.T) {
		o := options
		o.Timeout, o.KillAfter = 1, soon
		r := newRig(t, o)
		says, out, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		c := &command{r: r, exits: make(chan exit, 1), overs: make(chan bool, 1), out: reader{t, says, bufio.NewReader(says)}}
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
			r.sup.EndAll()
			r.sup.ending = false
			if c.g.ended {
				t.Error("it is ended with the commands")
			}
			unix.Kill(c.g.PID(), unix.SIGKILL)
		})
		if e := c.exited(); describe(e.status) != "signal 9" {
			t.Error(describe(e.status))
		}
		for _, pid := range pids {
			gone(t, pid)
		}
		r.until("nothing to be left", r.sup.Idle)
	})
}

// TestReapedByOthers: a command whose status is lost is not taken for a success.
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

// TestEverythingEnds: EndAll and KillAll end what runs, what was left behind and
// what left its group, and nothing is started any more.
func TestEverythingEnds(t *testing.T) {
	for name, kill := range map[string]bool{"EndAll": false, "EndAll, KILL": false, "KillAll": true} {
		t.Run(strings.ReplaceAll(name, ", ", "_"), func(t *testing.T) {
			alone(t, func(t *testing.T) {
				o := options
				o.Look = soon
				trap := ""
				if name != "EndAll" {
					trap = `trap "" TERM;`
				}
				if name == "EndAll, KILL" {
					o.KillAfter = soon
				}
				r := newRig(t, o)
				runs := r.start(shell(trap + `sleep 61 & echo $$; echo $!; exec sleep 60`))
				leaves := r.start(shell(`exec 3<&0; sh -c '` + trap + `echo $$; read x' <&3 & exit 5`))
				strays := r.start(leaveSession(trap + ":"))
				pids := []int{runs.out.pid(), runs.out.pid(), leaves.out.pid(), strays.out.pid()}
				leaves.exited()
				strays.exited()
				if runtime.GOOS == "linux" {
					r.until("a stray to be found", func() bool { return len(r.sup.strays) == 1 })
				}
				r.do(func() {
					if r.sup.Idle() {
						t.Error("idle")
					}
					r.sup.EndAll()
					if kill { // which waits for nothing that EndAll has begun
						r.sup.KillAll()
					}
					var err error
					r.sup.Ask(func(e error) { err = e })
					if err != unix.ECANCELED {
						t.Errorf("a turn comes with %v", err)
					}
				})
				for _, pid := range pids {
					gone(t, pid)
				}
				r.until("nothing to be left", r.sup.Idle)
				r.do(func() {
					if list := children(); len(list) != 0 || len(r.loop.timers) != 0 {
						t.Errorf("left: children %v, %d timers", list, len(r.loop.timers))
					}
				})
				if log := r.logged(); !strings.Contains(log, `reason="service ending"`) {
					t.Errorf("logged: %s", log)
				}
			})
		})
	}
}

func init() {
	// setsid is setsid(1).
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
	// stubborn tells of each SIGTERM, and goes on.
	roles["stubborn"] = func() int {
		terms := make(chan os.Signal, 1)
		signal.Notify(terms, unix.SIGTERM)
		fmt.Println(os.Getpid())
		for sig := range terms {
			fmt.Println(sig)
		}
		return 0
	}
	// leaver moves itself into the group of a child of its own.
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
