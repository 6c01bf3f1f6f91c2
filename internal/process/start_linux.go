package process

import (
	"syscall"

	"golang.org/x/sys/unix"
)

func withHandle(sys *syscall.SysProcAttr, pidfd *int) { sys.PidFD = pidfd }

func limitEnd(int, bool) error { return nil } // only FreeBSD has rights to limit

const (
	sysSigaction   = unix.SYS_RT_SIGACTION
	sysSigprocmask = unix.SYS_RT_SIGPROCMASK
	sigSetmask     = unix.SIG_SETMASK
	sigsetSize     = 8
	maxSignal      = 64 // _NSIG, signal(7)
	// firstRealTime is the first signal that neither the system nor a C
	// library keeps for itself, as glibc counts them.
	firstRealTime = 35
)
