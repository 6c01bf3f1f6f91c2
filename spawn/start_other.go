//go:build !freebsd && !linux

package spawn

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// leftoverSignal is SIGKILL where orphans go to init: once the leader has been
// reaped nobody could tell when the group's number changes hands.
const leftoverSignal = unix.SIGKILL

const sendFlags = 0

// pipe leaves a moment without close-on-exec; the loop's goroutine is the only
// one that forks, and it is here.
func pipe(p *[2]int) error {
	if err := unix.Pipe(p[:]); err != nil {
		return err
	}
	unix.CloseOnExec(p[0])
	unix.CloseOnExec(p[1])
	return nil
}

func start(path string, args []string, dir string, env []string, files []uintptr) (pid, handle int, err error) {
	pid, err = syscall.ForkExec(path, args, &syscall.ProcAttr{
		Dir:   dir,
		Env:   env,
		Files: files,
		Sys:   &syscall.SysProcAttr{Setpgid: true},
	})
	return pid, -1, err
}

func openUnnamed(string) (int, error) { return -1, os.ErrInvalid }

func unblockSignals() error { return nil }

// Other systems get what os/signal can do.

const maxSignal = 31

// firstRealTime: Go handles none of these.
const firstRealTime = maxSignal + 1

type sigaction struct{}

func (*sigaction) ignores() bool { return false }

func sigactionCall(syscall.Signal, *sigaction, *sigaction) error { return nil }

// Only FreeBSD has rights to limit.

func limitEnds([]int) error { return nil }

func limitSpool(int) error { return nil }
