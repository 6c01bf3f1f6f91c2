package sock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path"
	"runtime"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/perms"
)

// A socketFile is the file of a Unix socket: a name in a directory that stays
// open, so that whatever is checked or removed later is in that directory.
type socketFile struct {
	config  Config
	dir     *os.File
	dirStat stat
	path    string // in full
	name    string // in dir
	lock    *os.File
	bound   stat // the file that bind(2) created
}

// listenUnix creates a Unix socket. If it is killed at any point, the next start
// succeeds: the kernel releases the lock of a process that exits, and the next
// start removes the leftover socket file.
func (c Config) listenUnix(ctx context.Context, a Addr) (_ *Listener, err error) {
	s, err := c.prepare(ctx, a.Address)
	if s == nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.dir.Close()
			s.lock.Close()
		}
	}()
	if err != nil {
		return nil, err
	}
	step(ctx, "directory open")
	if s.lock, err = s.takeLock(ctx); err != nil {
		return nil, err
	}
	step(ctx, "locked")
	if err = s.removeLeftover(ctx); err != nil {
		return nil, err
	}
	f, err := s.bind(ctx)
	if err != nil {
		return nil, err
	}
	if err = s.listen(ctx, f); err != nil {
		return nil, collect(err, s.remove(s.bound), f.Close())
	}
	step(ctx, "listening")
	return &Listener{addr: a, bound: &net.UnixAddr{Name: a.Address, Net: "unix"}, socket: f, file: s}, nil
}

// prepare opens the directory of a socket and makes every check that needs no
// lock. It changes nothing. The error has all problems. The socketFile is nil if
// the directory could not be opened.
func (c Config) prepare(ctx context.Context, name string) (*socketFile, error) {
	dir := path.Dir(name)
	w, err := walk(dir)
	step(ctx, "walked")
	var f *os.File
	if err == nil {
		if f, err = os.Open(dir); errors.Is(err, fs.ErrPermission) {
			err = denied(dir, "cannot read it")
		}
	}
	if err != nil {
		return nil, collect(append(w.errs, err)...)
	}
	s := &socketFile{config: c, dir: f, dirStat: w.st, path: name, name: path.Base(name)}
	return s, collect(append(w.errs, s.checkAccess(), s.checkOwner())...)
}

// denied is the error for a directory in which this user lacks a permission.
func denied(dir, what string) error {
	return fmt.Errorf("%s: %w: user %s %s, use a directory of its own", dir, unix.EACCES, perms.UserName(os.Geteuid()), what)
}

// checkAccess makes sure that the open directory is the one that was checked, and
// that we can create files in it.
func (s *socketFile) checkAccess() error {
	dir := s.dir.Name()
	if st, err := fstat(s.dir); err != nil || !st.sameFile(s.dirStat) {
		return failf(Other, dir, ErrUnsafeDir, "%s: replaced while it was being checked", dir)
	}
	err := onFD(s.dir, func(fd int) error { return unix.Faccessat(fd, ".", unix.W_OK|unix.X_OK, unix.AT_EACCESS) })
	if errors.Is(err, fs.ErrPermission) {
		return denied(dir, "cannot create a socket there")
	}
	return wrap(err, "%s", dir)
}

// checkOwner makes sure that chown(2) will be permitted. Only root can set any
// owner and group. Others can set a group that they are in; the group that a new
// file has anyway needs no chown(2).
func (s *socketFile) checkOwner() error {
	euid := os.Geteuid()
	if euid == 0 {
		return nil
	}
	if uid, ok := s.config.Perms.UID.Get(); ok && uid != euid {
		return failf(CannotChown, s.path, fs.ErrPermission, "owner %s: only root can set another owner, and this is user %s",
			perms.UserName(uid), perms.UserName(euid))
	}
	gid, ok := s.config.Perms.GID.Get()
	if !ok {
		return nil
	}
	gids, err := os.Getgroups()
	gids = append(gids, os.Getegid())
	if runtime.GOOS != "linux" || s.dirStat.mode&unix.S_ISGID != 0 {
		gids = append(gids, s.dirStat.gid) // the group of a new file
	}
	if err != nil || slices.Contains(gids, gid) {
		return err
	}
	return failf(CannotChgrp, s.path, fs.ErrPermission, "group %s: user %s is not a member, and %s has another group",
		perms.GroupName(gid), perms.UserName(euid), s.dir.Name())
}

// bind binds a new socket to the full path, so that sockstat(1) and ss(8) show it,
// and finds its file in the directory that was checked. Every connection is refused
// until listen(2).
func (s *socketFile) bind(ctx context.Context) (*os.File, error) {
	syscall.ForkLock.RLock() // not every system has SOCK_CLOEXEC
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err == nil {
		unix.CloseOnExec(fd)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), s.path) // still blocking: see netListener
	switch err = unix.Bind(fd, &unix.SockaddrUnix{Name: s.path}); {
	case err == nil:
		step(ctx, "bound")
		s.bound, err = s.stat(s.name)
		if errors.Is(err, fs.ErrNotExist) || err == nil && (s.bound.kind() != unix.S_IFSOCK || s.bound.uid != os.Geteuid()) {
			// Root or our user has moved a directory since the check.
			err = failf(Other, s.path, ErrUnsafeDir, "%s: the path has changed since it was checked", s.path)
		}
	case errors.Is(err, unix.EADDRINUSE): // by a program that does not use the lock
		err = taken("has just taken it")
	default:
		err = pathError("bind", s.path, err)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// listen sets owner and mode, checks them, because not every file system stores
// them, and only then calls listen(2). The kernel limits the backlog to
// kern.ipc.soacceptqueue or somaxconn.
func (s *socketFile) listen(ctx context.Context, f *os.File) error {
	const backlog = 4096
	want := s.config.Perms
	if err := want.ApplyAt(s.dir, s.name); err != nil {
		return err
	}
	step(ctx, "owner set")
	st, err := s.stat(s.name)
	if err != nil {
		return err
	}
	mode := int(st.mode & 0o7777)
	if !st.sameFile(s.bound) || !want.Mode.Permits(mode) || !want.UID.Permits(st.uid) || !want.GID.Permits(st.gid) {
		return fmt.Errorf("%s: did not keep its mode and owner (now %#04o %d:%d)", s.path, mode, st.uid, st.gid)
	}
	step(ctx, "permitted")
	return onFD(f, func(fd int) error {
		if err := unix.Listen(fd, backlog); err != nil {
			return os.NewSyscallError("listen", err)
		}
		return os.NewSyscallError("fcntl", unix.SetNonblock(fd, true))
	})
}

// stat looks at a name in the directory without following links.
func (s *socketFile) stat(name string) (stat, error) {
	st, err := statBy(func(st *unix.Stat_t) error {
		return onFD(s.dir, func(fd int) error { return unix.Fstatat(fd, name, st, unix.AT_SYMLINK_NOFOLLOW) })
	})
	if err != nil {
		err = pathError("stat", path.Join(s.dir.Name(), name), err)
	}
	return st, err
}

// remove unlinks the socket file if it is still the given one. No other user can
// replace it before the unlink, because of the rules for the directory; no other
// server does, because of the lock.
func (s *socketFile) remove(was stat) error {
	st, err := s.stat(s.name)
	if err == nil && st.sameFile(was) && st.kind() == unix.S_IFSOCK {
		err = onFD(s.dir, func(fd int) error { return unix.Unlinkat(fd, s.name, 0) })
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
