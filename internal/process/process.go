// Package process starts commands and sees to their end.
//
// A [Supervisor] starts each one in a process group of its own, and knows it
// and what it leaves behind as one [Group], from fork(2) until nothing of it is
// left. Everything belongs to one goroutine, locked to its thread, which is
// that of a [Loop]: no lock anywhere. FreeBSD and Linux only; elsewhere
// [NewLoop] says so.
package process

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Start starts a program in a process group of its own, with files as its
// descriptors 0, 1, 2 and so on and nothing but env as its environment. The
// child is killed when the calling thread ends. handle is for
// [Loop.WatchProcess]; if it is not negative it is to be closed when the
// process has been reaped.
func Start(path string, args []string, dir string, env []string, files ...uintptr) (pid, handle int, err error) {
	return start(path, args, dir, env, files)
}

// NewSpool makes a file for a body in dir, opened once to be written and once
// to be read from its beginning. It has no name any more when NewSpool returns.
// On FreeBSD all that can be done with the first descriptor is to write.
func NewSpool(dir string) (write, read int, err error) {
	name := filepath.Join(dir, "onewake-"+strconv.FormatUint(rand.Uint64(), 36))
	write, err = unix.Open(name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return -1, -1, &os.PathError{Op: "create", Path: name, Err: err}
	}
	spoolMade(name)
	// Without O_NONBLOCK a FIFO in its place would keep us here.
	read, err = unix.Open(name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if e := unix.Unlink(name); err == nil {
		err = e
	}
	var a, b unix.Stat_t
	if err == nil {
		err = errors.Join(unix.Fstat(write, &a), unix.Fstat(read, &b), unix.SetNonblock(read, false), limitEnd(write, true))
	}
	if err == nil && (a.Dev != b.Dev || a.Ino != b.Ino) {
		err = syscall.ESTALE // others can write here, and have changed it
	}
	if err != nil {
		closeAll(write, read)
		return -1, -1, &os.PathError{Op: "spool", Path: name, Err: err}
	}
	return write, read, nil
}

// spoolMade lets a test change what is there under the name.
var spoolMade = func(name string) {}

func closeAll(fds ...int) {
	for _, fd := range fds {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}
