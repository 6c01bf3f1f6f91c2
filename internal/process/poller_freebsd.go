package process

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// waitExited: NOTE_EXIT comes a moment before the process is a zombie, in the
// midst of its exit; waiting for that moment is cheaper than coming back.
const waitExited = 0

type poller struct {
	kq     int
	events [64]unix.Kevent_t
}

func (p *poller) open() (err error) {
	p.kq, err = unix.Kqueue()
	if err == nil {
		unix.CloseOnExec(p.kq)
	}
	return os.NewSyscallError("kqueue", err)
}

func (p *poller) change(id, filter, flags int, fflags uint32) error {
	var k [1]unix.Kevent_t
	unix.SetKevent(&k[0], id, filter, flags)
	k[0].Fflags = fflags
	for {
		_, err := unix.Kevent(p.kq, k[:], nil, nil)
		if err != unix.EINTR {
			return err
		}
	}
}

func (p *poller) add(fd int) error {
	return os.NewSyscallError("kevent", p.change(fd, unix.EVFILT_READ, unix.EV_ADD, 0))
}

func (p *poller) write(fd int, on bool) error {
	flags := unix.EV_ADD
	if !on {
		flags = unix.EV_DELETE
	}
	err := p.change(fd, unix.EVFILT_WRITE, flags, 0)
	if !on && err == unix.ENOENT {
		err = nil
	}
	return os.NewSyscallError("kevent", err)
}

func (p *poller) remove(fd int) {
	p.change(fd, unix.EVFILT_READ, unix.EV_DELETE, 0)
	p.change(fd, unix.EVFILT_WRITE, unix.EV_DELETE, 0)
}

// process: a child that is a zombie already is reported at once. One that has
// become another user's, by a set-user-ID program, is not found where users do
// not see each other (security.bsd.see_other_uids=0); it cannot be gone, since
// nobody else reaps it.
func (p *poller) process(pid, _ int) error {
	return p.change(pid, unix.EVFILT_PROC, unix.EV_ADD|unix.EV_ONESHOT, unix.NOTE_EXIT)
}

// ended tells whether a child is a zombie.
func ended(pid int) bool {
	n, err := unix.Wait4(pid, nil, unix.WNOHANG|unix.WNOWAIT, nil)
	return err != nil || n == pid
}

func (p *poller) wait(out []event, timeout time.Duration) ([]event, error) {
	ts := unix.NsecToTimespec(int64(timeout))
	n, err := unix.Kevent(p.kq, nil, p.events[:], &ts)
	if err != nil && err != unix.EINTR {
		return out, os.NewSyscallError("kevent", err)
	}
	for i := range max(n, 0) {
		k := &p.events[i]
		out = append(out, event{
			id:       int(k.Ident),
			process:  k.Filter == unix.EVFILT_PROC,
			readable: k.Filter == unix.EVFILT_READ,
			writable: k.Filter == unix.EVFILT_WRITE,
		})
	}
	return out, nil
}
