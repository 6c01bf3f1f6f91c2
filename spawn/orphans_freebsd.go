package spawn

import (
	"runtime"
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
	procReapGetpids    = 5
	reaperPidinfoValid = 1
	reaperPidinfoChild = 2
)

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
// own children (procctl(2), PROC_REAP_GETPIDS).
func children() []int {
	info := make([]reaperPidinfo, 4096)
	arg := reaperPids{count: uint32(len(info)), pids: &info[0]}
	_, _, errno := unix.Syscall6(unix.SYS_PROCCTL, pPID, uintptr(unix.Getpid()),
		procReapGetpids, uintptr(unsafe.Pointer(&arg)), 0, 0)
	runtime.KeepAlive(info)
	if errno != 0 {
		return nil
	}
	var pids []int
	for i := range info {
		if info[i].flags&reaperPidinfoValid == 0 {
			break
		}
		if info[i].flags&reaperPidinfoChild != 0 {
			pids = append(pids, int(info[i].pid))
		}
	}
	return pids
}
