package process

import (
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// spinTime is for how long the thread waits in the kernel without telling Go's
// scheduler. Telling it costs a wake-up of another thread each time, which
// under load is more than the wait itself; a long wait has to be told, since
// the scheduler would otherwise prod this thread a hundred times a second.
const spinTime = 2 * time.Millisecond

// waitExited: a pidfd is readable only once its process can be reaped.
const waitExited = unix.WNOHANG

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

func (p *poller) write(fd int, on bool) error {
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}
	if on {
		ev.Events |= unix.EPOLLOUT
	}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(p.epfd, unix.EPOLL_CTL_MOD, fd, &ev))
}

func (p *poller) remove(fd int) {
	unix.EpollCtl(p.epfd, unix.EPOLL_CTL_DEL, fd, nil)
}

// process waits for a pidfd, which is readable when the process is a zombie;
// Pad marks it.
func (p *poller) process(pid, pidfd int) error {
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT, Fd: int32(pid), Pad: 1}
	return unix.EpollCtl(p.epfd, unix.EPOLL_CTL_ADD, pidfd, &ev)
}

// ended tells whether a child is a zombie.
func ended(pid int) bool {
	dead, err := peek(unix.P_PID, pid)
	return err != nil || dead != 0
}

func (p *poller) wait(out []event, timeout time.Duration) ([]event, error) {
	n, err := p.spin(min(timeout, spinTime))
	if n == 0 && err == nil && timeout > spinTime {
		n, err = unix.EpollWait(p.epfd, p.events[:], milliseconds(timeout-spinTime))
	}
	if err != nil && err != unix.EINTR {
		return out, os.NewSyscallError("epoll_wait", err)
	}
	for i := range max(n, 0) {
		e := &p.events[i]
		out = append(out, event{
			id:       int(e.Fd),
			process:  e.Pad != 0,
			readable: e.Events&^unix.EPOLLOUT != 0,
			writable: e.Events&unix.EPOLLOUT != 0,
		})
	}
	return out, nil
}

func (p *poller) spin(d time.Duration) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(p.epfd),
		uintptr(unsafe.Pointer(&p.events)), uintptr(len(p.events)), uintptr(milliseconds(d)), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// milliseconds rounds up, so that no timer is found too early.
func milliseconds(d time.Duration) int {
	return int((d + time.Millisecond - 1) / time.Millisecond)
}
