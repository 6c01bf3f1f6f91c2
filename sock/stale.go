package sock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/perms"
)

// A verdict is what was found at the path of a socket.
type verdict int

const (
	free    verdict = iota // nothing
	changed                // something, that went away while it was looked at
	stale                  // a socket left over, nobody listens
	mute                   // a socket of ours, but without permission for us to ask
	refused                // something that must stay: the error says what
)

// clear makes the place free for a new socket: it removes a leftover file and
// refuses everything else. The caller holds the lock. So what answers is not
// ours, or was a moment ago: a server that is killed may lose its lock before its
// socket, and has the time that the Config says to go.
func (p *place) clear(ctx context.Context) error {
	until := time.Now().Add(p.config.answerWait())
	for range 10 { // not for ever, should it come and go
		st, v, err := p.judge(ctx, until)
		if v == mute {
			v, err = p.askAloud(ctx, st, until)
		}
		if err != nil || v == free {
			return err
		}
		if v == stale {
			step(ctx, "stale")
			if err := p.remove(st); err != nil {
				return fmt.Errorf("leftover socket %s: %w", p.path, err)
			}
			step(ctx, "cleared")
		}
	}
	return taken("comes and goes")
}

// judge finds out what stands at the path, and changes nothing. A server that
// answers may go until then.
func (p *place) judge(ctx context.Context, until time.Time) (stat, verdict, error) {
	st, err := p.lookForSocket()
	if errors.Is(err, fs.ErrNotExist) {
		return st, free, nil
	}
	if err != nil {
		return st, refused, err
	}
	v, err := p.ask(ctx, st, until)
	// The rule of sticky(7).
	us := os.Geteuid()
	if v == stale && p.st.mode&unix.S_ISVTX != 0 && us != 0 && us != p.st.uid && us != st.uid {
		return st, refused, failf(NotRemovable, p.path, fs.ErrPermission, "leftover socket %s: owned by user %s, not by %s",
			p.path, perms.UserName(st.uid), perms.UserName(us))
	}
	return st, v, err
}

// lookForSocket looks at what stands at the path, which must be a socket.
func (p *place) lookForSocket() (stat, error) {
	st, err := p.stat(p.name)
	if err == nil && st.kind() != unix.S_IFSOCK {
		what, ok := map[uint32]string{unix.S_IFREG: "a regular file", unix.S_IFDIR: "a directory",
			unix.S_IFLNK: "a symbolic link", unix.S_IFIFO: "a named pipe"}[st.kind()]
		if !ok {
			what = "something else"
		}
		err = failf(Other, p.path, nil, "%s: %w but %s, move it away or use another path", p.path, ErrNotSocket, what)
	}
	return st, err
}

// ask finds out by connect(2) whether anybody listens. A live server with a full
// queue is told from a stale file where the system can tell: Linux says EAGAIN,
// see unix(7). The others say ECONNREFUSED to both, so that the question is
// repeated for as long as the Config says.
func (p *place) ask(ctx context.Context, st stat, until time.Time) (verdict, error) {
	deadline := time.Now().Add(p.config.refusalWait())
	for {
		over := !time.Now().Before(deadline)
		c, err := dial(p.path)
		if err == nil {
			step(ctx, "answered")
			hungUp := hangsUp(ctx, c, until)
			c.Close()
			if hungUp && ctx.Err() == nil {
				return changed, nil
			}
		}
		switch {
		case ctx.Err() != nil:
			return refused, p.stopped(context.Cause(ctx))
		case err == nil, err == unix.EAGAIN, err == unix.EPROTOTYPE: // the last one is for datagrams, and open
			return refused, taken("answers")
		case err == unix.ECONNREFUSED:
			if over {
				return stale, nil
			}
			step(ctx, "refused")
			if err := pause(ctx, 20*time.Millisecond); err != nil {
				return refused, p.stopped(err)
			}
		case err == unix.ENOENT, err == unix.ENOTSOCK:
			return changed, nil
		case errors.Is(err, fs.ErrPermission) && st.uid == os.Geteuid() && st.mode&0o200 == 0:
			return mute, nil
		case errors.Is(err, fs.ErrPermission):
			return refused, failf(NoAnswer, p.path, nil, "%s: connect: %w: a socket of user %s, whose server may be running",
				p.path, err, perms.UserName(st.uid))
		default:
			return refused, &os.PathError{Op: "connect", Path: p.path, Err: err}
		}
	}
}

// askAloud is ask for a file of ours whose mode keeps us out, such as one left
// by a server with mode 0060. If it has to stay it gets its mode back.
func (p *place) askAloud(ctx context.Context, st stat, until time.Time) (verdict, error) {
	set := func(mode uint32) error {
		return perms.Spec{Mode: perms.Set(int(mode & 0o777))}.ApplyAt(p.dir, p.name)
	}
	if err := set(st.mode | 0o200); errors.Is(err, fs.ErrNotExist) {
		return changed, nil
	} else if err != nil {
		return refused, err
	}
	step(ctx, "mode lent")
	lent := st
	lent.mode |= 0o200
	v, err := p.ask(ctx, lent, until)
	if v == refused || v == changed {
		if now, serr := p.stat(p.name); serr == nil && now.sameFile(st) {
			err = collect(err, set(st.mode))
		}
	}
	return v, err
}

// dial tries to connect to a stream socket. It never waits in a full queue:
// package net's descriptors do not block.
func dial(path string) (net.Conn, error) {
	c, err := net.Dial("unix", path)
	if errno := unix.Errno(0); errors.As(err, &errno) {
		err = errno
	}
	return c, err
}

// hangsUp tells whether a server ends the connection by then, as the kernel does
// for one that goes. One connection does: many would fill the queue of a server
// that accepts nobody for a moment, which then refuses, and looks dead.
func hangsUp(ctx context.Context, c net.Conn, until time.Time) bool {
	if !time.Now().Before(until) {
		return false
	}
	c.SetReadDeadline(until)
	defer context.AfterFunc(ctx, func() { c.SetReadDeadline(time.Unix(1, 0)) })()
	n, err := c.Read(make([]byte, 1))
	return n == 0 && !errors.Is(err, os.ErrDeadlineExceeded)
}

func (p *place) stopped(err error) error {
	return fmt.Errorf("%s: stopped while asking who has it: %w", p.path, err)
}
