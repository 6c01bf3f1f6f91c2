//go:build !amd64 && !arm64

package process

import "syscall"

func start(c *Command, files ...uintptr) (pid, handle int, err error) {
	sys := &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	pid, err = syscall.ForkExec(c.Path, c.Args, &syscall.ProcAttr{Dir: c.Dir, Env: c.Env, Files: files, Sys: sys})
	return pid, -1, err
}
