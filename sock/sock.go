// Package sock listens on Unix sockets that only the right users can reach, from
// the first moment on. TCP sockets and inherited sockets have the same methods. A
// [Listener] is a [net.Listener], so that an [net/http.Server] or another server
// can use it as it is.
//
// The package is for servers that other programs on the same machine connect to,
// such as a web server in front. It takes care of the socket file, see unix(4) on
// FreeBSD and unix(7) on Linux:
//
//   - A leftover file does not prevent a start. Nothing else is removed: neither
//     a live server's socket nor a file that is not a socket.
//   - At most one server uses a path at any time, even if several start at once
//     or are killed. A lock file beside the socket ensures this.
//   - Mode and owner are set between bind(2) and listen(2), while all connections
//     are refused. The umask has no effect.
//   - If other users could replace the file or a directory above it, the mode
//     would protect nothing. So all of them are checked, from the root down.
//   - Close removes the file, but never a successor's file.
//
// The order of calls is: make a [perms.Spec]; [Parse] the address if a user typed
// it; [Listen]; where there is a sandbox, [Listener.Limit] and [sandbox.Enter];
// then [net/http.Server.Serve]. The directory must exist, and only the process's
// user and root may write in it: its owner is the process's user, its group that of
// the clients, its mode 0750. This package changes neither the user of the process
// nor its umask.
package sock

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"runtime"
	"time"

	"github.com/onewake/onewake/perms"
)

// A Config says how to listen. The zero Config leaves permissions as they are.
//
// For each time, zero is the default, and less than zero means not to wait.
type Config struct {
	// Perms are the permissions of a Unix socket's file.
	Perms perms.Spec

	// LockWait is how long to wait for another server to release the lock, by
	// default 5 s. A server that stops releases it after it has accepted the
	// waiting connections: onewake took 0.2 s for a thousand of them, beside
	// eight busy processes.
	LockWait time.Duration

	// AnswerWait is how long a server without the lock may still answer, by
	// default 1 s. One that was just killed may do so for a moment.
	AnswerWait time.Duration

	// RefusalWait is how long a socket file must refuse connections to count as
	// a leftover, by default 1 s. On Linux the default is not to wait, because
	// a full queue does not refuse connections there.
	RefusalWait time.Duration
}

const (
	lockWait   = 5 * time.Second
	answerWait = time.Second
)

func (c Config) refusalWait() time.Duration {
	if runtime.GOOS == "linux" {
		return c.RefusalWait
	}
	return cmp.Or(c.RefusalWait, time.Second)
}

// Listen listens at an address that [Parse] returned. A Unix socket's file gets
// the mode and owner of p. What p does not set is as bind(2) makes it: under the
// usual umask the mode is 0755, so that only the owner can connect.
//
// Listen waits up to 5 s for another server to release the lock of a Unix socket,
// 1 s for a server without the lock to stop answering, and on systems other than
// Linux 1 s before it removes a leftover file. A [Config] can set other times. If
// ctx is done, Listen stops waiting and returns its cause; ctx has no effect on the
// Listener. The lock file, .NAME.lock in the same directory, is never removed.
//
// A host name is looked up, and its first address is used. An fd address is the
// number of an inherited descriptor, which must be a listening stream socket, Unix
// or TCP. The Listener owns it from then on. It has no lock, and its file is
// not removed.
//
// Errors can be told apart as [ErrInUse], [ErrLocked], [ErrNotSocket],
// [ErrUnsafeDir], [ErrUnsafeLock], [ErrBadAddr] and [io/fs.ErrPermission]; any
// other error is from the system. Several at once are a multierror.Error of
// [github.com/hashicorp/go-multierror]. [Error] has details.
func Listen(ctx context.Context, a Addr, p perms.Spec) (*Listener, error) {
	return Config{Perms: p}.Listen(ctx, a)
}

// Listen is [Listen] with this configuration.
func (c Config) Listen(ctx context.Context, a Addr) (l *Listener, err error) {
	if _, err = Parse(a.String()); err == nil { // a may not be from Parse
		err = context.Cause(ctx)
	}
	switch {
	case err != nil:
	case a.Network == Unix:
		l, err = c.listenUnix(ctx, a)
	case a.Network == FD:
		l, err = listenFD(a)
	default:
		l, err = listenTCP(ctx, a)
	}
	return l, wrap(err, "listen %v", a)
}

// Check makes the same checks as [Config.Listen] and changes nothing: it takes no
// lock, removes no file and does not bind. So it does not detect that a TCP
// address is in use, or belongs to another machine. It returns all problems at
// once. The note says what Listen would remove.
//
// If a server holds the lock, such as the caller's own, the error is
// [ErrLocked], and only that unless something else is wrong. If a server without
// the lock answers, it is an [ErrInUse] only.
func (c Config) Check(ctx context.Context, a Addr) (note string, err error) {
	_, err = Parse(a.String())
	switch {
	case err != nil:
	case a.Network == Unix:
		note, err = c.checkUnix(ctx, a)
	case a.Network == FD:
		_, _, err = checkFD(a)
	default:
		_, err = resolve(ctx, a)
	}
	return note, wrap(err, "listen %v", a)
}

func (c Config) checkUnix(ctx context.Context, a Addr) (note string, err error) {
	s, err := c.prepare(ctx, a.Address)
	if s == nil {
		return "", err
	}
	defer s.dir.Close()
	held, lerr := s.lockHeld(ctx)
	if held {
		if _, serr := s.statSocket(); !errors.Is(serr, fs.ErrNotExist) {
			err = collect(err, serr)
		}
		if err == nil {
			err = s.locked()
		}
		return "", err
	}
	_, serr := s.inspect(ctx, time.Now())
	switch {
	case errors.Is(serr, fs.ErrNotExist):
		serr = nil
	case serr == errUnprobed:
		note, serr = s.path+": a socket file of ours whose mode does not let us connect, removed at start if it is a leftover", nil
	case serr == nil:
		note = s.path + ": a leftover socket file, removed at start"
	}
	return note, collect(err, lerr, serr)
}

// stepKey is the context key of a function that is called with the name of each
// step of Listen. Tests use it to look at a step, or to kill the process there.
type stepKey struct{}

func step(ctx context.Context, name string) {
	if f, ok := ctx.Value(stepKey{}).(func(string)); ok {
		f(name)
	}
}
