package process

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// fastScan is the interval of scans while the service stops.
const fastScan = 20 * time.Millisecond

// descendant is a process that descends from us. group is its process group on
// Linux, and on FreeBSD the child of ours from which it descends.
type descendant struct {
	pid, group int
	child      bool
}

// scan reaps children that no group waits for, and finds orphans. These are
// children that belong to no group: the kernel made them ours when their parents
// exited, because we are their reaper. There are orphans only on Linux, where
// they have left their command's process group (setsid(2) or setpgid(2)), and
// the kernel does not record from which command they came. Each becomes a Group
// without a slot, whose timeout begins now.
func (s *Supervisor) scan() {
	s.nextScan.Stop()
	s.nextScan = nil
	for _, d := range descendants() {
		if g := s.groups[d.pid]; !d.child || g != nil && !g.reaped {
			continue
		}
		if reap(d.pid) {
			delete(s.inherited, d.pid)
			continue
		}
		if s.inherited[d.pid] || s.groups[d.group] != nil {
			continue
		}
		g := s.watch(&Group{h: noHandler{}, pid: d.pid, handle: openHandle(d.pid), orphan: true})
		g.terminateAfter(s.o.Timeout)
		if s.stopping {
			g.Terminate("service ending")
		}
	}
	for _, g := range s.groups {
		if !g.own { // it may leave orphans
			s.scanAfter(s.o.Scan)
			return
		}
	}
}

// scanAfter schedules the next scan.
func (s *Supervisor) scanAfter(d time.Duration) {
	if s.stopping {
		d = min(d, fastScan)
	}
	s.nextScan.Stop()
	s.nextScan = s.loop.After(d, s.scan)
}

type noHandler struct{}

func (noHandler) OnExit(syscall.WaitStatus, bool) {}
func (noHandler) OnEmpty()                        {}

// reap reaps a child if it has exited, and reports whether it had.
func reap(pid int) bool {
	n, _ := unix.Wait4(pid, nil, unix.WNOHANG, nil)
	return n == pid
}
