package spawn

import (
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// leftoverSignal goes to what a leader leaves behind in its group; SIGKILL
// follows, since leftovers are adopted and so cannot be lost sight of.
const leftoverSignal = unix.SIGTERM

const sendFlags = unix.MSG_NOSIGNAL

func pipe(p *[2]int) error { return unix.Pipe2(p[:], unix.O_CLOEXEC) }

func start(path string, args []string, dir string, env []string, files []uintptr) (pid, handle int, err error) {
	handle = -1
	pid, err = syscall.ForkExec(path, args, &syscall.ProcAttr{
		Dir:   dir,
		Env:   env,
		Files: files,
		Sys: &syscall.SysProcAttr{
			Setpgid: true,
			// Tied to the thread that forks, which is the loop's own.
			Pdeathsig: syscall.SIGKILL,
			PidFD:     &handle,
		},
	})
	return pid, handle, err
}

func openUnnamed(dir string) (int, error) {
	return unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
}

// unblockSignals undoes what whoever started us has blocked: a command would
// inherit it.
func unblockSignals() error {
	var none unix.Sigset_t
	return unix.PthreadSigmask(unix.SIG_SETMASK, &none, nil)
}

// Only FreeBSD has rights to limit.

func limitEnds([]int) error { return nil }

func limitSpool(int) error { return nil }

// maxSignal is the last signal, _NSIG (signal(7)).
const maxSignal = 64

// firstRealTime is the first signal that neither the system nor a C library
// keeps for itself, as glibc counts them.
const firstRealTime = 35

// sigaction is struct kernel_sigaction: handler, flags, restorer, mask.
type sigaction [4]uintptr

func (a *sigaction) ignores() bool { return a[0] == 1 } // SIG_IGN

func sigactionCall(sig syscall.Signal, act, old *sigaction) error {
	_, _, errno := syscall.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig),
		uintptr(unsafe.Pointer(act)), uintptr(unsafe.Pointer(old)), 8, 0, 0)
	if errno != 0 {
		return os.NewSyscallError("rt_sigaction", errno)
	}
	return nil
}
