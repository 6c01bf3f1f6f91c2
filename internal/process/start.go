//go:build freebsd || linux

package process

import (
	"syscall"

	"golang.org/x/sys/unix"
)

func pipe(p *[2]int) error { return unix.Pipe2(p[:], unix.O_CLOEXEC) }

// start starts a program in a process group of its own, with files as its
// descriptors 0, 1, 2 and so on and nothing but its Env as its environment. The
// child is killed when the calling thread ends. handle is for
// [Loop.WatchProcess]; if it is not negative it is to be closed when the
// process has been reaped.
func start(c *Command, files ...uintptr) (pid, handle int, err error) {
	handle = -1
	sys := &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	withHandle(sys, &handle)
	pid, err = syscall.ForkExec(c.Path, c.Args, &syscall.ProcAttr{Dir: c.Dir, Env: c.Env, Files: files, Sys: sys})
	return pid, handle, err
}
