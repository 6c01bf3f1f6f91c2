package process

import (
	"os"
	"os/signal"
	"syscall"
	"unsafe"
)

// DefaultSignals makes the commands that the calling thread starts begin with
// the default action for every signal and with none blocked. Ignored and blocked
// signals, which this process may have inherited, would else be inherited by
// commands through execve(2). The caller must be locked to its thread.
//
// A handler is reset in the child, an ignored signal is not. So signals that Go
// can handle get a handler here, and others their default action.
func DefaultSignals() error {
	sink := make(chan os.Signal, 1)
	for sig := syscall.Signal(1); sig < 32; sig++ {
		if sig != syscall.SIGKILL && sig != syscall.SIGSTOP && sig != syscall.SIGCHLD && signal.Ignored(sig) {
			signal.Notify(sink, sig)
		}
	}
	signal.Notify(sink, syscall.SIGPIPE) // else a write to a closed stderr would kill us
	// On Linux Go has handlers for real-time signals, and resets each by a
	// system call in every child. We do not use these signals: without a
	// handler here, starts are faster. The loop below sets the default action.
	for sig := syscall.Signal(firstRealTime); sig <= maxSignal; sig++ {
		signal.Ignore(sig)
	}
	// Without a handler SIGCHLD interrupts no system call.
	if err := sigactionCall(syscall.SIGCHLD, new(sigaction), nil); err != nil {
		return err
	}
	// signal.Ignored does not know of all that are ignored: Go leaves alone
	// SIGTSTP, SIGTTIN, SIGTTOU and the signals that a C library reserves for its
	// threads. glibc's posix_spawn(3) makes every child ignore one of these.
	for sig := syscall.Signal(1); sig <= maxSignal; sig++ {
		var old sigaction
		if sigactionCall(sig, nil, &old) == nil && old.ignores() {
			if err := sigactionCall(sig, new(sigaction), nil); err != nil {
				return err
			}
		}
	}
	var none [2]uint64 // sigset_t
	_, _, errno := syscall.RawSyscall6(sysSigprocmask, sigSetmask, uintptr(unsafe.Pointer(&none)), 0, sigsetSize, 0, 0)
	if errno != 0 {
		return os.NewSyscallError("sigprocmask", errno)
	}
	return nil
}

// sigaction is struct sigaction of FreeBSD (sys/signal.h) or kernel_sigaction of
// Linux. The handler is the first field of both.
type sigaction [4]uintptr

func (a *sigaction) ignores() bool { return a[0] == 1 } // SIG_IGN

// sigactionCall is sigaction(2). FreeBSD's has no size and ignores it.
func sigactionCall(sig syscall.Signal, act, old *sigaction) error {
	_, _, errno := syscall.RawSyscall6(sysSigaction, uintptr(sig), uintptr(unsafe.Pointer(act)), uintptr(unsafe.Pointer(old)), sigsetSize, 0, 0)
	if errno != 0 {
		return os.NewSyscallError("sigaction", errno)
	}
	return nil
}
