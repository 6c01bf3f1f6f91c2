package process

import (
	"os"
	"os/signal"
	"syscall"
	"unsafe"
)

// DefaultSignals sees to it that the commands which the calling thread starts
// have the default disposition of every signal and none blocked, whatever this
// process itself was started with: both would be inherited through execve(2).
// The caller is locked to its thread, which starts all commands.
//
// Go's fork sets each signal that is handled to its default in the child, so
// one that is ignored needs a handler.
func DefaultSignals() error {
	sink := make(chan os.Signal, 1)
	for sig := syscall.Signal(1); sig < 32; sig++ {
		if sig != syscall.SIGKILL && sig != syscall.SIGSTOP && sig != syscall.SIGCHLD && signal.Ignored(sig) {
			signal.Notify(sink, sig)
		}
	}
	signal.Notify(sink, syscall.SIGPIPE) // else a broken log would end us
	// Go handles all signals, and before each execve(2) takes each handler
	// away again, in the child, while we wait for it. Those of real time have
	// no use here: ignored now, they get their default below, which is to end
	// us.
	for sig := syscall.Signal(firstRealTime); sig <= maxSignal; sig++ {
		signal.Ignore(sig)
	}
	// Of SIGCHLD we have no use: without Go's handler it interrupts nothing.
	if err := sigactionCall(syscall.SIGCHLD, new(sigaction), nil); err != nil {
		return err
	}
	// Go leaves some as they are, and does not say how: TSTP, TTIN, TTOU, and
	// those that a C library keeps for its threads, of which glibc's
	// posix_spawn(3) ignores one in every child.
	for sig := syscall.Signal(1); sig <= maxSignal; sig++ {
		var old sigaction
		if sigactionCall(sig, nil, &old) == nil && old.ignores() {
			if err := sigactionCall(sig, new(sigaction), nil); err != nil {
				return err
			}
		}
	}
	// What whoever started us has blocked would be inherited too.
	var none [2]uint64 // sigset_t
	_, _, errno := syscall.RawSyscall6(sysSigprocmask, sigSetmask, uintptr(unsafe.Pointer(&none)), 0, sigsetSize, 0, 0)
	if errno != 0 {
		return os.NewSyscallError("sigprocmask", errno)
	}
	return nil
}

// sigaction is struct sigaction of FreeBSD's sys/signal.h, or kernel_sigaction
// of Linux: the handler comes first, and the rest fits.
type sigaction [4]uintptr

func (a *sigaction) ignores() bool { return a[0] == 1 } // SIG_IGN

// sigactionCall is sigaction(2). FreeBSD's takes no size, and ignores it.
func sigactionCall(sig syscall.Signal, act, old *sigaction) error {
	_, _, errno := syscall.RawSyscall6(sysSigaction, uintptr(sig), uintptr(unsafe.Pointer(act)), uintptr(unsafe.Pointer(old)), sigsetSize, 0, 0)
	if errno != 0 {
		return os.NewSyscallError("sigaction", errno)
	}
	return nil
}
