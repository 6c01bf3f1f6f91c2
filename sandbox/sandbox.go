// Package sandbox restricts a process: [Limit] reduces the rights of a
// descriptor, and [Enter] gives up everything that needs a name, such as opening a
// path, connecting and executing. It is for programs that read untrusted input: an
// attacker who takes over such a process can use only its open descriptors.
//
// On FreeBSD this is Capsicum, see capsicum(4). Elsewhere Limit and Enter do
// nothing and return [ErrUnsupported], so that a caller can use the same calls on
// every system and decide what to do about that error.
//
// The order of calls is: [Untraceable] and [AcquireReaper], if needed. Open all
// files and look up all names. Limit each descriptor, also inherited ones such as
// 0, 1 and 2, with [LimitFD]; a descriptor that is not limited keeps all rights.
// Enter. Only then read untrusted input.
//
// # Notes for Go programs
//
// After Enter every call with a path fails with ECAPMODE, "not permitted in
// capability mode". So do [net.Dial], [net.Listen], [os/exec], [os.Process.Wait]
// and look-ups of hosts, users and groups. Some parts of the standard library open
// files late, and not all of them report an error:
//
//   - [time.Local] is UTC unless it was used before Enter: call time.Now().Zone().
//     [time.LoadLocation] fails.
//   - [mime.TypeByExtension], which [net/http.ServeContent] calls, has only a short
//     built-in list unless it was called before.
//   - [crypto/x509.SystemCertPool] must be called before certificates are verified.
//   - [net/http.Request.ParseMultipartForm] creates temporary files for forms that
//     are larger than its argument.
//   - [net.FileListener], [net.FileConn] and [net.UnixListener.File] duplicate the
//     descriptor. The original keeps all rights unless it is limited before or
//     closed.
//
// Goroutines, timers, net/http on an open listener, [os.Pipe], [os.Hostname] and
// crypto/rand still work, and so does an [os.Root] that was opened before, but its
// descriptor cannot be limited.
package sandbox

import (
	"errors"
	"fmt"
	"runtime"
	"syscall"
)

// ErrUnsupported means that the system lacks a function of this package, and that
// nothing was changed. It is also an [errors.ErrUnsupported].
//
// On a FreeBSD kernel without Capsicum the error is ENOSYS instead, so that a
// program never runs without a sandbox there by mistake. ENOSYS is also an
// errors.ErrUnsupported: compare with this variable, not with that one.
var ErrUnsupported error = unsupported{}

type unsupported struct{}

func (unsupported) Error() string { return "not supported on " + runtime.GOOS }

func (unsupported) Is(target error) bool { return target == errors.ErrUnsupported }

// A State says whether a process is in the sandbox. The zero State is Off.
type State int

const (
	Off      State = iota // Enter was not called
	None                  // Enter returned ErrUnsupported
	Confined              // Enter returned nil
)

// String returns "off", "none: not supported on" and the system's name, or
// "capability mode".
func (s State) String() string {
	switch s {
	case None:
		return "none: " + ErrUnsupported.Error()
	case Confined:
		return "capability mode"
	}
	return "off"
}

// Rights is a set of operations that a descriptor permits, with the names of
// rights(4). A descriptor with the zero Rights can only be kept, passed to another
// process and closed.
type Rights uint64

// The rights that a server needs.
const (
	Accept      Rights = 1 << iota // accept(2)
	Event                          // kevent(2), poll(2), select(2)
	Read                           // read(2), recv(2)
	Write                          // write(2), send(2)
	Shutdown                       // shutdown(2)
	Getsockopt                     // getsockopt(2), also for peer credentials
	Setsockopt                     // setsockopt(2)
	Getpeername                    // getpeername(2)
	Getsockname                    // getsockname(2)
	Fcntl                          // fcntl(2), F_GETFL and F_SETFL only
	Flock                          // flock(2)
	Lookup                         // look-ups in a directory
	Unlinkat                       // unlinkat(2); with Lookup
	Fstatat                        // fstatat(2); with Lookup

	// Serve is what Go's net package needs for a listening stream socket and
	// its connections, which have the rights of the listener.
	Serve = Accept | Converse
	// Converse is what Go's net package needs for a connected stream socket.
	Converse = Event | Read | Write | Shutdown | Getsockopt | Setsockopt |
		Getpeername | Getsockname | Fcntl
)

// Limit reduces the rights of c's descriptor to r. Rights cannot be regained.
// Files, and listeners and connections of package net, are a [syscall.Conn].
// Later duplicates of the descriptor, by dup(2), accept(2) or fork(2), have the
// same rights; earlier ones keep theirs. Limit works before and after [Enter].
//
// On FreeBSD it uses cap_rights_limit(2). ioctl(2) is never permitted, and fcntl(2)
// only to get and set the status flags. A right that the descriptor has lost is an
// error, ENOTCAPABLE. Elsewhere the error is [ErrUnsupported].
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

// LimitFD is [Limit] for a descriptor given by number, such as 0, 1 and 2.
func LimitFD(fd int, r Rights) error {
	if err := limit(fd, r); err != nil {
		return fmt.Errorf("limit rights of descriptor %d: %w", fd, err)
	}
	return nil
}

// Enter puts the process, with all its threads and future children, into
// capability mode. It cannot leave that mode. It can no longer open or execute a
// path, connect, bind or send signals to other processes. Open descriptors stay
// usable, within their rights.
//
// On FreeBSD it uses cap_enter(2), and then verifies the result with
// cap_getmode(2); after an error the process must exit. Elsewhere the error is
// [ErrUnsupported].
func Enter() error {
	if err := enter(); err != nil {
		return fmt.Errorf("enter capability mode: %w", err)
	}
	return nil
}

// Untraceable prevents other processes of the same user from tracing this one, as
// with ptrace(2), and the kernel from writing a crash dump. It lasts until the next
// execve(2), and must be called before [Enter].
//
// On FreeBSD it uses PROC_TRACE_CTL, see procctl(2); the error is EBUSY if the
// process is already being traced. On Linux it uses PR_SET_DUMPABLE, see prctl(2),
// which also makes root the owner of the files in /proc/PID. Elsewhere the error is
// [ErrUnsupported].
func Untraceable() error {
	if err := untraceable(); err != nil {
		return fmt.Errorf("forbid tracing: %w", err)
	}
	return nil
}

// AcquireReaper makes this process the parent of all descendants whose own parent
// exits, even if they have left their process group or session, so that it can wait
// for them and kill them. A second call is not an error. It must be called before
// [Enter].
//
// On FreeBSD it uses PROC_REAP_ACQUIRE, see procctl(2), on Linux
// PR_SET_CHILD_SUBREAPER, see prctl(2). Elsewhere the error is [ErrUnsupported].
func AcquireReaper() error {
	if err := acquireReaper(); err != nil {
		return fmt.Errorf("become reaper: %w", err)
	}
	return nil
}
