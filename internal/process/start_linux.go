package process

import (
	"syscall"

	"golang.org/x/sys/unix"
)

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
