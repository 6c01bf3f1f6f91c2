// Package sock listens on guarded sockets: Unix sockets whose file only the
// right users can reach, from the first moment on, and TCP sockets and inherited
// ones with the same methods. A [Listener] is a [net.Listener]: an
// [net/http.Server] or anything else that serves on one can use it as it is.
//
// It is for servers that other programs of the same machine connect to, such as
// a web server in front. What such a program has to get right with the file of
// its socket, see unix(4) on FreeBSD and unix(7) on Linux, is done here once:
//
//   - A leftover file does not stop a start, and yet nothing is removed that
//     could be somebody else's: not a live server's socket, and nothing that
//     is not a socket.
//   - At most one server has a path at any time, also while several start at
//     once, and whatever is killed when. A lock beside the socket sees to that.
//   - Mode and owner are set between bind(2) and listen(2), while every
//     connection is refused, so that nobody gets in before they are right. The
//     umask has no say.
//   - The directory is checked: where others could replace the file, its mode
//     would be no guard.
//   - Closing removes the file, but never a successor's.
//
// The order of calls is: [perms.Parse] for the permissions; [Parse] for an
// address that somebody typed; [Listen]; on systems with a sandbox
// [Listener.Limit] and [sandbox.Enter]; then [net/http.Server.Serve]. The
// directory must be there, and be writable for the process and no other
// ordinary user: "install -d -o USER -g GROUP -m 0750 DIR", where GROUP is that of
// the clients. Nothing here changes the process's user or its umask.
//
// [PeerCred] says who has connected. What the permissions of the file are worth
// on each system is the subject of package perms; package sandbox confines the
// process that goes on to accept.
package sock

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/perms"
	"github.com/onewake/onewake/sandbox"
)

// backlog is how many connections may wait. The kernel cuts it down to a limit
// that the administrator sets, kern.ipc.soacceptqueue or net.core.somaxconn; by
// asking for more than either's usual value, theirs is the one that counts.
const backlog = 4096

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
	host  string
	port  string

	mu     sync.Mutex
	file   *os.File
	ln     net.Listener // made by the first Accept, of a duplicate of file
	owned  *ownedFile   // nil unless Listen made a Unix socket
	closed bool
}

// An ownedFile is the file of a Unix socket that Listen made.
type ownedFile struct {
	*place
	lock *os.File
	spec perms.Spec
	made stat // as it was right after listen
	gone bool // removed
}

// Listen listens at an address that [Parse] returned.
//
// For a Unix socket it takes the steps that the package comment tells of, and
// gives the file the mode and owner of p; what p leaves unchanged is as bind(2)
// makes it: under the usual umask, 0755, so that only the owner can connect. It
// waits up to 5 s for another server to give the lock up, and on systems other
// than Linux 1 s before it takes a leftover file for one. The process must be
// allowed to write in the directory, and leaves a lock file there, .NAME.lock,
// which is never removed. As many connections may wait as the administrator
// allows, kern.ipc.soacceptqueue or net.core.somaxconn.
//
// p is of no meaning for other networks. A host name is looked up and the first
// address taken. An fd address is used as [FromFile] does, and the descriptor
// belongs to the Listener from then on.
//
// Errors can be told apart as [ErrInUse], [ErrLocked], [ErrNotSocket],
// [ErrUnsafeDir], [ErrUnsafeLock], [ErrBadAddr] and [io/fs.ErrPermission]; what
// remains is the system's refusal.
func Listen(a Addr, p perms.Spec) (*Listener, error) {
	var l *Listener
	err := recheck(a)
	if err == nil {
		switch a.Network {
		case Unix:
			l, err = listenUnix(a, p)
		case FD:
			l, err = listenFD(a)
		default:
			l, err = listenTCP(a)
		}
	}
	if err != nil {
		return nil, listenError(a, err)
	}
	return l, nil
}

// recheck refuses an Addr that was not made by Parse.
func recheck(a Addr) error {
	_, err := Parse(a.String())
	return err
}

// FromFile returns a Listener of an inherited descriptor, which must be that of
// a listening stream socket of the Unix or an internet family. The Listener owns
// neither a lock nor a path: [Listener.Close] closes f and removes nothing. The
// descriptor is made non-blocking and close-on-exec. If there is an error f stays
// open, and the error is an [ErrNotSocket] or [ErrBadAddr] where f is to blame.
//
// A listening descriptor that is non-blocking already when [os.NewFile] makes a
// file of it is watched by Go's poller from then on, and each connection wakes
// the process, if it accepts or not.
func FromFile(f *os.File) (*Listener, error) {
	var fd int
	err := onFD(f, func(n int) error { fd = n; return nil })
	if err != nil {
		return nil, err
	}
	return fromFile(Addr{FD, fmt.Sprint(fd)}, f)
}

func fromFile(a Addr, f *os.File) (*Listener, error) {
	l := &Listener{addr: a, file: f}
	err := onFD(f, func(fd int) (err error) {
		l.bound, err = checkListening(fd)
		if err != nil {
			return err
		}
		unix.CloseOnExec(fd)
		return os.NewSyscallError("fcntl", unix.SetNonblock(fd, true))
	})
	if err != nil {
		return nil, err
	}
	l.name("")
	return l, nil
}

// checkListening makes sure that a descriptor can be accepted from, and returns
// what it is bound to.
func checkListening(fd int) (net.Addr, error) {
	typ, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	switch {
	case errors.Is(err, unix.ENOTSOCK):
		return nil, kindf(ErrNotSocket, "descriptor %d: %w, whoever starts this must pass a listening socket there", fd, ErrNotSocket)
	case errors.Is(err, unix.EBADF):
		return nil, badAddr("descriptor %d: not open, whoever starts this must pass a listening socket there", fd)
	case err != nil:
		return nil, os.NewSyscallError("getsockopt", err)
	case typ != unix.SOCK_STREAM:
		return nil, badAddr("descriptor %d: not a stream socket", fd)
	}
	on, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil {
		return nil, os.NewSyscallError("getsockopt", err)
	}
	if on == 0 {
		return nil, badAddr("descriptor %d: a socket that does not listen, whoever passes it must call listen(2) before", fd)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return nil, os.NewSyscallError("getsockname", err)
	}
	switch sa := sa.(type) {
	case *unix.SockaddrUnix:
		if len(sa.Name) > 0 && sa.Name[0] == '@' {
			return nil, errAbstract
		}
		return &net.UnixAddr{Name: sa.Name, Net: "unix"}, nil
	case *unix.SockaddrInet4:
		return &net.TCPAddr{IP: net.IP(sa.Addr[:]), Port: sa.Port}, nil
	case *unix.SockaddrInet6:
		return &net.TCPAddr{IP: net.IP(sa.Addr[:]), Port: sa.Port, Zone: zoneName(sa.ZoneId)}, nil
	}
	return nil, badAddr("descriptor %d: neither a unix nor an internet socket", fd)
}

func zoneName(index uint32) string {
	if index == 0 {
		return ""
	}
	if i, err := net.InterfaceByIndex(int(index)); err == nil {
		return i.Name
	}
	return fmt.Sprint(index)
}

// name sets the host and port that the listener goes by. host is what the
// administrator called it, or empty. Nothing is looked up: a name server that is
// slow or lies has no say in this.
func (l *Listener) name(host string) {
	l.host, l.port = host, "0"
	if a, ok := l.bound.(*net.TCPAddr); ok {
		l.port = fmt.Sprint(a.Port)
		if host == "" {
			l.host = (&net.IPAddr{IP: a.IP, Zone: a.Zone}).String()
		}
		if !a.IP.IsUnspecified() {
			return
		}
	}
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "localhost"
	}
	l.host = host
}

// Accept waits for the next connection. On a Unix socket the connection's
// RemoteAddr is written <unix>, as its peer has no address. The connection is a
// [syscall.Conn], for [PeerCred], and not a [*net.UnixConn] by its type. After
// Close the error is [net.ErrClosed].
//
// The first call makes a [net.Listener] of a duplicate of the descriptor; until
// then the process is not woken by connections.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		ln, err := l.netListener()
		if err != nil {
			return nil, err
		}
		c, err := ln.Accept()
		if err == nil {
			if uc, ok := c.(*net.UnixConn); ok {
				return unixConn{uc}, nil
			}
			return c, nil
		}
		// Renew closes one and makes another.
		if !errors.Is(err, net.ErrClosed) || l.current(ln) {
			return nil, err
		}
	}
}

func (l *Listener) netListener() (net.Listener, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, &net.OpError{Op: "accept", Net: l.bound.Network(), Addr: l.bound, Err: net.ErrClosed}
	}
	if l.ln == nil {
		ln, err := net.FileListener(l.file)
		if err != nil {
			return nil, err
		}
		if ul, ok := ln.(*net.UnixListener); ok {
			ul.SetUnlinkOnClose(false)
		}
		l.ln = ln
	}
	return l.ln, nil
}

func (l *Listener) current(ln net.Listener) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed || l.ln == ln
}

// unixConn is a connection whose peer has no address, whatever it may have
// bound its own end to.
type unixConn struct{ *net.UnixConn }

func (unixConn) RemoteAddr() net.Addr { return noAddr{} }

type noAddr struct{}

func (noAddr) Network() string { return "unix" }
func (noAddr) String() string  { return "<unix>" }

// Addr returns what the socket is bound to, a [*net.UnixAddr] or a
// [*net.TCPAddr].
func (l *Listener) Addr() net.Addr { return l.bound }

// Address returns the address that was asked for; in place of port 0 it has the
// port that the system chose.
func (l *Listener) Address() Addr { return l.addr }

// Unix reports whether this is a Unix socket, also one that was inherited.
func (l *Listener) Unix() bool { return l.bound.Network() == "unix" }

// Host returns the name of the server at this address, as for SERVER_NAME of
// RFC 3875 § 4.1.14: the host that was asked for, or the bound address (without
// brackets), or, on a Unix socket and where every address of the machine is
// bound, the machine's host name.
func (l *Listener) Host() string { return l.host }

// Port returns the bound port, as for SERVER_PORT of RFC 3875 § 4.1.15. On a
// Unix socket it is 0.
func (l *Listener) Port() string { return l.port }

// Limit cuts the rights of all of l's descriptors down to what [Listener.Accept],
// its connections, [Listener.Info], [Listener.Unlink] and [Listener.Close] need,
// with [sandbox.Limit]: of its directory's descriptor that leaves the removal of
// files, of the lock's, unlocking. It is to be called before [sandbox.Enter], as
// whoever breaks in could otherwise read and make files in the directory by way
// of its descriptor. [Listener.Renew] fails from then on.
//
// Where there is no such thing as a descriptor's rights nothing is changed, and
// the error is [sandbox.ErrUnsupported].
func (l *Listener) Limit() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return fmt.Errorf("%v: limit: %w", l.addr, net.ErrClosed)
	}
	limit := func(c syscall.Conn, r sandbox.Rights) error {
		return wrapf(sandbox.Limit(c, r), "%v", l.addr)
	}
	if err := limit(l.file, sandbox.Serve); err != nil {
		return err
	}
	if ln, ok := l.ln.(syscall.Conn); ok {
		if err := limit(ln, sandbox.Serve); err != nil {
			return err
		}
	}
	o := l.owned
	if o == nil {
		return nil
	}
	if err := limit(o.dir, sandbox.Lookup|sandbox.Fstatat|sandbox.Unlinkat); err != nil {
		return err
	}
	return limit(o.lock, sandbox.Flock)
}

// File returns the listening descriptor itself, not a duplicate, for a program
// that hands it to another process. It is non-blocking and close-on-exec, and
// belongs to l. [Listener.Renew] replaces it.
func (l *Listener) File() *os.File {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.file
}

// LockFile returns the descriptor that holds the lock, or nil if Listen did not
// make a Unix socket. It belongs to l. The lock is held until
// [Listener.Close], or, if the process ends without it, for as long as any
// other has a duplicate: a process that accepts on a duplicate of
// [Listener.File] should be given one of the lock as well.
func (l *Listener) LockFile() *os.File {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.owned == nil {
		return nil
	}
	return l.owned.lock
}

// Info returns mode, owner and group of the socket file as it now is. Only a
// Unix socket has one. For an inherited socket the file is looked for at the
// path that it was bound to, which must not be done in capability mode. If there
// is no such file, or another one in its place, the error is an
// [io/fs.ErrNotExist].
func (l *Listener) Info() (mode os.FileMode, uid, gid int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var st stat
	switch {
	case !l.Unix():
		err = fmt.Errorf("%v: no socket file: %w", l.addr, fs.ErrNotExist)
	case l.closed:
		err = fmt.Errorf("%v: %w", l.addr, net.ErrClosed)
	case l.owned != nil:
		st, err = l.owned.stat(l.owned.name)
		if err == nil && !st.sameFile(l.owned.made) {
			err = fmt.Errorf("%s: replaced by another file: %w", l.owned.path, fs.ErrNotExist)
		}
	default:
		var s unix.Stat_t
		name := l.bound.String()
		if err = ignoringEINTR(func() error { return unix.Lstat(name, &s) }); err != nil {
			err = pathError("stat", name, err)
		} else if st = statOf(&s); st.kind() != unix.S_IFSOCK {
			err = fmt.Errorf("%s: replaced by another file: %w", name, fs.ErrNotExist)
		}
	}
	if err != nil {
		return 0, -1, -1, err
	}
	return os.FileMode(st.mode&0o777) | os.ModeSocket, st.uid, st.gid, nil
}

// Unlink removes the socket file, so that nobody else can connect, and goes on
// listening for those who have. It removes only what Listen made: a file that is
// gone already, or another one in its place, is nothing at all. If the file
// cannot be removed the error's text begins with "failed to delete socket" and
// the path.
func (l *Listener) Unlink() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.unlink()
}

func (l *Listener) unlink() error {
	o := l.owned
	if o == nil || o.gone || l.closed {
		return nil
	}
	// The inode cannot be anybody else's by now: the kernel keeps the file for
	// as long as the socket that is bound to it.
	if _, err := o.remove(o.made); err != nil {
		return fmt.Errorf("failed to delete socket %s: %w", o.path, err)
	}
	o.gone = true
	return nil
}

// Close removes the socket file as Unlink does, closes the descriptors, that of
// the lock last, and ends a waiting Accept. Everything is closed whatever fails;
// all errors are returned. A second Close does nothing. It works in capability
// mode. Connections that nobody has accepted yet are lost to their clients, as
// with any listening socket.
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
	if l.owned != nil {
		errs = append(errs, l.owned.dir.Close(), l.owned.unlock(), l.owned.lock.Close())
	}
	return collect(errs...)
}
