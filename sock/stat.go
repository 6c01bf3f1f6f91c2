package sock

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// A stat has the fields of stat(2) that are used here, with the same types on all
// systems.
type stat struct {
	mode     uint32
	uid, gid int
	dev, ino uint64
	links    uint64
}

func (s stat) kind() uint32         { return s.mode & unix.S_IFMT }
func (s stat) sameFile(t stat) bool { return s.dev == t.dev && s.ino == t.ino }
func (s stat) writable() bool       { return s.mode&0o022 != 0 } // by group or others
func (s stat) trusted() bool        { return s.uid == 0 || s.uid == os.Geteuid() }

// statBy makes a call of the stat(2) family.
func statBy(call func(*unix.Stat_t) error) (stat, error) {
	var st unix.Stat_t
	err := ignoringEINTR(func() error { return call(&st) })
	return stat{
		mode: uint32(st.Mode), uid: int(st.Uid), gid: int(st.Gid),
		dev: uint64(st.Dev), ino: uint64(st.Ino), links: uint64(st.Nlink),
	}, err
}

func lstat(name string) (stat, error) {
	return statBy(func(st *unix.Stat_t) error { return unix.Lstat(name, st) })
}

func fstat(f *os.File) (stat, error) {
	return statBy(func(st *unix.Stat_t) error {
		return onFD(f, func(fd int) error { return unix.Fstat(fd, st) })
	})
}

// onFD calls f with the descriptor of a file, listener or connection. It does not
// use os.File.Fd, which can make the descriptor blocking.
func onFD(c syscall.Conn, f func(fd int) error) error {
	rc, err := c.SyscallConn()
	if err != nil {
		return err
	}
	cerr := rc.Control(func(fd uintptr) {
		err = ignoringEINTR(func() error { return f(int(fd)) })
	})
	if cerr != nil {
		return cerr
	}
	return err
}

// ignoringEINTR calls f again if a signal interrupted it.
func ignoringEINTR(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}

// pathError adds the path to an error, and also the operation if the error does
// not make it clear.
func pathError(op, path string, err error) error {
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", path, err)
	}
	return &os.PathError{Op: op, Path: path, Err: err}
}
