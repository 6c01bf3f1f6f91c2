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

// defaultSignal gives a signal its default disposition.
func defaultSignal(sig syscall.Signal) error {
	var act [4]uintptr // struct kernel_sigaction: SIG_DFL, no flags, no mask
	_, _, errno := syscall.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&act)), 0, 8, 0, 0)
	if errno != 0 {
		return os.NewSyscallError("rt_sigaction", errno)
	}
	return nil
}
