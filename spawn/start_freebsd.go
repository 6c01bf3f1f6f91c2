package spawn

import (
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/sandbox"
)

const leftoverSignal = unix.SIGTERM

const sendFlags = unix.MSG_NOSIGNAL

func pipe(p *[2]int) error { return unix.Pipe2(p[:], unix.O_CLOEXEC) }

func start(path string, args []string, dir string, env []string, files []uintptr) (pid, handle int, err error) {
	pid, err = syscall.ForkExec(path, args, &syscall.ProcAttr{
		Dir:   dir,
		Env:   env,
		Files: files,
		Sys:   &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL},
	})
	return pid, -1, err
}

func openUnnamed(string) (int, error) { return -1, os.ErrInvalid }

const sigSetmask = 3 // SIG_SETMASK, sys/signal.h

func unblockSignals() error {
	var none [4]uint32 // sigset_t
	_, _, errno := syscall.Syscall(unix.SYS_SIGPROCMASK, sigSetmask, uintptr(unsafe.Pointer(&none)), 0)
	if errno != 0 {
		return os.NewSyscallError("sigprocmask", errno)
	}
	return nil
}

// limitEnds leaves the core's ends of the pipes, stdout, stderr and stdin, the
// rights to read, or write, and to be waited for.
func limitEnds(ends []int) error {
	rights := sandbox.Read | sandbox.Event | sandbox.Fcntl
	for i, fd := range ends {
		if i == 2 {
			rights = sandbox.Write | sandbox.Event | sandbox.Fcntl
		}
		if err := sandbox.LimitFD(fd, rights); err != nil {
			return err
		}
	}
	return nil
}

func limitSpool(fd int) error {
	return sandbox.LimitFD(fd, sandbox.Read|sandbox.Write|sandbox.Seek|sandbox.Event|sandbox.Fcntl)
}

// maxSignal is the last signal, _SIG_MAXSIG (sys/_sigset.h).
const maxSignal = 128

// firstRealTime: Go handles none of these.
const firstRealTime = maxSignal + 1

// sigaction is struct sigaction of sys/signal.h.
type sigaction struct {
	handler uintptr
	flags   int32
	mask    [4]uint32
}

func (a *sigaction) ignores() bool { return a.handler == 1 } // SIG_IGN

func sigactionCall(sig syscall.Signal, act, old *sigaction) error {
	_, _, errno := syscall.RawSyscall(unix.SYS_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(act)), uintptr(unsafe.Pointer(old)))
	if errno != 0 {
		return os.NewSyscallError("sigaction", errno)
	}
	return nil
}
