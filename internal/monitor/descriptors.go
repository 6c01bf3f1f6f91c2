//go:build freebsd || linux

package monitor

import "golang.org/x/sys/unix"

// closeOnExec keeps inherited descriptors from cores and commands.
func closeOnExec() {
	const cloexec = 4 // CLOSE_RANGE_CLOEXEC, of FreeBSD 13.2 and Linux 5.11
	if _, _, errno := unix.Syscall(unix.SYS_CLOSE_RANGE, 3, uintptr(^uint32(0)), cloexec); errno == 0 {
		return
	}
	var r unix.Rlimit
	unix.Getrlimit(unix.RLIMIT_NOFILE, &r)
	for fd := 3; fd < int(min(uint64(r.Cur), 1<<14)); fd++ {
		unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC)
	}
}
