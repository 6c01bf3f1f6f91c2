// Package sandbox gives a program's powers up: the rights of single
// descriptors with [Limit], and everything that needs a name, such as opening a
// path, connecting or executing, with [Enter]. It is for programs that read what
// strangers send: whoever takes one over has then no more than the descriptors
// that it holds.
//
// On FreeBSD this is Capsicum, see capsicum(4). Elsewhere Limit and Enter do
// nothing and say so, with [ErrUnsupported]: a caller writes one sequence of
// calls for every system and decides what it makes of that answer.
//
// First [Untraceable] and [AcquireReaper], if they are wanted. Then open all that
// will be needed, and look up all names. Then Limit each descriptor to what it is
// for, and those that others have opened, such as 0, 1 and 2, with [LimitFD]: one
// that was forgotten keeps its full rights. Then Enter, and only then read what
// strangers send.
//
// # What Go programs come upon
//
// After Enter all that takes a path fails with ECAPMODE, "not permitted in
// capability mode", and so do [net.Dial], [net.Listen], [os/exec], [os.Process.Wait]
// and look-ups of hosts, users and groups. Some parts of the standard library
// open files later than one might think, and not all of them tell:
//
//   - [time.Local] is UTC unless it was used before Enter: call time.Now().Zone().
//     [time.LoadLocation] fails.
//   - [mime.TypeByExtension], as called by [net/http.ServeContent], knows only its
//     own short list unless it was called before.
//   - [crypto/x509.SystemCertPool] has to be called before, for verifications.
//   - [net/http.Request.ParseMultipartForm] makes temporary files of what is
//     larger than its argument.
//   - [net.FileListener], [net.FileConn] and [net.UnixListener.File] duplicate the
//     descriptor, and the first one keeps its full rights unless it is limited
//     before or closed.
//
// Goroutines, timers, net/http on a listener that is open, [os.Pipe], [os.Hostname]
// and crypto/rand go on to work, and so does an [os.Root] that was opened before,
// whose descriptor cannot be limited.
package sandbox

import (
	"errors"
	"fmt"
	"runtime"
	"syscall"
)

// ErrUnsupported is returned by everything in this package that the running
// system lacks. Nothing has been changed then. It is an [errors.ErrUnsupported]
// too.
//
// A FreeBSD kernel that was built without Capsicum is another matter: there the
// calls fail with ENOSYS, which is not ErrUnsupported, so that a program that
// is confined on FreeBSD is never run unconfined there. It is an
// errors.ErrUnsupported, however: that is not what to compare with.
var ErrUnsupported error = unsupported{}

type unsupported struct{}

func (unsupported) Error() string { return "not supported on " + runtime.GOOS }

func (unsupported) Is(target error) bool { return target == errors.ErrUnsupported }

// A State is how a process is confined, for a program that tells of it. The zero
// State is Off.
type State int

const (
	Off      State = iota // Enter was not called
	None                  // Enter returned ErrUnsupported
	Confined              // Enter returned nil
)

// String returns "off", "none: not supported on" the system, or "capability
// mode".
func (s State) String() string {
	switch s {
	case None:
		return "none: " + ErrUnsupported.Error()
	case Confined:
		return "capability mode"
	}
	return "off"
}

// Rights is a set of things that may be done with a descriptor, after
// rights(4), whose names these are. The zero Rights permits nothing at all: such
// a descriptor can still be kept, passed on and closed.
type Rights uint64

// The rights that a server needs.
const (
	Accept      Rights = 1 << iota // accept(2)
	Event                          // kevent(2), poll(2), select(2)
	Read                           // read(2), recv(2)
	Write                          // write(2), send(2)
	Shutdown                       // shutdown(2)
	Getsockopt                     // getsockopt(2), peer credentials among them
	Setsockopt                     // setsockopt(2)
	Getpeername                    // getpeername(2)
	Getsockname                    // getsockname(2)
	Fcntl                          // fcntl(2), F_GETFL and F_SETFL only
	Flock                          // flock(2)
	Lookup                         // a directory to start path look-ups at
	Unlinkat                       // unlinkat(2); with Lookup
	Fstatat                        // fstatat(2); with Lookup

	// Serve is what Go's net package needs of a listening stream socket and
	// of the connections that it accepts, which have the listener's rights.
	Serve = Accept | Converse
	// Converse is what Go's net package needs of a connected stream socket.
	Converse = Event | Read | Write | Shutdown | Getsockopt | Setsockopt |
		Getpeername | Getsockname | Fcntl
)

// Limit cuts the rights of c's descriptor down to r, for good: rights can only
// be taken away. Files and the listeners and connections of package net are
// all a [syscall.Conn]. Descriptors made from this one later, by dup(2),
// accept(2) or fork(2), have the same rights; those made earlier keep theirs.
// Limit works before and after [Enter].
//
// On FreeBSD see cap_rights_limit(2); ioctl(2) is never permitted, and of
// fcntl(2) only reading and setting the status flags. Asking for a right that
// the descriptor has lost is an error, ENOTCAPABLE. Elsewhere the result is
// [ErrUnsupported].
func Limit(c syscall.Conn, r Rights) error {
	rc, err := c.SyscallConn()
	if err != nil {
		return fmt.Errorf("limit rights: %w", err)
	}
	var lerr error
	if err := rc.Control(func(fd uintptr) { lerr = LimitFD(int(fd), r) }); err != nil {
		return fmt.Errorf("limit rights: %w", err)
	}
	return lerr
}

// LimitFD is [Limit] for a descriptor's number, such as 0, 1 and 2.
func LimitFD(fd int, r Rights) error {
	if err := limit(fd, r); err != nil {
		return fmt.Errorf("limit rights of descriptor %d: %w", fd, err)
	}
	return nil
}

// Enter puts the whole process, with all its threads and its future children,
// into capability mode, which cannot be left: no path can be opened or
// executed, nothing connected or bound, no other process signalled. What is open
// stays usable, within its rights.
//
// On FreeBSD see cap_enter(2). Enter asks the kernel afterwards what mode the
// process is in, cap_getmode(2); if it returns an error the process must end.
// Elsewhere the result is [ErrUnsupported].
func Enter() error {
	if err := enter(); err != nil {
		return fmt.Errorf("enter capability mode: %w", err)
	}
	return nil
}

// Untraceable keeps other processes of the same user from looking into this
// one with ptrace(2) and its like, and the kernel from writing a core file.
// It lasts until the next execve(2), and must be called before [Enter].
//
// On FreeBSD see procctl(2), PROC_TRACE_CTL; a process that is being traced
// already gets EBUSY. On Linux see prctl(2), PR_SET_DUMPABLE, which also gives
// the files of /proc/PID to root. Elsewhere the result is [ErrUnsupported].
func Untraceable() error {
	if err := untraceable(); err != nil {
		return fmt.Errorf("forbid tracing: %w", err)
	}
	return nil
}

// AcquireReaper makes this process the parent of every descendant whose own
// parent ends, also of those that left their process group or session, so that
// it can wait for them and end them. Being one already is no error. It must be
// called before [Enter].
//
// On FreeBSD see procctl(2), PROC_REAP_ACQUIRE; on Linux prctl(2),
// PR_SET_CHILD_SUBREAPER. Elsewhere the result is [ErrUnsupported].
func AcquireReaper() error {
	if err := acquireReaper(); err != nil {
		return fmt.Errorf("become reaper: %w", err)
	}
	return nil
}
