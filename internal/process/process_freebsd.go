package process

import (
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/sandbox"
)

type poller struct {
	kq     int
	events [64]unix.Kevent_t
}

func (p *poller) open() (err error) {
	p.kq, err = unix.Kqueue()
	if err == nil {
		unix.CloseOnExec(p.kq)
	}
	return os.NewSyscallError("kqueue", err)
}

func (p *poller) change(id, filter, flags int, fflags uint32) error {
	var k [1]unix.Kevent_t
	unix.SetKevent(&k[0], id, filter, flags)
	k[0].Fflags = fflags
	_, err := unix.Kevent(p.kq, k[:], nil, nil)
	return os.NewSyscallError("kevent", err)
}

func (p *poller) add(fd int) error { return p.change(fd, unix.EVFILT_READ, unix.EV_ADD, 0) }

func (p *poller) remove(fd int) { p.change(fd, unix.EVFILT_READ, unix.EV_DELETE, 0) }

// process watches a child, which may be a zombie already. It fails for one that
// runs a set-user-ID program if users cannot see the processes of others
// (security.bsd.see_other_uids=0).
func (p *poller) process(pid, _ int) error {
	return p.change(pid, unix.EVFILT_PROC, unix.EV_ADD|unix.EV_ONESHOT, unix.NOTE_EXIT)
}

func (p *poller) wait(timeout time.Duration, l *Loop) error {
	ts := unix.NsecToTimespec(int64(timeout))
	n, err := unix.Kevent(p.kq, nil, p.events[:], &ts)
	if err != nil && err != unix.EINTR {
		return os.NewSyscallError("kevent", err)
	}
	for _, k := range p.events[:max(n, 0)] {
		if k.Filter == unix.EVFILT_PROC {
			l.processExited(int(k.Ident))
		} else {
			l.ready(int(k.Ident))
		}
	}
	return nil
}

// waitOptions are those of wait4(2) for a child that the poller has reported.
// NOTE_EXIT comes shortly before it is a zombie, so wait4 has to block.
const waitOptions = 0

// hasExited reports whether a child is a zombie.
func hasExited(pid int) bool {
	n, err := unix.Wait4(pid, nil, unix.WNOHANG|unix.WNOWAIT, nil)
	return err != nil || n == pid
}

// From sys/procctl.h and sys/wait.h; golang.org/x/sys does not have them.
const (
	pPID               = 0 // P_PID
	procReapStatus     = 4
	procReapGetpids    = 5
	procReapKill       = 6
	reaperPidinfoValid = 1
	reaperPidinfoChild = 2
	reaperKillSubtree  = 2
)

func procctl(cmd int, arg unsafe.Pointer) unix.Errno {
	_, _, errno := unix.Syscall6(unix.SYS_PROCCTL, pPID, uintptr(os.Getpid()), uintptr(cmd), uintptr(arg), 0, 0)
	return errno
}

// descendants lists those that were born since we became a reaper. The kernel
// does not reuse the number of a child of ours (pi_subtree) while a descendant
// of it exists.
func descendants() (list []descendant) {
	for n := 64; ; n *= 2 {
		info := make([][18]uint32, n) // struct procctl_reaper_pidinfo: pi_pid, pi_subtree, pi_flags, ...
		arg := struct {               // struct procctl_reaper_pids
			count uint32
			_     [15]uint32
			pids  *[18]uint32
		}{count: uint32(n), pids: &info[0]}
		if procctl(procReapGetpids, unsafe.Pointer(&arg)) != 0 {
			return nil
		}
		if info[n-1][2]&reaperPidinfoValid != 0 {
			continue // there may be more
		}
		for i := 0; info[i][2]&reaperPidinfoValid != 0; i++ {
			list = append(list, descendant{int(info[i][0]), int(info[i][1]), info[i][2]&reaperPidinfoChild != 0})
		}
		return list
	}
}

// reapLeftovers reaps the descendants of a reaped command that have exited, and
// reports whether others remain.
func (s *Supervisor) reapLeftovers(pid int) (remain bool) {
	// When a command exits its children become ours. If we have no more children
	// than the loop watches, there are no leftovers.
	var st [20]uint32 // struct procctl_reaper_status: rs_flags, rs_children, ...
	if procctl(procReapStatus, unsafe.Pointer(&st)) == 0 && int(st[1]) <= len(s.loop.procs) {
		return false
	}
	for _, d := range descendants() {
		if d.group == pid && !(d.child && reap(d.pid)) {
			remain = true
		}
	}
	return remain
}

// signalLeftovers signals leftovers, whatever their process groups are.
func signalLeftovers(pid int, sig unix.Signal) {
	// struct procctl_reaper_kill: rk_sig, rk_flags, rk_subtree, rk_killed, ...
	arg := [20]uint32{uint32(sig), reaperKillSubtree, uint32(pid)}
	procctl(procReapKill, unsafe.Pointer(&arg))
}

func openHandle(int) int { return -1 } // kqueue(2) watches process numbers

func pipe(p *[2]int) error { return unix.Pipe2(p[:], unix.O_CLOEXEC) }

// limitEnd limits a descriptor of the core to read, or write, and to be waited
// for.
func limitEnd(fd int, write bool) error {
	if write {
		return sandbox.LimitFD(fd, sandbox.Write|sandbox.Event|sandbox.Fcntl)
	}
	return sandbox.LimitFD(fd, sandbox.Read|sandbox.Event|sandbox.Fcntl)
}

const (
	sysSigaction   = unix.SYS_SIGACTION
	sysSigprocmask = unix.SYS_SIGPROCMASK
	sigSetmask     = 3             // SIG_SETMASK, sys/signal.h
	sigsetSize     = 16            // in bytes, sys/_sigset.h
	maxSignal      = 128           // _SIG_MAXSIG
	firstRealTime  = maxSignal + 1 // Go handles no real-time signals
)
