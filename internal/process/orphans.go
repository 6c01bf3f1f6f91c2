package process

import (
	"time"

	"golang.org/x/sys/unix"
)

// fastScan is the interval of scans while orphans are being terminated.
const fastScan = 20 * time.Millisecond

// orphan is a descendant that belongs to no group and that the kernel made our
// child when its parent exited, because we are its reaper. There are orphans
// only on Linux, where they have left their command's process group (setsid(2)
// or setpgid(2)): the kernel does not record from which command they came. An
// orphan holds no slot. Its timeout begins when it is found.
type orphan struct {
	deadline   time.Time // of SIGTERM, later of SIGKILL
	terminated bool
}

// child is a child of ours. group is its process group on Linux, and on FreeBSD
// the child of ours from which it descends.
type child struct{ pid, group int }

// scan reaps children that nobody waits for, finds orphans, and terminates
// those whose deadline has passed. It repeats while there are commands or
// orphans.
func (s *Supervisor) scan() {
	s.nextScan.Stop()
	s.nextScan = nil
	found := make(map[int]*orphan)
	interval := s.o.Scan
	if s.stopping {
		interval = min(interval, fastScan)
	}
	for _, c := range children() {
		if g := s.groups[c.pid]; g != nil && !g.reaped {
			continue
		}
		if reap(c.pid) {
			delete(s.inherited, c.pid)
			continue
		}
		if s.inherited[c.pid] || s.groups[c.group] != nil {
			continue
		}
		o := s.orphans[c.pid]
		if o == nil {
			o = &orphan{deadline: time.Now().Add(s.o.Timeout)}
		}
		found[c.pid] = o
		s.checkOrphan(c.pid, o)
		if o.terminated {
			interval = min(interval, fastScan)
		}
	}
	s.orphans = found
	if len(s.orphans) > 0 || s.running > 0 {
		s.nextScan = s.loop.After(interval, s.scan)
	}
}

// checkOrphan sends the signal that is due.
func (s *Supervisor) checkOrphan(pid int, o *orphan) {
	due := !time.Now().Before(o.deadline)
	switch {
	case !o.terminated && (due || s.stopping):
		o.terminated = true
		o.deadline = time.Now().Add(s.o.KillAfter)
		s.log.Warn("orphaned process terminated", "pid", pid)
		signalOrphan(pid, unix.SIGTERM)
		signalOrphan(pid, unix.SIGCONT)
	case o.terminated && (due || s.o.KillAfter == 0):
		signalOrphan(pid, unix.SIGKILL)
	}
}

// signalOrphan signals an unreaped child, and the process group if the child is
// its leader. It may have joined a group that is not its own, even ours.
func signalOrphan(pid int, sig unix.Signal) {
	if pgid, err := unix.Getpgid(pid); err == nil && pgid == pid {
		pid = -pid
	}
	unix.Kill(pid, sig)
}

// reap reaps a child if it has exited, and reports whether it had.
func reap(pid int) bool {
	n, _ := unix.Wait4(pid, nil, unix.WNOHANG, nil)
	return n == pid
}
