//go:build linux && confine

package sandbox

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// This file is for tests only, not for releases. With the build tag "confine",
// Enter installs a seccomp(2) filter that kills the process at the first system
// call that FreeBSD's capability mode would refuse.

// refused are the system calls that capability mode always refuses, according to
// sys/kern/capabilities.conf, and those that take a path. Capability mode permits
// the latter relative to a directory descriptor, but only those in fromDir are
// needed here.
var refused = []uintptr{
	unix.SYS_ACCT, unix.SYS_BIND, unix.SYS_CHDIR, unix.SYS_CHROOT, unix.SYS_CONNECT,
	unix.SYS_EXECVE, unix.SYS_EXECVEAT, unix.SYS_FACCESSAT, unix.SYS_FACCESSAT2,
	unix.SYS_FCHDIR, unix.SYS_FCHMODAT, unix.SYS_FCHMODAT2, unix.SYS_FCHOWNAT,
	unix.SYS_INOTIFY_ADD_WATCH, unix.SYS_KEXEC_LOAD, unix.SYS_LINKAT, unix.SYS_LISTXATTR,
	unix.SYS_MKDIRAT, unix.SYS_MKNODAT, unix.SYS_MOUNT, unix.SYS_NAME_TO_HANDLE_AT,
	unix.SYS_OPENAT, unix.SYS_OPENAT2, unix.SYS_OPEN_BY_HANDLE_AT,
	unix.SYS_PIDFD_OPEN, unix.SYS_PIDFD_SEND_SIGNAL, unix.SYS_PIVOT_ROOT,
	unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_PTRACE,
	unix.SYS_READLINKAT, unix.SYS_REBOOT, unix.SYS_RENAMEAT2, unix.SYS_SETGID,
	unix.SYS_SETGROUPS, unix.SYS_SETPGID, unix.SYS_SETUID, unix.SYS_STATFS, unix.SYS_STATX,
	unix.SYS_SWAPON, unix.SYS_SYMLINKAT, unix.SYS_TRUNCATE, unix.SYS_UMOUNT2,
	unix.SYS_UNSHARE, unix.SYS_UTIMENSAT, unix.SYS_WAIT4, unix.SYS_WAITID,
}

// fromDir are permitted relative to an open directory: a server removes its socket
// file with them.
var fromDir = []uintptr{unix.SYS_NEWFSTATAT, unix.SYS_UNLINKAT}

// ownOnly are permitted for this process only.
var ownOnly = []uintptr{unix.SYS_KILL, unix.SYS_TGKILL}

func enter() error {
	const nr, arg0 = 0, 16 // offsets in struct seccomp_data, little-endian
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	ret := func(what uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: what}
	}
	// unless skips the next n instructions if the loaded value is not k.
	unless := func(k uintptr, n uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: n, K: uint32(k)}
	}
	prog := []unix.SockFilter{load(nr)}
	for _, n := range append(refused, refusedHere...) {
		prog = append(prog, unless(n, 1), ret(unix.SECCOMP_RET_KILL_PROCESS))
	}
	cwd := unix.AT_FDCWD // a variable, since the constant does not convert to uint32
	for _, n := range fromDir {
		prog = append(prog, unless(n, 4), load(arg0), unless(uintptr(uint32(cwd)), 1),
			ret(unix.SECCOMP_RET_KILL_PROCESS), ret(unix.SECCOMP_RET_ALLOW))
	}
	for _, n := range ownOnly {
		prog = append(prog, unless(n, 4), load(arg0), unless(uintptr(os.Getpid()), 1),
			ret(unix.SECCOMP_RET_ALLOW), ret(unix.SECCOMP_RET_KILL_PROCESS))
	}
	prog = append(prog, ret(unix.SECCOMP_RET_ALLOW))
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl", err)
	}
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&fprog)))
	if errno != 0 {
		return os.NewSyscallError("seccomp", errno)
	}
	return nil
}
