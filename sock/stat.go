package sock

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// A stat is what matters here of stat(2), in one shape for all systems.
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

// statBy returns what one of the calls of the stat(2) family says.
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

// onFD calls f with the number of the descriptor of a file, a listener or a
// connection, again if a signal interrupted it. File.Fd is not used, as it can
// change the descriptor's mode.
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
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", path, err)
	}
	return &os.PathError{Op: op, Path: path, Err: err}
}
