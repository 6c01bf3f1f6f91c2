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
//     connection is refused, so that nobody gets in before. The umask has no say.
//   - Where others could replace the file, or a directory on the way to it, its
//     mode would be no guard: each is looked at, from the root on.
//   - Closing removes the file, but never a successor's.
//
// The order of calls is: a [perms.Spec] for the permissions; [Parse] for an
// address that somebody typed; [Listen]; on systems with a sandbox
// [Listener.Limit] and [sandbox.Enter]; then [net/http.Server.Serve]. The
// directory must be there, and be writable for the process and no other ordinary
// user: owner the process's user, group that of the clients, mode 0750. Nothing
// here changes the process's user or its umask.
package sock

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"time"

	"github.com/onewake/onewake/perms"
)

// A Config says how to listen. The zero Config leaves permissions as they are.
type Config struct {
	// Perms are given to the file of a Unix socket.
	Perms perms.Spec

	// LockWait is how long another server may take to give the lock up; zero
	// means 5 s, less than zero no time at all. One that stops does so when it
	// has accepted whoever waits: onewake took 0.2 s for a thousand, beside
	// eight busy processes, so that a machine ten times slower is in time too.
	LockWait time.Duration

	// AnswerWait is how long a server that has lost its lock may still answer,
	// as one does that has just been killed; zero means 1 s, less than zero no
	// time at all.
	AnswerWait time.Duration

	// RefusalWait is how long a socket file must have refused connections to be
	// taken for a leftover; zero means 1 s, and no time at all on Linux, where
	// a full queue is no refusal; less than zero means no time.
	RefusalWait time.Duration
}

const (
	lockWait   = 5 * time.Second
	answerWait = time.Second
)

func (c Config) lockWait() time.Duration    { return cmp.Or(c.LockWait, lockWait) }
func (c Config) answerWait() time.Duration  { return cmp.Or(c.AnswerWait, answerWait) }
func (c Config) refusalWait() time.Duration { return cmp.Or(c.RefusalWait, refusalWait) }

// Listen listens at an address that [Parse] returned, and gives the file of a
// Unix socket the mode and owner of p. What p does not set is as bind(2) makes
// it: under the usual umask, 0755, so that only the owner can connect.
//
// It waits up to 5 s for another server to give the lock of a Unix socket up, 1 s
// for one without it to go, and on systems other than Linux 1 s before it takes a
// leftover file for one; a [Config] can have other times. The end of ctx ends the waiting, with its cause
// as the error; it has no say in the Listener that is returned. The lock file,
// .NAME.lock in the same directory, is never removed.
//
// A host name is looked up and the first address taken. An fd address is the
// number of an inherited descriptor, of a listening stream socket of the Unix or
// an internet family. It belongs to the Listener from then on, and comes with
// neither a lock nor a file to remove.
//
// Errors can be told apart as [ErrInUse], [ErrLocked], [ErrNotSocket],
// [ErrUnsafeDir], [ErrUnsafeLock], [ErrBadAddr] and [io/fs.ErrPermission]; what
// remains is the system's refusal. Several at once are a multierror.Error of
// [github.com/hashicorp/go-multierror]. [Error] has what mends them.
func Listen(ctx context.Context, a Addr, p perms.Spec) (*Listener, error) {
	return Config{Perms: p}.Listen(ctx, a)
}

// Listen is [Listen] with this configuration.
func (c Config) Listen(ctx context.Context, a Addr) (l *Listener, err error) {
	if _, err = Parse(a.String()); err == nil { // it may not be Parse's
		err = context.Cause(ctx)
	}
	if err == nil {
		switch a.Network {
		case Unix:
			l, err = c.listenUnix(ctx, a)
		case FD:
			l, err = listenFD(a)
		default:
			l, err = listenTCP(ctx, a)
		}
	}
	if err != nil {
		return nil, wrap(err, "listen %v", a)
	}
	return l, nil
}

// Check goes the way of [Config.Listen], by the same rules, up to where something
// would be made or changed: no lock is taken, no file removed, nothing bound. So
// it does not see that a TCP address is taken, or another machine's. All that is
// wrong is reported at once. The note says what Listen would clear away.
//
// A server that holds the lock, such as the caller's own that is running, is an
// [ErrLocked], and then the only error; one that does not is a mere [ErrInUse].
func (c Config) Check(ctx context.Context, a Addr) (note string, err error) {
	if _, err = Parse(a.String()); err == nil {
		switch a.Network {
		case Unix:
			note, err = c.checkUnix(ctx, a)
		case FD:
			_, _, err = checkFD(a)
		default:
			_, err = resolve(ctx, a)
		}
	}
	return note, wrap(err, "listen %v", a)
}

func (c Config) checkUnix(ctx context.Context, a Addr) (note string, err error) {
	p, err := c.prepare(ctx, a.Address)
	if p == nil {
		return "", err
	}
	defer p.dir.Close()
	held, lerr := p.lockHeld(ctx)
	if held {
		if _, serr := p.lookForSocket(); !errors.Is(serr, fs.ErrNotExist) {
			err = collect(err, serr)
		}
		if err == nil {
			err = p.locked()
		}
		return "", err
	}
	_, v, jerr := p.judge(ctx, time.Time{})
	switch v {
	case mute:
		note = p.path + ": a socket file of ours that we may not ask, removed at start if it is a leftover"
	case stale:
		note = p.path + ": a leftover socket file, removed at start"
	}
	return note, collect(err, lerr, jerr)
}

// stepKey is the key of a function in a context that is called with the name of
// each step of Listen. Tests look on there, or end the process.
type stepKey struct{}

func step(ctx context.Context, name string) {
	if f, ok := ctx.Value(stepKey{}).(func(string)); ok {
		f(name)
	}
}
