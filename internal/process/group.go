package process

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// How often leftovers are polled: the interval doubles from minPoll to maxPoll.
const (
	minPoll = 5 * time.Millisecond
	maxPoll = 250 * time.Millisecond
)

// Group is a program, usually a command, together with the processes that it
// leaves behind (its leftovers). It is empty when the program has exited and no
// leftover remains.
//
// The program is the leader of its own process group, and signals go to that
// group. After the leader has been reaped, the group is only signalled while
// another unreaped child of ours is in it: that child reserves the number. What
// left the process group still belongs to the Group on FreeBSD, where the
// kernel records the ancestry, and is an orphan on Linux.
type Group struct {
	ID uint64 // request number, for the log

	s          *Supervisor
	h          Handler
	pid        int    // of the leader, and number of the process group
	handle     int    // pidfd on Linux, else -1
	own        bool   // started by StartOwn
	orphan     bool   // found by scan
	reaped     bool   // the leader has been reaped
	empty      bool   // no leftovers either
	terminated bool   // SIGTERM or SIGKILL has been sent
	timedOut   bool   // terminated because of Options.Timeout
	killed     bool   // SIGKILL has been sent
	timer      *Timer // for Options.Timeout, later for SIGKILL
	poll       *Timer // next poll for leftovers
	interval   time.Duration
}

// PID is the process number of the program.
func (g *Group) PID() int { return g.pid }

// TimedOut reports whether the group was terminated by its timeout.
func (g *Group) TimedOut() bool { return g.timedOut }

// Terminate sends SIGTERM now and SIGKILL after Options.KillAfter. The reason
// is logged for leftovers and orphans; the core logs that of a command. Terminate
// has no effect on a group that is empty or already terminated.
func (g *Group) Terminate(reason string) {
	if g.terminated || g.empty {
		return
	}
	g.terminated = true
	if g.orphan {
		g.s.log.Warn("orphaned process terminated", "pid", g.pid, "reason", reason)
	} else if g.reaped {
		g.s.log.Warn("leftover processes terminated", "process", g.ID, "reason", reason)
	}
	g.sendTerm()
	g.killLater()
}

func (g *Group) sendTerm() {
	g.signal(unix.SIGTERM)
	g.signal(unix.SIGCONT) // a stopped process does not see SIGTERM otherwise
}

// terminateAfter starts the timeout.
func (g *Group) terminateAfter(d time.Duration) {
	g.timer = g.s.loop.After(d, func() {
		g.timedOut = true
		g.Terminate("timeout")
	})
}

func (g *Group) killLater() {
	g.timer.Stop()
	g.timer = g.s.loop.After(g.s.o.KillAfter, g.Kill)
}

// Kill sends SIGKILL.
func (g *Group) Kill() {
	g.terminated, g.killed = true, true
	g.signal(unix.SIGKILL)
}

// signal sends a signal to all known processes of the group.
func (g *Group) signal(sig unix.Signal) {
	if g.empty {
		return
	}
	if g.reaped {
		if g.s.reapLeftovers(g.pid) {
			signalLeftovers(g.pid, sig)
		}
		return
	}
	unix.Kill(-g.pid, sig)
	// The leader may have moved to another group. It must not get the signal
	// twice: many programs quit without cleanup at a second SIGTERM.
	if pgid, err := unix.Getpgid(g.pid); err != nil || pgid != g.pid {
		unix.Kill(g.pid, sig)
	}
}

// onExit is called when the program is a zombie.
func (g *Group) onExit() {
	if g.own {
		g.Kill() // everything that it started
	}
	status, ok := wait(g.pid)
	if !ok {
		// A debugger has to reap it first.
		g.s.loop.After(time.Millisecond, g.onExit)
		return
	}
	g.reaped = true
	closeAll(g.handle)
	empty := !g.s.reapLeftovers(g.pid)
	g.h.OnExit(status, empty)
	if empty {
		g.remove()
		return
	}
	if g.terminated && !g.own {
		g.sendTerm()  // for those forked since and, on FreeBSD, outside the process group
		if g.killed { // they have until KillAfter too
			g.killed = false
			g.killLater()
		}
	}
	g.pollLeftovers()
}

// pollLeftovers checks whether the group has become empty.
func (g *Group) pollLeftovers() {
	if g.empty {
		return
	}
	if !g.s.reapLeftovers(g.pid) {
		g.h.OnEmpty()
		g.remove()
		return
	}
	if g.killed {
		g.signal(unix.SIGKILL) // on FreeBSD also to those outside the process group
	}
	g.interval = min(max(2*g.interval, minPoll), maxPoll)
	g.poll = g.s.loop.After(g.interval, g.pollLeftovers)
}

// remove removes an empty group, which frees its slot.
func (g *Group) remove() {
	g.empty = true
	g.timer.Stop()
	g.poll.Stop()
	if g.s.groups[g.pid] == g {
		delete(g.s.groups, g.pid)
	}
	if g.own || g.orphan { // no slot, but there may be new orphans
		g.s.scanAfter(0)
		return
	}
	g.s.running--
	g.s.runQueue()
}

// wait reaps a child. ok is false if it has not exited.
func wait(pid int) (status syscall.WaitStatus, ok bool) {
	var ws unix.WaitStatus
	for {
		n, err := unix.Wait4(pid, &ws, waitOptions, nil)
		switch {
		case err == unix.EINTR:
		case err != nil: // somebody else has reaped it: do not report success
			return syscall.WaitStatus(unix.SIGKILL), true
		default:
			return syscall.WaitStatus(ws), n != 0
		}
	}
}
