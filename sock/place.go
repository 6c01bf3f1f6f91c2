package sock

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/perms"
)

// A place is where a socket file is: a name in a directory that is kept open,
// so that whatever is looked at or removed later is in the directory that was
// checked at first.
type place struct {
	dir  *os.File
	path string // in full
	name string // within dir
}

// A stat is what matters here of stat(2), in one shape for all systems.
type stat struct {
	mode     uint32
	uid, gid int
	dev, ino uint64
	links    uint64
}

func (s stat) kind() uint32 { return s.mode & unix.S_IFMT }

func (s stat) sameFile(t stat) bool { return s.dev == t.dev && s.ino == t.ino }

func statOf(st *unix.Stat_t) stat {
	return stat{
		mode: uint32(st.Mode), uid: int(st.Uid), gid: int(st.Gid),
		dev: uint64(st.Dev), ino: uint64(st.Ino), links: uint64(st.Nlink),
	}
}

func fstat(f *os.File) (stat, error) {
	var st unix.Stat_t
	err := onFD(f, func(fd int) error { return unix.Fstat(fd, &st) })
	if err != nil {
		return stat{}, pathError("stat", f.Name(), err)
	}
	return statOf(&st), nil
}

// onFD calls f with the number of the file's descriptor, again if a signal
// interrupted it. File.Fd is not used, as it can change the descriptor's mode.
func onFD(file *os.File, f func(fd int) error) error {
	c, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	err = c.Control(func(fd uintptr) {
		ferr = ignoringEINTR(func() error { return f(int(fd)) })
	})
	if err != nil {
		return err
	}
	return ferr
}

func ignoringEINTR(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}

// pathError names the path and leaves out the operation where the errno says
// enough.
func pathError(op, path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission), errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return fmt.Errorf("%s: %w", path, err)
	}
	return &os.PathError{Op: op, Path: path, Err: err}
}

// openPlace opens the directory of a socket's path. A directory reached by a
// symbolic link is as good as any, since it is the directory itself that is
// checked.
func openPlace(p string) (*place, error) {
	dir := path.Dir(p)
	var fd int
	err := ignoringEINTR(func() (err error) {
		fd, err = unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w (to mend: install -d -o %s -m 0750 %s)", dir, err, perms.UserName(os.Geteuid()), dir)
	}
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("%s: %w: user %s cannot read it, use a directory of its own", dir, err, perms.UserName(os.Geteuid()))
	}
	if errors.Is(err, unix.ENOTDIR) {
		return nil, fmt.Errorf("%s: %w, use a path in one", dir, err)
	}
	if err != nil {
		return nil, pathError("open", dir, err)
	}
	return &place{dir: os.NewFile(uintptr(fd), dir), path: p, name: path.Base(p)}, nil
}

// checkDir makes sure that nobody else can replace what is made in the
// directory.
func (p *place) checkDir() error {
	st, err := fstat(p.dir)
	if err != nil {
		return err
	}
	dir := p.dir.Name()
	if st.uid != 0 && st.uid != os.Geteuid() {
		us, not := perms.UserName(os.Geteuid()), "not by root"
		if os.Geteuid() != 0 {
			not = fmt.Sprintf("neither by %s nor by root", us)
		}
		return kindf(ErrUnsafeDir, "%s: owned by user %s, %s (to mend: chown %s %s)", dir, perms.UserName(st.uid), not, us, dir)
	}
	if st.mode&unix.S_ISVTX == 0 {
		switch st.mode & 0o022 {
		case 0o020:
			return kindf(ErrUnsafeDir, "%s: writable by its group (to mend: chmod g-w %s)", dir, dir)
		case 0o002:
			return kindf(ErrUnsafeDir, "%s: writable by others (to mend: chmod o-w %s)", dir, dir)
		case 0o022:
			return kindf(ErrUnsafeDir, "%s: writable by its group and others (to mend: chmod go-w %s)", dir, dir)
		}
	}
	return nil
}

// closed says that nothing can be made in the directory, if that is why.
func (p *place) closed(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w: user %s can make no socket there, use a directory of its own", p.dir.Name(), err, perms.UserName(os.Geteuid()))
}

func (p *place) join(name string) string { return path.Join(p.dir.Name(), name) }

// stat looks at a name in the directory without following links.
func (p *place) stat(name string) (stat, error) {
	var st unix.Stat_t
	err := onFD(p.dir, func(fd int) error {
		return unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	})
	if err != nil {
		return stat{}, pathError("stat", p.join(name), err)
	}
	return statOf(&st), nil
}

// remove unlinks the socket file if it is still the one that was looked at, and
// reports whether it was. Nobody else can put another file there between the
// look and the unlink: checkDir and the lock see to that.
func (p *place) remove(was stat) (bool, error) {
	st, err := p.stat(p.name)
	if errors.Is(err, fs.ErrNotExist) || err == nil && (!st.sameFile(was) || st.kind() != unix.S_IFSOCK) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	err = onFD(p.dir, func(fd int) error { return unix.Unlinkat(fd, p.name, 0) })
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
