package spawn

import (
	"maps"
	"time"

	"golang.org/x/sys/unix"
)

// sweepAfter is how long after the end of a request the monitor looks for
// processes that have become its own children. Looking costs a few system
// calls, so it is done for many requests at once.
const sweepAfter = 200 * time.Millisecond

// slowSweep is how often it looks while requests run and none ends: what they
// leave behind meanwhile is to be reaped.
const slowSweep = time.Second

// orphans are processes that have outlived the one that started them, and that
// the system has given to the monitor, as the reaper of its descendants
// (procctl(2) PROC_REAP_ACQUIRE, prctl(2) PR_SET_CHILD_SUBREAPER). There are
// two kinds: leftovers, still in the process group of their request, and
// escapees, which have left it (setsid(2), setpgid(2)).
//
// No number is ever signalled that could have changed hands: a pid only while
// it is our child and has not been reaped, a group only while it holds such a
// child.
type orphans struct {
	leftovers map[int]*leftover // by group
	escapees  map[int]*escapee  // by pid
	sweep     *Timer
	latest    uint64 // how many requests have been started
	slow      bool   // sweep is the slow one
	all       bool   // the service ends, and with it every escapee
	now       bool   // it ends at once: nobody is given time
}

type leftover struct {
	deadline time.Time
	delay    time.Duration
}

// escapee is a child that we did not start. Whose it is nobody can tell; it
// is ended once every request that was running when it was found has ended.
type escapee struct {
	found    uint64 // orphans.latest when it was found
	deadline time.Time
}

func (o *orphans) none() bool { return len(o.leftovers) == 0 && len(o.escapees) == 0 && o.sweep == nil }

// adopt takes over what is left in a group whose leader has been reaped. It
// has been sent leftoverSignal before that, and has the time that the request
// had from its first SIGTERM on.
func (o *orphans) adopt(s *Supervisor, g *group) {
	if !hasReaper {
		return
	}
	if o.leftovers == nil {
		o.leftovers = make(map[int]*leftover)
	}
	l := &leftover{deadline: g.killAt, delay: 5 * time.Millisecond}
	switch {
	case o.now:
		l.deadline = time.Now()
	case !g.ended:
		l.deadline = time.Now().Add(s.killAfter)
	}
	o.leftovers[g.pid] = l
	o.check(s, g.pid, l)
}

func (o *orphans) check(s *Supervisor, pgid int, l *leftover) {
	if o.leftovers[pgid] != l {
		return
	}
	taken := s.groups[pgid] != nil || s.foreign(pgid) // the number has been given to another already
	if !taken && !s.leaderIn(pgid) {
		reap(-pgid)
	}
	if taken || !hasChild(pgid) {
		delete(o.leftovers, pgid)
		return
	}
	if left := time.Until(l.deadline); left > 0 {
		s.loop.After(min(l.delay, left), func() { o.check(s, pgid, l) })
		l.delay = min(2*l.delay, 250*time.Millisecond)
		return
	}
	unix.Kill(-pgid, unix.SIGKILL)
	s.loop.After(5*time.Millisecond, func() { o.check(s, pgid, l) })
}

// leaderIn tells whether a running request's leader has moved to a group, where
// it must not be reaped with the rest.
func (s *Supervisor) leaderIn(pgid int) bool {
	for pid := range s.groups {
		if g, err := unix.Getpgid(pid); err == nil && g == pgid {
			return true
		}
	}
	return false
}

// started notes the start of a request, which may make orphans as long as it
// runs.
func (o *orphans) started(s *Supervisor) {
	o.latest++
	if hasReaper && o.sweep == nil {
		o.slow = true
		o.sweep = s.loop.After(s.slowSweep, func() { o.look(s) })
	}
}

// ended notes the end of a request, after which there may be orphans.
func (o *orphans) ended(s *Supervisor) {
	if !hasReaper || o.sweep != nil && !o.slow {
		return
	}
	after := s.sweepAfter
	if o.all {
		after = s.sweepAfter / 40
	}
	o.sweep.Stop()
	o.slow = false
	o.sweep = s.loop.After(after, func() { o.look(s) })
}

// look finds escapees, ends those that are due and reaps those that are dead.
func (o *orphans) look(s *Supervisor) {
	o.sweep = nil
	found := make(map[int]bool)
	for _, pid := range children() {
		switch {
		case s.groups[pid] != nil || s.foreign(pid):
			continue
		case s.inherit[pid]:
			if reap(pid) {
				delete(s.inherit, pid)
			}
			continue
		}
		if o.escapees == nil {
			o.escapees = make(map[int]*escapee)
		}
		if reap(pid) {
			continue
		}
		found[pid] = true
		if o.escapees[pid] == nil {
			o.escapees[pid] = &escapee{found: o.latest}
		}
	}
	maps.DeleteFunc(o.escapees, func(pid int, _ *escapee) bool { return !found[pid] })
	oldest := o.latest + 1
	for _, g := range s.groups {
		oldest = min(oldest, g.number)
	}
	now := time.Now()
	due := false
	for pid, e := range o.escapees {
		switch {
		case e.deadline.IsZero() && (oldest > e.found || o.all):
			if !o.inGroup(s, pid) {
				s.log.Warn("process left its group and is ended", "pid", pid)
			}
			unix.Kill(pid, unix.SIGTERM)
			unix.Kill(pid, unix.SIGCONT)
			e.deadline = now.Add(s.killAfter)
			if o.now {
				unix.Kill(pid, unix.SIGKILL)
			}
		case !e.deadline.IsZero() && !now.Before(e.deadline):
			unix.Kill(pid, unix.SIGKILL)
		}
		due = due || !e.deadline.IsZero()
	}
	switch {
	case due:
		o.ended(s)
	case s.running > 0: // its end has us look sooner
		o.slow = true
		o.sweep = s.loop.After(s.slowSweep, func() { o.look(s) })
	}
}

// inGroup tells whether a child is in the group of a request, and so no more
// than a leftover.
func (o *orphans) inGroup(s *Supervisor, pid int) bool {
	pgid, err := unix.Getpgid(pid)
	return err == nil && (s.groups[pgid] != nil || o.leftovers[pgid] != nil)
}

func (o *orphans) endAll(s *Supervisor) {
	o.all = true
	if hasReaper {
		o.sweep.Stop()
		o.look(s)
	}
}

func (o *orphans) killAll(s *Supervisor) {
	o.all, o.now = true, true
	for _, l := range o.leftovers {
		l.deadline = time.Now()
	}
	for _, e := range o.escapees {
		e.deadline = time.Now()
	}
	if hasReaper {
		o.sweep.Stop()
		o.look(s)
	}
}

// reap reaps a dead child, or all dead children of a group (negative), and
// tells whether there were any.
func reap(pid int) bool {
	any := false
	for {
		var st unix.WaitStatus
		n, err := unix.Wait4(pid, &st, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return any
		}
		any = true
	}
}
