package process

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The kernel knows from which of our own children each of our descendants comes,
// whatever has become of it since (procctl(2), pi_subtree). It gives the number
// of such a child to nobody as long as a descendant is there, reaped or not.

// From sys/procctl.h and sys/wait.h, which golang.org/x/sys does not cover.
const (
	pPID               = 0 // P_PID
	procReapStatus     = 4
	procReapGetpids    = 5
	procReapKill       = 6
	reaperPidinfoValid = 1
	reaperPidinfoChild = 2
	reaperKillSubtree  = 2
)

// struct procctl_reaper_pidinfo
type reaperPidinfo struct {
	pid     int32
	subtree int32
	flags   uint32
	_       [15]uint32
}

// struct procctl_reaper_pids
type reaperPids struct {
	count uint32
	_     [15]uint32
	pids  *reaperPidinfo
}

func reapctl(cmd int, arg unsafe.Pointer) error {
	_, _, errno := unix.Syscall6(unix.SYS_PROCCTL, pPID, uintptr(os.Getpid()), uintptr(cmd), uintptr(arg), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// left reaps what is dead of a command's descendants, and tells whether any are
// left. Where there are, we have more children than the loop waits for: whatever
// a command leaves becomes one when the command ends.
func (s *Supervisor) left(pid int) (any bool) {
	var st [20]uint32 // struct procctl_reaper_status: rs_flags, rs_children, ...
	if reapctl(procReapStatus, unsafe.Pointer(&st)) == nil && int(st[1]) <= len(s.loop.procs) {
		return false
	}
	for _, d := range descendants() {
		if int(d.subtree) == pid && !(d.flags&reaperPidinfoChild != 0 && reap(int(d.pid))) {
			any = true
		}
	}
	return any
}

// signalLeft signals leftovers, in whatever process group they are.
func signalLeft(pid int, sig unix.Signal) {
	// struct procctl_reaper_kill: rk_sig, rk_flags, rk_subtree, rk_killed, ...
	arg := [20]uint32{uint32(sig), reaperKillSubtree, uint32(pid)}
	reapctl(procReapKill, unsafe.Pointer(&arg))
}

// children lists our children, but those from before we were a reaper.
func children() (list []child) {
	for _, d := range descendants() {
		if d.flags&reaperPidinfoChild != 0 {
			list = append(list, child{int(d.pid), int(d.subtree)})
		}
	}
	return list
}

// descendants asks the kernel for them.
func descendants() []reaperPidinfo {
	// Twice as many where there is no room, or the oldest are missed.
	for n := 64; ; n *= 2 {
		info := make([]reaperPidinfo, n)
		arg := reaperPids{count: uint32(n), pids: &info[0]}
		if reapctl(procReapGetpids, unsafe.Pointer(&arg)) != nil {
			return nil
		}
		for i := range info {
			if info[i].flags&reaperPidinfoValid == 0 {
				return info[:i]
			}
		}
	}
}
