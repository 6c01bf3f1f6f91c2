package spawn

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

const hasReaper = true

// hasChild: wait4(2) takes WNOWAIT here.
func hasChild(pgid int) bool {
	for {
		var st unix.WaitStatus
		_, err := unix.Wait4(-pgid, &st, unix.WNOHANG|unix.WNOWAIT, nil)
		if err != unix.EINTR {
			return err == nil
		}
	}
}

// ended tells whether a child is a zombie.
func ended(pid int) bool {
	for {
		var st unix.WaitStatus
		n, err := unix.Wait4(pid, &st, unix.WNOHANG|unix.WNOWAIT, nil)
		if err != unix.EINTR {
			return err != nil || n == pid
		}
	}
}

// From sys/procctl.h, which golang.org/x/sys does not cover.
const (
	pPID               = 0 // P_PID, sys/wait.h
	procReapStatus     = 4
	procReapGetpids    = 5
	reaperStatusOwned  = 1
	reaperPidinfoValid = 1
	reaperPidinfoChild = 2
)

type reaperStatus struct {
	flags       uint32
	children    uint32
	descendants uint32
	_           [2]int32 // rs_reaper, rs_pid
	_           [15]uint32
}

type reaperPidinfo struct {
	pid   int32
	_     int32 // pi_subtree
	flags uint32
	_     [15]uint32
}

type reaperPids struct {
	count uint32
	_     [15]uint32
	pids  *reaperPidinfo
}

// children asks the kernel for our descendants and keeps those that are our
// own children (procctl(2), PROC_REAP_GETPIDS). Who is no reaper would be told
// of init's.
func children() (pids []int) {
	var st reaperStatus
	if reapctl(procReapStatus, unsafe.Pointer(&st)) != nil || st.flags&reaperStatusOwned == 0 || st.children == 0 {
		return nil
	}
	// Twice as many where more have been born since, or the oldest are missed.
	for n := st.descendants + 8; ; n *= 2 {
		info := make([]reaperPidinfo, n)
		arg := reaperPids{count: n, pids: &info[0]}
		if reapctl(procReapGetpids, unsafe.Pointer(&arg)) != nil {
			return nil
		}
		if info[n-1].flags&reaperPidinfoValid != 0 {
			continue
		}
		for _, i := range info {
			if i.flags&reaperPidinfoChild != 0 {
				pids = append(pids, int(i.pid))
			}
		}
		return pids
	}
}

func reapctl(cmd int, arg unsafe.Pointer) error {
	_, _, errno := unix.Syscall6(unix.SYS_PROCCTL, pPID, uintptr(unix.Getpid()), uintptr(cmd), uintptr(arg), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
