package sandbox

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// procctl(2) takes a 64-bit id, which one register holds on 64-bit machines
// only. This fails to compile on others.
const _ = uint(unsafe.Sizeof(uintptr(0)) - 8)

// From <sys/wait.h> and <sys/procctl.h>, which x/sys/unix does not cover.
const (
	idtypePID = 0 // P_PID

	procReapAcquire   = 2
	procTraceCtl      = 7
	procTraceStatus   = 8
	procTrapcapStatus = 10

	traceCtlDisable = 2
	trapcapEnable   = 1
)

var capRights = [len(rightNames)]uint64{
	unix.CAP_ACCEPT, unix.CAP_EVENT, unix.CAP_READ, unix.CAP_WRITE,
	unix.CAP_SHUTDOWN, unix.CAP_GETSOCKOPT, unix.CAP_SETSOCKOPT,
	unix.CAP_GETPEERNAME, unix.CAP_GETSOCKNAME, unix.CAP_FCNTL,
	unix.CAP_FLOCK, unix.CAP_LOOKUP, unix.CAP_UNLINKAT, unix.CAP_FSTATAT,
	unix.CAP_FSTAT, unix.CAP_SEEK, unix.CAP_FTRUNCATE, unix.CAP_FSYNC,
}

func capRightsOf(r Rights) (*unix.CapRights, error) {
	var set []uint64
	for i, c := range capRights {
		if r&(1<<i) != 0 {
			set = append(set, c)
		}
	}
	return unix.CapRightsInit(set)
}

func limit(fd int, r Rights) error {
	rights, err := capRightsOf(r)
	if err != nil {
		return err
	}
	if err := unix.CapRightsLimit(uintptr(fd), rights); err != nil {
		return os.NewSyscallError("cap_rights_limit", err)
	}
	// Without CAP_IOCTL and CAP_FCNTL the kernel has just emptied the lists of
	// ioctl(2) and fcntl(2) commands itself; no Rights has the first.
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
	// Here a second call can prove nothing more: refusalTrapped would itself be
	// refused.
	if entered() {
		return nil
	}
	trapped := refusalTrapped()
	if err := unix.CapEnter(); err != nil {
		return os.NewSyscallError("cap_enter", err)
	}
	if !entered() {
		return errors.New("the kernel says that the process is not in it")
	}
	if trapped {
		return nil
	}
	fd, err := unix.Open("/", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		unix.Close(fd)
		return errors.New("/ can still be opened")
	}
	if err != unix.ECAPMODE {
		return fmt.Errorf("opening / fails for another reason: %w", err)
	}
	return nil
}

// refusalTrapped reports whether a system call that capability mode refuses
// would raise SIGTRAP. The answers must be had before entering, since procctl(2)
// is itself one of those calls.
func refusalTrapped() bool {
	// A sysctl of C's bool, one byte long.
	if b, err := unix.SysctlRaw("kern.trap_enotcap"); err == nil && len(b) > 0 && b[0] != 0 {
		return true
	}
	var status int32
	return procctl(procTrapcapStatus, &status) == nil && status == trapcapEnable
}

func entered() bool {
	var mode uint32
	_, _, errno := unix.Syscall(unix.SYS_CAP_GETMODE, uintptr(unsafe.Pointer(&mode)), 0, 0)
	return errno == 0 && mode == 1
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
		return fmt.Errorf("the kernel still permits it (status %d)", status)
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
