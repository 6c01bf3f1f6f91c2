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
	alive                  // a socket that somebody listens on; the error says so
	refused                // something else that must stay: the error says what
)

// clear makes the place free for a new socket: it removes a leftover file and
// refuses everything else. The caller holds the lock. So what answers is not
// ours, or was a moment ago: a server that is killed may lose its lock before its
// socket, and is asked again for as long as the Config says.
func (p *place) clear(ctx context.Context) error {
	deadline := time.Now().Add(p.config.answerWait())
	for n := 0; n < 10; n++ { // not for ever, should it come and go
		over := !time.Now().Before(deadline)
		st, v, err := p.judge(ctx)
		if v == mute {
			v, err = p.askAloud(ctx, st)
		}
		switch {
		case v == alive && !over:
			n-- // that is no change
			step(ctx, "answered")
			if err := pause(ctx, 20*time.Millisecond); err != nil {
				return p.stopped(err)
			}
		case err != nil || v == free:
			return err
		case v == stale:
			step(ctx, "stale")
			if err := p.remove(st); err != nil {
				return fmt.Errorf("leftover socket %s: %w", p.path, err)
			}
			step(ctx, "cleared")
		}
	}
	return taken("comes and goes")
}

func (p *place) stopped(err error) error {
	return fmt.Errorf("%s: stopped while asking who has it: %w", p.path, err)
}

// judge finds out what stands at the path, and changes nothing.
func (p *place) judge(ctx context.Context) (stat, verdict, error) {
	st, err := p.lookForSocket()
	if errors.Is(err, fs.ErrNotExist) {
		return st, free, nil
	}
	if err != nil {
		return st, refused, err
	}
	v, err := p.ask(ctx, st)
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
func (p *place) ask(ctx context.Context, st stat) (verdict, error) {
	deadline := time.Now().Add(p.config.refusalWait())
	for {
		over := !time.Now().Before(deadline)
		err := connect(p.path)
		switch {
		case err == nil, err == unix.EAGAIN, err == unix.EPROTOTYPE: // the last one is for datagrams, and open
			return alive, taken("answers")
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
func (p *place) askAloud(ctx context.Context, st stat) (verdict, error) {
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
	v, err := p.ask(ctx, lent)
	if v == refused || v == alive {
		if now, serr := p.stat(p.name); serr == nil && now.sameFile(st) {
			err = collect(err, set(st.mode))
		}
	}
	return v, err
}

// connect tries to connect to a stream socket and hangs up at once. It never
// waits in a full queue: package net's descriptors do not block.
func connect(path string) error {
	c, err := net.Dial("unix", path)
	if err == nil {
		return c.Close()
	}
	if errno := unix.Errno(0); errors.As(err, &errno) {
		return errno
	}
	return err
}
