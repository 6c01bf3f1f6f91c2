package sandbox

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// procctl(2) has a 64-bit argument, which fits one register only on 64-bit
// machines. This does not compile on others.
const _ = uint(unsafe.Sizeof(uintptr(0)) - 8)

// From <sys/wait.h> and <sys/procctl.h>. x/sys/unix lacks them.
const (
	idtypePID = 0 // P_PID

	procReapAcquire = 2
	procTraceCtl    = 7
	procTraceStatus = 8

	traceCtlDisable = 2
)

var capRights = map[Rights]uint64{
	Accept: unix.CAP_ACCEPT, Event: unix.CAP_EVENT, Read: unix.CAP_READ, Write: unix.CAP_WRITE,
	Shutdown: unix.CAP_SHUTDOWN, Getsockopt: unix.CAP_GETSOCKOPT, Setsockopt: unix.CAP_SETSOCKOPT,
	Getpeername: unix.CAP_GETPEERNAME, Getsockname: unix.CAP_GETSOCKNAME, Fcntl: unix.CAP_FCNTL,
	Flock: unix.CAP_FLOCK, Lookup: unix.CAP_LOOKUP, Unlinkat: unix.CAP_UNLINKAT, Fstatat: unix.CAP_FSTATAT,
}

func limit(fd int, r Rights) error {
	var set []uint64
	for right, c := range capRights {
		if r&right != 0 {
			set = append(set, c)
		}
	}
	rights, err := unix.CapRightsInit(set)
	if err != nil {
		return err
	}
	if err := unix.CapRightsLimit(uintptr(fd), rights); err != nil {
		return os.NewSyscallError("cap_rights_limit", err)
	}
	// Without CAP_FCNTL the kernel has cleared the list of fcntl(2) commands.
	if r&Fcntl == 0 {
		return nil
	}
	const cmds = unix.CAP_FCNTL_GETFL | unix.CAP_FCNTL_SETFL
	if _, _, errno := unix.Syscall(unix.SYS_CAP_FCNTLS_LIMIT, uintptr(fd), cmds, 0); errno != 0 {
		return os.NewSyscallError("cap_fcntls_limit", errno)
	}
	return nil
}

func enter() error {
	if err := unix.CapEnter(); err != nil {
		return os.NewSyscallError("cap_enter", err)
	}
	var mode uint32
	if _, _, errno := unix.Syscall(unix.SYS_CAP_GETMODE, uintptr(unsafe.Pointer(&mode)), 0, 0); errno != 0 {
		return os.NewSyscallError("cap_getmode", errno)
	}
	if mode != 1 {
		return errors.New("cap_getmode: the process is not in capability mode")
	}
	return nil
}

func untraceable() error {
	how := int32(traceCtlDisable)
	if err := procctl(procTraceCtl, &how); err != nil {
		return err
	}
	var status int32
	if err := procctl(procTraceStatus, &status); err != nil {
		return err
	}
	if status != -1 {
		return fmt.Errorf("procctl: the process can still be traced (status %d)", status)
	}
	return nil
}

func acquireReaper() error {
	if err := procctl(procReapAcquire, nil); err != nil && !errors.Is(err, unix.EBUSY) {
		return err
	}
	return nil
}

func procctl(cmd int, arg *int32) error {
	_, _, errno := unix.Syscall6(unix.SYS_PROCCTL, idtypePID, uintptr(os.Getpid()), uintptr(cmd),
		uintptr(unsafe.Pointer(arg)), 0, 0)
	if errno != 0 {
		return os.NewSyscallError("procctl", errno)
	}
	return nil
}
