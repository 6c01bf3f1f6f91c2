package process

import (
	"time"

	"golang.org/x/sys/unix"
)

// quickLook is how often strays are looked for while some are being ended.
const quickLook = 20 * time.Millisecond

// A stray is a child of ours that we did not start and that is in no group of
// ours: the system has given it to us, as the reaper of our descendants, when
// its parent ended. On Linux it is what a command has put in a session or
// process group of its own (setsid(2)); whose it was nobody can tell. It holds
// no slot, and has the time of a group from when it was found.
type stray struct {
	deadline time.Time
	ended    bool
}

// child is a child of ours, and of is the number of its group: that of its
// process group on Linux, of the child of ours that it descends from on FreeBSD.
type child struct{ pid, of int }

// look finds strays, ends those that are due and reaps all children that are
// dead and that nobody waits for. It comes back as long as anything is there
// that could have strays.
func (s *Supervisor) look() {
	s.looking.Stop()
	s.looking = nil
	found := make(map[int]*stray)
	again := s.o.Look
	if s.ending {
		again = min(again, quickLook)
	}
	for _, c := range children() {
		if g := s.groups[c.pid]; g != nil && !g.reaped {
			continue
		}
		if reap(c.pid) {
			delete(s.inherited, c.pid)
			continue
		}
		if s.inherited[c.pid] || s.groups[c.of] != nil {
			continue
		}
		st := s.strays[c.pid]
		if st == nil {
			st = &stray{deadline: time.Now().Add(s.o.Timeout)}
		}
		found[c.pid] = st
		s.endStray(c.pid, st)
		if st.ended {
			again = min(again, quickLook)
		}
	}
	s.strays = found
	if len(s.strays) > 0 || s.running > 0 {
		s.looking = s.loop.After(again, s.look)
	}
}

// endStray does what is due.
func (s *Supervisor) endStray(pid int, st *stray) {
	due := !time.Now().Before(st.deadline)
	switch {
	case !st.ended && (due || s.ending):
		st.ended = true
		st.deadline = time.Now().Add(s.o.KillAfter)
		s.log.Warn("process left its group and is ended", "pid", pid)
		signalStray(pid, unix.SIGTERM)
		signalStray(pid, unix.SIGCONT)
	case st.ended && (s.o.KillAfter == 0 || !time.Now().Before(st.deadline)):
		signalStray(pid, unix.SIGKILL)
	}
}

// signalStray reaches a child that has not been reaped, and the process group
// that it leads. Another's group it may just have joined, ours even.
func signalStray(pid int, sig unix.Signal) {
	if pgid, err := unix.Getpgid(pid); err == nil && pgid == pid {
		pid = -pid
	}
	unix.Kill(pid, sig)
}

// reap reaps a child if it is dead, and tells whether it was.
func reap(pid int) bool {
	n, _ := unix.Wait4(pid, nil, unix.WNOHANG, nil)
	return n == pid
}
