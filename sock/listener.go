package sock

import (
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/sandbox"
)

// A Listener is a listening stream socket. It is a [net.Listener]; its methods
// may be called from several goroutines.
//
// [net/http.Server.Shutdown] and [net/http.Server.Close] close it. That removes
// the socket file and releases the lock at once, so that the next server can start
// while the last answers are still being written. A program that exits without
// Close leaves the file, and the next [Listen] removes it.
type Listener struct {
	addr  Addr
	bound net.Addr

	mu     sync.Mutex
	socket *os.File
	ln     net.Listener // of a duplicate of socket; the first Accept creates it
	file   *socketFile  // nil unless Listen created a Unix socket
	closed bool
}

// Accept waits for the next connection, a [*net.UnixConn] or [*net.TCPConn]. After
// Close the error is [net.ErrClosed].
func (l *Listener) Accept() (net.Conn, error) {
	ln, err := l.netListener()
	if err != nil {
		return nil, err
	}
	return ln.Accept()
}

// netListener returns a net.Listener of a duplicate of the socket. It is created
// by the first Accept, because Go's poller watches each socket of package net, and
// every connection would wake a process that only keeps the socket for another
// one. For the same reason each socket blocks until os.NewFile has been called.
func (l *Listener) netListener() (net.Listener, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, net.ErrClosed
	}
	var err error
	if l.ln == nil {
		l.ln, err = net.FileListener(l.socket)
	}
	return l.ln, err
}

// Addr returns the address that the socket is bound to, a [*net.UnixAddr] or a
// [*net.TCPAddr].
func (l *Listener) Addr() net.Addr { return l.bound }

// Address returns the address that was passed to Listen.
func (l *Listener) Address() Addr { return l.addr }

// Unix reports whether this is a Unix socket, created or inherited.
func (l *Listener) Unix() bool { return l.bound.Network() == "unix" }

// File returns the listening descriptor itself, not a duplicate, so that it can
// be passed to another process. It is non-blocking and close-on-exec, and belongs
// to l.
func (l *Listener) File() *os.File { return l.socket }

// LockFile returns the descriptor that holds the lock, or nil if there is none.
// It belongs to l. [Listener.Close] releases the lock. If the process exits
// without it, the lock is held until the last duplicate is closed, so a process
// that gets [Listener.File] should get a duplicate of the lock as well.
func (l *Listener) LockFile() *os.File {
	if l.file == nil {
		return nil
	}
	return l.file.lock
}

// Limit reduces the rights of all descriptors of l to what its methods need, with
// [sandbox.Limit]: the directory is left with the removal of files, the lock with
// unlocking. Call it before [sandbox.Enter]: otherwise an attacker could create
// files in the directory through its descriptor. On systems without such rights
// the error is [sandbox.ErrUnsupported].
func (l *Listener) Limit() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return net.ErrClosed
	}
	var err error
	limit := func(c syscall.Conn, r sandbox.Rights) {
		if err == nil {
			err = wrap(sandbox.Limit(c, r), "%v", l.addr)
		}
	}
	limit(l.socket, sandbox.Serve)
	if l.ln != nil {
		limit(l.ln.(syscall.Conn), sandbox.Serve)
	}
	if l.file != nil {
		limit(l.file.dir, sandbox.Lookup|sandbox.Fstatat|sandbox.Unlinkat)
		limit(l.file.lock, sandbox.Flock)
	}
	return err
}

// Close removes the socket file, unless it is gone or another file has replaced
// it, and then closes all descriptors, the lock last. A waiting Accept returns.
// Everything is closed even if there are errors, and all errors are returned. If the
// file cannot be removed, the error begins with "failed to delete socket" and the
// path. A second Close does nothing. Close works in capability mode. Connections
// that nobody has accepted are lost, as with any listening socket.
func (l *Listener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	errs := []error{l.unlink()}
	l.closed = true
	if l.ln != nil {
		errs = append(errs, l.ln.Close())
	}
	errs = append(errs, l.socket.Close())
	if f := l.file; f != nil {
		// Unlocked, a duplicate of the lock descriptor does not keep the next server out.
		_, err := flock(f.lock, unix.LOCK_UN)
		errs = append(errs, f.dir.Close(), err, f.lock.Close())
	}
	return collect(errs...)
}

// Unlink removes the socket file as [Listener.Close] does, so that no new client
// can connect. Connections that wait in the queue can still be accepted.
func (l *Listener) Unlink() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.unlink()
}

func (l *Listener) unlink() error {
	if l.file == nil || l.closed {
		return nil
	}
	// No other file can have this inode, even if ours is gone: the kernel keeps
	// the inode as long as the socket that is bound to it.
	return wrap(l.file.remove(l.file.bound), "failed to delete socket %s", l.file.path)
}
