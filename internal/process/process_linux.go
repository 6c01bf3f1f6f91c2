package process

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// rawTime is how long the poller waits by a raw system call, which Go's
// scheduler does not know of. A system call that it knows of wakes another
// thread, which under load costs more than the wait. A long raw wait would be
// interrupted by the scheduler a hundred times a second.
const rawTime = 2 * time.Millisecond

type poller struct {
	epfd   int
	events [64]unix.EpollEvent
}

func (p *poller) open() (err error) {
	p.epfd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	return os.NewSyscallError("epoll_create1", err)
}

func (p *poller) add(fd int) error {
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(p.epfd, unix.EPOLL_CTL_ADD, fd, &ev))
}

func (p *poller) remove(fd int) { unix.EpollCtl(p.epfd, unix.EPOLL_CTL_DEL, fd, nil) }

// process watches a pidfd, which is readable when the process is a zombie. Pad
// distinguishes it from other descriptors.
func (p *poller) process(pid, pidfd int) error {
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT, Fd: int32(pid), Pad: 1}
	return unix.EpollCtl(p.epfd, unix.EPOLL_CTL_ADD, pidfd, &ev)
}

func (p *poller) wait(timeout time.Duration, l *Loop) error {
	n, err := p.rawWait(min(timeout, rawTime))
	if n == 0 && err == nil && timeout > rawTime {
		n, err = unix.EpollWait(p.epfd, p.events[:], milliseconds(timeout-rawTime))
	}
	if err != nil && err != unix.EINTR {
		return os.NewSyscallError("epoll_wait", err)
	}
	for _, e := range p.events[:max(n, 0)] {
		if e.Pad != 0 {
			l.processExited(int(e.Fd))
		} else {
			l.ready(int(e.Fd))
		}
	}
	return nil
}

func (p *poller) rawWait(d time.Duration) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(p.epfd),
		uintptr(unsafe.Pointer(&p.events)), uintptr(len(p.events)), uintptr(milliseconds(d)), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// milliseconds rounds up, so that no wait ends before its timer is due.
func milliseconds(d time.Duration) int {
	return int((d + time.Millisecond - 1) / time.Millisecond)
}

// waitOptions are those of wait4(2) for a child that the poller has reported.
// It is a zombie, but a debugger may have to reap it first.
const waitOptions = unix.WNOHANG

// hasExited reports whether a child is a zombie.
func hasExited(pid int) bool {
	n, err := exitedChild(unix.P_PID, pid)
	return err != nil || n != 0
}

// exitedChild returns a child that has exited, 0 if none has, and an error if
// there are no children. The arguments are as of waitid(2). It does not reap.
func exitedChild(idType, id int) (int, error) {
	var info unix.Siginfo
	err := unix.Waitid(idType, id, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	// si_pid is the first field of a union, which follows three integers and is
	// aligned as a pointer (sigaction(2)).
	const word = unsafe.Sizeof(uintptr(0))
	return int(*(*int32)(unsafe.Add(unsafe.Pointer(&info), (12+word-1)&^(word-1)))), err
}

// reapLeftovers reaps those in the process group of a reaped command that have
// exited, and reports whether others remain. While a child of ours does, the
// kernel does not reuse the number.
func (s *Supervisor) reapLeftovers(pgid int) (remain bool) {
	for {
		pid, err := exitedChild(unix.P_PGID, pgid)
		if err != nil {
			return false
		}
		if pid == 0 {
			return true
		}
		// A command that has moved here is reaped by its own Group.
		if g := s.groups[pid]; g != nil && !g.reaped {
			return true
		}
		reap(pid)
	}
}

func signalLeftovers(pgid int, sig unix.Signal) { unix.Kill(-pgid, sig) }

// descendants lists our children only. The kernel lists them by thread (proc(5),
// /proc/PID/task/TID/children), and only if it has CONFIG_PROC_CHILDREN.
func descendants() (list []descendant) {
	files, _ := filepath.Glob("/proc/self/task/*/children")
	for _, f := range files {
		b, _ := os.ReadFile(f)
		for _, w := range bytes.Fields(b) {
			if pid, err := strconv.Atoi(string(w)); err == nil {
				pgid, _ := unix.Getpgid(pid)
				list = append(list, descendant{pid, pgid, true})
			}
		}
	}
	return list
}

// start starts a program in its own process group, with files as its descriptors
// from 0 on. It is killed when the calling thread exits. handle is for
// [Loop.WatchProcess]; if it is not -1 it must be closed when the program has
// been reaped.
func start(c *Command, files ...uintptr) (pid, handle int, err error) {
	handle = -1
	sys := &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL, PidFD: &handle}
	pid, err = syscall.ForkExec(c.Path, c.Args, &syscall.ProcAttr{Dir: c.Dir, Env: c.Env, Files: files, Sys: sys})
	return pid, handle, err
}

// openHandle returns a handle for a child that start did not start. It is -1 if
// there is none; the loop polls the child then.
func openHandle(pid int) int {
	pidfd, _ := unix.PidfdOpen(pid, 0)
	return pidfd
}

func pipe(p *[2]int) error { return unix.Pipe2(p[:], unix.O_CLOEXEC) }

func limitEnd(int, bool) error { return nil } // only FreeBSD has rights to limit

const (
	sysSigaction   = unix.SYS_RT_SIGACTION
	sysSigprocmask = unix.SYS_RT_SIGPROCMASK
	sigSetmask     = unix.SIG_SETMASK
	sigsetSize     = 8
	maxSignal      = 64 // _NSIG, signal(7)
	firstRealTime  = 35 // after those that glibc reserves
)
