package sock

import (
	"net"
	"os"
	"sync"
	"syscall"

	"github.com/onewake/onewake/sandbox"
)

// A Listener is a listening stream socket. It is a [net.Listener]; its methods
// may be called from several goroutines.
//
// [net/http.Server.Shutdown] and [net/http.Server.Close] close it, which removes
// the file and gives the lock back at once, so that a successor serves while the
// last answers are still being written. A program that ends otherwise leaves its
// file behind, which the next [Listen] clears away.
type Listener struct {
	addr  Addr
	bound net.Addr

	mu     sync.Mutex
	file   *os.File
	ln     net.Listener // made by the first Accept, of a duplicate of file
	owned  *ownedFile   // nil unless Listen made a Unix socket
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

// Addr returns what the socket is bound to, a [*net.UnixAddr] or a
// [*net.TCPAddr].
func (l *Listener) Addr() net.Addr { return l.bound }

// Address returns the address that was asked for.
func (l *Listener) Address() Addr { return l.addr }

// Unix reports whether this is a Unix socket, also one that was inherited.
func (l *Listener) Unix() bool { return l.bound.Network() == "unix" }

// Limit cuts the rights of all of l's descriptors down to what its methods need,
// with [sandbox.Limit]: of its directory's that leaves the removal of files, of
// the lock's, unlocking. It is to be called before [sandbox.Enter], as whoever
// breaks in could otherwise make files in the directory by its descriptor. Where
// descriptors have no rights the error is [sandbox.ErrUnsupported].
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
	limit(l.file, sandbox.Serve)
	if l.ln != nil {
		limit(l.ln.(syscall.Conn), sandbox.Serve)
	}
	if o := l.owned; o != nil {
		limit(o.dir, sandbox.Lookup|sandbox.Fstatat|sandbox.Unlinkat)
		limit(o.lock, sandbox.Flock)
	}
	return err
}

// Close removes the socket file, unless it is gone or another one is in its
// place, closes the descriptors, that of the lock last, and ends a waiting
// Accept. Everything is closed whatever fails; all errors are returned, and that
// of a file that cannot be removed begins with "failed to delete socket" and the
// path. A second Close does nothing. It works in capability mode. Connections
// that nobody has accepted yet are lost, as with any listening socket.
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
	errs = append(errs, l.file.Close())
	if o := l.owned; o != nil {
		errs = append(errs, o.dir.Close(), unlock(o.lock), o.lock.Close())
	}
	return collect(errs...)
}

func (l *Listener) unlink() error {
	o := l.owned
	if o == nil || l.closed {
		return nil
	}
	// The inode is nobody else's, also when the file is gone: the kernel keeps
	// it for as long as the socket that is bound to it.
	return wrap(o.remove(o.made), "failed to delete socket %s", o.path)
}
