package sock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// An ownedFile is the file of a Unix socket that Listen made.
type ownedFile struct {
	*place
	lock *os.File
	made stat // as it was right after bind
}

// listenUnix makes a Unix socket. Whenever it is killed, the next one succeeds:
// the lock goes with the process, a lock file alone means nothing, and a socket
// file that nobody listens on is a leftover.
func (c Config) listenUnix(ctx context.Context, a Addr) (_ *Listener, err error) {
	p, err := c.prepare(ctx, a.Address)
	o := &ownedFile{place: p}
	defer func() {
		if err != nil && p != nil {
			p.dir.Close()
			o.lock.Close()
		}
	}()
	if err != nil {
		return nil, err
	}
	step(ctx, "directory open")
	if o.lock, err = p.takeLock(ctx); err != nil {
		return nil, err
	}
	step(ctx, "locked")
	f, err := o.bind(ctx)
	if err != nil {
		return nil, err
	}
	step(ctx, "bound")
	if o.made, err = o.checkBound(); err != nil {
		f.Close()
		return nil, err
	}
	if err = o.open(ctx, f); err != nil {
		return nil, collect(err, o.remove(o.made), f.Close())
	}
	step(ctx, "listening")
	return &Listener{addr: a, bound: &net.UnixAddr{Name: a.Address, Net: "unix"}, file: f, owned: o}, nil
}

// bind makes the place free and binds a new socket there, by the full path, so
// that sockstat(1) and ss(8) show it. The file that comes of it keeps everybody
// out until listen(2).
func (o *ownedFile) bind(ctx context.Context) (*os.File, error) {
	if err := o.clear(ctx); err != nil {
		return nil, err
	}
	fd, err := socket()
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), o.path) // which blocks as yet: see netListener
	switch err = unix.Bind(fd, &unix.SockaddrUnix{Name: o.path}); {
	case err == nil:
		return f, nil
	case errors.Is(err, unix.EADDRINUSE): // one that does not ask for the lock
		err = taken("has taken it just now")
	default:
		err = pathError("bind", o.path, err)
	}
	f.Close()
	return nil, err
}

// checkBound looks for the new file in the directory that was checked. It is
// elsewhere if somebody who may, root or ourselves, moved a directory in the
// path meanwhile.
func (o *ownedFile) checkBound() (stat, error) {
	st, err := o.stat(o.name)
	if errors.Is(err, fs.ErrNotExist) || err == nil && (st.kind() != unix.S_IFSOCK || st.uid != os.Geteuid()) {
		return st, failf(Other, o.path, ErrUnsafeDir, "%s: the path leads elsewhere since it was checked", o.path)
	}
	return st, err
}

// open gives the file its owner and mode, makes sure that it has them, since not
// every file system keeps any, and lets clients in. The kernel cuts the backlog
// down to what the administrator allows (kern.ipc.soacceptqueue, somaxconn).
func (o *ownedFile) open(ctx context.Context, f *os.File) error {
	const backlog = 4096
	want := o.config.Perms
	if err := want.ApplyAt(o.dir, o.name); err != nil {
		return err
	}
	step(ctx, "owner set")
	st, err := o.stat(o.name)
	if err != nil {
		return err
	}
	mode := int(st.mode & 0o7777)
	if !st.sameFile(o.made) || !want.Mode.Permits(mode) || !want.UID.Permits(st.uid) || !want.GID.Permits(st.gid) {
		return fmt.Errorf("%s: does not keep the mode and owner that it was given (is %#04o %d:%d)", o.path, mode, st.uid, st.gid)
	}
	step(ctx, "permitted")
	return onFD(f, func(fd int) error {
		if err := unix.Listen(fd, backlog); err != nil {
			return os.NewSyscallError("listen", err)
		}
		return os.NewSyscallError("fcntl", unix.SetNonblock(fd, true))
	})
}
