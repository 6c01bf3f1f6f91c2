package spawn

import (
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
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
