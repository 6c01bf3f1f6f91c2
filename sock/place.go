package sock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/perms"
)

// A place is where a socket file is to be: a name in a directory that is kept
// open, so that whatever is looked at or removed later is in that directory.
type place struct {
	config Config
	dir    *os.File
	st     stat   // of dir
	path   string // in full
	name   string // within dir
}

// prepare opens the place of a socket, and applies every rule that comes before
// the lock; it changes nothing. All that is wrong is in the error. The place is
// nil if its directory could not be opened.
func (c Config) prepare(ctx context.Context, name string) (*place, error) {
	dir := path.Dir(name)
	w, err := walk(dir)
	step(ctx, "walked")
	fd := -1
	if err == nil {
		err = ignoringEINTR(func() (err error) {
			fd, err = unix.Open(w.at, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			return err
		})
		if errors.Is(err, fs.ErrPermission) {
			err = fmt.Errorf("%s: %w: user %s cannot read it, use a directory of its own", dir, err, perms.UserName(os.Geteuid()))
		}
	}
	if err != nil {
		return nil, collect(append(w.errs, err)...)
	}
	p := &place{config: c, dir: os.NewFile(uintptr(fd), dir), st: w.st, path: name, name: path.Base(name)}
	return p, collect(append(w.errs, p.checkDir(), p.checkOwner())...)
}

// checkDir makes sure that the directory is the one that was looked at, and that
// we can make files there.
func (p *place) checkDir() error {
	dir := p.dir.Name()
	if st, err := fstat(p.dir); err != nil || !st.sameFile(p.st) {
		return failf(Other, dir, ErrUnsafeDir, "%s: replaced while it was looked at", dir)
	}
	err := onFD(p.dir, func(fd int) error { return unix.Faccessat(fd, ".", unix.W_OK|unix.X_OK, unix.AT_EACCESS) })
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%s: %w: user %s can make no socket there, use a directory of its own", dir, err, perms.UserName(os.Geteuid()))
	}
	return wrap(err, "%s", dir)
}

// checkOwner makes sure that the owner and group can be given: root may, others
// may choose a group that they are in or that the file has anyway.
func (p *place) checkOwner() error {
	euid := os.Geteuid()
	if euid == 0 {
		return nil
	}
	if uid, ok := p.config.Perms.UID.Get(); ok && uid != euid {
		return failf(CannotChown, p.path, fs.ErrPermission, "owner %s: only root can give a socket away, and user %s starts this",
			perms.UserName(uid), perms.UserName(euid))
	}
	gid, ok := p.config.Perms.GID.Get()
	if !ok || gid == os.Getegid() {
		return nil
	}
	gids, err := os.Getgroups()
	if err != nil || gid == newFileGID(p.st) || slices.Contains(gids, gid) {
		return err
	}
	return failf(CannotChgrp, p.path, fs.ErrPermission, "group %s: user %s is not in it, and the group of %s is another",
		perms.GroupName(gid), perms.UserName(euid), p.dir.Name())
}

func (p *place) join(name string) string { return path.Join(p.dir.Name(), name) }

// stat looks at a name in the directory without following links.
func (p *place) stat(name string) (stat, error) {
	st, err := statBy(func(st *unix.Stat_t) error {
		return onFD(p.dir, func(fd int) error { return unix.Fstatat(fd, name, st, unix.AT_SYMLINK_NOFOLLOW) })
	})
	if err != nil {
		err = pathError("stat", p.join(name), err)
	}
	return st, err
}

// remove unlinks the socket file if it is still the one that was looked at.
// Nobody else can put another one there before the unlink: the rules for the
// directory and the lock see to that.
func (p *place) remove(was stat) error {
	st, err := p.stat(p.name)
	if err == nil && st.sameFile(was) && st.kind() == unix.S_IFSOCK {
		err = onFD(p.dir, func(fd int) error { return unix.Unlinkat(fd, p.name, 0) })
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
