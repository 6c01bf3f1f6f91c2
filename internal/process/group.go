package process

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// How often a group whose command has ended is looked at while something is
// left in it: soon, and then less and less.
const (
	minPoll = 5 * time.Millisecond
	maxPoll = 250 * time.Millisecond
)

// Group is one program, mostly a command, and what it leaves behind. First the command runs; when
// it has ended, what it has left runs on; then the group is over.
//
// The command leads a process group, which on all systems is what it is ended
// by. No number is signalled that could have changed hands: that of the group
// only while a child of ours in it, the leader or one that has been given to us
// since, is unreaped. What has left the process group is a part of this one
// on FreeBSD, which knows whose it is, and a stray on Linux.
type Group struct {
	ID uint64 // of the request, for the log

	s        *Supervisor
	h        Handler
	pid      int    // of the command, and the number of its process group
	handle   int    // pidfd where the system has them, else -1
	own      bool   // no command, see Supervisor.StartOwn
	reaped   bool   // the command has ended; what is left are leftovers
	over     bool   // and they have too
	ended    bool   // by us
	timedOut bool   // for that reason
	killed   bool   // SIGTERM was not enough
	timer    *Timer // of the timeout, and then of SIGKILL
	poll     *Timer // of the next look at leftovers
	delay    time.Duration
}

// PID is the number of the program's process.
func (g *Group) PID() int { return g.pid }

// TimedOut tells whether the group was ended because its timeout had passed.
func (g *Group) TimedOut() bool { return g.timedOut }

// End ends the group: SIGTERM now, SIGKILL after KillAfter. why is for the log,
// which tells of leftovers; the command is its owner's to tell of. More than
// once is no harm, nor is it when the group is over.
func (g *Group) End(why string) {
	if g.ended || g.over {
		return
	}
	g.ended = true
	if g.reaped {
		g.s.log.Warn("leftovers ended", "process", g.ID, "reason", why)
	}
	g.terminate()
	g.timer.Stop()
	g.timer = g.s.loop.After(g.s.o.KillAfter, g.Kill)
}

func (g *Group) terminate() {
	g.signal(unix.SIGTERM)
	g.signal(unix.SIGCONT) // a stopped process sees SIGTERM only then
}

// Kill ends the group at once.
func (g *Group) Kill() {
	g.ended, g.killed = true, true
	g.signal(unix.SIGKILL)
}

// signal reaches all that is known of the group.
func (g *Group) signal(sig unix.Signal) {
	if g.over {
		return
	}
	if g.reaped {
		if g.s.left(g.pid) {
			signalLeft(g.pid, sig)
		}
		return
	}
	unix.Kill(-g.pid, sig)
	// The leader may have left its group. Not twice: programs take a second
	// SIGTERM for a sign of impatience.
	if pgid, err := unix.Getpgid(g.pid); err != nil || pgid != g.pid {
		unix.Kill(g.pid, sig)
	}
}

// exited runs when the program is a zombie.
func (g *Group) exited() {
	if g.own {
		g.Kill() // whatever it has started
	}
	status, ok := wait(g.pid)
	if !ok {
		// Not ours to reap yet: somebody traces it.
		g.s.loop.After(time.Millisecond, g.exited)
		return
	}
	g.reaped = true
	closeAll(g.handle)
	over := !g.s.left(g.pid)
	g.h.OnExit(status, over)
	if over {
		g.remove()
		return
	}
	if g.ended && !g.own {
		// Again, for those that were born since, and, on FreeBSD, those that
		// have left the process group.
		g.terminate()
		if g.killed { // they have their time, though the command did not use it
			g.killed = false
			g.timer.Stop()
			g.timer = g.s.loop.After(g.s.o.KillAfter, g.Kill)
		}
	}
	g.check()
}

// check sees whether leftovers are still there.
func (g *Group) check() {
	if g.over {
		return
	}
	if !g.s.left(g.pid) {
		g.h.OnOver()
		g.remove()
		return
	}
	if g.killed {
		g.signal(unix.SIGKILL) // what has left the process group, on FreeBSD
	}
	g.delay = min(max(2*g.delay, minPoll), maxPoll)
	g.poll = g.s.loop.After(g.delay, g.check)
}

// remove makes room for the next group.
func (g *Group) remove() {
	g.over = true
	g.timer.Stop()
	g.poll.Stop()
	if g.s.groups[g.pid] == g {
		delete(g.s.groups, g.pid)
	}
	if g.own {
		g.s.look() // for what has left its group, on Linux
		return
	}
	g.s.running--
	g.s.next()
}

// wait reaps a child that has ended; it is false if it has not.
func wait(pid int) (st syscall.WaitStatus, ok bool) {
	var ws unix.WaitStatus
	for {
		n, err := unix.Wait4(pid, &ws, waitExited, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return syscall.WaitStatus(unix.SIGKILL), true // never taken for a success
		default:
			return syscall.WaitStatus(ws), n != 0
		}
	}
}
