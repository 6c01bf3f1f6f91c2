// Package process starts commands and sees to their end.
//
// A [Supervisor] starts each one in a process group of its own, and knows it
// and what it leaves behind as one [Group], from fork(2) until nothing of it is
// left. Everything belongs to one goroutine, locked to its thread, which is
// that of a [Loop]: no lock anywhere. FreeBSD and Linux only; elsewhere
// [NewLoop] says so.
package process

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// NewSpool makes a file for a body in dir, which has no name any more when
// NewSpool returns. read is for [Supervisor.Start], which has it read from its
// beginning. write is the same open file; on FreeBSD all that can be done with
// it is to write.
func NewSpool(dir string) (write, read int, err error) {
	name := filepath.Join(dir, "onewake-"+strconv.FormatUint(rand.Uint64(), 36))
	read, err = unix.Open(name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return -1, -1, &os.PathError{Op: "create", Path: name, Err: err}
	}
	write = -1
	if err = unix.Unlink(name); err == nil {
		write, err = unix.FcntlInt(uintptr(read), unix.F_DUPFD_CLOEXEC, 0)
	}
	if err == nil {
		err = limitEnd(write, true)
	}
	if err != nil {
		closeAll(write, read)
		return -1, -1, &os.PathError{Op: "spool", Path: name, Err: err}
	}
	return write, read, nil
}

func closeAll(fds ...int) {
	for _, fd := range fds {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}
