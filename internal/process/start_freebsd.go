package process

import (
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/sandbox"
)

// withHandle: a process is watched by its number.
func withHandle(*syscall.SysProcAttr, *int) {}

// limitEnd leaves a descriptor for the core the rights to write, or read, and to
// be waited for.
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
	firstRealTime  = maxSignal + 1 // Go handles none of these
)
