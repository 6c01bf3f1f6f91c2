// Package process starts commands, waits for them and terminates them.
//
// A [Supervisor] starts each command in its own process group. A [Group] stands
// for the command and the processes that it leaves behind. All of it is used
// from the goroutine of a [Loop] only, without locks. The package supports
// FreeBSD and Linux; elsewhere [NewLoop] returns an error.
package process

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// NewSpool creates a file for a request body in dir, and unlinks it. read is for
// [Supervisor.Start], which rewinds it. write is a duplicate of read, which on
// FreeBSD has no rights but to write.
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
