package monitor

import (
	"os"

	"golang.org/x/sys/unix"
)

// closeOnExec sees to it that no descriptor that we inherited reaches a core or
// a command.
func closeOnExec() {
	if markCloseOnExec(3) {
		return
	}
	last := 1024
	var r unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &r) == nil {
		last = int(min(uint64(r.Cur), 1<<14))
	}
	for fd := 3; fd < last; fd++ {
		unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC)
	}
}

// fileFD is the number of a file's descriptor. File.Fd would make it blocking.
func fileFD(f *os.File) uintptr {
	var n uintptr
	if rc, err := f.SyscallConn(); err == nil {
		rc.Control(func(fd uintptr) { n = fd })
	}
	return n
}
