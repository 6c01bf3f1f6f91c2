package sock

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/perms"
)

// listenUnix makes a Unix socket. Whenever it is killed, the next one succeeds:
// the lock goes with the process, a lock file alone means nothing, and a socket
// file that nobody listens on is a leftover.
func listenUnix(a Addr, spec perms.Spec) (_ *Listener, err error) {
	p, err := openPlace(a.Address)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			p.dir.Close()
		}
	}()
	if err := p.checkDir(); err != nil {
		return nil, err
	}
	step("directory open")
	lock, err := p.lock(lockPatience)
	if err != nil {
		return nil, err
	}
	step("locked")
	o := &ownedFile{place: p, lock: lock, spec: spec}
	f, err := o.make()
	if err != nil {
		lock.Close()
		return nil, err
	}
	l := &Listener{addr: a, bound: &net.UnixAddr{Name: a.Address, Net: "unix"}, file: f, owned: o}
	l.name("")
	return l, nil
}

// make makes the place free and puts a listening socket there.
func (o *ownedFile) make() (*os.File, error) {
	f, err := o.bind()
	if err != nil {
		return nil, err
	}
	step("bound")
	st, err := o.checkBound()
	if err != nil {
		f.Close()
		return nil, err
	}
	if err := o.permit(st); err != nil {
		_, rerr := o.remove(st)
		return nil, collect(err, rerr, f.Close())
	}
	step("permitted")
	err = onFD(f, func(fd int) error {
		if err := unix.Listen(fd, backlog); err != nil {
			return os.NewSyscallError("listen", err)
		}
		return os.NewSyscallError("fcntl", unix.SetNonblock(fd, true))
	})
	if err != nil {
		_, rerr := o.remove(st)
		return nil, collect(err, rerr, f.Close())
	}
	step("listening")
	o.made, o.gone = st, false
	return f, nil
}

// bind binds a new socket by the full path, so that sockstat(1) and ss(8) show
// it. The file that comes of it keeps everybody out until listen(2).
func (o *ownedFile) bind() (*os.File, error) {
	// Only a program that does not ask for the lock can come between.
	for range 3 {
		if err := o.clear(); err != nil {
			return nil, err
		}
		fd, err := socket(unix.AF_UNIX)
		if err != nil {
			return nil, os.NewSyscallError("socket", err)
		}
		// A blocking descriptor, as yet: os.NewFile has a non-blocking one
		// watched by the poller, and every connection would wake this process
		// though another one accepts.
		f := os.NewFile(uintptr(fd), o.path)
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: o.path})
		if err == nil {
			return f, nil
		}
		f.Close()
		if !errors.Is(err, unix.EADDRINUSE) {
			return nil, pathError("bind", o.path, err)
		}
	}
	return nil, ErrInUse
}

// checkBound looks for the new file in the directory that was checked. It is
// elsewhere if somebody moved a directory in the path meanwhile.
func (o *ownedFile) checkBound() (stat, error) {
	st, err := o.stat(o.name)
	if errors.Is(err, fs.ErrNotExist) || err == nil && (st.kind() != unix.S_IFSOCK || st.uid != os.Geteuid()) {
		return st, kindf(ErrUnsafeDir, "%s: the path leads elsewhere since it was checked", o.path)
	}
	return st, err
}

// permit gives the file its owner and mode, and makes sure that it has them:
// not every file system keeps any.
func (o *ownedFile) permit(was stat) error {
	if err := o.spec.ApplyAt(o.dir, o.name); err != nil {
		if why := o.checkOwner(o.spec); why != nil && errors.Is(err, fs.ErrPermission) {
			return why
		}
		return err
	}
	st, err := o.stat(o.name)
	if err != nil {
		return err
	}
	differs := func(want, is int) bool { return want != perms.Unchanged && want != is }
	if !st.sameFile(was) || differs(o.spec.Mode, int(st.mode&0o7777)) ||
		differs(o.spec.UID, st.uid) || differs(o.spec.GID, st.gid) {
		return fmt.Errorf("%s: does not keep its mode and owner (wanted %v, is %v)", o.path, o.spec,
			perms.Spec{Mode: int(st.mode & 0o7777), UID: st.uid, GID: st.gid})
	}
	return nil
}

// Renew replaces the socket by a new one at the same path, with the same
// permissions and under the same lock, and closes the old one. It is for when
// copies of the old descriptor may be in the wrong hands: what they accept from
// then on are only clients that connected before. These are lost, unless another
// process accepts them. [Listener.File] returns the new descriptor.
//
// If something else has taken the path, it is left alone and the error is an
// [ErrInUse] or [ErrNotSocket]; the old socket goes on listening then. A
// listener that [Listen] did not make, or not of a Unix socket, cannot be
// renewed: [errors.ErrUnsupported].
func (l *Listener) Renew() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return wrapf(l.renew(), "renew %v", l.addr)
}

func (l *Listener) renew() error {
	o := l.owned
	if l.closed {
		return net.ErrClosed
	}
	if o == nil {
		return errors.ErrUnsupported
	}
	st, err := o.lookForSocket()
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case !st.sameFile(o.made):
		return fmt.Errorf("%w: another socket has taken the path", ErrInUse)
	}
	if err := l.unlink(); err != nil {
		return err
	}
	f, err := o.make()
	if err != nil {
		return err
	}
	old, ln := l.file, l.ln
	l.file, l.ln = f, nil
	if ln != nil {
		ln.Close()
	}
	return old.Close()
}

func wrapf(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf(format+": %w", append(args, err)...)
}
