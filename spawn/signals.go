package spawn

import (
	"os"
	"os/signal"
	"syscall"
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
	// Go leaves the first three as they are, and does not say how. Of SIGCHLD we
	// have no use: without Go's handler it interrupts nothing.
	for _, sig := range []syscall.Signal{syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGCHLD} {
		if err := defaultSignal(sig); err != nil {
			return err
		}
	}
	signal.Notify(sink, syscall.SIGPIPE) // else a broken log would end us
	return unblockSignals()
}
